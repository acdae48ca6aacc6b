"""Area under the precision-recall curve."""

from __future__ import annotations

import math

import torch

from trainer.metric.base import Metric, Totals
from trainer.metric.ranking import Ranking


class AveragePrecision(Metric):
    """The mean of the precision at each positive sample's score (average precision), ties taken together.

    Sum over the thresholds of (gain in recall) * precision, without interpolation. For rare clicks it tells
    more than the ROC curve does. Where several scores share a place of the sketch, a positive has on average
    half of what is not tied with it there above itself.
    """

    name = "pr_auc"
    ranked = True

    def compute(self, totals: Totals, ranking: Ranking) -> float:
        """See :meth:`Metric.compute`."""
        down = ranking.flipped()
        positives, samples = down.positives, down.negatives + down.positives
        total = float(positives.sum())
        if total == 0:
            return math.nan
        found = positives.cumsum(0) - (positives - down.tied_positives) / 2
        seen = samples.cumsum(0) - (samples - down.tied) / 2
        precision = torch.where(positives > 0, found / seen, 0.0)
        return float((positives * precision).sum()) / total
