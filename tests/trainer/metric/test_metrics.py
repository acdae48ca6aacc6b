"""Every metric against an exact formula over the single samples, however they are cut into batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.trainer.metric.samples import EXACT, Array, Drawn, distributions, drawn
from trainer.config import MetricsConfig
from trainer.metric import CHUNK_ROWS, Figures, MetricSet, metric_classes
from trainer.metric.samples import Samples
from trainer.metric.score_sketch import CAPACITY
from trainer.metric.tally import Tally

CPU = torch.device("cpu")


def tensors(values: Drawn | list[Array]) -> list[torch.Tensor]:
    return [torch.from_numpy(array.astype(np.float32)) for array in values]


def measured(parts: list[Drawn], config: MetricsConfig | None = None) -> dict[str, float]:
    figures = Figures(config or MetricsConfig())
    tally = Tally.empty(len(figures.terms), CAPACITY, CPU)
    for part in parts:
        tally = tally.with_samples(Samples(*tensors(part)), figures.terms)
    return figures.of(tally.sums, tally.scores.ranking())


def cut(values: Drawn, rows: int) -> list[Drawn]:
    starts = range(0, len(values[0]), rows)
    return [tuple(array[start : start + rows] for array in values) for start in starts]  # type: ignore[misc]


def test_all_files_are_discovered() -> None:
    assert sorted(metric.name for metric in metric_classes()) == sorted(EXACT)


@pytest.mark.parametrize(
    ("kind", "values"), [pytest.param(kind, values, id=kind) for kind, values in distributions(200_000)]
)
def test_every_metric_matches_its_formula(kind: str, values: Drawn) -> None:
    found = measured(cut(values, 70_000))
    for name, exact in EXACT.items():
        assert found[name] == pytest.approx(exact(*values), abs=1e-5, rel=1e-9), f"{name} of {kind}"


def test_metrics_of_few_distinct_scores_are_exact() -> None:
    values = drawn(60_000, lambda g: g.normal(-6, 2, 60_000), weighted=True)
    for name, figure in measured([values]).items():
        assert figure == pytest.approx(EXACT[name](*values), rel=1e-9), name


def test_batches_add_up() -> None:
    values = drawn(5000, lambda g: g.normal(-1, 2, 5000), weighted=True)
    assert measured(cut(values, 130)) == pytest.approx(measured([values]), rel=1e-12)


def test_padding_counts_nothing() -> None:
    logits, labels, weights = drawn(500, lambda g: g.normal(-1, 2, 500))
    padded = (np.append(logits, [3.0, 9.0]), np.append(labels, [0.0, 0.0]), np.append(weights, [0.0, 0.0]))
    assert measured([padded]) == pytest.approx(measured([(logits, labels, weights)]), rel=1e-12)


def test_nothing_seen_is_not_a_number() -> None:
    assert all(math.isnan(figure) for figure in measured([]).values())


def test_a_score_that_is_not_a_number_has_no_rank() -> None:
    found = measured([(np.array([1.0, math.nan, 2.0]), np.array([0.0, 1.0, 1.0]), np.ones(3))])
    assert all(math.isnan(found[name]) for name in ("auc", "pr_auc", "logloss"))


def test_infinite_scores_rank_outermost() -> None:
    logits = np.array([-math.inf, -1.0, 2.0, math.inf])
    assert measured([(logits, np.array([0.0, 1.0, 0.0, 1.0]), np.ones(4))])["auc"] == 0.75


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_accuracy_is_taken_at_its_threshold(threshold: float) -> None:
    logits, labels, weights = drawn(4000, lambda g: g.normal(-1, 2, 4000), weighted=True)
    called = 1 / (1 + np.exp(-logits)) >= threshold
    expected = np.average(called == labels, weights=weights)
    assert measured([(logits, labels, weights)], MetricsConfig(threshold=threshold))["accuracy"] == pytest.approx(
        expected
    )


def test_a_prediction_at_the_threshold_is_a_click() -> None:
    assert measured([(np.zeros(1), np.ones(1), np.ones(1))])["accuracy"] == 1


def test_batches_are_counted_when_there_are_enough_of_them() -> None:
    metrics = MetricSet(CPU, MetricsConfig())
    rows = CHUNK_ROWS // 4
    batch = tensors(drawn(rows, lambda g: g.normal(-1, 2, rows)))
    waiting = []
    for _ in range(9):
        metrics.update(*batch)
        waiting.append(len(metrics._waiting))
    assert waiting == [1, 2, 3, 0, 1, 2, 3, 0, 1]
