"""Range checks, with messages that name key, value and rule."""

from __future__ import annotations

import math

from data.structured import suggestion
from trainer.errors import ConfigError


def check(ok: bool, key: str, value: object, rule: str) -> None:
    """Raises a ConfigError that says what ``key`` must be, unless ``ok``."""
    if not ok:
        raise ConfigError(f"{key} is {value!r}, but must be {rule}.")


def positive(value: float, key: str) -> None:
    """Above 0 and finite."""
    check(0 < value < math.inf, key, value, "a positive number")


def at_least(least: int, value: int, key: str) -> None:
    """``value >= least``."""
    check(value >= least, key, value, f"at least {least}")


def one_of(names: tuple[str, ...], value: str, key: str) -> None:
    """One of the known names; the message suggests the nearest."""
    if value not in names:
        raise ConfigError(f"{key} is '{value}', which is unknown.{suggestion(value, list(names))}")


def multiple_of_lanes(value: int, lanes: int, key: str) -> None:
    """A batch size that the lanes share evenly."""
    check(
        value > 0 and value % lanes == 0,
        key,
        value,
        f"a positive multiple of data.lanes ({lanes}); try {max(1, round(value / lanes)) * lanes}",
    )
