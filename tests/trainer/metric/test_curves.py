"""Curves, against formulas over the single samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from trainer.metric.curves import precision_recall, reliability, roc
from trainer.metric.ranking import Ranking

Array = npt.NDArray[np.float64]


def drawn(n: int, *, mean: float = -1.0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(3)
    logits = rng.normal(mean, 1.5, n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(np.float64)
    return logits, labels, rng.integers(1, 4, n).astype(np.float64)


def ranking_of(logits: Array, labels: Array, weights: Array) -> Ranking:
    scores, places = np.unique(logits, return_inverse=True)
    sums = [np.bincount(places, weights * of, minlength=len(scores)) for of in (1 - labels, labels)]
    negatives, positives = (torch.from_numpy(of) for of in sums)
    return Ranking(torch.from_numpy(scores), negatives, positives, positives, negatives + positives)


def test_reliability_bins_share_the_weight_and_hold_neighbours() -> None:
    logits, labels, weights = drawn(5000)
    curve = reliability(ranking_of(logits, labels, weights), bins=10)
    order, start = np.argsort(logits), 0.0
    p, y, w = 1 / (1 + np.exp(-logits[order])), labels[order], weights[order]
    cumulated = np.cumsum(w)
    assert len(curve["weight"]) == 10
    assert sum(curve["weight"]) == weights.sum()
    for prediction, rate, weight in zip(curve["prediction"], curve["rate"], curve["weight"], strict=True):
        assert weight == pytest.approx(weights.sum() / 10, abs=3)
        inside = (cumulated > start) & (cumulated <= start + weight)
        assert prediction == pytest.approx(np.average(p[inside], weights=w[inside]))
        assert rate == pytest.approx(np.average(y[inside], weights=w[inside]))
        start += weight


def test_a_score_that_many_share_stays_in_one_bin() -> None:
    logits = np.array([-1.0] * 70 + [0.0] * 10 + [2.0] * 20)
    labels = (np.arange(100) % 2).astype(np.float64)
    curve = reliability(ranking_of(logits, labels, np.ones(100)), bins=10)
    assert curve["weight"] == [70, 10, 20]
    assert curve["rate"] == [0.5, 0.5, 0.5]


def test_precision_and_recall_are_those_of_the_samples_at_or_above_the_threshold() -> None:
    logits, labels, weights = drawn(4000, mean=-4.0)
    curve = precision_recall(ranking_of(logits, labels, weights), points=50)
    assert 40 <= len(curve["threshold"]) <= 50
    p, clicks = 1 / (1 + np.exp(-logits)), weights * labels
    for threshold, precision, recall in zip(*(curve[k] for k in ("threshold", "precision", "recall")), strict=True):
        called = p >= threshold - 1e-12
        assert precision == pytest.approx(clicks[called].sum() / weights[called].sum())
        assert recall == pytest.approx(clicks[called].sum() / clicks.sum())
    assert curve["recall"][-1] == 1
    assert max(np.diff(curve["recall"])) < 0.04


def test_the_area_under_the_roc_points_is_the_auc() -> None:
    logits, labels, weights = drawn(3000)
    curve = roc(ranking_of(logits, labels, weights), points=400)
    x, y = np.array([0.0, *curve["false_positive_rate"]]), np.array([0.0, *curve["true_positive_rate"]])
    difference = logits[labels == 1][:, None] - logits[labels == 0][None, :]
    pairs = weights[labels == 1][:, None] * weights[labels == 0][None, :]
    exact = (pairs * ((difference > 0) + 0.5 * (difference == 0))).sum() / pairs.sum()
    assert float(np.trapezoid(y, x)) == pytest.approx(exact, abs=1e-4)
    assert (x[-1], y[-1]) == (1, 1)


@pytest.mark.parametrize("labels", [[], [0.0, 0.0], [1.0, 1.0]])
def test_what_one_class_cannot_tell_is_left_empty(labels: list[float]) -> None:
    ranking = ranking_of(np.arange(float(len(labels))), np.array(labels), np.ones(len(labels)))
    assert roc(ranking)["threshold"] == []
    assert len(precision_recall(ranking)["threshold"]) == len(labels) * (1.0 in labels)
    assert sum(reliability(ranking)["weight"]) == len(labels)
