"""Normalized entropy."""

from __future__ import annotations

import math

from trainer.metric.base import Metric, Totals, ratio
from trainer.metric.ranking import Ranking
from trainer.metric.samples import label, loss, one


class NormalizedEntropy(Metric):
    """Log loss over the entropy of the average click rate (He et al. 2014, eq. 3).

    1 means no better than always predicting the click rate; lower is better.
    """

    name = "ne"
    terms = (loss, label, one)

    def compute(self, totals: Totals, ranking: Ranking) -> float:
        """See :meth:`Metric.compute`."""
        rate = ratio(totals[label], totals[one])
        if not 0 < rate < 1:
            return math.nan
        entropy = -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))
        return ratio(totals[loss], totals[one]) / entropy
