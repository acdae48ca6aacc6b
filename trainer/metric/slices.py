"""The metrics over parts of the samples."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainer.metric import Figures
from trainer.metric.samples import Samples
from trainer.metric.tally import Tally, merge_over_ranks

SLICE_CAPACITY = 1 << 13
"""Places for the scores of a slice."""

_CHUNK_ROWS = 1 << 17
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Slicing:
    """How a column cuts the samples into slices.

    Attributes:
        column: Its name.
        labels: Of the slices, in their order.
        keys: Rising keys of values, int64 [n]; None if the slices are buckets.
        slice_of_key: int64 [n].
        borders: Rising borders of buckets, float64 [n]; None if the slices are values.
        num_plain: Slices that are named; after them come the slice of all other values and that of nulls.
        null_key: The key of a null.
    """

    column: str
    labels: tuple[str, ...]
    keys: torch.Tensor | None = None
    slice_of_key: torch.Tensor | None = None
    borders: torch.Tensor | None = None
    null_key: int = 0

    @staticmethod
    def by_values(column: str, names: Sequence[str], keys: Sequence[int], *, null_key: int) -> Slicing:
        """A slice for each of these values, one for all others, and one for nulls."""
        ordered, places = torch.tensor(list(keys), dtype=torch.int64).sort()
        return Slicing(column, (*names, OTHERS, NULLS), ordered, places, null_key=null_key)

    @staticmethod
    def by_borders(column: str, borders: Sequence[float]) -> Slicing:
        """Buckets between borders, each border in the bucket above it, and a slice for nulls."""
        ends = [f"{border:g}" for border in borders]
        inner = [f"[{low}, {high})" for low, high in itertools.pairwise(ends)]
        labels = (f"< {ends[0]}", *inner, f">= {ends[-1]}", NULLS)
        return Slicing(column, labels, borders=torch.tensor(list(borders), dtype=torch.float64))

    def slices_of(self, carried: torch.Tensor) -> torch.Tensor:
        """The slice of each sample, int64 [B].

        Args:
            carried: Of the column: keys, or float64 numbers seen as integers, int64 [B].
        """
        if self.borders is not None:
            numbers = carried.view(torch.float64)
            buckets = torch.bucketize(numbers, self.borders, right=True)
            return torch.where(numbers.isnan(), len(self.labels) - 1, buckets)
        assert self.keys is not None
        assert self.slice_of_key is not None
        others = torch.full_like(carried, len(self.labels) - 2)
        if len(self.keys):
            places = torch.searchsorted(self.keys, carried).clamp(max=len(self.keys) - 1)
            others = torch.where(self.keys[places] == carried, self.slice_of_key[places], others)
        return torch.where(carried == self.null_key, len(self.labels) - 1, others)


OTHERS = "(others)"
NULLS = "(null)"


@dataclass(frozen=True)
class SliceFigures:
    """A slice's weight and its metrics by name, over all ranks."""

    column: str
    value: str
    weight: float
    metrics: dict[str, float]


class SlicedMetrics:
    """All metrics for each slice of some columns, in constant memory for each slice.

    Args:
        figures: The metrics.
        slicings: The columns.
    """

    def __init__(self, figures: Figures, slicings: Sequence[Slicing]) -> None:
        self._figures = figures
        self._slicings = list(slicings)
        self._empty = Tally.empty(len(figures.terms), SLICE_CAPACITY, _CPU)
        self._tallies = [[self._empty for _ in slicing.labels] for slicing in slicings]
        self._waiting: list[list[torch.Tensor]] = []
        self._num_waiting = 0

    def update(
        self, carried_CB: torch.Tensor, logits_B: torch.Tensor, labels_B: torch.Tensor, weights_B: torch.Tensor
    ) -> None:
        """Adds a batch, on the CPU.

        Args:
            carried_CB: The columns of the slicings, in their order, int64 [C, B].
            logits_B: Before the sigmoid, float [B].
            labels_B: 0 or 1, float [B].
            weights_B: Sample weights, 0 for padding, float [B].
        """
        slices = [slicing.slices_of(column) for slicing, column in zip(self._slicings, carried_CB, strict=True)]
        self._waiting.append([logits_B, labels_B, weights_B, *slices])
        self._num_waiting += len(logits_B)
        if self._num_waiting >= _CHUNK_ROWS:
            self._count_waiting()

    def compute(self) -> list[SliceFigures]:
        """The slices over all ranks, those without samples left out. All ranks must call this."""
        self._count_waiting()
        found = []
        for slicing, tallies in zip(self._slicings, self._tallies, strict=True):
            for label, tally in zip(slicing.labels, merge_over_ranks(tallies), strict=True):
                weight = float(tally.scores.sums[:, :2].sum())
                if weight > 0:
                    figures = self._figures.of(tally.sums, tally.scores.ranking())
                    found.append(SliceFigures(slicing.column, label, weight, figures))
        return found

    def _count_waiting(self) -> None:
        if not self._waiting:
            return
        logits, labels, weights, *slices = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._num_waiting = [], 0
        for tallies, of_sample in zip(self._tallies, slices, strict=True):
            for number in of_sample[weights > 0].unique().tolist():
                rows = of_sample == number
                samples = Samples(logits[rows].float(), labels[rows], weights[rows])
                tallies[number] = tallies[number].with_samples(samples, self._figures.terms)
