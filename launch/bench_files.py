"""Synthetic Parquet files in the shape of Criteo's click log, for measurements of speed alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data.schema import Schema, parse_schema

NUM_DENSE, NUM_SPARSE = 13, 26
LIST_COLUMNS, LIST_LENGTH = 6, 8
NULL_SHARE = 0.2

MAX_CARDINALITY = 10**6


def cardinalities(largest: int = MAX_CARDINALITY) -> list[int]:
    """Distinct values of the sparse columns: from a handful to the largest."""
    return [int(10**exponent) for exponent in np.linspace(0.5, np.log10(largest), NUM_SPARSE)]


def write_files(
    folder: Path, kind: str, *, rows: int, row_group_rows: int, max_cardinality: int = MAX_CARDINALITY
) -> Path:
    """Writes a file of this kind, unless it is there with as many rows in row groups of this size.

    Args:
        folder: Where to.
        kind: One of :data:`KINDS`.
        rows: Of the file.
        row_group_rows: Rows of each row group but the last.
        max_cardinality: Distinct values of the largest column.
    """
    path = folder / f"{kind}-{rows}-{row_group_rows}-{max_cardinality}.parquet"
    if path.exists():
        return path
    unfinished = path.with_suffix(".tmp")
    generator = np.random.default_rng(0)
    writer: pq.ParquetWriter | None = None
    for start in range(0, rows, row_group_rows):
        table = _table(kind, min(row_group_rows, rows - start), cardinalities(max_cardinality), generator)
        writer = writer or pq.ParquetWriter(unfinished, table.schema, compression="zstd")
        writer.write_table(table, row_group_size=row_group_rows)
    assert writer is not None, "there is at least one row"
    writer.close()
    unfinished.rename(path)
    return path


def declaration_of(kind: str, max_cardinality: int = MAX_CARDINALITY) -> dict[str, Any]:
    """What a ``schema.yaml`` says of the columns of a file of this kind."""
    dense = [{"name": f"I{n}", "transform": "log1p"} for n in range(NUM_DENSE)]
    sparse = []
    for n, cardinality in enumerate(cardinalities(max_cardinality)):
        feature = {"name": f"C{n}", "kind": "hash" if kind == "strings" else "id", "num_embeddings": cardinality + 2}
        if kind == "lists" and n < LIST_COLUMNS:
            feature |= {"max_length": LIST_LENGTH, "pooling": "mean"}
        sparse.append(feature)
    return {"label": "label", "dense": dense, "sparse": sparse}


def schema_of(kind: str) -> Schema:
    """What the columns of a file of this kind mean."""
    return parse_schema(declaration_of(kind), where="bench")


def _table(kind: str, rows: int, distinct: list[int], generator: np.random.Generator) -> pa.Table:
    columns = {"label": pa.array((generator.random(rows) < 0.25).astype(np.int8))}
    for n in range(NUM_DENSE):
        counts = np.floor(np.exp(generator.normal(2, 2, rows))).astype(np.int32)
        columns[f"I{n}"] = pa.array(counts, mask=generator.random(rows) < NULL_SHARE)
    for n, cardinality in enumerate(distinct):
        column = _lists if kind == "lists" and n < LIST_COLUMNS else KINDS[kind]
        columns[f"C{n}"] = column(rows, cardinality, generator)
    return pa.table(columns)


def _ranks(rows: int, cardinality: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Values 0 .. cardinality - 1, the frequency about one over the value."""
    return np.minimum(cardinality ** generator.random(rows), cardinality - 1).astype(np.int64)


def _ids(rows: int, cardinality: int, generator: np.random.Generator) -> pa.Array:
    return pa.array(_ranks(rows, cardinality, generator))


def _strings(rows: int, cardinality: int, generator: np.random.Generator) -> pa.Array:
    """Eight hexadecimal digits, as Criteo has them."""
    distinct, codes = np.unique(_ranks(rows, cardinality, generator), return_inverse=True)
    texts = pa.array([f"{value * 2654435761 % 2**32:08x}" for value in distinct.tolist()])
    return texts.take(pa.array(codes))


def _lists(rows: int, cardinality: int, generator: np.random.Generator) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(generator.integers(0, LIST_LENGTH + 1, rows))])
    values = _ids(int(offsets[-1]), cardinality, generator)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


KINDS: dict[str, Callable[[int, int, np.random.Generator], pa.Array]] = {
    "ids": _ids,
    "strings": _strings,
    "lists": _ids,
}
"""How the sparse columns are made (of ``lists`` the first few are lists)."""
