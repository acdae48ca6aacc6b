"""Decoded row groups, kept in memory for the epochs that follow."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pyarrow as pa

from data.parquet import RowGroup, read_row_group


class RowGroupCache:
    """Keeps decoded columns until its room is taken up, and those that it has.

    An epoch reads each row group once: what it would give up for newer ones is what the next epoch asks for first.

    Args:
        limit_bytes: Of the Arrow arrays, all together.

    Attributes:
        num_bytes: That are held.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._columns: dict[tuple[str, int, str, bool], pa.ChunkedArray] = {}
        self._lock = threading.Lock()
        self.num_bytes = 0

    def read(self, group: RowGroup, *, columns: Sequence[str], dictionaries: Sequence[str]) -> pa.Table:
        """As :func:`data.parquet.read_row_group`, of what is not held; may be called from any threads.

        A file that is replaced is noticed when something of it is read.
        """
        keys = {name: (group.path, group.index, name, name in dictionaries) for name in columns}
        found = {name: self._columns[key] for name, key in keys.items() if key in self._columns}
        missing = [name for name in columns if name not in found]
        if missing:
            table = read_row_group(group, columns=missing, dictionaries=[n for n in dictionaries if n in missing])
            for name in missing:
                found[name] = table.column(name)
                self._keep(keys[name], found[name])
        return pa.table({name: found[name] for name in columns})

    def _keep(self, key: tuple[str, int, str, bool], column: pa.ChunkedArray) -> None:
        with self._lock:
            if key not in self._columns and self.num_bytes + column.nbytes <= self._limit_bytes:
                self._columns[key] = column
                self.num_bytes += column.nbytes
