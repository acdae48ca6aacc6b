"""Area under the precision-recall curve."""

from __future__ import annotations

from typing import ClassVar

import torch

from trainer.metric.base import Metric
from trainer.metric.histogram import BINS, add_to_histograms


class AveragePrecision(Metric):
    """The mean of the precision at each positive sample's score (average precision), ties taken together.

    Sum over the thresholds of (gain in recall) * precision, without interpolation, from the histograms of
    :class:`trainer.metric.auc.AUC`. For rare clicks it tells more than the ROC curve does.
    """

    name = "pr_auc"
    num_sums: ClassVar[int] = 2 * BINS

    def update(self, sums: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> None:
        """See :meth:`Metric.update`."""
        add_to_histograms(sums, logits, labels, weights)

    def compute(self, sums: torch.Tensor) -> float:
        """See :meth:`Metric.compute`."""
        negatives, positives = sums.flip(0).split(BINS)[::-1]  # from the highest score down
        found = positives.cumsum(0)
        seen = found + negatives.cumsum(0)
        total = positives.sum()
        precision = torch.where(seen > 0, found / seen, 0.0)
        return float((positives * precision).sum() / total) if total > 0 else float("nan")
