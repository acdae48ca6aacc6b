"""Columns that come along with the features, for what is measured by them: groups and slices of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.arrow_types import check_hashable, check_number
from data.categorical import value_keys
from data.encode import numbers
from data.parquet import RowGroup, read_row_group

NULL_KEY = -(2**63)
"""The key of a null."""


@dataclass(frozen=True)
class CarriedColumn:
    """A Parquet column, which need not be a feature's; of each row, 64 bits are carried.

    Attributes:
        column: Its name.
        numeric: Whether its values are numbers, carried as float64 with NaN for null. Otherwise they are
            strings, integers or booleans, of which keys are carried (the integer itself, the string's hash).
    """

    column: str
    numeric: bool = False

    @property
    def role(self) -> str:
        """For messages."""
        return "a column that metrics are asked for by"

    def check(self, columns: pa.Schema, path: str) -> None:
        """Raises a DataError if a file's column has another type."""
        (check_number if self.numeric else check_hashable)(columns, path, self.column, self.role)

    def encode(self, values: pa.Array) -> npt.NDArray[np.int64]:
        """What is carried, int64 [values]."""
        if self.numeric:
            return numbers(values).view(np.int64)
        return value_keys(values, null_key=NULL_KEY)


def frequent_values(row_groups: Sequence[RowGroup], column: str, *, top: int, max_rows: int) -> list[Any]:
    """The most frequent values of a column, the most frequent one first, nulls left out.

    Counted in row groups evenly spread over the data, of about ``max_rows`` rows together: in all of them, if
    there are no more rows.
    """
    counts: Counter[Any] = Counter()
    num_rows = sum(group.num_rows for group in row_groups)
    stride = max(1, round(num_rows / max_rows))
    for group in row_groups[::stride]:
        values = read_row_group(group, columns=[column], dictionaries=[]).column(column)
        for entry in pc.value_counts(values.combine_chunks()).to_pylist():
            counts[entry["values"]] += entry["counts"]
    counts.pop(None, None)
    # Equally frequent ones by value, so that the choice does not depend on the order of the rows.
    return sorted(counts, key=lambda value: (-counts[value], value))[:top]
