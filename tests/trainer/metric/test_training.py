"""The metrics of a run, on real ranks: what is counted when, and that the ranks and restarts change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.ranks import results_of, run_ranks
from tests.trainer.metric.samples import EXACT, Drawn, drawn
from trainer.config import MetricsConfig
from trainer.distributed import Worker
from trainer.metric import MetricSet
from trainer.metric.training import TrainingMetrics

pytestmark = pytest.mark.distributed

ROWS, STEPS, EVERY = 96, 30, 5


def clicks() -> Drawn:
    return drawn(ROWS * STEPS, lambda g: g.normal(-4, 2, ROWS * STEPS), weighted=True)


def share(values: Drawn, worker: Worker) -> list[torch.Tensor]:
    """This rank's part of the rows, in whole lines of a step."""
    return [torch.from_numpy(array[worker.rank :: worker.world_size].astype(np.float32)) for array in values]


def reports(worker: Worker, stop_at: int | None) -> list[dict[str, dict[str, float]]]:
    """One at each fifth step; with ``stop_at``, by a second object from there on."""
    config = MetricsConfig(window_steps=10)
    metrics, found = TrainingMetrics(worker.device, config), []
    for step in range(STEPS):
        if step == stop_at:
            state = metrics.state()
            assert len(state) == metrics.state_size
            metrics = TrainingMetrics(worker.device, config)
            metrics.restore(state)
        rows = slice(ROWS * step, ROWS * (step + 1))
        metrics.update(*share(tuple(array[rows] for array in clicks()), worker))  # type: ignore[arg-type]
        if (step + 1) % EVERY == 0:
            found.append(metrics.report())
    return found


def exact(first: int, last: int) -> dict[str, float]:
    values = [array[ROWS * first : ROWS * last] for array in clicks()]
    return {name: formula(*values) for name, formula in EXACT.items()}


@pytest.mark.parametrize(("world_size", "stop_at"), [(1, None), (2, 13), (3, None), (4, 20)])
def test_reports_cover_their_steps_on_any_number_of_ranks(world_size: int, stop_at: int | None) -> None:
    for found in results_of(run_ranks(world_size, reports, stop_at)):
        for number, report in enumerate(found, start=1):
            last = EVERY * number
            assert report["train"] == pytest.approx(exact(last - EVERY, last), rel=1e-6)
            assert report["train_lifetime"] == pytest.approx(exact(0, last), rel=1e-6)
            window = exact(max(0, last - 10), last)
            assert "auc" not in report["train_window"]
            assert report["train_window"] == pytest.approx({name: window[name] for name in report["train_window"]})


def million(worker: Worker) -> dict[str, float]:
    n = 400_000
    metrics = MetricSet(worker.device, MetricsConfig())
    values = share(drawn(n, lambda g: g.normal(-7.6, 1.2, n)), worker)
    for batch in zip(*(array.split(8192) for array in values), strict=True):
        metrics.update(*batch)
    return metrics.compute()


def test_the_number_of_ranks_changes_no_digit_that_is_printed() -> None:
    alone, *others = [results_of(run_ranks(world_size, million)) for world_size in (1, 2, 4)]
    for found in (metrics for ranks in others for metrics in ranks):
        assert found["auc"] == alone[0]["auc"]
        assert found["pr_auc"] == alone[0]["pr_auc"]
        assert {name: f"{value:.9f}" for name, value in found.items()} == {
            name: f"{value:.9f}" for name, value in alone[0].items()
        }
