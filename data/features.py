"""What a feature is: which columns it reads, how a value becomes a number or a table row."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from omegaconf import MISSING

from data.errors import DataError

POOLINGS = ("sum", "mean")
TRANSFORMS = ("none", "log1p")
KINDS = ("id", "hash", "vocabulary", "bucketize", "log_square", "cross")
NULL_POLICIES = ("error", "default")

INVALID_POLICIES: dict[str, tuple[str, ...]] = {
    "id": ("error", "clip", "hash", "default"),
    "vocabulary": ("default", "error"),
    "log_square": ("clip", "error"),
}
"""What ``on_invalid`` may be for each kind that can meet a value without a row; the first is the default."""

LOG_SQUARE_ROWS = 1912
"""Rows that every 64-bit integer fits into under the rule of kind log_square."""

MAX_EMBEDDINGS = 2**63 - 1
"""The most rows that 64 bits can count."""

_KINDS_WITH = {
    "borders": ("bucketize",),
    "vocabulary": ("vocabulary",),
    "columns": ("cross",),
    "default": ("id",),
    "on_invalid": tuple(INVALID_POLICIES),
}


@dataclass(frozen=True)
class DenseFeature:
    """A number per row: ``(transform(clip(x)) - mean) / std``; a null or NaN becomes ``fill`` before that.

    ``log1p`` is sign(x) * log(1 + |x|), defined for negative values, too. ``mean`` and ``std``
    standardize with stored statistics, those of the transformed values.
    """

    name: str = MISSING
    column: str = ""
    fill: float = 0.0
    clip: list[float] | None = None
    transform: str = "none"
    mean: float = 0.0
    std: float = 1.0
    on_null: str = "default"

    def __post_init__(self) -> None:
        _one_of(TRANSFORMS, self.transform, self.name, "transform")
        _one_of(NULL_POLICIES, self.on_null, self.name, "on_null")
        _check(math.isfinite(self.fill), self.name, "fill", self.fill, "a finite number")
        _check(math.isfinite(self.mean), self.name, "mean", self.mean, "a finite number")
        _check(self.std > 0 and math.isfinite(self.std), self.name, "std", self.std, "a number above 0")
        clip = self.clip
        _check(clip is None or (len(clip) == 2 and clip[0] <= clip[1]), self.name, "clip", clip, "[lowest, highest]")

    @property
    def source(self) -> str:
        """The Parquet column that the feature is read from."""
        return self.column or self.name


@dataclass(frozen=True)
class SparseFeature:
    """A category per row, or a list of them (``max_length`` above 1), looked up in an embedding table.

    ``kind`` says how a value becomes a table row; row 0 is for nulls in all kinds but ``id``:

    - ``id``: the integer itself, 0 .. num_embeddings - 1.
    - ``hash``: integers or strings, hashed to rows 1 .. num_embeddings - 1 with ``seed``.
    - ``vocabulary``: 2 + the value's place in the ``vocabulary`` file; row 1 is for all other values.
    - ``bucketize``: row 1 + the number of ``borders`` <= value.
    - ``log_square``: Criteo's rule for counts: row 5 + floor(ln(x)^2) for x > 2, rows 2, 3 and 4 for
      0 <= x < 1, 1 <= x < 2 and 2, row 1 for x < 0.
    - ``cross``: the values of two or more ``columns`` hashed together, like ``hash``; null if one of
      them is null.

    ``on_null`` is ``default`` (the row of nulls; for an id the row named by ``default``) or ``error``.
    ``on_invalid`` says what becomes of a value that has no row: ``error``; ``clip`` to the nearest row;
    ``hash`` to any row; ``default``, the row named by ``default``, or row 1 of a vocabulary.
    """

    name: str = MISSING
    column: str = ""
    columns: list[str] | None = None
    kind: str = MISSING
    num_embeddings: int = 0
    pooling: str = "sum"
    max_length: int = 1
    weights: str = ""
    seed: int = 0
    default: int | None = None
    borders: list[float] | None = None
    vocabulary: str | None = None
    on_null: str = ""
    on_invalid: str = ""
    table: str = ""

    def __post_init__(self) -> None:
        _one_of(KINDS, self.kind, self.name, "kind")
        _one_of(POOLINGS, self.pooling, self.name, "pooling")
        self._check_lists()
        for key, kinds in _KINDS_WITH.items():
            given = getattr(self, key) not in (None, "")
            rule = f"given for kind {' or '.join(kinds)}, and for no other kind"
            _check(not given or self.kind in kinds, self.name, key, getattr(self, key), rule)
            mandatory = key in ("borders", "vocabulary", "columns") and self.kind in kinds
            _check(given or not mandatory, self.name, key, getattr(self, key), rule)
        self._resolve_rows()
        self._resolve_policies()
        self._resolve_table()

    @property
    def source(self) -> str:
        """The Parquet column that the values are read from; of a cross, the first one."""
        return self.columns[0] if self.columns else self.column or self.name

    @property
    def sources(self) -> tuple[str, ...]:
        """All Parquet columns that the feature is read from."""
        values = tuple(self.columns) if self.columns else (self.source,)
        return (*values, self.weights) if self.weights else values

    @property
    def multi_hot(self) -> bool:
        """Whether a row holds a list of values."""
        return self.max_length > 1

    def _check_lists(self) -> None:
        _check(self.max_length >= 1, self.name, "max_length", self.max_length, "1 (one value) or more (a list)")
        _check(
            not self.weights or (self.multi_hot and self.pooling == "sum"),
            self.name,
            "weights",
            self.weights,
            "left out, unless max_length is above 1 and pooling is sum",
        )
        if self.columns is not None:
            _check(not self.column, self.name, "column", self.column, "left out where `columns` are given")
            _check(not self.multi_hot, self.name, "max_length", self.max_length, "1 for a cross")
            distinct = len(self.columns) >= 2 and len(set(self.columns)) == len(self.columns)
            _check(distinct, self.name, "columns", self.columns, "two or more different columns")

    def _resolve_rows(self) -> None:
        if self.borders is not None:
            rising = all(a < b for a, b in zip(self.borders, self.borders[1:], strict=False))
            _check(bool(self.borders) and rising, self.name, "borders", self.borders, "a rising list of numbers")
            rows = len(self.borders) + 2
            rule = f"left out or {rows} (the borders + 2)"
            _check(self.num_embeddings in (0, rows), self.name, "num_embeddings", self.num_embeddings, rule)
            object.__setattr__(self, "num_embeddings", rows)
        if self.kind == "log_square" and self.num_embeddings == 0:
            object.__setattr__(self, "num_embeddings", LOG_SQUARE_ROWS)
        # A vocabulary's rows follow from its file, which is read later.
        least = {"id": 1, "vocabulary": 0, "log_square": 6}.get(self.kind, 2)
        _check(self.num_embeddings >= least, self.name, "num_embeddings", self.num_embeddings, f"{least} or more")
        rule = f"{MAX_EMBEDDINGS} or less"
        _check(self.num_embeddings <= MAX_EMBEDDINGS, self.name, "num_embeddings", self.num_embeddings, rule)
        in_table = self.default is None or 0 <= self.default < self.num_embeddings
        _check(in_table, self.name, "default", self.default, "a row of the table, for kind id")

    def _resolve_policies(self) -> None:
        has_null_row = self.kind != "id" or self.default is not None
        if not self.on_null:
            object.__setattr__(self, "on_null", "default" if has_null_row else "error")
        _one_of(NULL_POLICIES, self.on_null, self.name, "on_null")
        needs = "error, or `default` must name a row"
        _check(self.on_null == "error" or has_null_row, self.name, "on_null", self.on_null, needs)
        policies = INVALID_POLICIES.get(self.kind)
        if policies is not None:
            if not self.on_invalid:
                object.__setattr__(self, "on_invalid", policies[0])
            _one_of(policies, self.on_invalid, self.name, "on_invalid")
            needs = f"one of {tuple(p for p in policies if p != 'default')}, or `default` must name a row"
            _check(self.on_invalid != "default" or has_null_row, self.name, "on_invalid", self.on_invalid, needs)

    def _resolve_table(self) -> None:
        if not self.table:
            object.__setattr__(self, "table", self.name)
        _check(
            re.fullmatch(r"[A-Za-z0-9_-]+", self.table) is not None,
            self.name,
            "table",
            self.table,
            "letters, digits, '_' and '-' (set table: where the feature's name has others)",
        )


def _check(ok: bool, feature: str, key: str, value: object, rule: str) -> None:
    if not ok:
        raise DataError(f"feature '{feature}': {key} is {value!r}, but must be {rule}.")


def _one_of(names: tuple[str, ...], value: str, feature: str, key: str) -> None:
    _check(value in names, feature, key, value, f"one of {names}")
