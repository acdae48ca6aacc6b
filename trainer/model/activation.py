"""The activations of a network, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from trainer.model.batch_norm import GlobalBatchNorm
from trainer.model.step_context import StepContext


class Dice(nn.Module):
    """x * (p + alpha * (1 - p)) with p = sigmoid(normalized x): Zhou et al. 2018 (DIN), eq. 3.

    PReLU whose rectified point follows the distribution of the data; alpha is learned for each unit.
    """

    def __init__(self, num_units: int, context: StepContext) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(num_units))
        self.norm = GlobalBatchNorm(num_units, context, affine=False, eps=1e-8)

    def forward(self, units_BH: torch.Tensor) -> torch.Tensor:
        """Activated units, float [B, H]."""
        p_BH = torch.sigmoid(self.norm(units_BH))
        return units_BH * (p_BH + self.alpha * (1 - p_BH))


ACTIVATIONS: dict[str, Callable[[int, StepContext], nn.Module]] = {
    "relu": lambda num_units, context: nn.ReLU(inplace=True),  # no affine map or norm keeps what it gave
    "tanh": lambda num_units, context: nn.Tanh(),
    "sigmoid": lambda num_units, context: nn.Sigmoid(),
    "leaky_relu": lambda num_units, context: nn.LeakyReLU(),
    "prelu": lambda num_units, context: nn.PReLU(num_units),
    "gelu": lambda num_units, context: nn.GELU(),
    "dice": Dice,
}
"""Name to a layer for H units."""
