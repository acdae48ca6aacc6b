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
            units_BH: float [B, H]; in training, the local batch, a multiple of the rank's lanes, or a part of it.
        """
        return units_BH * self._mask(units_BH) / self._keep if self.training else units_BH

    @torch.compiler.disable
    def _mask(self, units_BH: torch.Tensor) -> torch.Tensor:
        """1 for each unit that is kept, 0 for the others."""
        mask_BH = torch.empty_like(units_BH)
        first, num_rows = self._context.place(len(units_BH))
        rows_per_lane = num_rows // len(self._context.lanes)
        for place, lane in enumerate(self._context.lanes):
            start = place * rows_per_lane - first
            rows = mask_BH[max(start, 0) : max(start + rows_per_lane, 0)]
            if len(rows):
                generator = torch.Generator(units_BH.device)
                generator.manual_seed(self._context.seed_of(self._number, lane))
                # The mask of a lane is drawn whole: what is drawn for a row depends on the size of the draw.
                whole = len(rows) == rows_per_lane
                mask = rows if whole else units_BH.new_empty(rows_per_lane, units_BH.shape[1])
                mask.bernoulli_(self._keep, generator=generator)
                if not whole:
                    rows.copy_(mask[max(-start, 0) :][: len(rows)])
        return mask_BH

    def extra_repr(self) -> str:
        """The drop probability, for printing."""
        return f"p={1 - self._keep:g}"
