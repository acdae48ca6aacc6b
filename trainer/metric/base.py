"""What a metric is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch


class Metric(ABC):
    """A figure computed from sums over samples: sums add up over batches and ranks, and fit a checkpoint.

    Attributes:
        name: As printed and logged.
        num_sums: How many float64 numbers it keeps.
    """

    name: ClassVar[str]
    num_sums: ClassVar[int]

    @abstractmethod
    def update(self, sums: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> None:
        """Adds a batch to the sums in place, without waiting for the device.

        Args:
            sums: float64 [num_sums].
            logits: Before the sigmoid, float64 [B].
            labels: 0 or 1, float64 [B].
            weights: Sample weights, float64 [B].
        """

    @abstractmethod
    def compute(self, sums: torch.Tensor) -> float:
        """The figure, from sums over all ranks on the CPU; NaN where it is not defined."""
