"""Blocks of delimited text to Arrow tables, damaged lines told one by one."""

from __future__ import annotations

import csv
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from data.prepare.lines import MAX_LINE_BYTES
from data.prepare.source.base import BadLine

TYPE_NAMES = {
    "int8": "a small integer",
    "int32": "an integer of 32 bits",
    "int64": "an integer",
    "double": "a number",
    "float": "a number",
    "string": "UTF-8 text",
}


# The module's own limit of 128 KiB would refuse fields that are merely long.
csv.field_size_limit(MAX_LINE_BYTES)

LineNumbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """How the lines of a text file are laid out. An empty field is a null.

    Attributes:
        types: Each column's name and Arrow type, in the order of the fields.
        delimiter: One character.
        quoted: Whether ``"`` may enclose a field. Quotes have to be closed on their line: a line break within
            quotes makes the line a damaged one.
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
    lines: LineNumbers
    bad: list[BadLine]


def parse_block(text: bytes, num_lines: int, layout: Layout, *, path: str, first_line: int) -> Parsed:
    """Parses whole lines: at full speed, and once more with care where that fails.

    Args:
        text: The lines, each with its newline.
        num_lines: How many there are.
        layout: What to expect.
        path: The file, for messages.
        first_line: The number of the first line in the file, from 1, for messages.
    """
    reasons: dict[int, str] = {}
    try:
        _check_text(text, layout)
        table, lines = _read(text, np.arange(num_lines), layout, layout.types, reasons)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        table, lines = _read_carefully(text, layout, reasons)
    wrong = _forbidden(table, layout)
    reasons.update({int(lines[row]): reason for row, reason in wrong.items()})
    table, lines = _without(table, lines, list(wrong))
    bad = [BadLine(path, first_line + line, reason) for line, reason in sorted(reasons.items())]
    return Parsed(table, lines, bad)


def _check_text(text: bytes, layout: Layout) -> None:
    """Raises where the parser might go wrong without an error: no UTF-8, marks that may join or split lines."""
    if not text.isascii():
        text.decode()
    if text.count(b"\r") != text.count(b"\r\n") or (layout.quoted and text.count(b'"') % 2):
        raise pa.ArrowInvalid("a carriage return or a quote stands alone")
    # Within the text an open quote swallows a line, which is noticed; at its end there is none to swallow.
    if layout.quoted and _malformed(text[text.rfind(b"\n", 0, -1) + 1 : -1], layout):
        raise pa.ArrowInvalid("the last line leaves a quote open")


def _read(
    text: bytes, lines: LineNumbers, layout: Layout, types: dict[str, pa.DataType], reasons: dict[int, str]
) -> tuple[pa.Table, LineNumbers]:
    """Reads text whose lines have the given numbers; notes those with a wrong number of fields and leaves them out.

    Raises:
        pa.ArrowInvalid: A value does not have the type of its column, or lines and rows do not agree.
    """
    num_fields: dict[int, int] = {}

    def wrong_count(row: pa.csv.InvalidRow) -> str:
        num_fields[row.number - 1] = row.actual_columns
        return "skip"

    if not len(lines):
        return pa.schema(list(types.items())).empty_table(), lines
    table = pa.csv.read_csv(
        pa.py_buffer(text),
        # One block on one thread: pieces run side by side already, and only then rows are numbered.
        pa.csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=list(types)),
        pa.csv.ParseOptions(
            delimiter=layout.delimiter,
            quote_char='"' if layout.quoted else False,
            double_quote=layout.quoted,
            ignore_empty_lines=False,
            invalid_row_handler=wrong_count,
        ),
        pa.csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True),
    )
    if len(lines) != table.num_rows + len(num_fields):
        raise pa.ArrowInvalid("lines and rows do not agree")
    for row, count in num_fields.items():
        fields = f"{count} field" + "s" * (count != 1)
        reasons[int(lines[row])] = f"has {fields}, but {len(types)} are expected"
    return table, np.delete(lines, list(num_fields))


def _read_carefully(text: bytes, layout: Layout, reasons: dict[int, str]) -> tuple[pa.Table, LineNumbers]:
    """Sorts out line by line what no parser can cut into fields, then value by value what has a wrong type."""
    every = text.split(b"\n")[:-1]
    reasons.update({line: reason for line, content in enumerate(every) if (reason := _malformed(content, layout))})
    lines = np.array([line for line in range(len(every)) if line not in reasons], np.int64)
    text = b"".join(every[line] + b"\n" for line in lines)
    table, lines = _read(text, lines, layout, dict.fromkeys(layout.types, pa.string()), reasons)
    wrong: set[int] = set()
    columns = {name: table[name].combine_chunks() for name in layout.types}
    for name, kind in layout.types.items():
        if not pa.types.is_string(kind):
            columns[name] = pc.ascii_trim_whitespace(columns[name])
            for row in _failing(columns[name], kind):
                wrong.add(row)
                said = f"column '{name}' has to be {TYPE_NAMES[str(kind)]}, but is '{columns[name][row]}'"
                reasons.setdefault(int(lines[row]), said)
    table, lines = _without(pa.table(columns), lines, sorted(wrong))
    return table.cast(pa.schema(list(layout.types.items()))), lines


def _malformed(line: bytes, layout: Layout) -> str:
    """Why a line cannot be cut into fields; "" if it can."""
    try:
        text = line.removesuffix(b"\r").decode()
    except UnicodeDecodeError as cause:
        return f"is not UTF-8 text: byte 0x{line[cause.start]:02x} at position {cause.start}"
    if "\r" in text:
        return "has a carriage return in a field"
    if layout.quoted and '"' in text:
        reader = csv.reader([text + "\n", "next line"], delimiter=layout.delimiter)
        next(reader)
        if reader.line_num > 1:
            return "has a quote that is not closed"
    return ""


def _failing(values: pa.Array, kind: pa.DataType) -> list[int]:
    """Positions of the values that cannot be cast: halves them until the guilty ones stand alone."""
    failing, waiting = [], [(0, len(values))]
    while waiting:
        start, stop = waiting.pop()
        try:
            values.slice(start, stop - start).cast(kind)
        except pa.ArrowInvalid:
            middle = (start + stop) // 2
            if stop - start == 1:
                failing.append(start)
            else:
                waiting += [(middle, stop), (start, middle)]
    return failing


def _without(table: pa.Table, lines: LineNumbers, rows: list[int]) -> tuple[pa.Table, LineNumbers]:
    if not rows:
        return table, lines
    kept = np.delete(np.arange(len(lines)), rows)
    return table.take(kept), lines[kept]


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
