"""Dropout whose masks are a function of (seed, step, layer, lane), not of the process that draws them.

A lane's rows get the same mask on whichever rank they are served.
"""

from __future__ import annotations

import torch
from torch import nn

from trainer.model.step_context import StepContext


class LaneDropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014): zeroes units in training, scales the rest by 1 / (1 - p).

    Args:
        probability: p, of a unit to be dropped.
        context: Tells the step and the lanes.
    """

    def __init__(self, probability: float, context: StepContext) -> None:
        super().__init__()
        self._keep = 1 - probability
        self._context = context
        self._number = context.next_layer()

    def forward(self, units_BH: torch.Tensor) -> torch.Tensor:
        """Drops units.

        Args:
            units_BH: float [B, H]; in training, B is a multiple of the rank's lanes.
        """
        if not self.training:
            return units_BH
        mask_BH = torch.empty_like(units_BH)
        lanes = self._context.lanes
        for lane, part in zip(lanes, mask_BH.chunk(len(lanes)), strict=True):
            generator = torch.Generator(units_BH.device)
            generator.manual_seed(self._context.seed_of(self._number, lane))
            part.bernoulli_(self._keep, generator=generator)
        return units_BH * mask_BH / self._keep

    def extra_repr(self) -> str:
        """The drop probability, for printing."""
        return f"p={1 - self._keep:g}"
