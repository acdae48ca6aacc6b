"""Which row groups a data set has, and how many rows each: read from the Parquet footers alone."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from data.errors import DataError
from data.parquet import RowGroup, read_footer
from data.schema import Schema


@dataclass(frozen=True)
class DatasetIndex:
    """All row groups of a data set, in file order (files by name).

    Attributes:
        row_groups: In file order.
        fingerprint: A hash of the files' names (relative to their common folder), sizes and row counts:
            equal wherever the same files lie.
    """

    row_groups: tuple[RowGroup, ...]
    fingerprint: str

    @cached_property
    def row_counts(self) -> npt.NDArray[np.int64]:
        """Rows of each row group, int64 [number of row groups]."""
        return np.array([group.num_rows for group in self.row_groups], np.int64)

    @property
    def num_rows(self) -> int:
        """Rows of the whole data set."""
        return int(self.row_counts.sum())

    @property
    def num_files(self) -> int:
        """Files with at least one row group."""
        return len({group.path for group in self.row_groups})


def resolve_files(source: str | Sequence[str], *, key: str) -> list[str]:
    """Expands paths, globs and directories into Parquet files, sorted by name.

    Args:
        source: A file, a glob, a directory (all ``*.parquet`` below it), or a list of such.
        key: The config key that the source comes from, for messages.

    Returns:
        File paths, each once, sorted.

    Raises:
        DataError: Some part of the source matches no file.
    """
    files: set[str] = set()
    for part in [source] if isinstance(source, str) else source:
        if os.path.isdir(part):
            found = glob.glob(os.path.join(glob.escape(part), "**", "*.parquet"), recursive=True)
        else:
            found = glob.glob(part, recursive=True)
        matches = [path for path in found if os.path.isfile(path)]
        if not matches:
            raise DataError(
                f"{key}: '{part}' matches no Parquet file (looked from {os.getcwd()}); "
                "give a file, a glob, a directory or a list of them."
            )
        files.update(matches)
    return sorted(files)


def build_index(files: Sequence[str], schema: Schema, *, num_threads: int = 8) -> DatasetIndex:
    """Reads all footers and checks each file's columns against the schema.

    Args:
        files: Parquet files.
        schema: What the columns have to be.
        num_threads: Footers read at a time.

    Raises:
        DataError: A footer cannot be read, a column does not fit the schema, or there are no rows at all.
    """

    def read(path: str) -> list[RowGroup]:
        metadata = read_footer(path)
        schema.check_file(metadata.schema.to_arrow_schema(), path)
        return [RowGroup(path, i, metadata.row_group(i).num_rows) for i in range(metadata.num_row_groups)]

    with ThreadPoolExecutor(num_threads) as pool:
        per_file = list(pool.map(read, files))
    row_groups = tuple(group for groups in per_file for group in groups)
    index = DatasetIndex(row_groups, _fingerprint(files, row_groups))
    if index.num_rows == 0:
        raise DataError(f"{files[0]} ... ({len(files)} files): there is not a single row in them.")
    return index


def _fingerprint(files: Sequence[str], row_groups: Sequence[RowGroup]) -> str:
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in files])
    sizes = [(os.path.relpath(os.path.abspath(path), root), os.path.getsize(path)) for path in files]
    rows = [group.num_rows for group in row_groups]
    return hashlib.sha256(json.dumps([sizes, rows]).encode()).hexdigest()[:16]
