"""Footers kept in a local file between jobs, so that a large data set is opened without reading them all again."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather

from data.errors import DataError
from data.files import DataFile

logger = logging.getLogger(__name__)

_SCHEMA = pa.schema({"name": pa.string(), "size": pa.int64(), "mtime_ns": pa.int64(), "footer": pa.large_binary()})

Key = tuple[str, int, int]
"""Name, size and modification time: a file that was written anew has another key."""


class FooterCache:
    """Packed footers by file, in one Arrow file.

    Args:
        path: The Arrow file; made when first stored.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def load(self) -> dict[Key, bytes]:
        """What was stored; nothing, and a warning, if the file is damaged."""
        if not self._path.exists():
            return {}
        try:
            table = feather.read_table(self._path, memory_map=False)
            names, sizes, times, footers = (table.column(name).to_pylist() for name in _SCHEMA.names)
        except (OSError, KeyError, pa.ArrowException) as cause:
            logger.warning("%s: the cached footers cannot be read (%s); reading those of the files.", self._path, cause)
            return {}
        return dict(zip(zip(names, sizes, times, strict=True), footers, strict=True))

    def store(self, footers: Mapping[Key, bytes]) -> None:
        """Replaces what was stored, in one rename.

        Raises:
            DataError: It cannot be written.
        """
        names, sizes, times = zip(*footers, strict=True) if footers else ((), (), ())
        table = pa.table([names, sizes, times, list(footers.values())], schema=_SCHEMA)
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            feather.write_feather(table, str(partial), compression="zstd")
            partial.replace(self._path)
        except OSError as cause:
            raise DataError(
                f"{self._path}: the footers cannot be cached there ({cause}); set data.index_cache to another "
                "folder, or to null."
            ) from cause


def cache_key(file: DataFile) -> Key:
    """What a footer is found by."""
    return file.name, file.size, file.mtime_ns
