"""Which rows are global step t, and which of them rank r of W takes: a pure function.

The rows of an epoch form one sequence: row groups in shuffled order, gathered into windows of several
row groups, the rows of each window shuffled together. The sequence is cut into ``lanes`` pieces of equal
length (rows, not files: a window may straddle two lanes). Every global step takes
``global_batch_size / lanes`` rows from every lane, and rank r of W serves the lanes r*L/W .. (r+1)*L/W.

Hence a global batch holds the same rows for every W that divides L, all ranks take the same number of
steps however uneven the files are, and the position of the whole job is one integer, the step. Where a
lane has no more rows, its part of the batch is padding (rows of weight 0), at most in the last steps of
an epoch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from data.errors import DataError
from data.hashing import derive_seed, permutation

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Span:
    """Consecutive places of one window: what one lane takes from it in one step.

    Attributes:
        window: The window's number within the epoch.
        start: First place within the window's (shuffled) sequence.
        stop: One past the last place.
    """

    window: int
    start: int
    stop: int


@dataclass(frozen=True)
class EpochPlan:
    """The windows of one epoch.

    Attributes:
        windows: Row-group numbers of each window, in the order in which they are read.
        starts: Place of each window's first row in the epoch's sequence, and the total at the end;
            int64 [number of windows + 1].
        seeds: Seed of each window's row permutation; empty if the rows stay in file order.
    """

    windows: tuple[tuple[int, ...], ...]
    starts: IntArray
    seeds: tuple[int, ...]

    @cached_property
    def window_starts(self) -> list[int]:
        """``starts`` as plain integers, which are found faster one by one."""
        return self.starts.tolist()

    def rows(self, window: int) -> IntArray:
        """The window's rows in the order in which they are served, int64 [rows of the window].

        Each number counts from the first row of the window's first row group.
        """
        n = int(self.starts[window + 1] - self.starts[window])
        return permutation(n, self.seeds[window]) if self.seeds else np.arange(n, dtype=np.int64)


class SampleOrder:
    """The order of a data set's rows, for every step, lane and rank.

    Args:
        row_counts: Rows of each row group in file order, int64 [number of row groups].
        global_batch_size: Rows of a global step, over all ranks; a multiple of ``lanes``.
        lanes: Pieces that an epoch is cut into; the world size must divide it.
        window_rows: A window takes row groups until it has at least this many rows.
        shuffle: False keeps the file order (evaluation).
        seed: Of the shuffle; each epoch is shuffled anew.

    Raises:
        DataError: A size is out of range or ``global_batch_size`` is no multiple of ``lanes``.
    """

    def __init__(
        self,
        row_counts: Sequence[int] | IntArray,
        *,
        global_batch_size: int,
        lanes: int,
        window_rows: int,
        shuffle: bool,
        seed: int = 0,
    ) -> None:
        if lanes < 1 or global_batch_size < 1 or global_batch_size % lanes:
            raise DataError(
                f"the global batch size ({global_batch_size}) must be a positive multiple of data.lanes ({lanes}); "
                f"try {max(1, round(global_batch_size / max(lanes, 1))) * max(lanes, 1)}."
            )
        self.row_counts = np.asarray(row_counts, np.int64)
        self.num_rows = int(self.row_counts.sum())
        self.global_batch_size = global_batch_size
        self.lanes = lanes
        self.rows_per_lane_step = global_batch_size // lanes
        self.lane_rows = -(-self.num_rows // lanes)
        self.steps_per_epoch = -(-self.lane_rows // self.rows_per_lane_step)
        self.window_rows = window_rows
        self._shuffle = shuffle
        self._seed = seed
        self.epoch_plan = lru_cache(maxsize=4)(self._epoch_plan)

    @property
    def largest_window(self) -> int:
        """Rows of a window, at most, over all epochs."""
        if self._shuffle and len(set(self.row_counts.tolist())) > 1:
            return min(self.num_rows, self.window_rows - 1 + int(self.row_counts.max()))
        return int(np.diff(self.epoch_plan(0).starts).max())

    def lanes_of(self, rank: int, world_size: int) -> range:
        """The lanes that a rank serves.

        Raises:
            DataError: The world size does not divide the lanes; the message lists those that do.
        """
        check_world_size(self.lanes, world_size)
        share = self.lanes // world_size
        return range(rank * share, (rank + 1) * share)

    def locate(self, step: int) -> tuple[int, int]:
        """The (epoch, step within the epoch) of a global step counted from the start of training."""
        return divmod(step, self.steps_per_epoch)

    def spans(self, lane: int, step: int) -> list[Span]:
        """What a lane contributes to a global step: at most ``rows_per_lane_step`` rows, less at its end.

        Args:
            lane: 0 .. lanes - 1.
            step: Counted from the start of training.
        """
        epoch, step_in_epoch = self.locate(step)
        plan = self.epoch_plan(epoch)
        lane_end = min((lane + 1) * self.lane_rows, self.num_rows)
        start = lane * self.lane_rows + step_in_epoch * self.rows_per_lane_step
        stop = min(start + self.rows_per_lane_step, lane_end)
        spans = []
        while start < stop:
            window = bisect_right(plan.window_starts, start) - 1
            first = plan.window_starts[window]
            end = min(stop, plan.window_starts[window + 1])
            spans.append(Span(window, start - first, end - first))
            start = end
        return spans

    def lane_windows(self, lane: int, epoch: int) -> range:
        """The windows that a lane reads in an epoch, in this order."""
        starts = self.epoch_plan(epoch).starts
        first, last = lane * self.lane_rows, min((lane + 1) * self.lane_rows, self.num_rows) - 1
        if last < first:
            return range(0)
        begin, end = np.searchsorted(starts, [first, last], side="right")
        return range(int(begin) - 1, int(end))

    def num_rows_at(self, step: int) -> int:
        """Rows of a global step that are not padding."""
        _, step_in_epoch = self.locate(step)
        taken = step_in_epoch * self.rows_per_lane_step
        if taken + self.rows_per_lane_step <= self.num_rows - (self.lanes - 1) * self.lane_rows:  # the shortest lane
            return self.global_batch_size
        ends = np.minimum(np.arange(1, self.lanes + 1) * self.lane_rows, self.num_rows)
        left = ends - np.arange(self.lanes) * self.lane_rows - taken
        return int(np.clip(left, 0, self.rows_per_lane_step).sum())

    def row_numbers(self, step: int, lanes: range | None = None) -> IntArray:
        """The rows of a step by their numbers in file order, for inspection and tests.

        Args:
            step: Counted from the start of training.
            lanes: Some lanes (see :meth:`lanes_of`); None for the whole global batch.

        Returns:
            int64 [rows without padding], lane by lane.
        """
        plan = self.epoch_plan(self.locate(step)[0])
        group_starts = np.concatenate([[0], np.cumsum(self.row_counts)])
        parts = [np.empty(0, np.int64)]
        for lane in range(self.lanes) if lanes is None else lanes:
            for span in self.spans(lane, step):
                groups = plan.windows[span.window]
                numbers = np.concatenate([np.arange(group_starts[g], group_starts[g + 1]) for g in groups])
                parts.append(numbers[plan.rows(span.window)[span.start : span.stop]])
        return np.concatenate(parts)

    def _epoch_plan(self, epoch: int) -> EpochPlan:
        filled = np.flatnonzero(self.row_counts)
        if self._shuffle:
            filled = filled[permutation(len(filled), derive_seed(self._seed, epoch))]
        windows: list[tuple[int, ...]] = []
        starts = [0]
        window: list[int] = []
        rows = 0
        for position, group in enumerate(filled):
            window.append(int(group))
            rows += int(self.row_counts[group])
            if rows >= self.window_rows or position == len(filled) - 1:
                windows.append(tuple(window))
                starts.append(starts[-1] + rows)
                window, rows = [], 0
        seeds = tuple(derive_seed(self._seed, epoch, 1 + w) for w in range(len(windows))) if self._shuffle else ()
        return EpochPlan(tuple(windows), np.array(starts, np.int64), seeds)


def check_world_size(lanes: int, world_size: int) -> None:
    """Sees to it that the workers can share the lanes equally.

    Raises:
        DataError: They cannot; the message lists the world sizes that can.
    """
    if lanes % world_size:
        allowed = [w for w in range(1, lanes + 1) if lanes % w == 0]
        raise DataError(
            f"a world of {world_size} workers cannot share data.lanes={lanes} equally; start "
            f"{_join(allowed)} workers, or set data.lanes to a multiple of {world_size} (another order)."
        )


def _join(numbers: Sequence[int]) -> str:
    words = [str(number) for number in numbers]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
