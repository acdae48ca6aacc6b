"""The configuration of ``launch/prepare.py``; ``configs/prepare.yaml`` composes it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from data.errors import DataError
from data.prepare.source import source_config
from data.structured import suggestion

BAD_LINE_POLICIES = ("error", "skip")
SPLIT_WAYS = ("random", "ratio", "time")
FORMATS = ("parquet", "criteo_tsv")


@dataclass
class SplitConfig:
    """How rows are dealt to train, valid and test.

    ``random``: by a hash of the row's number and ``seed``, in the given proportions. ``ratio``: the last
    rows of the input, in the given proportions. ``time``: rows whose ``column`` is at least ``valid_from``
    (``test_from``).
    """

    by: str = "random"
    test: float = 0.1
    valid: float = 0.0
    seed: int = 0
    column: str | None = None
    valid_from: Any = None
    test_from: Any = None

    def __post_init__(self) -> None:
        _one_of(SPLIT_WAYS, self.by, "split.by")
        for key in ("test", "valid"):
            _check(0 <= getattr(self, key) < 1, f"split.{key}", getattr(self, key), "at least 0 and below 1")
        _check(self.test + self.valid < 1, "split.test + split.valid", self.test + self.valid, "below 1")
        complete = self.column is not None and self.test_from is not None
        _check(
            complete == (self.by == "time"),
            "split.column",
            self.column,
            "given together with split.test_from for split.by=time, and only then",
        )


@dataclass
class ShardsConfig:
    """How the shards are cut: rows of the input per shard (before the split) and rows per row group.

    The text of at most ``num_threads`` + 2 shards is held at a time, whatever the size of the input, and
    decoded columns of about two row groups for each thread and split.
    """

    rows: int = 262_144
    row_group_rows: int = 65_536
    zstd_level: int = 3

    def __post_init__(self) -> None:
        _at_least(1, self.rows, "shards.rows")
        _at_least(1, self.row_group_rows, "shards.row_group_rows")
        _check(1 <= self.zstd_level <= 22, "shards.zstd_level", self.zstd_level, "between 1 and 22")


@dataclass
class FeaturesConfig:
    """What ``schema.yaml`` makes of the columns.

    Attributes:
        max_embeddings: The most rows that a hashed table gets.
        rows_per_value: Rows of a hashed table for each value that occurs; more means fewer collisions.
        min_count: Categories by vocabulary instead of by hash: values seen at least so often in train.
        dense_buckets: Each dense column once more as a category, in so many buckets by quantiles; 0: not.
        log_square: Each dense column that is a count (transform log1p) once more as a category, by Criteo's
            rule floor(ln(x)^2).
    """

    max_embeddings: int = 1_000_000
    rows_per_value: float = 2.0
    min_count: int | None = None
    dense_buckets: int = 0
    log_square: bool = False

    def __post_init__(self) -> None:
        _at_least(2, self.max_embeddings, "features.max_embeddings")
        _check(0 < self.rows_per_value < math.inf, "features.rows_per_value", self.rows_per_value, "a positive number")
        if self.min_count is not None:
            _at_least(1, self.min_count, "features.min_count")
        _check(
            self.dense_buckets == 0 or self.dense_buckets >= 2,
            "features.dense_buckets",
            self.dense_buckets,
            "0, or 2 and more",
        )


@dataclass
class PrepareConfig:
    """The whole of a preparation.

    ``source`` holds ``name`` and the settings of that source. ``num_threads`` and ``memory_gib`` (of the
    statistics) change no result; all else does, and may not change between runs into the same ``out``.
    """

    out: str = MISSING
    source: dict[str, Any] = field(default_factory=dict)
    format: str = "parquet"
    on_bad_line: str = "error"
    split: SplitConfig = field(default_factory=SplitConfig)
    shards: ShardsConfig = field(default_factory=ShardsConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    num_threads: int | None = None
    memory_gib: float = 2.0
    overwrite: bool = False

    def __post_init__(self) -> None:
        _check(not set(self.out) & set("*?[]"), "out", self.out, "a path without any of * ? [ ]")
        _one_of(BAD_LINE_POLICIES, self.on_bad_line, "on_bad_line")
        _one_of(FORMATS, self.format, "format")
        _check(0 < self.memory_gib < math.inf, "memory_gib", self.memory_gib, "a positive number")
        if self.num_threads is not None:
            _at_least(1, self.num_threads, "num_threads")
        source_config(self.source)

    @property
    def threads(self) -> int:
        """``num_threads``, or as many as this process may use."""
        return self.num_threads or len(os.sched_getaffinity(0))


def _check(ok: bool, key: str, value: object, rule: str) -> None:
    if not ok:
        raise DataError(f"{key} is {value!r}, but must be {rule}.")


def _at_least(least: int, value: int, key: str) -> None:
    _check(value >= least, key, value, f"at least {least}")


def _one_of(names: tuple[str, ...], value: str, key: str) -> None:
    if value not in names:
        raise DataError(f"{key} is '{value}', which is unknown.{suggestion(value, list(names))}")
