"""The decoded windows of the sample order that a worker's lanes stand in, and the ones that come next."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.assemble import Piece
from data.columns import ColumnMemory, Columns
from data.counters import FeatureCounts
from data.damage import DamageError, DamageLog
from data.decoded_size import DecodedSizes
from data.index import DatasetIndex
from data.order import SampleOrder, Span
from data.parquet import RowGroup
from data.reader import ReadRowGroup, WindowReader
from data.schema import Schema

IntArray = npt.NDArray[np.int64]

WindowKey = tuple[int, int]
"""(epoch, window within the epoch)."""


@dataclass(frozen=True)
class StepRows:
    """What a worker takes in one step.

    Attributes:
        lanes: For each lane, the pieces of decoded windows that its rows come from.
        num_skipped: Rows that are missing because they are damaged.
    """

    lanes: list[list[Piece]]
    num_skipped: int


class _Window:
    """A window on its way: decoded by the pool, task by task; without row groups that cannot be.

    Args:
        row_groups: In the order in which they were gathered.
        rows: Their rows in serving order, int64 [rows]; None for the order as they lie.
        schema: What the columns mean.
        sizes: What the decoded values take.
        memory: Where its columns are decoded to.
        damage: Decides about row groups that cannot be decoded.
        pool: Decodes.
        read: Of row groups.
    """

    def __init__(
        self,
        row_groups: Sequence[RowGroup],
        rows: IntArray | None,
        schema: Schema,
        sizes: DecodedSizes,
        memory: ColumnMemory,
        damage: DamageLog,
        pool: ThreadPoolExecutor,
        read: ReadRowGroup | None,
    ) -> None:
        self._row_groups = row_groups
        self._rows = rows
        self._schema = schema
        self._sizes = sizes
        self.memory = memory
        self._damage = damage
        self._pool = pool
        self._read = read
        self._damaged: set[tuple[str, int]] = set()
        self._intact_before: IntArray | None = None
        self.entered = False
        self._begin(row_groups, rows)

    def columns(self) -> Columns:
        """The rows that could be decoded, in serving order, once all tasks are done.

        Raises:
            DataError: A row group cannot be decoded, and may not be skipped.
        """
        while self._pending and self._finds_damage():
            self._begin_without_damage()
        return self._reader.columns

    def piece(self, span: Span) -> Piece:
        """A span's rows, without damaged ones."""
        columns = self.columns()
        if self._intact_before is None:
            return Piece(columns, span.start, span.stop)
        return Piece(columns, int(self._intact_before[span.start]), int(self._intact_before[span.stop]))

    def _begin(self, row_groups: Sequence[RowGroup], rows: IntArray | None) -> None:
        self._reader = WindowReader(row_groups, self._schema, rows, self._sizes, self.memory, self._read)
        tasks = self._reader.tasks() if row_groups else []
        self._pending: list[Future[None]] = [self._pool.submit(task) for task in tasks]

    def _finds_damage(self) -> bool:
        """Waits for all tasks; whether some met damage that is to be skipped."""
        found = len(self._damaged)
        for task in self._pending:
            error = task.exception()
            if isinstance(error, DamageError):
                self._damage.skip(error)
                self._damaged.add(error.damage.place)
            elif error is not None:
                raise error
        self._pending = []
        return len(self._damaged) > found

    def _begin_without_damage(self) -> None:
        intact_groups = [group for group in self._row_groups if (group.path, group.index) not in self._damaged]
        intact = np.concatenate([np.full(group.num_rows, group in intact_groups) for group in self._row_groups])
        rows = np.arange(len(intact)) if self._rows is None else self._rows
        served = rows[intact[rows]]
        self._intact_before = np.concatenate([[0], np.cumsum(intact[rows])])
        self._begin(intact_groups, (np.cumsum(intact) - 1)[served])


def windows_per_lane(order: SampleOrder) -> int:
    """Windows that a lane holds at a time, at most: the one that it stands in and the next one.

    Where a step takes more than half a window, those of the step and the next one.
    """
    if order.window_rows >= 2 * order.rows_per_lane_step:
        return 2
    return -(-order.rows_per_lane_step // order.window_rows) + 2


class Windows:
    """Windows decoded ahead of time.

    A window is decoded once for all lanes of the worker and dropped when no lane stands in it or
    before it. At most :func:`windows_per_lane` are held for each lane.

    Args:
        index: The row groups.
        order: Which rows each step takes.
        schema: What the columns mean.
        lanes: This worker's lanes.
        stop_step: No step from here on is asked for.
        damage: Decides about row groups that cannot be decoded, and takes note of them.
        pool: Decodes.
        read: Of row groups; None for that of ``data.parquet``.

    Attributes:
        counts: By feature, what was met in the windows entered so far.
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
        read: ReadRowGroup | None = None,
    ) -> None:
        self._read = read
        self._index = index
        self._order = order
        self._schema = schema
        self._lanes = lanes
        self._damage = damage
        self._pool = pool
        self._last_epoch = order.locate(max(stop_step - 1, 0))[0]
        self._held: dict[WindowKey, _Window] = {}
        self._free: list[ColumnMemory] = []
        self._position: dict[int, WindowKey] = {}
        self._current: set[WindowKey] = set()
        self.counts = {name: FeatureCounts() for name in schema.feature_names}

    @property
    def num_held(self) -> int:
        """Windows that are in memory, decoded or on their way."""
        return len(self._held)

    def take(self, step: int) -> StepRows:
        """The rows of a step, lane by lane; waits until they are decoded.

        Raises:
            DataError: They cannot be decoded, and may not be skipped.
        """
        epoch, _ = self._order.locate(step)
        spans = {lane: self._order.spans(lane, step) for lane in self._lanes}
        self._position.update({lane: (epoch, parts[-1].window) for lane, parts in spans.items() if parts})
        current = {(epoch, part.window) for parts in spans.values() for part in parts} | set(self._position.values())
        if current != self._current:
            self._current = current
            upcoming = [self._after(lane, at) for lane, at in self._position.items() if not self._waits(spans[lane])]
            self._hold({key for keys in upcoming for key in keys})
        pieces = {lane: [self._enter((epoch, span.window)).piece(span) for span in spans[lane]] for lane in spans}
        num_planned = sum(span.stop - span.start for parts in spans.values() for span in parts)
        num_served = sum(piece.stop - piece.start for parts in pieces.values() for piece in parts)
        return StepRows([pieces[lane] for lane in self._lanes], num_planned - num_served)

    def _waits(self, parts: list[Span]) -> bool:
        """Whether a lane that leaves a window in this step begins no further one before the next step."""
        return len(parts) > 1 and windows_per_lane(self._order) == 2

    def _enter(self, key: WindowKey) -> _Window:
        window = self._held[key]
        if not window.entered:
            columns = window.columns()
            window.entered = True
            # A new dictionary each time, so that another thread may read the old one.
            self.counts = {name: count + columns.counts[name] for name, count in self.counts.items()}
        return window

    def _hold(self, upcoming: set[WindowKey]) -> None:
        for key in self._held.keys() - self._current - upcoming:
            window = self._held.pop(key)
            if window.entered:  # all of it was decoded, and what was taken of it is copied
                self._free.append(window.memory)
        # What is needed now goes to the pool before what is needed later.
        for key in [*sorted(self._current), *sorted(upcoming - self._current)]:
            if key not in self._held:
                self._held[key] = self._window(key)

    def _after(self, lane: int, at: WindowKey) -> list[WindowKey]:
        epoch, window = at
        if window + 1 in self._order.lane_windows(lane, epoch):
            return [(epoch, window + 1)]
        if epoch == self._last_epoch:
            return []
        return [(epoch + 1, first) for first in self._order.lane_windows(lane, epoch + 1)[:1]]

    def _window(self, key: WindowKey) -> _Window:
        epoch, window = key
        plan = self._order.epoch_plan(epoch)
        groups = [self._index.row_groups[number] for number in plan.windows[window]]
        rows = plan.rows(window) if plan.seeds else None
        memory = self._free.pop() if self._free else ColumnMemory(self._schema, self._order.largest_window)
        return _Window(groups, rows, self._schema, self._index.sizes, memory, self._damage, self._pool, self._read)
