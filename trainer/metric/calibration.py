"""Calibration."""

from __future__ import annotations

from typing import ClassVar

import torch

from trainer.metric.base import Metric


class Calibration(Metric):
    """Sum of the predictions over the sum of the labels: 1 is right, above 1 predicts too many clicks."""

    name = "calibration"
    num_sums: ClassVar[int] = 2

    def update(self, sums: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> None:
        """See :meth:`Metric.update`."""
        sums += torch.stack([(weights * logits.sigmoid()).sum(), (weights * labels).sum()])

    def compute(self, sums: torch.Tensor) -> float:
        """See :meth:`Metric.compute`."""
        return float(sums[0] / sums[1]) if sums[1] > 0 else float("nan")
