"""Batches in the sample order, decoded ahead of time by background threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType

import torch

from data.assemble import Assembler, batch_bytes_per_row
from data.batch import Batch
from data.columns import held_bytes_per_row
from data.counters import FeatureCounts
from data.damage import Damage, DamageLog, DamagePolicy
from data.index import DatasetIndex
from data.order import SampleOrder
from data.reader import decoding_bytes
from data.row_group_cache import RowGroupCache
from data.schema import Schema
from data.windows import Windows, windows_per_lane

ALLOCATORS_KEEP_BYTES = 64 << 20
"""Freed memory that the allocators of Arrow and C keep for reuse: measured, 30 to 60 MiB, and with each thread ..."""

THREAD_KEEPS_BYTES = 32 << 20
"""... 10 to 30 MiB more, since Arrow's keeps memory for each."""


@dataclass(frozen=True)
class LoaderOptions:
    """How far and with how much the loader works ahead, and what it does about damage.

    Attributes:
        num_threads: Threads that decode.
        prefetch_batches: Batches that are ready before they are asked for.
        cache_bytes: For decoded columns that later epochs need again.
        pin_for: The CUDA device that batches are copied to; they then lie in page-locked memory. None for
            the CPU.
        damage: What to do about row groups that cannot be read.
    """

    num_threads: int = 2
    prefetch_batches: int = 4
    cache_bytes: int = 0
    pin_for: torch.device | None = None
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
        self.assembler = Assembler(schema, num_lanes=len(self.lanes), rows_per_lane=order.rows_per_lane_step)
        self.total_rows = index.num_rows + sum(damage.num_rows for damage in index.left_out)
        self._cache = RowGroupCache(self.options.cache_bytes) if self.options.cache_bytes else None
        self._damage = DamageLog(self.options.damage, num_rows=self.total_rows, known=index.left_out)

    @property
    def damage(self) -> tuple[Damage, ...]:
        """What cannot be read of the data set, as far as this worker knows: in the index, and in all streams."""
        return self._damage.found

    @property
    def knows_global_weight(self) -> bool:
        """Whether the order alone tells the weight of a global batch: no sample weights, no rows skipped."""
        return not self.schema.weight and not self.may_skip

    @property
    def may_skip(self) -> bool:
        """Whether rows that cannot be read become padding, instead of ending the job."""
        return self.options.damage.skip

    def batches(self, start_step: int, stop_step: int) -> BatchStream:
        """The batches of the steps start_step .. stop_step - 1, counted from the start of training.

        Starting anywhere is a seek: nothing before ``start_step`` is read but the rest of its windows.
        """
        return BatchStream(self, start_step, stop_step)

    def memory_bytes(self) -> int:
        """The host memory that a stream holds at most, in bytes, whatever the size of the row groups.

        lanes of this worker x windows per lane (2) x rows of a window x bytes per row
        + threads x what a task holds + ready batches + the cache + what the allocators keep. A window has
        ``window_rows`` rows, and up to one row group more. See ``columns.held_bytes_per_row`` and
        ``reader.decoding_bytes``; how long strings and lists are is known from the footers.
        """
        schema, index, largest_window = self.schema, self.index, self.order.largest_window
        num_windows = len(self.order.epoch_plan(0).windows)
        num_held = min(windows_per_lane(self.order) * len(self.lanes), 2 * num_windows)  # of this epoch and the next
        windows = num_held * largest_window * held_bytes_per_row(schema)
        tasks = self.options.num_threads * decoding_bytes(
            schema, index.sizes, row_group_rows=int(index.row_counts.max()), window_rows=largest_window
        )
        # Waiting to be asked for, being made, and in the hands of the consumer.
        num_batches = self.options.prefetch_batches + 2
        rows = len(self.lanes) * self.order.rows_per_lane_step
        kept = ALLOCATORS_KEEP_BYTES + self.options.num_threads * THREAD_KEEPS_BYTES
        return windows + tasks + num_batches * rows * batch_bytes_per_row(schema) + self.options.cache_bytes + kept

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
            read=self._cache.read if self._cache else None,
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
        if isinstance(item, tuple):
            batch, num_skipped = item
            self.skipped_rows += num_skipped
            return batch
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
        loader = self._loader
        if loader.options.pin_for:
            # A thread starts on the first GPU; pinning there would open a context on it from every rank.
            torch.cuda.set_device(loader.options.pin_for)
        pool = ThreadPoolExecutor(loader.options.num_threads, thread_name_prefix="decode")
        windows = loader.windows(self._steps.stop, pool)
        try:
            for step in self._steps:
                rows = windows.take(step)
                num_real = loader.order.num_rows_at(step)
                batch = loader.assembler.assemble(
                    rows.lanes,
                    global_weight=float(num_real) if loader.knows_global_weight else 0.0,
                    fill=num_real / loader.order.global_batch_size,
                )
                self._counts = windows.counts
                batch = batch.pin_memory() if loader.options.pin_for else batch
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
