"""Where the rows of a global step lie in the files: the sample order, read backwards by people."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from data.index import DatasetIndex
from data.order import SampleOrder
from data.parquet import RowGroup


@dataclass(frozen=True)
class Place:
    """One row of a step.

    Attributes:
        lane: That serves it.
        group: The row group that it lies in.
        row: Its number within the row group.
    """

    lane: int
    group: RowGroup
    row: int

    def __str__(self) -> str:
        return f"{self.group.path}, row group {self.group.index}, row {self.row}"


def places_of_step(
    index: DatasetIndex,
    order: SampleOrder,
    step: int,
    lanes: Sequence[int],
    *,
    left_out: Collection[tuple[str, int]] = (),
) -> list[Place]:
    """The rows of a step in the order in which a batch of these lanes holds them, without padding.

    Args:
        index: The row groups that the order numbers.
        order: Which rows each step takes.
        step: Counted from the start of training, from 0.
        lanes: In the batch's order.
        left_out: File and row group of what is damaged and skipped.
    """
    starts = np.concatenate([[0], np.cumsum(order.row_counts)])
    places = []
    for lane in lanes:
        for number in order.row_numbers(step, range(lane, lane + 1)).tolist():
            # Empty row groups start where the next one does: the last that starts there has the row.
            group_number = int(np.searchsorted(starts, number, side="right")) - 1
            group = index.row_groups[group_number]
            if (group.path, group.index) not in left_out:
                places.append(Place(lane, group, number - int(starts[group_number])))
    return places


def describe_lanes(places: Sequence[Place], *, at_most: int = 8) -> str:
    """A line for each lane: how many rows, and from which row groups of which files."""
    lines = []
    for lane, of_lane in itertools.groupby(places, key=lambda place: place.lane):
        rows: dict[tuple[str, int], list[int]] = {}
        for place in of_lane:
            rows.setdefault((place.group.path, place.group.index), []).append(place.row)
        parts = [f"{path}, row group {group}, rows {_ranges(sorted(found))}" for (path, group), found in rows.items()]
        lines.append(f"  lane {lane}: {_shortened(parts, at_most, '; ')}")
    return _shortened(lines, at_most, "\n")


def _ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers with runs drawn together: ``3-5, 9``."""
    runs = []
    for _, run in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return _shortened(runs, 8, ", ")


def _shortened(parts: Sequence[str], at_most: int, separator: str) -> str:
    shown = [*parts[:at_most], *([f"and {len(parts) - at_most} more"] if len(parts) > at_most else [])]
    return separator.join(shown)
