"""Which Parquet files a source names: paths, globs, directories (hive partitions, too), URIs, lists of them."""

from __future__ import annotations

import fnmatch
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from data.errors import DataError
from data.retry import Retry
from data.storage import Storage, locate

_WILDCARD = re.compile(r"[*?\[]")
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class DataFile:
    """A file as it was found when the job started.

    Attributes:
        name: As shown and compared: a plain path, or a URI without credentials.
        path: Within its storage.
        size: In bytes.
        mtime_ns: When it was last written; 0 if the storage does not say.
        storage: Where it lies.
        partitions: Columns that its directories stand for (``day=7/``), by name; strings, or what the
            index made of them.
        footer: Packed, if the index hands it over, so that nobody reads it again.
    """

    name: str
    path: str
    size: int
    mtime_ns: int
    storage: Storage
    partitions: Mapping[str, pa.Scalar] = field(default_factory=dict, compare=False)
    footer: bytes | None = field(default=None, compare=False, repr=False)


def local_file(path: str) -> DataFile:
    """A file on this machine.

    Raises:
        DataError: There is no such file.
    """
    info = Storage().info(path)
    if not info.is_file:
        raise DataError(f"{path}: there is no such file.")
    return _data_file(Storage(), info)


def resolve_files(
    source: str | Sequence[str],
    *,
    key: str,
    options: Mapping[str, Any] | None = None,
    retry: Retry | None = None,
) -> list[DataFile]:
    """Expands a source into Parquet files.

    A directory stands for all ``*.parquet`` below it, but for those whose own or whose directory's name
    begins with ``.`` or ``_``, which writers use for what is not finished. In a glob ``**`` stands for any
    number of directories; in a URI ``?`` begins the query, so there ``[...]`` and ``*`` are the wildcards.
    Directories named ``column=value`` are hive partitions, wherever in the path they stand.

    Args:
        source: A file, a glob, a directory, a URI of one of these, or a list of such.
        key: The config key that the source comes from, for messages.
        options: See :func:`data.storage.locate`.
        retry: For passing failures of the storage.

    Returns:
        The files, each once, sorted by name.

    Raises:
        DataError: Some part of the source matches no file.
        StorageError: The storage cannot be reached.
    """
    files: dict[str, DataFile] = {}
    for part in [source] if isinstance(source, str) else source:
        storage, path = locate(part, options, retry)
        found = list(_expand(storage, path))
        if not found:
            where = f" (looked from {os.getcwd()})" if not storage.uri and not os.path.isabs(path) else ""
            raise DataError(
                f"{key}: '{storage.name(path)}' matches no Parquet file{where}; "
                "give a file, a glob, a directory or a list of them."
            )
        files.update((file.name, file) for file in found)
    return [files[name] for name in sorted(files)]


def _expand(storage: Storage, path: str) -> Iterator[DataFile]:
    info = storage.info(path)
    if info.is_file:
        yield _data_file(storage, info)
    elif info.type == pafs.FileType.Directory:
        yield from (_data_file(storage, found) for found in _below(storage, path))
    elif _WILDCARD.search(path):
        segments = path.lstrip("/").split("/")
        yield from (_data_file(storage, found) for found in _glob(storage, "/" * path.startswith("/"), segments))


def _below(storage: Storage, folder: str) -> Iterator[pafs.FileInfo]:
    for info in storage.list(folder, recursive=True):
        inside = info.path[len(folder) :].lstrip("/").split("/")
        if info.is_file and info.path.endswith(".parquet") and not any(name[:1] in "._" for name in inside):
            yield info


def _glob(storage: Storage, folder: str, segments: Sequence[str]) -> Iterator[pafs.FileInfo]:
    """The files that match, found directory by directory, so that no more is listed than is looked into.

    Args:
        storage: Where to look.
        folder: Where the segments begin; empty for the working directory.
        segments: The rest of the pattern, between its slashes.
    """
    head, *rest = segments
    if head == "**":
        yield from _glob(storage, folder, rest or ["*"])
        inner = [
            i for i in _entries(storage, folder) if i.type == pafs.FileType.Directory and i.base_name[0] not in "._"
        ]
        for info in inner:
            yield from _glob(storage, info.path, segments)
    elif not _WILDCARD.search(head):
        path = posixpath.join(folder, head)
        if rest:
            yield from _glob(storage, path, rest)
        elif (info := storage.info(path)).is_file:
            yield info
    else:
        for info in _entries(storage, folder):
            hidden = info.base_name.startswith(".") and not head.startswith(".")
            if hidden or not fnmatch.fnmatchcase(info.base_name, head):
                continue
            if rest and info.type == pafs.FileType.Directory:
                yield from _glob(storage, info.path, rest)
            elif not rest and info.is_file:
                yield info


def _entries(storage: Storage, folder: str) -> list[pafs.FileInfo]:
    return storage.list(folder or ("" if storage.uri else "."), recursive=False)


def _data_file(storage: Storage, info: pafs.FileInfo) -> DataFile:
    path = info.path.removeprefix("./")
    pairs = [folder.partition("=") for folder in path.split("/")[:-1]]
    partitions = {unquote(name): _partition_value(value) for name, sign, value in pairs if name and sign}
    return DataFile(storage.name(path), path, info.size, info.mtime_ns or 0, storage, partitions)


def _partition_value(text: str) -> pa.Scalar:
    return pa.scalar(None if text == _HIVE_NULL else unquote(text), pa.string())
