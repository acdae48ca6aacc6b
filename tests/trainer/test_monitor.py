"""What evaluations lead to, as a pure function of them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trainer.config import MonitorConfig
from trainer.monitor import Monitor


def told(values: list[float], **config: Any) -> Monitor:
    settings = MonitorConfig(**config)
    monitor = Monitor(settings, "valid")
    for number, value in enumerate(values, start=1):
        monitor.see(10 * number, {"logloss": 0.5, settings.metric: value})
    return monitor


def test_the_best_step_is_the_first_that_reached_the_best_value() -> None:
    assert told([0.5, 0.8, 0.7, 0.8]).best_step == 20


def test_a_loss_is_better_when_smaller() -> None:
    monitor = told([0.5, 0.4, 0.45], metric="logloss")
    assert (monitor.best, monitor.best_step) == (0.4, 20)


def test_gains_below_min_delta_are_no_improvement() -> None:
    assert told([0.5, 0.505, 0.52], min_delta=0.01).best_step == 30


def test_patience_counts_evaluations_in_a_row() -> None:
    assert not told([0.5, 0.4, 0.6, 0.5], patience=2).exhausted
    assert told([0.5, 0.4, 0.6, 0.5, 0.5], patience=2).exhausted
    assert not told([0.5] + [0.4] * 50).exhausted


def test_each_stale_evaluation_lowers_the_learning_rates() -> None:
    monitor = told([0.5, 0.4, 0.6, 0.5, 0.4], lr_factor=0.1)
    assert math.isclose(monitor.lr_factor, 1e-3)


def test_a_value_that_is_not_finite_is_no_improvement() -> None:
    monitor = told([math.nan, 0.5, math.nan], patience=1)
    assert (monitor.best_step, monitor.exhausted) == (20, True)


@pytest.mark.parametrize(
    ("metric", "logloss", "reason"),
    [
        ("auc", 0.5, "the rows do not have both labels"),
        ("gauc", 0.5, "no group of the rows has both labels"),
        ("auc", math.nan, "predictions are not finite, or the rows have no weight"),
    ],
)
def test_it_says_why_a_value_is_not_finite(metric: str, logloss: float, reason: str) -> None:
    monitor = Monitor(MonitorConfig(metric=metric, patience=2), "valid")
    doubts = [monitor.see(step, {metric: math.nan, "logloss": logloss}) for step in (10, 20)]
    assert doubts == [f"{metric} of valid is nan, which is no improvement: {reason}"] * 2
    assert monitor.exhausted
    assert monitor.reason_to_end == f"{metric} of valid was not finite in 2 evaluations"
    assert monitor.see(30, {metric: 0.5, "logloss": 0.4}) is None
    assert monitor.reason_to_end == f"{metric} of valid is not better than at step 30"


def test_a_restored_monitor_goes_on_where_the_saved_one_was() -> None:
    saved = told([0.5, 0.4], patience=2, lr_factor=0.5).state()
    monitor = Monitor(MonitorConfig(patience=2, lr_factor=0.5), "valid", saved)
    assert (monitor.last_step, monitor.lr_factor, monitor.exhausted) == (20, 0.5, False)
    monitor.see(30, {"auc": 0.3})
    assert monitor.exhausted


@pytest.mark.parametrize(("metric", "watched_set"), [("logloss", "valid"), ("auc", "test")])
def test_what_was_best_by_other_figures_is_forgotten(metric: str, watched_set: str) -> None:
    saved = told([0.5, 0.8, 0.7], lr_factor=0.5).state()
    monitor = Monitor(MonitorConfig(metric=metric, patience=1), watched_set, saved)
    assert (monitor.best, monitor.best_step, monitor.replaced) == (None, None, "auc of valid")
    assert (monitor.lr_factor, monitor.last_step, monitor.exhausted) == (0.5, 30, False)
    monitor.see(40, {metric: 0.6})
    assert (monitor.best, monitor.best_step) == (0.6, 40)
    again = Monitor(MonitorConfig(metric=metric), watched_set, monitor.state())
    assert (again.best, again.replaced) == (0.6, None)


def test_a_state_that_does_not_tell_what_was_watched_is_taken_as_it_is() -> None:
    saved = {name: value for name, value in told([0.5]).state().items() if name not in ("metric", "set")}
    monitor = Monitor(MonitorConfig(), "valid", saved)
    assert (monitor.best, monitor.best_step, monitor.replaced) == (0.5, 10, None)
