"""What is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from trainer.config.rules import at_least, check


@dataclass
class SliceConfig:
    """A column by whose values the metrics of an evaluation are told apart, by one of three rules.

    Attributes:
        column: Of the Parquet files; it need not be a feature's.
        top: The most frequent values, so many; counted in a sample of a million rows.
        values: These values.
        borders: The buckets between these numbers.
    """

    column: str = MISSING
    top: int | None = None
    values: list[Any] | None = None
    borders: list[float] | None = None

    def __post_init__(self) -> None:
        key = f"metrics.slices: '{self.column}'"
        given = {name: value for name in ("top", "values", "borders") if (value := getattr(self, name)) is not None}
        check(len(given) == 1, key, given, "given by one of top, values and borders")
        if self.top is not None:
            at_least(1, self.top, f"{key}: top")
        if self.values is not None:
            plain = all(isinstance(value, str | int) for value in self.values)
            distinct = len(set(map(str, self.values))) == len(self.values)
            check(
                bool(self.values) and plain and distinct, f"{key}: values", self.values, "different strings or integers"
            )
        if self.borders is not None:
            rising = all(a < b for a, b in zip(self.borders, self.borders[1:], strict=False))
            check(bool(self.borders) and rising, f"{key}: borders", self.borders, "a rising list of numbers")


@dataclass
class MetricsConfig:
    """What is measured, beyond what needs no choice.

    Attributes:
        threshold: Predicted probability from which on a sample is called a click, for the accuracy.
        window_steps: Steps of the moving window over the training rows; None for none.
        gauc_column: Column whose values are the groups of the GAUC of evaluations; None for no GAUC.
        slices: Columns by which evaluations are told apart.
    """

    threshold: float = 0.5
    window_steps: int | None = None
    gauc_column: str | None = None
    slices: list[SliceConfig] = field(default_factory=list)

    def __post_init__(self) -> None:
        check(0 < self.threshold < 1, "metrics.threshold", self.threshold, "between 0 and 1")
        if self.window_steps is not None:
            at_least(1, self.window_steps, "metrics.window_steps")
        columns = [part.column for part in self.slices]
        check(len(set(columns)) == len(columns), "metrics.slices", columns, "a list of different columns")
