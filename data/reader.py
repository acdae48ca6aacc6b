"""Row groups of Parquet files to feature-major arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.encode import (
    BadValueError,
    Float32Array,
    IdArray,
    encode_dense,
    encode_label,
    encode_sparse,
    encode_weight,
)
from data.errors import DataError
from data.parquet import RowGroup, read_row_group
from data.schema import Schema, SparseFeature


@dataclass(frozen=True)
class Bags:
    """A multi-hot feature of some rows.

    Attributes:
        values: Table rows of all bags, one bag after the other, int64 [values].
        offsets: Where each bag starts, and the total at the end, int64 [rows + 1].
    """

    values: IdArray
    offsets: IdArray

    def take(self, rows: IdArray) -> tuple[IdArray, IdArray]:
        """The bags of the given rows: (values, lengths)."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        ends = np.cumsum(lengths)
        within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        return self.values[np.repeat(self.offsets[rows], lengths) + within], lengths


@dataclass(frozen=True)
class Columns:
    """Decoded and encoded rows, feature-major, with room for all row groups of a window.

    Attributes:
        one_hot: Table rows, int64 [one-hot features, rows].
        multi_hot: One :class:`Bags` for each multi-hot feature.
        dense: float32 [rows, dense features].
        labels: 0 or 1, float32 [rows].
        weights: float32 [rows].
    """

    one_hot: IdArray
    multi_hot: tuple[Bags, ...]
    dense: Float32Array
    labels: Float32Array
    weights: Float32Array

    @property
    def num_bytes(self) -> int:
        """Host memory held, in bytes."""
        fixed = self.one_hot.nbytes + self.dense.nbytes + self.labels.nbytes + self.weights.nbytes
        return fixed + sum(bags.values.nbytes + bags.offsets.nbytes for bags in self.multi_hot)


def read_window(row_groups: Sequence[RowGroup], schema: Schema) -> Columns:
    """Reads row groups one after the other straight into the arrays of one :class:`Columns`.

    Each column is decoded, encoded and written to its place before the next one is looked at, so that
    beside the result only one row group's Arrow table is held.

    Raises:
        DataError: A row group cannot be decoded or holds a value that the schema forbids; the message
            names the file, the row group and the column.
    """
    num_rows = sum(group.num_rows for group in row_groups)
    columns = Columns(
        one_hot=np.empty((len(schema.one_hot), num_rows), np.int64),
        multi_hot=(),
        dense=np.empty((num_rows, len(schema.dense)), np.float32),
        labels=np.empty(num_rows, np.float32),
        weights=np.ones(num_rows, np.float32),
    )
    # Hashing a dictionary costs a hash per distinct value instead of one per row.
    hashed = [feature.source for feature in schema.one_hot if feature.kind == "hash"]
    bags: list[list[Bags]] = [[] for _ in schema.multi_hot]
    start = 0
    for group in row_groups:
        rows = slice(start, start + group.num_rows)
        table = read_row_group(group, columns=schema.columns, dictionaries=hashed)
        column = ""
        try:
            column = schema.label
            columns.labels[rows] = encode_label(_array(table, column))
            if schema.weight:
                column = schema.weight
                columns.weights[rows] = encode_weight(_array(table, column))
            for n, dense in enumerate(schema.dense):
                column = dense.source
                columns.dense[rows, n] = encode_dense(_array(table, column), dense)
            for f, sparse in enumerate(schema.one_hot):
                column = sparse.source
                columns.one_hot[f, rows] = encode_sparse(_array(table, column), sparse)
            for parts, sparse in zip(bags, schema.multi_hot, strict=True):
                column = sparse.source
                parts.append(_encode_bags(_array(table, column), sparse))
        except (BadValueError, pa.ArrowException) as cause:
            raise DataError(f"{group.path}, row group {group.index}, column '{column}': {cause}") from cause
        start = rows.stop
    return Columns(
        columns.one_hot,
        tuple(_concatenate(parts) for parts in bags),
        columns.dense,
        columns.labels,
        columns.weights,
    )


def _array(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _encode_bags(lists: pa.Array, feature: SparseFeature) -> Bags:
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    if lengths.size and int(lengths.max()) > feature.max_length:
        lists = pc.list_slice(lists, 0, feature.max_length)
        lengths = np.minimum(lengths, feature.max_length)
    values = encode_sparse(pc.list_flatten(lists), feature)
    return Bags(values, np.concatenate([[0], np.cumsum(lengths)]))


def _concatenate(parts: Sequence[Bags]) -> Bags:
    bases = np.cumsum([0, *(len(part.values) for part in parts)])
    offsets = [part.offsets[:-1] + base for part, base in zip(parts, bases[:-1], strict=True)]
    return Bags(np.concatenate([p.values for p in parts]), np.concatenate([*offsets, bases[-1:]]))
