"""Area under the ROC curve."""

from __future__ import annotations

import math

from trainer.metric.base import Metric, Totals
from trainer.metric.ranking import Ranking


class AUC(Metric):
    """Probability that a positive sample scores above a negative one, ties counted as half.

    See :class:`trainer.metric.score_sketch.ScoreSketch` for where it is exact and how far it is off elsewhere.
    """

    name = "auc"
    ranked = True

    def compute(self, totals: Totals, ranking: Ranking) -> float:
        """See :meth:`Metric.compute`."""
        pairs = float(ranking.negatives.sum() * ranking.positives.sum())
        below = ranking.negatives.cumsum(0) - ranking.negatives
        wins = float((ranking.positives * (below + ranking.negatives / 2)).sum())
        return wins / pairs if pairs > 0 else math.nan
