"""Batches in the sample order, decoded ahead of time by background threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.batch import Batch
from data.damage import Damage, DamageLog, DamagePolicy
from data.encode import IdArray
from data.index import DatasetIndex
from data.order import SampleOrder
from data.schema import Schema
from data.windows import Piece, Windows


@dataclass(frozen=True)
class LoaderOptions:
    """How far and with how much the loader works ahead, and what it does about damage.

    Attributes:
        num_threads: Windows decoded at a time.
        prefetch_batches: Batches that are ready before they are asked for.
        pin_memory: Whether batches lie in page-locked memory (CUDA).
        damage: What to do about row groups that cannot be read.
    """

    num_threads: int = 2
    prefetch_batches: int = 4
    pin_memory: bool = False
    damage: DamagePolicy = field(default_factory=DamagePolicy)


class BatchLoader:
    """Makes the batches of one worker, from any step on.

    Args:
        index: The row groups.
        order: Which rows each step takes.
        schema: What the columns mean.
        rank: This worker.
        world_size: All workers.
        options: Threads and depths.

    Attributes:
        total_rows: Of the data set, with those that are already known to be lost.

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
        self.total_rows = index.num_rows + sum(damage.num_rows for damage in index.left_out)
        self._damage = DamageLog(self.options.damage, num_rows=self.total_rows, known=index.left_out)

    @property
    def damage(self) -> tuple[Damage, ...]:
        """What cannot be read of the data set, as far as this worker knows: in the index, and in all streams."""
        return self._damage.found

    @property
    def knows_global_weight(self) -> bool:
        """Whether the order alone tells the weight of a global batch: no sample weights, no rows skipped."""
        return not self.schema.weight and not self.options.damage.skip

    def batches(self, start_step: int, stop_step: int) -> BatchStream:
        """The batches of the steps start_step .. stop_step - 1, counted from the start of training.

        Starting anywhere is a seek: nothing before ``start_step`` is read but the rest of its windows.
        """
        return BatchStream(self, start_step, stop_step)

    def windows(self, stop_step: int, pool: ThreadPoolExecutor) -> Windows:
        """The decoded windows of this worker's lanes, up to a step."""
        return Windows(
            self.index,
            self.order,
            self.schema,
            lanes=self.lanes,
            stop_step=stop_step,
            damage=self._damage,
            pool=pool,
        )


_Item = tuple[Batch, int] | BaseException | None
"""A batch and the rows skipped in it, what ended the stream early, or its end."""


class BatchStream(Iterator[Batch]):
    """An iterator over batches with a thread that works ahead; close it (or use ``with``) when done.

    Attributes:
        skipped_rows: Rows of this worker that were padding in the batches so far, because they are damaged.
    """

    def __init__(self, loader: BatchLoader, start_step: int, stop_step: int) -> None:
        self._loader = loader
        self._steps = range(start_step, stop_step)
        self.skipped_rows = 0
        self._ready: queue.Queue[_Item] = queue.Queue(loader.options.prefetch_batches)
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
        if isinstance(item, tuple):
            batch, num_skipped = item
            self.skipped_rows += num_skipped
            return batch
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
            windows = self._loader.windows(self._steps.stop, pool)
            for step in self._steps:
                rows = windows.take(step)
                batch = _assemble(self._loader, rows.lanes, step)
                batch = batch.pin_memory() if self._loader.options.pin_memory else batch
                if not self._put((batch, rows.num_skipped)):
                    return
        except BaseException as error:  # handed to the consumer, whatever it is
            outcome = error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self._put(outcome)

    def _put(self, item: _Item) -> bool:
        """Hands an item over; gives up, and says so, once the stream is closed."""
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.05)
                return True
            except queue.Full:
                continue
        return False


def _assemble(loader: BatchLoader, lanes: list[list[Piece]], step: int) -> Batch:
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
        for columns, rows in parts:
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
    global_weight = float(loader.order.num_rows_at(step)) if loader.knows_global_weight else 0.0
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
