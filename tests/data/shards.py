"""Small Parquet shards whose rows are numbered, so that a test can count them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.batch import Batch
from data.schema import Schema, parse_schema


def numbered_schema(num_rows: int) -> Schema:
    """A label, a dense feature, the row's number as an id, a string and a list of strings.

    The column ``number``, the row's number plus one, is not in it."""
    values = {
        "label": "click",
        "dense": [{"name": "price"}],
        "sparse": [
            {"name": "row", "kind": "id", "num_embeddings": num_rows},
            {"name": "site", "kind": "hash", "num_embeddings": 20},
            {"name": "tags", "kind": "hash", "num_embeddings": 50, "max_length": 3},
        ],
    }
    return parse_schema(values, where="the test's schema")


def numbered_table(first: int, num_rows: int) -> pa.Table:
    """Rows ``first .. first + num_rows - 1``; every column is a function of the row's number."""
    rows = np.arange(first, first + num_rows)
    return pa.table(
        {
            "click": (rows % 3 == 0).astype(np.int8),
            "price": (rows / 2).astype(np.float32),
            "row": rows,
            "number": rows + 1,
            "site": pa.array([f"site-{row % 5}" for row in rows.tolist()], pa.string()),
            "tags": pa.array([[str(row % 7)] * (row % 4) for row in rows.tolist()], pa.list_(pa.string())),
        }
    )


def write_shards(folder: Path, shards: Sequence[Sequence[int]]) -> list[str]:
    """Writes one file per shard with row groups of the given sizes, rows numbered across all of them.

    Args:
        folder: Made if it is missing.
        shards: For each file the rows of each row group; an empty list is a file without row groups.

    Returns:
        The files, in this order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: list[str] = []
    first = 0
    for number, sizes in enumerate(shards):
        files.append(str(folder / f"part-{number:03d}.parquet"))
        with pq.ParquetWriter(files[-1], numbered_table(0, 0).schema, write_page_checksum=True) as writer:
            for size in sizes:
                writer.write_table(numbered_table(first, size), row_group_size=max(size, 1))
                first += size
    return files


def served_rows(batch: Batch) -> list[int]:
    """The numbers of a batch's rows, in the batch's order, without padding."""
    numbers: list[int] = batch.sparse["row"].values().tolist()
    return numbers
