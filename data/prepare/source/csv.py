"""Any delimited text with one row per line: the columns' types and roles are guessed from the first lines.

The guess goes into ``schema.yaml`` for the user to edit. Where a type is guessed wrongly (the first lines hold
only numbers, a later one has a word), the line counts as damaged and the message says how to declare it.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from omegaconf import MISSING

from data.errors import DataError
from data.prepare.delimited import Layout, parse_block
from data.prepare.lines import LineReader
from data.prepare.source.base import Column
from data.prepare.text import TextSource
from data.structured import suggestion

SAMPLE_LINES = 20_000
DELIMITERS = ",\t;|"
LABELS = ("label", "click", "clicked", "is_click", "target", "y", "conversion")
TYPES = {"integer": pa.int64(), "number": pa.float64(), "text": pa.string()}
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
MAX_DISTINCT_CATEGORICAL = 32
"""Integers with more distinct values than this in the sample are taken for amounts, with fewer for codes."""


@dataclass
class CsvConfig:
    """What is left out is guessed.

    ``types`` maps a column to ``integer``, ``number`` or ``text``; ``names`` are those of a file without
    header; ``ignore`` are columns to leave out.
    """

    files: Any = MISSING
    delimiter: str | None = None
    header: bool = True
    names: list[str] | None = None
    label: str | None = None
    types: dict[str, str] = field(default_factory=dict)
    ignore: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise DataError(f"delimiter is {self.delimiter!r}, but must be one character.")
        if self.header == (self.names is not None):
            raise DataError("names has to be given for files without a header (header=false), and only for those.")
        if self.names is not None and not (self.names and all(self.names) and len(set(self.names)) == len(self.names)):
            raise DataError(f"names is {self.names}, but must be a list of different names, none of them empty.")
        for column, kind in self.types.items():
            if kind not in TYPES:
                raise DataError(f"types: '{kind}' for column '{column}' is unknown.{suggestion(kind, list(TYPES))}")


class Csv(TextSource):
    """Guesses, then reads."""

    Config = CsvConfig

    def __init__(self, config: CsvConfig) -> None:
        super().__init__(config.files, header=config.header)
        self._config = config
        with LineReader(self.files[0]) as reader:
            first_line = reader.block(1)[0] if config.header else b""
            sample, num_lines = reader.block(SAMPLE_LINES)
        if not num_lines:
            raise DataError(f"{self.files[0]}: holds no rows; leave the file out.")
        self._delimiter = config.delimiter or _guess_delimiter((first_line + sample).decode(errors="replace"))
        self._names = self._column_names()
        self._label = self._find_label()
        for key, names in (("types", list(config.types)), ("ignore", config.ignore)):
            for name in names:
                self._require(name, f"source.{key}")
        if self._label in config.ignore:
            raise DataError(f"source.ignore: '{self._label}' is the label, which cannot be left out.")
        if config.types.get(self._label) == "text":
            raise DataError(f"source.types: '{self._label}' is the label, which is 0 or 1; let it be an integer.")
        texts = Layout(dict.fromkeys(self._names, pa.string()), self._delimiter, quoted=True)
        parsed = parse_block(sample, num_lines, texts, path=self.files[0], first_line=1 + config.header)
        if not parsed.table.num_rows:
            raise DataError(
                f"{parsed.bad[0]}; of the first {num_lines} lines not one can be taken: mend the file, or change "
                f"source.delimiter or {'the header' if config.header else 'source.names'}."
            )
        self._sample = parsed.table

    @cached_property
    def layout(self) -> Layout:
        """Types as declared or guessed."""
        declared = {name: TYPES[kind] for name, kind in self._config.types.items()}
        types = {name: declared.get(name) or _guess_type(self._sample[name]) for name in self._names}
        if pa.types.is_string(types[self._label]):
            types[self._label] = pa.int64()  # so that each line with another label counts as damaged
        return Layout(types, self._delimiter, quoted=True, label=self._label)

    def columns(self) -> list[Column]:
        """Numbers are dense, texts and integers with few distinct values (or named as keys) are categories."""
        return [self._column(name) for name in self._names if name not in self._config.ignore]

    def derive(self, table: pa.Table) -> pa.Table:
        """Leaves the ignored columns out."""
        return table.select([column.name for column in self.columns()])

    def facts(self) -> dict[str, Any]:
        """What was guessed."""
        types = {name: str(kind) for name, kind in self.layout.types.items()}
        return {"delimiter": self._delimiter, "label": self._label, "types": types}

    def _column(self, name: str) -> Column:
        kind = self.layout.types[name]
        if name == self._label:
            return Column(name, "label")
        if pa.types.is_string(kind) or (pa.types.is_integer(kind) and self._is_code(name)):
            return Column(name, "categorical")
        # By pattern, because a declared type need not hold for every line of the sample.
        texts = pc.ascii_trim_whitespace(pc.drop_null(self._sample[name]))
        numbers = texts.filter(pc.match_substring_regex(texts, NUMBER)).cast(pa.float64())
        # Amounts that span orders of magnitude are looked at by their logarithm.
        wide = len(numbers) > 0 and pc.min(numbers).as_py() >= 0 and pc.max(numbers).as_py() > 100
        return Column(name, "dense", transform="log1p" if wide else "none")

    def _is_code(self, name: str) -> bool:
        distinct = pc.count_distinct(self._sample[name], mode="only_valid").as_py()
        return name.lower().endswith("id") or distinct <= MAX_DISTINCT_CATEGORICAL

    def _column_names(self) -> list[str]:
        if self._config.names is not None:
            return list(self._config.names)
        names = next(csv.reader([self.header(self.files[0])], delimiter=self._delimiter))
        for name in names:
            if not name or names.count(name) > 1:
                raise DataError(
                    f"{self.files[0]}, line 1: column name '{name}' is {'empty' if not name else 'there twice'}; mend "
                    "the header."
                )
        return names

    def _find_label(self) -> str:
        if self._config.label is not None:
            self._require(self._config.label, "source.label")
            return self._config.label
        for name in LABELS:
            if name in self._names:
                return name
        raise DataError(
            f"source.label: none of {', '.join(LABELS)} is a column of {self.files[0]}; name the column that holds "
            f"0 or 1 with source.label. Known names: {', '.join(self._names)}."
        )

    def _require(self, name: str, key: str) -> None:
        if name not in self._names:
            raise DataError(f"{key}: '{name}' is no column of {self.files[0]}.{suggestion(name, self._names)}")


def _guess_delimiter(text: str) -> str:
    """The character that stands equally often, and most often, in the first lines."""
    lines = text.splitlines()[:100]
    counts = {mark: sorted(line.count(mark) for line in lines)[len(lines) // 2] for mark in DELIMITERS}
    agreeing = {mark: sum(line.count(mark) == count for line in lines) for mark, count in counts.items() if count}
    if not agreeing:
        raise DataError("source.delimiter: the first lines hold none of , ; | and tab; name the delimiter.")
    return max(agreeing, key=lambda mark: (agreeing[mark], counts[mark]))


def _guess_type(texts: pa.ChunkedArray) -> pa.DataType:
    """The narrowest type that all values of the sample have; text where there is no value at all."""
    values = pc.ascii_trim_whitespace(pc.drop_null(texts))
    for kind in (pa.int64(), pa.float64()):
        try:
            numbers = values.cast(kind)
        except pa.ArrowInvalid:
            continue
        return kind if len(numbers) else pa.string()
    return pa.string()
