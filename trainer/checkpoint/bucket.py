"""Paths in an object store."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow.fs as pafs

from data.storage import Storage, locate

_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class BucketPath:
    """As much of ``pathlib.Path`` as checkpoints need, for an object store; a plain value.

    There, a folder exists by what lies in it, a rename is a copy, and a file appears whole or not at all.

    Attributes:
        storage: The store.
        path: Bucket and key.
    """

    storage: Storage
    path: str

    @property
    def name(self) -> str:
        """The last part of the key."""
        return posixpath.basename(self.path)

    def __truediv__(self, name: str) -> BucketPath:
        return BucketPath(self.storage, f"{self.path}/{name}")

    def __str__(self) -> str:
        return self.storage.name(self.path)

    def open(self, mode: str) -> IO[bytes]:
        """A stream that reads at any place (``rb``), or one that writes (``wb``) and makes the file when it is closed.

        Raises:
            OSError: It cannot be opened.
        """
        files = self.storage.filesystem()
        return cast(IO[bytes], files.open_output_stream(self.path) if mode == "wb" else self.storage.open(self.path))

    def read_bytes(self) -> bytes:
        """The whole file.

        Raises:
            OSError: It cannot be read.
            StorageError: The store cannot be reached.
        """

        def read() -> bytes:
            with self.open("rb") as file:
                return file.read()

        return self.storage.retry.call(read, str(self))

    def sha256(self) -> str:
        """The file's checksum, hexadecimal; raises as :meth:`read_bytes` does."""

        def digest() -> str:
            checksum = hashlib.sha256()
            with self.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    checksum.update(block)
            return checksum.hexdigest()

        return self.storage.retry.call(digest, str(self))

    def write_bytes(self, content: bytes) -> None:
        """Makes the file; raises as :meth:`read_bytes` does."""

        def write() -> None:
            with self.open("wb") as file:
                file.write(content)

        self.storage.retry.call(write, str(self))

    def exists(self) -> bool:
        """Whether there is such a file."""
        return bool(self.storage.info(self.path).is_file)

    def unlink(self) -> None:
        """Removes the file; raises as :meth:`read_bytes` does."""
        self.storage.retry.call(lambda: self.storage.filesystem().delete_file(self.path), str(self))

    def move(self, target: BucketPath) -> None:
        """Copies the file and removes it here."""
        self.storage.retry.call(lambda: self.storage.filesystem().move(self.path, target.path), str(self))

    def files(self) -> dict[str, int]:
        """The files below, by their relative names, with their sizes in bytes."""
        found: list[pafs.FileInfo] = self.storage.list(self.path, recursive=True)
        prefix = f"{self.path}/"
        return {info.path.removeprefix(prefix): info.size for info in found if info.is_file}


Location = Path | BucketPath


def location(source: str | Path | BucketPath, options: Mapping[str, Any] | None = None) -> Location:
    """A path of this machine, or one in a store for a URI.

    Raises:
        DataError: An unknown scheme.
    """
    if not isinstance(source, str):
        return source
    storage, path = locate(source, options)
    return BucketPath(storage, path) if storage.uri else Path(path)
