"""Batches in the sample order, decoded ahead of time by background threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.batch import Batch
from data.encode import IdArray
from data.index import DatasetIndex
from data.order import SampleOrder, Span
from data.reader import Columns, read_window
from data.schema import Schema

WindowKey = tuple[int, int]
"""(epoch, window within the epoch)."""


@dataclass(frozen=True)
class LoaderOptions:
    """How far and with how much the loader works ahead; nothing here changes what a batch holds.

    Attributes:
        num_threads: Windows decoded at a time.
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
        pool = ThreadPoolExecutor(self._loader.options.num_threads, thread_name_prefix="decode")
        try:
            windows = _Windows(self._loader, pool, self._steps.stop)
            for step in self._steps:
                batch = _assemble(self._loader, windows.spans(step), step)
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


@dataclass(frozen=True)
class _Window:
    columns: Columns
    rows: IdArray


class _Windows:
    """The decoded windows that this worker's lanes stand in, and the ones they enter next.

    A window is decoded once for all lanes of the worker and dropped when no lane stands in it or
    before it. At most two windows per lane are held.
    """

    def __init__(self, loader: BatchLoader, pool: ThreadPoolExecutor, stop_step: int) -> None:
        self._loader = loader
        self._pool = pool
        self._last_epoch = loader.order.locate(max(stop_step - 1, 0))[0]
        self._decoded: dict[WindowKey, Future[_Window]] = {}
        self._position: dict[int, WindowKey] = {}

    def spans(self, step: int) -> list[list[tuple[_Window, Span]]]:
        """For each lane, the decoded windows and the spans of them that make up the step."""
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
        return [[(self._decoded[epoch, p.window].result(), p) for p in spans[lane]] for lane in lanes]

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
        if window + 1 in self._loader.order.lane_windows(lane, epoch):
            return [(epoch, window + 1)]
        if epoch == self._last_epoch:
            return []
        return [(epoch + 1, first) for first in self._loader.order.lane_windows(lane, epoch + 1)[:1]]

    def _decode(self, key: WindowKey) -> _Window:
        epoch, window = key
        plan = self._loader.order.epoch_plan(epoch)
        groups = [self._loader.index.row_groups[g] for g in plan.windows[window]]
        return _Window(read_window(groups, self._loader.schema), plan.rows(window))


def _assemble(loader: BatchLoader, lanes: list[list[tuple[_Window, Span]]], step: int) -> Batch:
    """Gathers the rows of a step from the decoded windows into the tensors of a batch."""
    schema, share = loader.schema, loader.order.rows_per_lane_step
    size = share * len(lanes)
    one_hot = np.zeros((len(schema.one_hot), size), np.int64)
    dense = np.zeros((size, len(schema.dense)), np.float32)
    labels, weights = np.zeros(size, np.float32), np.zeros(size, np.float32)
    real = np.zeros(size, bool)
    bag_values: list[list[IdArray]] = [[] for _ in schema.multi_hot]
    bag_lengths = np.zeros((len(schema.multi_hot), size), np.int64)

    for lane, parts in enumerate(lanes):
        start = lane * share
        for window, span in parts:
            columns, rows = window.columns, window.rows[span.start : span.stop]
            to = slice(start, start + len(rows))
            one_hot[:, to] = columns.one_hot[:, rows]
            dense[to], labels[to], weights[to] = (
                columns.dense[rows],
                columns.labels[rows],
                columns.weights[rows],
            )
            real[to] = True
            for m, bags in enumerate(columns.multi_hot):
                values, bag_lengths[m, to] = bags.take(rows)
                bag_values[m].append(values)
            start = to.stop

    # Padding rows are empty bags: they touch no table row, whatever the optimizer does with a zero gradient.
    complete = bool(real.all())
    flat = one_hot.reshape(-1) if complete else one_hot[:, real].reshape(-1)
    values = np.concatenate([flat, *(v for parts in bag_values for v in parts)]) if bag_values else flat
    lengths = np.concatenate([np.tile(real, len(schema.one_hot)).astype(np.int64), bag_lengths.reshape(-1)])
    global_weight = 0.0 if schema.weight else float(loader.order.num_rows_at(step))
    return Batch(
        dense=torch.from_numpy(dense),
        sparse=KeyedJaggedTensor(
            keys=schema.sparse_keys,
            values=torch.from_numpy(values),
            lengths=torch.from_numpy(lengths),
            stride=size,
        ),
        labels=torch.from_numpy(labels),
        weights=torch.from_numpy(weights),
        global_weight=torch.tensor([global_weight]),
    )
