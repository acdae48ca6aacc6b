"""Where files lie: this machine, or an object store or cluster named by a URI, through ``pyarrow.fs``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from data.errors import DataError, StorageError
from data.retry import Retry, is_passing

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CLASSES = {
    "s3": "S3FileSystem",
    "gs": "GcsFileSystem",
    "gcs": "GcsFileSystem",
    "hdfs": "HadoopFileSystem",
    "viewfs": "HadoopFileSystem",
}


@dataclass(frozen=True)
class Storage:
    """One file system; a plain value, so that it can be given to other processes.

    Attributes:
        uri: Scheme, authority and query of the URIs that it serves, without their path; empty for this
            machine. May hold credentials: never shown.
        options: Keyword arguments of pyarrow's class for the scheme, instead of a query.
        retry: For passing failures of every call.
    """

    uri: str = field(default="", repr=False)
    options: tuple[tuple[str, Any], ...] = field(default=(), repr=False)
    retry: Retry = field(default_factory=Retry)

    @property
    def is_bucket_store(self) -> bool:
        """Whether the first part of a path is a bucket, and folders exist only by what lies in them."""
        return self.uri.startswith(("s3:", "gs:", "gcs:"))

    def name(self, path: str) -> str:
        """A path as it is shown: a URI without credentials and query, or a plain path."""
        if not self.uri:
            return path
        parts = urlsplit(self.uri)
        host = parts.netloc.rpartition("@")[2] if parts.scheme in ("hdfs", "viewfs") else ""
        return f"{parts.scheme}://{host}{path}"

    def info(self, path: str) -> pafs.FileInfo:
        """Type, size and modification time of a path, which need not exist.

        Raises:
            StorageError: The storage cannot be reached, or refuses access.
        """
        result: pafs.FileInfo = self._call(lambda: self.filesystem().get_file_info(path), path)
        return result

    def list(self, folder: str, *, recursive: bool) -> list[pafs.FileInfo]:
        """What lies in a folder, in no particular order; nothing if there is no such folder.

        Raises:
            StorageError: The storage cannot be reached, or refuses access.
        """
        selector = pafs.FileSelector(folder, allow_not_found=True, recursive=recursive)
        found: list[pafs.FileInfo] = self._call(lambda: self.filesystem().get_file_info(selector), folder)
        if not recursive and self.uri.startswith(("gs:", "gcs:")):
            # There, pyarrow lists no folder that exists only by what lies in it.
            below = [info.path[len(folder) :].lstrip("/").split("/") for info in self.list(folder, recursive=True)]
            folders = {f"{folder}/{names[0]}" for names in below if len(names) > 1} - {info.path for info in found}
            found += [pafs.FileInfo(path, pafs.FileType.Directory) for path in folders]
        return found

    def open(self, path: str) -> pa.NativeFile:
        """Opens a file for reading at any place; passing failures are the caller's to retry.

        Raises:
            OSError: It cannot be opened.
        """
        return self.filesystem().open_input_file(path)

    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow file system, one per process.

        Raises:
            StorageError: The URI or the options do not describe one.
        """
        return _filesystem(self.uri, self.options, self.retry.total_s)

    def _call(self, act: Any, path: str) -> Any:
        name = self.name(path)
        try:
            return self.retry.call(act, name)
        except OSError as cause:
            raise StorageError(
                f"{name}: cannot be looked at ({cause}); check the name, the endpoint, the region and the credentials."
            ) from cause


def locate(source: str, options: Mapping[str, Any] | None = None, retry: Retry | None = None) -> tuple[Storage, str]:
    """Splits a path or URI into the storage and the path within it.

    The path of a URI is taken literally (no ``%xx``), but for ``file://``. A query is what
    ``pyarrow.fs.FileSystem.from_uri`` takes: ``s3://bucket/key?region=eu-west-1&endpoint_override=...``.

    Args:
        source: A plain path, or a URI of one of the schemes file, s3, gs, gcs, hdfs and viewfs.
        options: Keyword arguments of pyarrow's class for the scheme; of no concern to this machine's files.
        retry: For passing failures.

    Raises:
        DataError: An unknown scheme, or a query next to options.
    """
    retry = retry or Retry()
    match = _SCHEME.match(source)
    if match is None:
        return Storage(retry=retry), source
    parts = urlsplit(source, allow_fragments=False)
    if parts.scheme == "file":
        return Storage(retry=retry), unquote(parts.path)
    if parts.scheme not in _CLASSES:
        raise DataError(
            f"'{source}': the scheme '{match[1]}' is unknown; use a plain path or one of file, {', '.join(_CLASSES)}."
        )
    if options and parts.query:
        raise DataError(
            f"'{_shown(source)}': has a query, but data.storage_options is set, too; say all of it in one of the two."
        )
    uri = f"{parts.scheme}://{parts.netloc}{'?' if parts.query else ''}{parts.query}"
    host = parts.netloc.rpartition("@")[2]
    path = parts.path if parts.scheme in ("hdfs", "viewfs") else f"{host}{parts.path}"
    return Storage(uri, tuple(sorted((options or {}).items())), retry), path.rstrip("/") or "/"


def read_bytes(source: str, options: Mapping[str, Any] | None = None, retry: Retry | None = None) -> bytes:
    """The whole of a small file.

    Args:
        source: A path or a URI; see :func:`locate`, also for the rest.
        options: For a URI.
        retry: For passing failures.

    Raises:
        OSError: It cannot be read.
        StorageError: The storage cannot be reached.
    """
    storage, path = locate(source, options, retry)

    def read() -> bytes:
        if not storage.uri:
            return Path(path).read_bytes()  # whose errors say more
        with storage.open(path) as file:
            content: bytes = file.read()
        return content

    return storage.retry.call(read, storage.name(path))


@lru_cache(maxsize=64)
def _filesystem(uri: str, options: tuple[tuple[str, Any], ...], patience_s: float) -> pafs.FileSystem:
    if not uri:
        return pafs.LocalFileSystem()
    parts = urlsplit(uri)
    try:
        if options:
            return _from_options(parts.scheme, parts.hostname, parts.port, dict(options), patience_s)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.scheme in ("gs", "gcs"):
            query.setdefault("retry_limit_seconds", str(patience_s))  # Google's client would try for 15 minutes
        filesystem, _ = pafs.FileSystem.from_uri(f"{parts.scheme}://{parts.netloc}/?{urlencode(query)}")
    except (OSError, TypeError, ValueError, ImportError) as cause:
        if isinstance(cause, OSError) and is_passing(cause):
            raise  # s3 without a region asks the network for it
        said = "data.storage_options" if options else "the URI's query"
        raise StorageError(
            f"{_shown(uri)}: pyarrow cannot make a file system of it ({str(cause).splitlines()[0]}); "
            f"correct {said}, which takes what pyarrow.fs.{_CLASSES[parts.scheme]} takes."
        ) from cause
    return filesystem


def _from_options(
    scheme: str, host: str | None, port: int | None, options: dict[str, Any], patience_s: float
) -> pafs.FileSystem:
    kind = getattr(pafs, _CLASSES[scheme])
    if scheme in ("gs", "gcs"):
        options["retry_time_limit"] = timedelta(seconds=options.get("retry_time_limit", patience_s))
    if scheme in ("hdfs", "viewfs"):
        return kind(host or "default", port or 0, **options)
    return kind(**options)


def _shown(uri: str) -> str:
    """A URI without credentials and query."""
    parts = urlsplit(uri, allow_fragments=False)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
