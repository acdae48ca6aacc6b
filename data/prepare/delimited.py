"""Blocks of delimited text to Arrow tables, damaged lines told one by one."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from data.prepare.source.base import BadLine

TYPE_NAMES = {
    "int8": "a small integer",
    "int32": "an integer of 32 bits",
    "int64": "an integer",
    "double": "a number",
    "float": "a number",
    "string": "UTF-8 text",
}


@dataclass(frozen=True)
class Layout:
    """How the lines of a text file are laid out. An empty field is a null.

    Attributes:
        types: Each column's name and Arrow type, in the order of the fields.
        delimiter: One character.
        quoted: Whether ``"`` may enclose a field. Quotes have to be closed on their line: a line with an odd
            number of them is damaged, and so is a line break within quotes.
        label: The column that has to be 0 or 1 on every line.
        required: Other columns that must not be empty.
    """

    types: dict[str, pa.DataType]
    delimiter: str
    quoted: bool = False
    label: str | None = None
    required: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parsed:
    """The good lines of a block.

    Attributes:
        table: Their fields.
        lines: Their numbers within the block, from 0, int64 [rows].
        bad: The others, by file and line.
    """

    table: pa.Table
    lines: npt.NDArray[np.int64]
    bad: list[BadLine]


def parse_block(text: bytes, num_lines: int, layout: Layout, *, path: str, first_line: int) -> Parsed:
    """Parses whole lines.

    Args:
        text: The lines, each with its newline.
        num_lines: How many there are.
        layout: What to expect.
        path: The file, for messages.
        first_line: The number of the first line in the file, from 1, for messages.
    """
    tables, reasons = _parse(text, num_lines, 0, layout)
    table = pa.concat_tables(tables) if tables else _empty(layout)
    lines = np.setdiff1d(np.arange(num_lines), np.fromiter(reasons, np.int64, len(reasons)), assume_unique=True)
    wrong = _forbidden(table, layout)
    if wrong:
        reasons.update({int(lines[row]): reason for row, reason in wrong.items()})
        kept = np.delete(np.arange(len(lines)), list(wrong))
        table, lines = table.take(kept), lines[kept]
    bad = [BadLine(path, first_line + line, reason) for line, reason in sorted(reasons.items())]
    return Parsed(table, lines, bad)


def _parse(text: bytes, num_lines: int, first: int, layout: Layout) -> tuple[list[pa.Table], dict[int, str]]:
    """Parses at full speed; where that fails, halves the lines until the damaged ones stand alone."""
    reasons: dict[int, str] = {}
    if num_lines == 0:
        return [], reasons

    def wrong_count(row: pa.csv.InvalidRow) -> str:
        fields = f"{row.actual_columns} field" + "s" * (row.actual_columns != 1)
        reasons[first + row.number - 1] = f"has {fields}, but {row.expected_columns} are expected"
        return "skip"

    failure = _malformed(text, layout)
    if not failure:
        try:
            table = _read(text, layout, wrong_count)
            if table.num_rows + len(reasons) == num_lines:
                return [table], reasons
            failure = "has a line break in a field"
        except pa.ArrowInvalid as cause:
            failure = _explain(cause, layout)
    if num_lines == 1:
        return [], {first: failure}
    half = num_lines // 2
    newlines = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    cut = int(newlines[half - 1]) + 1
    tables, reasons = _parse(text[:cut], half, first, layout)
    more_tables, more_reasons = _parse(text[cut:], num_lines - half, first + half, layout)
    return tables + more_tables, reasons | more_reasons


def _malformed(text: bytes, layout: Layout) -> str:
    """What the parser would pass over, or fail at without saying where; "" for nothing."""
    if text.count(b"\r") != text.count(b"\r\n"):
        return "has a carriage return in a field"
    if layout.quoted and text.count(b'"') % 2:
        return "has a quote that is not closed"
    try:
        if not text.isascii():
            text.decode()
    except UnicodeDecodeError as cause:
        return f"is not UTF-8 text: byte 0x{text[cause.start]:02x} at position {cause.start}"
    return ""


def _read(text: bytes, layout: Layout, wrong_count: object) -> pa.Table:
    return pa.csv.read_csv(
        pa.py_buffer(text),
        # One block on one thread: pieces run side by side already, and only then rows are numbered.
        pa.csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=list(layout.types)),
        pa.csv.ParseOptions(
            delimiter=layout.delimiter,
            quote_char='"' if layout.quoted else False,
            double_quote=layout.quoted,
            ignore_empty_lines=False,
            invalid_row_handler=wrong_count,
        ),
        pa.csv.ConvertOptions(column_types=layout.types, null_values=[""], strings_can_be_null=True),
    )


def _explain(cause: pa.ArrowInvalid, layout: Layout) -> str:
    """Arrow's message in the file's own words: the column by name."""
    found = re.search(r"In CSV column #(\d+): (?:Row #\d+: )?CSV conversion error to (\w+): (.*)", str(cause), re.S)
    if found is None:
        return str(cause)
    names, column, kind, what = list(layout.types), int(found[1]), found[2], found[3]
    return f"column '{names[column]}' has to be {TYPE_NAMES.get(kind, kind)}: {what}"


def _forbidden(table: pa.Table, layout: Layout) -> dict[int, str]:
    """Rows with a value that no row may have, and why."""
    reasons: dict[int, str] = {}

    def note(mask: pa.ChunkedArray, reason: str) -> None:
        for row in np.flatnonzero(pc.fill_null(mask, False).to_numpy()):
            reasons.setdefault(int(row), reason)

    for name in (*((layout.label,) if layout.label else ()), *layout.required):
        note(pc.is_null(table[name]), f"column '{name}' is empty")
    if layout.label:
        values = table[layout.label]
        note(pc.invert(pc.is_in(values, pa.array([0, 1], values.type))), f"label '{layout.label}' is neither 0 nor 1")
    for name, kind in layout.types.items():
        if pa.types.is_floating(kind):
            note(pc.is_inf(table[name]), f"column '{name}' is infinite")
    return reasons


def _empty(layout: Layout) -> pa.Table:
    return pa.schema(list(layout.types.items())).empty_table()
