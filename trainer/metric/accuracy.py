"""Accuracy at the threshold of one half."""

from __future__ import annotations

from typing import ClassVar

import torch

from trainer.metric.base import Metric


class Accuracy(Metric):
    """Share of the samples whose label is the more probable one by the prediction; 0.5 counts as a click."""

    name = "accuracy"
    num_sums: ClassVar[int] = 2

    def update(self, sums: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> None:
        """See :meth:`Metric.update`."""
        right = (logits >= 0) == (labels > 0)
        sums += torch.stack([(weights * right).sum(), weights.sum()])

    def compute(self, sums: torch.Tensor) -> float:
        """See :meth:`Metric.compute`."""
        return float(sums[0] / sums[1])
