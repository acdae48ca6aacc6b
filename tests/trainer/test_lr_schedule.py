"""The learning rate is a function of the step."""

from __future__ import annotations

import math

import pytest

from trainer.config import ScheduleConfig
from trainer.lr_schedule import lr_factor


def factors(schedule: ScheduleConfig, total_steps: int) -> list[float]:
    return [lr_factor(schedule, step, total_steps) for step in range(total_steps)]


def test_constant_stays_at_one() -> None:
    assert factors(ScheduleConfig(), 4) == [1, 1, 1, 1]


def test_warmup_rises_linearly_and_never_starts_at_zero() -> None:
    assert factors(ScheduleConfig(warmup_steps=3), 5) == [0.25, 0.5, 0.75, 1, 1]


def test_linear_reaches_the_final_factor_at_the_last_step() -> None:
    assert factors(ScheduleConfig(name="linear", final=0.5), 5) == pytest.approx([1, 0.875, 0.75, 0.625, 0.5])


def test_cosine_follows_half_a_cosine_after_the_warmup() -> None:
    expected = [1 / 2, *(0.1 + 0.9 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(5))]
    assert factors(ScheduleConfig(name="cosine", warmup_steps=1, final=0.1), 6) == pytest.approx(expected)


def test_a_run_that_is_all_warmup_is_fine() -> None:
    assert factors(ScheduleConfig(name="cosine", warmup_steps=9), 2) == pytest.approx([0.1, 0.2])
