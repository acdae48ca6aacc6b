"""What layers may know of the step that they compute: its number, its lanes, and which rows are real."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from data.hashing import derive_seed


class StepContext:
    """Shared by the layers of one model whose output depends on more than their input.

    Random masks and batch statistics are functions of the global step, never of the process that
    computes a part of it: so a run gives the same result on every world size, and a resumed run needs
    no saved random state.

    Args:
        seed: Of the run.
        lanes: The lanes of this rank, in the order of their rows in the local batch.
    """

    def __init__(self, seed: int, lanes: Sequence[int]) -> None:
        self.lanes = tuple(lanes)
        self._seed = seed
        self._step = 0
        self._num_layers = 0
        self._weights_B = torch.empty(0)
        self._part: tuple[int, int] | None = None

    def advance(self, step: int) -> None:
        """Tells the step that the next forward pass belongs to."""
        self._step = step

    def see_rows(self, weights_B: torch.Tensor) -> None:
        """Tells the sample weights of the rows that come next; rows of weight 0 are padding."""
        self._weights_B = weights_B

    def parts(self, num_rows: int, num_parts: int) -> Iterator[slice]:
        """Cuts the rows of the local batch; while a part is at hand, layers know its place.

        Args:
            num_rows: Of the local batch.
            num_parts: At most; the last one may be shorter.
        """
        size = max(1, -(-num_rows // num_parts))
        for first in range(0, num_rows, size):
            self._part = (first, num_rows)
            yield slice(first, min(first + size, num_rows))
        self._part = None

    def place(self, num_rows: int) -> tuple[int, int]:
        """(first row, rows of the local batch) of a layer's ``num_rows`` rows, which may be a part of the batch."""
        return self._part or (0, num_rows)

    def real_rows(self) -> torch.Tensor:
        """1 for each row that counts, 0 for padding, float [B]."""
        return (self._weights_B > 0).to(self._weights_B.dtype)

    def next_layer(self) -> int:
        """A number for a new layer that draws masks, to tell it from the model's others."""
        self._num_layers += 1
        return self._num_layers - 1

    def seed_of(self, layer: int, lane: int) -> int:
        """The seed of a lane's mask in the current step."""
        return derive_seed(self._seed, self._step, layer, lane) >> 1
