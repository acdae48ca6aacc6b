"""Mean squared error of the predictions, and its root."""

from __future__ import annotations

from typing import ClassVar

import torch

from trainer.metric.base import Metric


class MeanSquaredError(Metric):
    """Weighted mean of (prediction - label)^2, the Brier score."""

    name = "mse"
    num_sums: ClassVar[int] = 2

    def update(self, sums: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> None:
        """See :meth:`Metric.update`."""
        sums += torch.stack([(weights * (logits.sigmoid() - labels).square()).sum(), weights.sum()])

    def compute(self, sums: torch.Tensor) -> float:
        """See :meth:`Metric.compute`."""
        return float(sums[0] / sums[1])


class RootMeanSquaredError(MeanSquaredError):
    """Square root of :class:`MeanSquaredError`."""

    name = "rmse"

    def compute(self, sums: torch.Tensor) -> float:
        """See :meth:`Metric.compute`."""
        return super().compute(sums) ** 0.5
