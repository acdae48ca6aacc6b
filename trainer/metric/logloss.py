"""Log loss."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F

from trainer.metric.base import Metric


class LogLoss(Metric):
    """Weighted mean of the binary cross entropy, in nats, computed from the logits."""

    name = "logloss"
    num_sums: ClassVar[int] = 2

    def update(self, sums: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> None:
        """See :meth:`Metric.update`."""
        losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        sums += torch.stack([(weights * losses).sum(), weights.sum()])

    def compute(self, sums: torch.Tensor) -> float:
        """See :meth:`Metric.compute`."""
        return float(sums[0] / sums[1])
