"""Sources that are text files with one row per line."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from data.errors import DataError
from data.prepare.delimited import Layout, parse_block
from data.prepare.lines import LineReader, count_lines, find_files
from data.prepare.source.base import TABLE_ROWS, Piece, Rows, Source


@dataclass(frozen=True)
class TextPiece(Piece):
    """Lines of one file.

    Attributes:
        path: The file.
        first_line: The number of the piece's first line in it, from 1.
        blocks: (text, number of lines), taken out while they are parsed so that their memory is freed.
    """

    path: str = ""
    first_line: int = 1
    blocks: list[tuple[bytes, int]] = field(default_factory=list)


class TextSource(Source):
    """Reads files of delimited lines; a subclass gives the layout, and may derive columns from it.

    Args:
        files: A path, a glob, a directory or a list of them.
        header: Whether the first line of each file names the columns.
    """

    def __init__(self, files: Any, *, header: bool) -> None:
        self.files = find_files(files, key="source.files")
        self._header = header
        if header:
            first = self.header(self.files[0])
            for path in self.files[1:]:
                if self.header(path) != first:
                    raise DataError(
                        f"{path}: its first line is '{self.header(path)}', but that of {self.files[0]} is '{first}'; "
                        "all files need the same header."
                    )

    @cached_property
    @abstractmethod
    def layout(self) -> Layout:
        """How the lines are laid out."""

    def derive(self, table: pa.Table) -> pa.Table:
        """The columns of the shards from those of the lines; as they are, unless overridden."""
        return table

    def header(self, path: str) -> str:
        """The first line of a file, without its line end.

        Raises:
            DataError: The file is empty, or the line is not UTF-8.
        """
        with LineReader(path) as reader:
            text, num_lines = reader.block(1)
        if not num_lines:
            raise DataError(f"{path}: is empty, but a header line is expected; leave the file out.")
        try:
            return text.decode().rstrip("\r\n")
        except UnicodeDecodeError as cause:
            raise DataError(f"{path}, line 1: the header is not UTF-8 ({cause}); convert the file.") from cause

    def identity(self) -> Any:
        """The files, their sizes and times of change."""
        return [[path, os.path.getsize(path), os.stat(path).st_mtime_ns] for path in self.files]

    @property
    def total_cost(self) -> int:
        """Bytes of all files."""
        return sum(os.path.getsize(path) for path in self.files)

    def num_rows(self) -> int:
        """Lines of all files but the headers; reads every byte."""
        return sum(max(count_lines(path) - self._header, 0) for path in self.files)

    def pieces(self, *, rows_per_piece: int, after: Piece | None = None) -> Iterator[TextPiece]:
        """Stretches of lines; none reaches over the end of a file."""
        index, row = (after.index + 1, after.first_row + after.num_rows) if after else (0, 0)
        start = after.end if after else {"file": 0, "offset": 0, "line": 1}
        for file in range(start["file"], len(self.files)):
            line = start["line"] if file == start["file"] else 1
            with LineReader(self.files[file], offset=start["offset"] if file == start["file"] else 0) as reader:
                if self._header and line == 1:
                    line += reader.block(1)[1]
                position = 0 if line <= 2 else reader.raw_position
                while blocks := _blocks(reader, rows_per_piece):
                    count = sum(lines for _, lines in blocks)
                    end = {"file": file, "offset": reader.offset, "line": line + count}
                    cost = reader.raw_position - position
                    yield TextPiece(index, row, count, cost, end, self.files[file], line, blocks)
                    index, row, line, position = index + 1, row + count, line + count, reader.raw_position

    def read(self, piece: Piece) -> Iterator[Rows]:
        """Parses the blocks of a piece, each once."""
        assert isinstance(piece, TextPiece)
        row, line = piece.first_row, piece.first_line
        while piece.blocks:
            text, num_lines = piece.blocks.pop(0)
            parsed = parse_block(text, num_lines, self.layout, path=piece.path, first_line=line)
            yield Rows(self.derive(parsed.table), row + parsed.lines, parsed.bad)
            row, line = row + num_lines, line + num_lines


def _blocks(reader: LineReader, rows_per_piece: int) -> list[tuple[bytes, int]]:
    blocks: list[tuple[bytes, int]] = []
    missing = rows_per_piece
    while missing:
        text, num_lines = reader.block(min(missing, TABLE_ROWS))
        if not num_lines:
            break
        blocks.append((text, num_lines))
        missing -= num_lines
    return blocks
