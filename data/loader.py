"""Batches in the sample order, decoded ahead of time by background threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from data.assemble import Assembler, Piece
from data.batch import Batch
from data.counters import FeatureCounts
from data.index import DatasetIndex
from data.order import SampleOrder
from data.reader import Columns, WindowReader
from data.schema import Schema

WindowKey = tuple[int, int]
"""(epoch, window within the epoch)."""


@dataclass(frozen=True)
class LoaderOptions:
    """How far and with how much the loader works ahead; nothing here changes what a batch holds.

    Attributes:
        num_threads: Threads that decode.
        prefetch_batches: Batches that are ready before they are asked for.
        pin_memory: Whether batches lie in page-locked memory (CUDA).
    """

    num_threads: int = 2
    prefetch_batches: int = 4
    pin_memory: bool = False


class BatchLoader:
    """Makes the batches of one worker, from any step on.

    Args:
        index: The row groups.
        order: Which rows each step takes.
        schema: What the columns mean.
        rank: This worker.
        world_size: All workers.
        options: Threads and depths.

    Raises:
        DataError: The world size does not divide the lanes.
    """

    def __init__(
        self,
        index: DatasetIndex,
        order: SampleOrder,
        schema: Schema,
        *,
        rank: int,
        world_size: int,
        options: LoaderOptions | None = None,
    ) -> None:
        self.index = index
        self.order = order
        self.schema = schema
        self.lanes = order.lanes_of(rank, world_size)
        self.options = options or LoaderOptions()
        self.assembler = Assembler(schema, num_lanes=len(self.lanes), rows_per_lane=order.rows_per_lane_step)

    def batches(self, start_step: int, stop_step: int) -> BatchStream:
        """The batches of the steps start_step .. stop_step - 1, counted from the start of training.

        Starting anywhere is a seek: nothing before ``start_step`` is read but the rest of its windows.
        """
        return BatchStream(self, start_step, stop_step)


class BatchStream(Iterator[Batch]):
    """An iterator over batches with a thread that works ahead; close it (or use ``with``) when done."""

    def __init__(self, loader: BatchLoader, start_step: int, stop_step: int) -> None:
        self._loader = loader
        self._steps = range(start_step, stop_step)
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue(loader.options.prefetch_batches)
        self._closed = threading.Event()
        self._exhausted = False
        self._counts: dict[str, FeatureCounts] = {}
        self._thread = threading.Thread(target=self._produce, name="batch-loader", daemon=True)
        self._thread.start()

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            StopIteration: All steps were served.
            DataError: Reading ahead failed; the error is raised in place of the batch.
        """
        if self._exhausted:
            raise StopIteration
        item = self._ready.get()
        if isinstance(item, Batch):
            return item
        self._exhausted = True
        if item is None:
            raise StopIteration
        raise item

    def counters(self) -> dict[str, FeatureCounts]:
        """By feature, the nulls, unknown values and so on of the windows that batches were made from so far.

        A window counts as a whole when this worker's first batch takes rows from it, up to
        ``prefetch_batches`` before that batch is served; it counts again if it has to be decoded again
        for another lane.
        """
        return dict(self._counts)

    def close(self) -> None:
        """Stops the thread; batches that were ready are dropped (the sample order finds them again)."""
        self._closed.set()
        self._exhausted = True
        while self._thread.is_alive():
            while not self._ready.empty():
                self._ready.get_nowait()
            self._thread.join(timeout=0.05)

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _produce(self) -> None:
        outcome: BaseException | None = None
        order = self._loader.order
        pool = ThreadPoolExecutor(self._loader.options.num_threads, thread_name_prefix="decode")
        windows = _Windows(self._loader, pool, self._steps.stop)
        try:
            for step in self._steps:
                batch = self._loader.assembler.assemble(windows.pieces(step), order.num_rows_at(step))
                self._counts = windows.counts
                if not self._put(batch.pin_memory() if self._loader.options.pin_memory else batch):
                    return
        except BaseException as error:  # handed to the consumer, whatever it is
            outcome = error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self._put(outcome)

    def _put(self, item: Batch | BaseException | None) -> bool:
        """Hands an item over; gives up, and says so, once the stream is closed."""
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.05)
                return True
            except queue.Full:
                continue
        return False


class _Window:
    """A window on its way: decoded by the pool, task by task."""

    def __init__(self, reader: WindowReader, pool: ThreadPoolExecutor) -> None:
        self._reader = reader
        self._pending: list[Future[None]] = [pool.submit(task) for task in reader.tasks()]
        self.entered = False

    def columns(self) -> Columns:
        """What was decoded, once it all is; raises the first error."""
        while self._pending:
            self._pending[0].result()
            self._pending.pop(0)
        return self._reader.columns


class _Windows:
    """The decoded windows that this worker's lanes stand in, and the ones they enter next.

    A window is decoded once for all lanes of the worker and dropped when no lane stands in it or
    before it. At most two windows per lane are held.
    """

    def __init__(self, loader: BatchLoader, pool: ThreadPoolExecutor, stop_step: int) -> None:
        self._loader = loader
        self._pool = pool
        self._last_epoch = loader.order.locate(max(stop_step - 1, 0))[0]
        self._held: dict[WindowKey, _Window] = {}
        self._position: dict[int, WindowKey] = {}
        self.counts = {name: FeatureCounts() for name in loader.schema.feature_names}

    def pieces(self, step: int) -> list[list[Piece]]:
        """For each lane, the pieces of decoded windows that make up its rows of the step."""
        order, lanes = self._loader.order, self._loader.lanes
        epoch, _ = order.locate(step)
        spans = {lane: order.spans(lane, step) for lane in lanes}
        moved = False
        for lane, parts in spans.items():
            if parts and self._position.get(lane) != (epoch, parts[-1].window):
                self._position[lane] = (epoch, parts[-1].window)
                moved = True
        if moved:
            current = {(epoch, part.window) for parts in spans.values() for part in parts}
            self._hold(current | set(self._position.values()))
        return [[Piece(self._enter((epoch, s.window)), s.start, s.stop) for s in spans[lane]] for lane in lanes]

    def _enter(self, key: WindowKey) -> Columns:
        window = self._held[key]
        columns = window.columns()
        if not window.entered:
            window.entered = True
            # A new dictionary each time, so that another thread may read the old one.
            self.counts = {name: count + columns.counts[name] for name, count in self.counts.items()}
        return columns

    def _hold(self, current: set[WindowKey]) -> None:
        upcoming = {key for lane, at in self._position.items() for key in self._after(lane, at)}
        for key in self._held.keys() - current - upcoming:
            self._held.pop(key)
        # What is needed now goes to the pool before what is needed later.
        for key in [*sorted(current), *sorted(upcoming - current)]:
            if key not in self._held:
                self._held[key] = _Window(self._reader(key), self._pool)

    def _after(self, lane: int, at: WindowKey) -> list[WindowKey]:
        epoch, window = at
        if window + 1 in self._loader.order.lane_windows(lane, epoch):
            return [(epoch, window + 1)]
        if epoch == self._last_epoch:
            return []
        return [(epoch + 1, first) for first in self._loader.order.lane_windows(lane, epoch + 1)[:1]]

    def _reader(self, key: WindowKey) -> WindowReader:
        epoch, window = key
        plan = self._loader.order.epoch_plan(epoch)
        groups = [self._loader.index.row_groups[g] for g in plan.windows[window]]
        return WindowReader(groups, self._loader.schema, plan.rows(window) if plan.seeds else None)
