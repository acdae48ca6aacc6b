"""The learning rate is a function of the step."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trainer.config import ScheduleConfig
from trainer.errors import ConfigError
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


def test_polynomial_falls_by_its_power() -> None:
    expected = [0.2 + 0.8 * (1 - k / 4) ** 3 for k in range(5)]
    assert factors(ScheduleConfig(name="polynomial", power=3, final=0.2), 5) == pytest.approx(expected)


def test_polynomial_of_power_1_is_linear() -> None:
    linear = factors(ScheduleConfig(name="linear", warmup_steps=2), 9)
    assert factors(ScheduleConfig(name="polynomial", power=1, warmup_steps=2), 9) == pytest.approx(linear)


def test_step_falls_at_its_milestones_and_not_below_the_final_factor() -> None:
    schedule = ScheduleConfig(name="step", warmup_steps=1, milestones=[3, 5, 6], gamma=0.5, final=0.2)
    assert factors(schedule, 8) == pytest.approx([0.5, 1, 1, 0.5, 0.5, 0.25, 0.2, 0.2])


def test_inverse_square_root_starts_at_the_end_of_the_warmup() -> None:
    # Vaswani et al. 2017, eq. 3, over its largest value: sqrt(warmup / step).
    schedule = ScheduleConfig(name="inverse_sqrt", warmup_steps=4)
    assert factors(schedule, 17)[4:] == pytest.approx([math.sqrt(4 / k) for k in range(4, 17)])
    assert lr_factor(schedule, 15, 17) == pytest.approx(math.sqrt(4 / 15))
    without = ScheduleConfig(name="inverse_sqrt", final=0.5)
    assert factors(without, 6) == pytest.approx([1, 1 / math.sqrt(2), 1 / math.sqrt(3), 0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "polynomial", "power": 0}, "optimizer.schedule.power is 0, but must be a positive number."),
        ({"name": "step"}, "optimizer.schedule.milestones is [], but must be rising steps beyond the warm-up"),
        ({"name": "step", "milestones": [5, 4]}, "optimizer.schedule.milestones is [5, 4], but must be rising"),
        ({"name": "step", "milestones": [2], "warmup_steps": 3}, "milestones is [2], but must be rising steps beyond"),
        ({"name": "linear", "milestones": [4]}, "for the schedule step and for no other"),
        ({"name": "step", "milestones": [4], "gamma": 1.5}, "optimizer.schedule.gamma is 1.5, but must be above 0"),
    ],
)
def test_settings_that_make_no_schedule_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        ScheduleConfig(**settings)
    assert message in str(error.value)
