"""Row groups of Parquet files to feature-major arrays in the order in which the rows are served."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.bags import Bags, concatenate, encode_bags
from data.carried import CarriedColumn
from data.categorical import IdArray, encode_sparse
from data.columns import ColumnMemory, Columns
from data.counters import FeatureCounts
from data.decoded_size import NUMBER_BYTES, READING_BYTES, DecodedSizes
from data.encode import BadValueError, Float32Array, encode_dense, encode_label, encode_weight
from data.errors import DataError
from data.features import DenseFeature, SparseFeature
from data.parquet import RowGroup, read_row_group
from data.schema import Schema
from data.vocabulary import Vocabulary

TASK_BYTES = 8 << 20
"""Arrow memory that the columns of a task take, or one column of a window if that is more."""

_BY_DICTIONARY = ("hash", "vocabulary", "cross")
"""Kinds of features whose strings are read as dictionaries: each distinct one is hashed or looked up once."""

ReadRowGroup = Callable[..., pa.Table]
"""As :func:`data.parquet.read_row_group`."""

Encode = Callable[[list[pa.Array], npt.NDArray[Any]], FeatureCounts | None]
"""From the Arrow arrays of a target's columns to its values, which it writes into the array given."""


@dataclass(frozen=True)
class _Target:
    """One row of the feature-major arrays, and what is to be written into it."""

    sources: tuple[str, ...]
    row: npt.NDArray[Any]
    encode: Encode
    feature: str = ""
    by_dictionary: bool = False


class WindowReader:
    """Reads the row groups of a window, in tasks that may run on any threads in any order.

    A task decodes a few columns (:data:`TASK_BYTES`, at least one column) and then, one column
    after the other, encodes the values and brings them into serving order on their way to their row of
    the feature-major arrays; or it does so with one list column. So beside :attr:`columns` a running task
    holds the Arrow arrays of its own columns alone, however large the row groups are.

    Args:
        row_groups: Of the window, in the order in which they were gathered.
        schema: What the columns mean.
        rows: The window's rows in the order in which they are served, counted from the first row of
            the first row group, int64 [rows]; None for that order itself.
        sizes: What the decoded values take.
        memory: For the columns, large enough for the window; None for new memory.
        read: Of row groups; None for that of ``data.parquet``.
    """

    def __init__(
        self,
        row_groups: Sequence[RowGroup],
        schema: Schema,
        rows: npt.NDArray[np.int64] | None = None,
        sizes: DecodedSizes | None = None,
        memory: ColumnMemory | None = None,
        read: ReadRowGroup | None = None,
    ) -> None:
        self._read = read or read_row_group
        self._groups = list(row_groups)
        self._schema = schema
        self._rows = rows
        self._sizes = sizes or DecodedSizes()
        self._lock = threading.Lock()
        self._num_rows = sum(group.num_rows for group in row_groups)
        self.columns = (memory or ColumnMemory(schema, self._num_rows)).columns(self._num_rows)

    def tasks(self) -> list[Callable[[], None]]:
        """What is to be done; :attr:`columns` is complete when each has been called once.

        Each raises :class:`DataError` if a row group cannot be decoded or holds a value that the schema
        forbids; the message names the file, the row group and the column.
        """
        tasks: list[Callable[[], None]] = [partial(self._read_columns, targets) for targets in self._chunks()]
        return tasks + [partial(self._read_bags, m) for m in range(len(self._schema.multi_hot))]

    def _chunks(self) -> list[list[_Target]]:
        """The targets in portions for one task each; those of the same columns stay together."""
        by_source: dict[tuple[str, ...], list[_Target]] = {}
        for target in self._targets():
            by_source.setdefault(target.sources, []).append(target)
        chunks: list[list[_Target]] = []
        room = 0.0
        for sources, targets in by_source.items():
            num_bytes = self._num_rows * self._sizes.of(sources)
            if num_bytes > room:
                chunks.append([])
                room = TASK_BYTES
            chunks[-1].extend(targets)
            room -= num_bytes
        return chunks

    def _targets(self) -> list[_Target]:
        schema, columns = self._schema, self.columns
        targets = [_Target((schema.label,), columns.labels, _encode_label)]
        if schema.weight and columns.weights is not None:
            targets.append(_Target((schema.weight,), columns.weights, _encode_weight))
        for dense, row in zip(schema.dense, columns.dense, strict=True):
            targets.append(_Target((dense.source,), row, partial(_encode_dense, dense), dense.name))
        for sparse, row in zip(schema.one_hot, columns.one_hot, strict=True):
            encode = partial(_encode_sparse, sparse, schema.vocabularies.get(sparse.name))
            targets.append(_Target(sparse.sources, row, encode, sparse.name, sparse.kind in _BY_DICTIONARY))
        for carried, row in zip(schema.carried, columns.carried, strict=True):
            take = partial(_encode_carried, carried)
            targets.append(_Target((carried.column,), row, take, by_dictionary=not carried.numeric))
        return targets

    def _read_columns(self, targets: list[_Target]) -> None:
        names = list(dict.fromkeys(source for target in targets for source in target.sources))
        by_dictionary = {source for target in targets if target.by_dictionary for source in target.sources}
        tables = [self._read(group, columns=names, dictionaries=sorted(by_dictionary)) for group in self._groups]
        scratch = np.empty(self._num_rows, np.int64)
        for target in targets:
            if self._rows is None:
                self._encode(target, tables, target.row)
                continue
            # One column at a time is small enough for the processor's cache; a batch's rows of all
            # columns, gathered from the whole window, are not.
            values = scratch.view(target.row.dtype)[: self._num_rows]
            self._encode(target, tables, values)
            np.take(values, self._rows, out=target.row, mode="clip")  # `clip` writes without a buffer

    def _encode(self, target: _Target, tables: list[pa.Table], values: npt.NDArray[Any]) -> None:
        start = 0
        for group, table in zip(self._groups, tables, strict=True):
            with _located(group, target.sources):
                arrays = [_array(table, name) for name in target.sources]
                counts = target.encode(arrays, values[start : start + group.num_rows])
            if counts is not None:
                self._count(target.feature, counts)
            start += group.num_rows

    def _read_bags(self, m: int) -> None:
        feature = self._schema.multi_hot[m]
        parts = [self._encode_bags(group, feature) for group in self._groups]
        bags = concatenate(parts, self._schema.id_dtype)
        self.columns.multi_hot[m] = bags if self._rows is None else bags.take(self._rows)

    def _encode_bags(self, group: RowGroup, feature: SparseFeature) -> Bags:
        dictionaries = [feature.source] if feature.kind in _BY_DICTIONARY else []
        table = self._read(group, columns=list(dict.fromkeys(feature.sources)), dictionaries=dictionaries)
        with _located(group, feature.sources):
            weights = _array(table, feature.weights) if feature.weights else None
            vocabulary = self._schema.vocabularies.get(feature.name)
            bags, counts = encode_bags(_array(table, feature.source), weights, feature, vocabulary)
        self._count(feature.name, counts)
        return bags

    def _count(self, feature: str, counts: FeatureCounts) -> None:
        with self._lock:
            self.columns.counts[feature] += counts


def decoding_bytes(schema: Schema, sizes: DecodedSizes, *, row_group_rows: int, window_rows: int) -> int:
    """Host memory that a running task takes beside its window, in bytes.

    Of a few columns: the Arrow arrays of their values, with what it takes to read those of a row group,
    one column on its way into serving order, and of one row group's column what stands between Arrow and
    that (of strings, up to eight 64-bit numbers for each distinct one). Of a list column: its Arrow
    arrays, and what the values become in three steps.

    Args:
        schema: What the columns mean.
        sizes: What the decoded values take.
        row_group_rows: Rows of the largest row group.
        window_rows: Rows of the largest window.
    """
    read_at_once = READING_BYTES * min(row_group_rows, window_rows) / window_rows
    sources = [(schema.label,), *(feature.sources for feature in schema.one_hot)]
    sources += [(carried.column,) for carried in schema.carried]
    arrays = max(TASK_BYTES, window_rows * max(sizes.of(columns) for columns in sources))
    num_values = max(TASK_BYTES / NUMBER_BYTES, window_rows * max(map(len, sources)))
    columns = arrays + read_at_once * num_values + 8 * (window_rows + 8 * row_group_rows)
    steps, offsets = 3 * 8, 8 * 8
    lists = [
        sizes.of(feature.sources)
        + (steps + read_at_once) * sizes.num_values.get(feature.source, feature.max_length)
        + offsets
        for feature in schema.multi_hot
    ]
    return int(max(columns, window_rows * max(lists, default=0.0)))


def read_window(row_groups: Sequence[RowGroup], schema: Schema, rows: npt.NDArray[np.int64] | None = None) -> Columns:
    """Reads a window on the calling thread; see :class:`WindowReader`.

    Raises:
        DataError: A row group cannot be decoded or holds a value that the schema forbids.
    """
    reader = WindowReader(row_groups, schema, rows)
    for task in reader.tasks():
        task()
    return reader.columns


@contextmanager
def _located(group: RowGroup, columns: Sequence[str]) -> Iterator[None]:
    """Says in which file, row group and column a value was that could not be encoded."""
    try:
        yield
    except (BadValueError, pa.ArrowException) as cause:
        where = f"column{'s' if len(columns) > 1 else ''} " + ", ".join(f"'{column}'" for column in columns)
        raise DataError(f"{group.path}, row group {group.index}, {where}: {cause}") from cause


def _encode_label(arrays: list[pa.Array], out: Float32Array) -> None:
    out[:] = encode_label(arrays[0])


def _encode_weight(arrays: list[pa.Array], out: Float32Array) -> None:
    out[:] = encode_weight(arrays[0])


def _encode_dense(feature: DenseFeature, arrays: list[pa.Array], out: Float32Array) -> FeatureCounts:
    return encode_dense(arrays[0], feature, out)[1]


def _encode_sparse(
    feature: SparseFeature, vocabulary: Vocabulary | None, arrays: list[pa.Array], out: IdArray
) -> FeatureCounts:
    rows, counts = encode_sparse(arrays, feature, vocabulary)
    out[:] = rows
    return counts


def _encode_carried(carried: CarriedColumn, arrays: list[pa.Array], out: npt.NDArray[np.int64]) -> None:
    out[:] = carried.encode(arrays[0])


def _array(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
