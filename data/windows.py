"""The decoded windows of the sample order that a worker's lanes stand in, and the ones that come next."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.damage import DamageError, DamageLog
from data.index import DatasetIndex
from data.order import SampleOrder
from data.reader import Columns, read_window
from data.schema import Schema

IntArray = npt.NDArray[np.int64]

WindowKey = tuple[int, int]
"""(epoch, window within the epoch)."""

Piece = tuple[Columns, IntArray]
"""Decoded columns, and the rows of them to take, in this order."""


@dataclass(frozen=True)
class StepRows:
    """What a worker takes in one step.

    Attributes:
        lanes: For each lane the pieces that its rows come from.
        num_skipped: Rows that are missing because they are damaged.
    """

    lanes: list[list[Piece]]
    num_skipped: int


@dataclass(frozen=True)
class _Window:
    """A decoded window.

    Attributes:
        columns: Of the row groups that could be decoded; None if none could.
        places: For each place of the window's sequence the row of ``columns``, -1 if it is damaged;
            int64 [rows of the window].
    """

    columns: Columns | None
    places: IntArray


class Windows:
    """Windows decoded ahead of time.

    A window is decoded once for all lanes of the worker and dropped when no lane stands in it or
    before it. At most two windows per lane are held.

    Args:
        index: The row groups.
        order: Which rows each step takes.
        schema: What the columns mean.
        lanes: This worker's lanes.
        stop_step: No step from here on is asked for.
        damage: Decides about row groups that cannot be decoded, and takes note of them.
        pool: Decodes.
    """

    def __init__(
        self,
        index: DatasetIndex,
        order: SampleOrder,
        schema: Schema,
        *,
        lanes: Sequence[int],
        stop_step: int,
        damage: DamageLog,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._index = index
        self._order = order
        self._schema = schema
        self._lanes = lanes
        self._damage = damage
        self._pool = pool
        self._last_epoch = order.locate(max(stop_step - 1, 0))[0]
        self._decoded: dict[WindowKey, Future[_Window]] = {}
        self._position: dict[int, WindowKey] = {}

    def take(self, step: int) -> StepRows:
        """The rows of a step, lane by lane; waits until they are decoded.

        Raises:
            DataError: They cannot be decoded, and may not be skipped.
        """
        epoch, _ = self._order.locate(step)
        spans = {lane: self._order.spans(lane, step) for lane in self._lanes}
        moved = False
        for lane, parts in spans.items():
            if parts and self._position.get(lane) != (epoch, parts[-1].window):
                self._position[lane] = (epoch, parts[-1].window)
                moved = True
        if moved:
            current = {(epoch, part.window) for parts in spans.values() for part in parts}
            self._hold(current | set(self._position.values()))
        lanes: list[list[Piece]] = []
        num_skipped = 0
        for lane in self._lanes:
            lanes.append([])
            for span in spans[lane]:
                window = self._decoded[epoch, span.window].result()
                places = window.places[span.start : span.stop]
                rows = places[places >= 0]
                num_skipped += len(places) - len(rows)
                if window.columns is not None and len(rows):
                    lanes[-1].append((window.columns, rows))
        return StepRows(lanes, num_skipped)

    def _hold(self, current: set[WindowKey]) -> None:
        upcoming = {key for lane, at in self._position.items() for key in self._after(lane, at)}
        for key in self._decoded.keys() - current - upcoming:
            self._decoded.pop(key)
        # What is needed now goes to the pool before what is needed later.
        for key in [*sorted(current), *sorted(upcoming - current)]:
            if key not in self._decoded:
                self._decoded[key] = self._pool.submit(self._decode, key)

    def _after(self, lane: int, at: WindowKey) -> list[WindowKey]:
        epoch, window = at
        if window + 1 in self._order.lane_windows(lane, epoch):
            return [(epoch, window + 1)]
        if epoch == self._last_epoch:
            return []
        return [(epoch + 1, first) for first in self._order.lane_windows(lane, epoch + 1)[:1]]

    def _decode(self, key: WindowKey) -> _Window:
        epoch, window = key
        plan = self._order.epoch_plan(epoch)
        groups = [self._index.row_groups[number] for number in plan.windows[window]]
        intact = list(groups)
        while intact:
            try:
                columns = read_window(intact, self._schema)
            except DamageError as error:
                self._damage.skip(error)
                intact = [group for group in intact if (group.path, group.index) != error.damage.place]
            else:
                if len(intact) == len(groups):
                    return _Window(columns, plan.rows(window))
                kept = np.concatenate([np.full(group.num_rows, group in intact) for group in groups])
                return _Window(columns, np.where(kept, np.cumsum(kept) - 1, -1)[plan.rows(window)])
        return _Window(None, np.full(sum(group.num_rows for group in groups), -1))
