"""Dropout whose masks are a function of (seed, step, layer, lane), not of the process that draws them.

A lane's rows get the same mask on whichever rank they are served, so that a run gives the same result on
every world size, and a resumed run needs no saved random state.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from data.hashing import derive_seed


class DropoutStream:
    """Where the masks of one model come from.

    Args:
        seed: Of the run.
        lanes: The lanes of this rank, in the order of their rows in the local batch.
    """

    def __init__(self, seed: int, lanes: Sequence[int]) -> None:
        self.lanes = tuple(lanes)
        self._seed = seed
        self._step = 0

    def advance(self, step: int) -> None:
        """Tells the step that the next forward pass belongs to."""
        self._step = step

    def layer(self, probability: float, *, number: int) -> LaneDropout:
        """A dropout layer; ``number`` tells it from the model's others."""
        return LaneDropout(probability, self, number)

    def seed_of(self, layer: int, lane: int) -> int:
        """The seed of a lane's mask in the current step."""
        return derive_seed(self._seed, self._step, layer, lane) >> 1


class LaneDropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014): zeroes units in training, scales the rest by 1 / (1 - p)."""

    def __init__(self, probability: float, stream: DropoutStream, number: int) -> None:
        super().__init__()
        self._keep = 1 - probability
        self._stream = stream
        self._number = number

    def forward(self, units_BH: torch.Tensor) -> torch.Tensor:
        """Drops units.

        Args:
            units_BH: float [B, H]; in training, B is a multiple of the rank's lanes.
        """
        if not self.training:
            return units_BH
        mask_BH = torch.empty_like(units_BH)
        for lane, part in zip(self._stream.lanes, mask_BH.chunk(len(self._stream.lanes)), strict=True):
            generator = torch.Generator(units_BH.device)
            generator.manual_seed(self._stream.seed_of(self._number, lane))
            part.bernoulli_(self._keep, generator=generator)
        return units_BH * mask_BH / self._keep

    def extra_repr(self) -> str:
        """The drop probability, for printing."""
        return f"p={1 - self._keep:g}"
