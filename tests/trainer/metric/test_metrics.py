"""Every metric: additivity, and its value against an exact formula over the single samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from trainer.metric import MetricSet, known_metrics
from trainer.metric.base import Metric

Array = npt.NDArray[np.float64]


def exact_auc(logits: Array, labels: Array, weights: Array) -> float:
    """Over all pairs of a positive and a negative."""
    positive, negative = labels == 1, labels == 0
    difference = logits[positive][:, None] - logits[negative][None, :]
    pair_weights = weights[positive][:, None] * weights[negative][None, :]
    wins = (difference > 0) + 0.5 * (difference == 0)
    return float((wins * pair_weights).sum() / pair_weights.sum())


def exact_logloss(logits: Array, labels: Array, weights: Array) -> float:
    p = 1 / (1 + np.exp(-logits))
    return float(np.average(-(labels * np.log(p) + (1 - labels) * np.log1p(-p)), weights=weights))


def exact_ne(logits: Array, labels: Array, weights: Array) -> float:
    rate = float(np.average(labels, weights=weights))
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    return exact_logloss(logits, labels, weights) / entropy


def exact_calibration(logits: Array, labels: Array, weights: Array) -> float:
    return float((weights / (1 + np.exp(-logits))).sum() / (weights * labels).sum())


def exact_pr_auc(logits: Array, labels: Array, weights: Array) -> float:
    """For each distinct score, the precision among all samples at least as high, weighted by its positives."""
    total = 0.0
    for score in np.unique(logits):
        above, at = logits >= score, logits == score
        precision = (weights * labels)[above].sum() / max(weights[above].sum(), 1e-300)
        total += (weights * labels)[at].sum() * precision
    return float(total / (weights * labels).sum())


def exact_accuracy(logits: Array, labels: Array, weights: Array) -> float:
    p = 1 / (1 + np.exp(-logits))
    return float(np.average(np.where(labels == 1, p >= 0.5, p < 0.5), weights=weights))


def exact_mse(logits: Array, labels: Array, weights: Array) -> float:
    return float(np.average((1 / (1 + np.exp(-logits)) - labels) ** 2, weights=weights))


def exact_rmse(logits: Array, labels: Array, weights: Array) -> float:
    return math.sqrt(exact_mse(logits, labels, weights))


EXACT: dict[str, Callable[[Array, Array, Array], float]] = {
    "auc": exact_auc,
    "logloss": exact_logloss,
    "ne": exact_ne,
    "calibration": exact_calibration,
    "pr_auc": exact_pr_auc,
    "accuracy": exact_accuracy,
    "mse": exact_mse,
    "rmse": exact_rmse,
}


def samples(n: int, *, rate_logit: float, weighted: bool) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(5)
    logits = rng.normal(rate_logit, 1.5, n).round(2)  # rounded: many ties
    labels = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(np.float64)
    weights = rng.integers(0, 4, n).astype(np.float64) if weighted else np.ones(n)
    return logits, labels, weights


def measured(metric: Metric, parts: list[tuple[Array, Array, Array]]) -> float:
    sums = torch.zeros(metric.num_sums, dtype=torch.float64)
    for part in parts:
        metric.update(sums, *(torch.from_numpy(values) for values in part))
    return metric.compute(sums)


def test_all_files_are_discovered() -> None:
    assert sorted(metric.name for metric in known_metrics()) == sorted(EXACT)


@pytest.mark.parametrize("metric", known_metrics(), ids=lambda metric: metric.name)
class TestContract:
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("rate_logit", [0.0, -5.0])
    def test_matches_the_exact_formula(self, metric: Metric, rate_logit: float, weighted: bool) -> None:
        values = samples(3000, rate_logit=rate_logit, weighted=weighted)
        assert measured(metric, [values]) == pytest.approx(EXACT[metric.name](*values), abs=1e-5)

    def test_batches_add_up(self, metric: Metric) -> None:
        values = samples(1000, rate_logit=-1.0, weighted=True)
        parts = [tuple(array[start : start + 130] for array in values) for start in range(0, 1000, 130)]
        assert measured(metric, parts) == pytest.approx(measured(metric, [values]), rel=1e-12)  # type: ignore[arg-type]

    def test_padding_counts_nothing(self, metric: Metric) -> None:
        logits, labels, weights = samples(500, rate_logit=-1.0, weighted=False)
        padded = (np.append(logits, [3.0, 9.0]), np.append(labels, [0.0, 0.0]), np.append(weights, [0.0, 0.0]))
        assert measured(metric, [padded]) == pytest.approx(measured(metric, [(logits, labels, weights)]), rel=1e-12)

    def test_nothing_seen_is_not_a_number(self, metric: Metric) -> None:
        assert math.isnan(measured(metric, []))


def test_auc_of_saturated_logits_stays_in_range() -> None:
    logits, labels = np.array([-1e4, -30.0, 30.0, 1e4]), np.array([0.0, 0.0, 1.0, 1.0])
    (auc,) = (metric for metric in known_metrics() if metric.name == "auc")
    assert measured(auc, [(logits, labels, np.ones(4))]) == 1.0


def test_reset_forgets() -> None:
    metrics = MetricSet(torch.device("cpu"))
    metrics.update(torch.zeros(2), torch.tensor([0.0, 1.0]), torch.ones(2))
    metrics.reset()
    assert not metrics._sums.any()
