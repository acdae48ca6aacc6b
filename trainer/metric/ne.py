"""Normalized entropy."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F

from trainer.metric.base import Metric


class NormalizedEntropy(Metric):
    """Log loss over the entropy of the average click rate (He et al. 2014, eq. 3).

    1 means no better than always predicting the click rate; lower is better.
    """

    name = "ne"
    num_sums: ClassVar[int] = 3

    def update(self, sums: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> None:
        """See :meth:`Metric.update`."""
        losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        sums += torch.stack([(weights * losses).sum(), (weights * labels).sum(), weights.sum()])

    def compute(self, sums: torch.Tensor) -> float:
        """See :meth:`Metric.compute`."""
        loss, positive, total = sums.tolist()
        rate = positive / total if total else math.nan
        if not 0 < rate < 1:
            return math.nan
        entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
        return loss / total / entropy
