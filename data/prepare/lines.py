"""Text files, plain or gzip, cut into blocks of whole lines without ever holding more than a block."""

from __future__ import annotations

import glob
import gzip
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import numpy as np

from data.errors import DataError

CHUNK_BYTES = 4 << 20
MAX_LINE_BYTES = 16 << 20
"""A longer line means that the file is no text file; without a limit it would fill the memory."""

GZIP_MAGIC = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NEWLINE = ord("\n")


def find_files(source: Any, *, key: str) -> list[str]:
    """Expands paths, globs and directories, in the order given; what a glob matches in natural order.

    Natural order puts ``day_2`` before ``day_10``: the order of the rows is the order of the files.

    Raises:
        DataError: There is no source, or some part of it matches no file.
    """
    parts = [source] if isinstance(source, str) else source
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
        raise DataError(f"{key} is {source!r}, but must be a file, a glob, a directory or a list of them.")
    files: list[str] = []
    for part in parts:
        pattern = os.path.join(glob.escape(part), "*") if os.path.isdir(part) else part
        found = [part] if os.path.isfile(part) else [path for path in glob.glob(pattern) if os.path.isfile(path)]
        if not found:
            raise DataError(
                f"{key}: '{part}' matches no file (looked from {os.getcwd()}); "
                "give a file, a glob, a directory or a list of them."
            )
        files.extend(sorted(found, key=_natural))
    return list(dict.fromkeys(files))


def _natural(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]


class LineReader:
    """Reads a text file in blocks of lines. Gzip is told by the first bytes, not by the name.

    Args:
        path: The file.
        offset: Bytes of the (unpacked) text to start behind; the start of a line.
    """

    def __init__(self, path: str, *, offset: int = 0) -> None:
        self.path = path
        self._rest = b""
        with _readable(path):
            self._raw = open(path, "rb")  # noqa: SIM115 - closed with the reader
            packed = self._raw.read(2) == GZIP_MAGIC
            self._raw.seek(0)
            self._text = cast(BinaryIO, gzip.GzipFile(fileobj=self._raw)) if packed else self._raw
            if offset == 0 and self._text.read(3) == BYTE_ORDER_MARK:
                offset = 3
            self._text.seek(offset)
        self.offset = offset

    @property
    def raw_position(self) -> int:
        """Bytes of the file itself read so far; of a gzip file, packed ones."""
        return self._raw.tell()

    def block(self, num_lines: int) -> tuple[bytes, int]:
        """The next lines, each with its newline; the last line of the file gets one if it has none.

        Returns:
            The text and the number of lines in it: fewer than asked for at the end of the file, then 0.

        Raises:
            DataError: The file cannot be read or unpacked, or holds no lines.
        """
        parts, missing = [], num_lines
        while missing:
            chunk, self._rest = self._rest or self._read(), b""
            if not chunk:
                break
            found = chunk.count(b"\n")
            if found >= missing:
                cut = int(np.flatnonzero(np.frombuffer(chunk, np.uint8) == _NEWLINE)[missing - 1]) + 1
                chunk, self._rest, found = chunk[:cut], chunk[cut:], missing
            parts.append(chunk)
            missing -= found
        text = b"".join(parts)
        self.offset += len(text)
        if text and not text.endswith(b"\n"):
            text, missing = text + b"\n", missing - 1
        return text, num_lines - missing

    def close(self) -> None:
        """Closes the file."""
        self._text.close()
        self._raw.close()

    def __enter__(self) -> LineReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> bytes:
        """The next chunk of text, with a newline in it unless the file ends."""
        with _readable(self.path):
            chunk = self._text.read(CHUNK_BYTES)
            while chunk and b"\n" not in chunk:
                if len(chunk) > MAX_LINE_BYTES:
                    raise DataError(
                        f"{self.path}: a line is longer than {MAX_LINE_BYTES:,} bytes; is this a text file?"
                    )
                more = self._text.read(CHUNK_BYTES)
                if not more:
                    break
                chunk += more
        return chunk


def count_lines(path: str) -> int:
    """The lines of a file, the last one with or without a newline."""
    lines, last = 0, b"\n"
    with LineReader(path) as reader:
        while chunk := reader._read():
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return lines + (last != b"\n")


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as cause:
        raise DataError(f"{path}: cannot be read ({cause}); copy the file anew or leave it out.") from cause
