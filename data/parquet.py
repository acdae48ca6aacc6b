"""Parquet files: footers and row groups, with errors that name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import DataError


@dataclass(frozen=True)
class RowGroup:
    """One row group of one file.

    Attributes:
        path: The file.
        index: The row group's number within the file.
        num_rows: Its rows; may be 0.
    """

    path: str
    index: int
    num_rows: int


def read_footer(path: str) -> pq.FileMetaData:
    """A file's footer.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return pq.read_metadata(path)
    except (OSError, pa.ArrowException) as cause:
        raise DataError(
            f"{path}: its Parquet footer cannot be read ({cause}); write the file anew or leave it out."
        ) from cause


def read_row_group(group: RowGroup, *, columns: Sequence[str], dictionaries: Sequence[str]) -> pa.Table:
    """Decodes some columns of a row group, on the calling thread.

    Args:
        group: Where it lies, and how many rows it had when the job started.
        columns: The columns to read.
        dictionaries: Those of them to decode into dictionary arrays.

    Raises:
        DataError: It cannot be decoded, or has another number of rows than it had.
    """
    try:
        file = pq.ParquetFile(group.path, metadata=_cached_footer(group.path), read_dictionary=list(dictionaries))
        table = file.read_row_group(group.index, columns=list(columns), use_threads=False)
    except (OSError, pa.ArrowException) as cause:
        raise DataError(
            f"{group.path}, row group {group.index}: cannot be decoded ({cause}); write the file anew or leave it out."
        ) from cause
    if table.num_rows != group.num_rows:
        raise DataError(
            f"{group.path}, row group {group.index}: has {table.num_rows} rows, but had {group.num_rows} when the "
            "job started; do not replace files under a running job."
        )
    return table


@lru_cache(maxsize=1024)
def _cached_footer(path: str) -> pq.FileMetaData:
    return read_footer(path)
