"""Which split a row belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import DataError
from data.hashing import derive_seed, mix64
from data.prepare.config import SplitConfig
from data.prepare.source.base import Rows, Source
from data.structured import suggestion

SPLITS = ("train", "valid", "test")
Codes = npt.NDArray[np.int64]
Splitter = Callable[[Rows], Codes]
"""Gives each row the position of its split in :data:`SPLITS`, int64 [rows]."""


def make_splitter(config: SplitConfig, source: Source) -> Splitter:
    """The splitter that the config asks for.

    Raises:
        DataError: A time column that the source does not have.
    """
    if config.by == "random":
        return _random(config)
    if config.by == "ratio":
        return _ratio(config, source.num_rows())
    names = [column.name for column in source.columns()]
    if config.column not in names:
        raise DataError(
            f"split.column: '{config.column}' is no column of this source.{suggestion(str(config.column), names)}"
        )
    return _time(config)


def _random(config: SplitConfig) -> Splitter:
    """By a hash of the row's number: stable whatever the shard size, and however the rows are read."""
    seed = np.uint64(derive_seed(config.seed))

    def split(rows: Rows) -> Codes:
        # The upper 53 bits as a float64 in [0, 1), exactly.
        draws = (mix64(rows.numbers.astype(np.uint64) ^ seed) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return np.where(draws < config.test, 2, np.where(draws < config.test + config.valid, 1, 0))

    return split


def _ratio(config: SplitConfig, num_rows: int) -> Splitter:
    """By position: the first rows train, the last ones test."""
    test_from = num_rows - round(num_rows * config.test)
    valid_from = test_from - round(num_rows * config.valid)

    def split(rows: Rows) -> Codes:
        return (rows.numbers >= valid_from).astype(np.int64) + (rows.numbers >= test_from)

    return split


def _time(config: SplitConfig) -> Splitter:
    """By a column's value: from ``valid_from`` on validation, from ``test_from`` on test; nulls train."""
    assert config.column is not None
    column = config.column

    def split(rows: Rows) -> Codes:
        values = rows.table[column]
        codes = np.zeros(len(values), np.int64)
        for code, start in ((1, config.valid_from), (2, config.test_from)):
            if start is not None:
                later = pc.greater_equal(values, _scalar(start, values.type, column))
                codes[pc.fill_null(later, False).to_numpy()] = code
        return codes

    return split


def _scalar(value: Any, kind: pa.DataType, column: str) -> pa.Scalar:
    try:
        return pa.scalar(str(value) if pa.types.is_string(kind) else value).cast(kind)
    except pa.ArrowException as cause:
        raise DataError(
            f"split: {value!r} cannot be compared with column '{column}' of type {kind} ({cause})."
        ) from cause
