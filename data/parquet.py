"""Parquet files: footers and row groups, with errors that name them."""

from __future__ import annotations

import posixpath
import textwrap
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from data.damage import Damage, DamageError
from data.errors import DataError, StorageError
from data.files import DataFile
from data.retry import is_refusal

_UNREADABLE = (OSError, pa.ArrowException, UnicodeDecodeError)

OPEN_FILES = 32
"""Files that a decoding thread keeps open."""

_DELETED = "was deleted while the job runs"
_REPLACED = "was replaced while the job runs"


@dataclass(frozen=True)
class RowGroup:
    """One row group of one file.

    Attributes:
        file: The file.
        index: The row group's number within the file.
        num_rows: Its rows when the job started; may be 0.
    """

    file: DataFile
    index: int
    num_rows: int

    @property
    def path(self) -> str:
        """The file's name, for messages."""
        return self.file.name


def read_footer(file: DataFile) -> pq.FileMetaData:
    """A file's footer.

    Raises:
        DamageError: It cannot be read.
        StorageError: The storage cannot be reached.
    """

    def read() -> pq.FileMetaData:
        with file.storage.open(file.path) as source:
            metadata = pq.read_metadata(source)
        metadata.schema.to_arrow_schema()  # a damaged one fails here, and not where it is used
        return metadata

    try:
        return file.storage.retry.call(read, file.name)
    except _UNREADABLE as cause:
        raise _failure(file, None, f"its Parquet footer cannot be read ({_text(cause)})", cause) from cause


def pack_footer(metadata: pq.FileMetaData) -> bytes:
    """A footer as bytes, to be kept or sent."""
    sink = pa.BufferOutputStream()
    metadata.write_metadata_file(sink)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def unpack_footer(packed: bytes) -> pq.FileMetaData:
    """The footer that :func:`pack_footer` packed."""
    return pq.read_metadata(pa.BufferReader(packed))


def file_schema(metadata: pq.FileMetaData, file: DataFile) -> pa.Schema:
    """A file's columns, with those that its directories stand for; a column of the file itself wins."""
    columns = metadata.schema.to_arrow_schema()
    added = [pa.field(name, value.type) for name, value in file.partitions.items() if name not in columns.names]
    return pa.schema([*columns, *added])


def read_row_group(group: RowGroup, *, columns: Sequence[str], dictionaries: Sequence[str]) -> pa.Table:
    """Decodes some columns of a row group, on the calling thread.

    Args:
        group: Where it lies, and how many rows it had when the job started.
        columns: The columns to read.
        dictionaries: Those of them to decode into dictionary arrays, or lists of dictionary arrays.

    Raises:
        DamageError: It cannot be decoded, or the file is not the one that it was when the job started.
        StorageError: The storage cannot be reached.
    """
    file = group.file
    try:
        table = file.storage.retry.call(lambda: _decode(group, columns, dictionaries), file.name)
    except _UNREADABLE as cause:
        if not isinstance(cause, FileNotFoundError) and not is_refusal(cause):
            _check_unchanged(group)
        where = _broken_column(group, columns, dictionaries)
        raise _failure(file, group, f"{where}cannot be decoded ({_text(cause)})", cause) from cause
    _check_unchanged(group)
    return table


@dataclass(frozen=True)
class _Seen:
    """A file as this process saw it first."""

    footer: pq.FileMetaData
    columns: frozenset[str]
    size: int
    mtime_ns: int


@lru_cache(maxsize=1024)
def _first_look(file: DataFile) -> _Seen:
    info = file.storage.info(file.path)
    footer = unpack_footer(file.footer) if file.footer else read_footer(file)
    columns = frozenset(footer.schema.to_arrow_schema().names)
    return _Seen(footer, columns, info.size, info.mtime_ns or 0)


def _decode(group: RowGroup, columns: Sequence[str], dictionaries: Sequence[str]) -> pa.Table:
    file = group.file
    seen = _first_look(file)
    stored = [name for name in columns if name in seen.columns]
    added = [name for name in columns if name not in seen.columns and name in file.partitions]
    rows = seen.footer.row_group(group.index).num_rows if group.index < seen.footer.num_row_groups else None
    if rows != group.num_rows or len(stored) + len(added) < len(columns):
        raise _failure(file, group, _REPLACED)
    with _opened(file, seen.footer, dictionaries) as parquet:
        table = parquet.read_row_group(group.index, columns=stored, use_threads=False)
    for name in added:
        table = table.append_column(name, pa.repeat(file.partitions[name], table.num_rows))
    return table


class _OpenFiles(threading.local):
    """The files on this machine that a thread read last: opening one costs as much as decoding thousands of values."""

    def __init__(self) -> None:
        self.parquets: OrderedDict[tuple[DataFile, tuple[str, ...]], pq.ParquetFile] = OrderedDict()


_open_files = _OpenFiles()


@contextmanager
def _opened(file: DataFile, footer: pq.FileMetaData, dictionaries: Sequence[str]) -> Iterator[pq.ParquetFile]:
    """A file open for reading, which stays open for the thread's next tasks."""
    key, parquets = (file, tuple(dictionaries)), _open_files.parquets
    parquet = parquets.pop(key, None) or _parquet(file, footer, dictionaries)
    try:
        yield parquet
    except BaseException:
        parquet.close(force=True)
        raise
    # One with read-ahead would hold on to what it read last.
    limit = 0 if file.storage.uri else OPEN_FILES
    parquets[key] = parquet
    while len(parquets) > limit:
        parquets.popitem(last=False)[1].close(force=True)


def _parquet(file: DataFile, footer: pq.FileMetaData, dictionaries: Sequence[str]) -> pq.ParquetFile:
    return pq.ParquetFile(
        file.storage.open(file.path),
        metadata=footer,
        read_dictionary=_leaves(footer, dictionaries) if dictionaries else None,
        pre_buffer=bool(file.storage.uri),  # few large requests instead of many small ones
        page_checksum_verification=True,
    )


def _leaves(footer: pq.FileMetaData, columns: Sequence[str]) -> list[str]:
    """The paths of columns, which go on where they hold lists: tags.list.element."""
    paths = [footer.schema.column(i).path for i in range(footer.num_columns)]
    return [path for path in paths if path in columns or path.partition(".")[0] in columns]


def _check_unchanged(group: RowGroup) -> None:
    """Sees to it that a file was not deleted or replaced, after it was read: whenever that happened, it shows.

    The modification time is compared with what this process saw first, not with the index: each host of a
    job may have its own copy of the files.
    """
    file, seen = group.file, _first_look(group.file)
    info = file.storage.info(file.path)
    if not info.is_file:
        raise _failure(file, group, _DELETED, FileNotFoundError())
    if (info.size, info.size, info.mtime_ns or 0) != (file.size, seen.size, seen.mtime_ns):
        raise _failure(file, group, _REPLACED)


def _broken_column(group: RowGroup, columns: Sequence[str], dictionaries: Sequence[str]) -> str:
    """The first column that cannot be decoded on its own, as the beginning of a message; empty if each can."""
    for column in columns:
        try:
            _decode(group, [column], [column] if column in dictionaries else [])
        except _UNREADABLE:
            return f"column '{column}' "
    return ""


def _failure(file: DataFile, group: RowGroup | None, what: str, cause: Exception | None = None) -> DataError:
    """Damage; or a storage error, if the cause lies not with this file alone."""
    if isinstance(cause, FileNotFoundError):
        folder = file.path.partition("/")[0] if file.storage.is_bucket_store else posixpath.dirname(file.path)
        if file.storage.info(folder or ".").type == pafs.FileType.NotFound:
            return StorageError(
                f"{file.name}: is gone, and so is '{file.storage.name(folder)}' that it lay in; bring it back."
            )
        what = _DELETED
    if isinstance(cause, OSError) and is_refusal(cause):
        return StorageError(f"{file.name}: access is refused ({_text(cause)}); check the credentials and permissions.")
    if group is None:
        return DamageError(Damage(file.name, None, 0, what))
    return DamageError(Damage(file.name, group.index, group.num_rows, what))


def _text(error: Exception) -> str:
    """An error's message on one line, without the request's number and without the end of a long one."""
    return textwrap.shorten(str(error), 300)
