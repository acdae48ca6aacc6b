"""Rows per second from Parquet files to ready batches, next to what pyarrow alone makes of the same files."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.batch import Batch
from data.index import build_index
from data.loader import BatchLoader, LoaderOptions
from data.order import SampleOrder
from data.schema import Schema
from launch.bench_files import schema_of
from launch.bench_memory import peak_growth


@dataclass(frozen=True)
class Measurement:
    """Medians of several repeats.

    Attributes:
        rows_per_s: Of the loader, one rank with one lane, shuffled by row.
        ceiling_rows_per_s: Of pyarrow, decoding the same columns of the same row groups in the same order
            to NumPy arrays on as many threads; where columns are strings, the faster of strings and
            dictionaries.
        ratio: Of the two, within each pair of neighbouring measurements.
        cpu_s_per_row: Of the loader, seconds over all threads.
        ceiling_cpu_s_per_row: Of pyarrow.
        file_bytes_per_row: In the compressed file.
        batch_bytes_per_row: In the batches.
        peak_bytes: What the loader added to the memory of the process at most; None where Linux does
            not tell.
        bound_bytes: What it may add (``BatchLoader.memory_bytes``).
    """

    rows_per_s: float
    ceiling_rows_per_s: float
    ratio: float
    cpu_s_per_row: float
    ceiling_cpu_s_per_row: float
    file_bytes_per_row: float
    batch_bytes_per_row: float
    peak_bytes: int | None
    bound_bytes: int


@dataclass(frozen=True)
class _Run:
    wall_s: float
    cpu_s: float


def measure(
    file: Path, kind: str, *, window_rows: int, batch_size: int, num_threads: int, repeats: int, cache_bytes: int = 0
) -> Measurement:
    """Runs loader and pyarrow in turn over a file, ``repeats`` times after a first time that is not counted.

    Args:
        file: From ``bench_files``.
        kind: Of its columns.
        window_rows: Rows shuffled together, at least.
        batch_size: Rows of a batch.
        num_threads: That decode.
        repeats: Pairs of measurements.
        cache_bytes: For decoded columns; the first pass, which fills it, is not counted.
    """
    schema = schema_of(kind)
    index = build_index([str(file)], schema)
    order = SampleOrder(index.row_counts, global_batch_size=batch_size, lanes=1, window_rows=window_rows, shuffle=True)
    options = LoaderOptions(num_threads=num_threads, cache_bytes=cache_bytes)
    loader = BatchLoader(index, order, schema, rank=0, world_size=1, options=options)
    groups = [group for window in order.epoch_plan(0).windows for group in window]
    with_dictionaries = [False, True] if kind == "strings" else [False]

    peak = peak_growth(lambda: _drain(loader))  # at first, before the allocators keep anything
    batch = _first_batch(loader)
    ours: list[_Run] = []
    ceiling: list[_Run] = []
    for _ in range(repeats):
        decodings = [partial(_decode, file, groups, schema, num_threads, dictionaries=d) for d in with_dictionaries]
        ceiling.append(min((_timed(decode) for decode in decodings), key=lambda run: run.wall_s))
        ours.append(_timed(lambda: _drain(loader)))
    rows = index.num_rows
    return Measurement(
        rows_per_s=rows / statistics.median(run.wall_s for run in ours),
        ceiling_rows_per_s=rows / statistics.median(run.wall_s for run in ceiling),
        ratio=statistics.median(c.wall_s / o.wall_s for c, o in zip(ceiling, ours, strict=True)),
        cpu_s_per_row=statistics.median(run.cpu_s for run in ours) / rows,
        ceiling_cpu_s_per_row=statistics.median(run.cpu_s for run in ceiling) / rows,
        file_bytes_per_row=file.stat().st_size / rows,
        batch_bytes_per_row=_batch_bytes(batch) / batch_size,
        peak_bytes=peak,
        bound_bytes=loader.memory_bytes(),
    )


def _timed(act: Callable[[], None]) -> _Run:
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return _Run(time.perf_counter() - wall, time.process_time() - cpu)


def _first_batch(loader: BatchLoader) -> Batch:
    with loader.batches(0, 1) as stream:
        return next(stream)


def _drain(loader: BatchLoader) -> None:
    with loader.batches(0, loader.order.steps_per_epoch) as stream:
        for _ in stream:
            pass


def _decode(file: Path, groups: list[int], schema: Schema, num_threads: int, *, dictionaries: bool) -> None:
    footer = pq.read_metadata(file)
    by_dictionary = [feature.source for feature in schema.sparse] if dictionaries else None

    def decode(group: int) -> None:
        with pq.ParquetFile(file, metadata=footer, read_dictionary=by_dictionary) as parquet:
            table = parquet.read_row_group(group, columns=schema.columns, use_threads=False)
        for column in table.columns:
            for chunk in column.chunks:
                _to_numpy(chunk)

    with ThreadPoolExecutor(num_threads) as pool:
        for _ in pool.map(decode, groups):
            pass


def _to_numpy(array: pa.Array) -> None:
    """NumPy arrays of the values; of strings and lists, of what they consist of (objects would take far longer)."""
    if pa.types.is_dictionary(array.type):
        array.indices.to_numpy(zero_copy_only=False)
    elif pa.types.is_list(array.type):
        array.offsets.to_numpy()
        array.values.to_numpy(zero_copy_only=False)
    elif not pa.types.is_string(array.type):
        array.to_numpy(zero_copy_only=False)


def _batch_bytes(batch: Batch) -> int:
    tensors = [batch.dense, batch.labels, batch.weights, batch.sparse.values(), batch.sparse.lengths()]
    return sum(tensor.nbytes for tensor in tensors)
