"""Samples of many kinds, and every metric by an exact formula over the single samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Drawn = tuple[Array, Array, Array]
"""(logits, labels, weights), logits exact in float32."""


def sigmoid(logits: Array) -> Array:
    return 1 / (1 + np.exp(-logits))


def drawn(
    n: int, logits: Callable[[np.random.Generator], Array], *, rate_logit: float | None = None, weighted: bool = False
) -> Drawn:
    """Labels follow the logits, or with ``rate_logit`` their ranks about that rate."""
    rng = np.random.default_rng([n, weighted])
    x = logits(rng).astype(np.float32).astype(np.float64)
    true = x if rate_logit is None else rate_logit + 2 * (np.argsort(np.argsort(x)) / n - 0.5)
    with np.errstate(over="ignore"):
        labels = (rng.random(n) < sigmoid(true)).astype(np.float64)
    weights = rng.exponential(size=n).astype(np.float32).astype(np.float64) if weighted else np.ones(n)
    return x, labels, weights


def distributions(n: int) -> Iterator[tuple[str, Drawn]]:
    """Click logs as they come, and as they should not."""
    for weighted in (False, True):
        end = " weighted" if weighted else ""
        yield f"clicks of 25 %{end}", drawn(n, lambda g: g.normal(-1.5, 1.5, n), weighted=weighted)
        yield f"clicks of 0.1 %{end}", drawn(n, lambda g: g.normal(-7.6, 1.2, n), weighted=weighted)
    yield "many ties", drawn(n, lambda g: g.normal(-3, 1.5, n).round(2))
    yield "all the same", drawn(n, lambda g: np.full(n, -2.0))
    yield "hardly trained", drawn(n, lambda g: g.normal(0, 1e-4, n), rate_logit=-1)
    yield "in a narrow band", drawn(n, lambda g: g.normal(-6.9, 0.01, n), rate_logit=-6.9)
    yield "saturated", drawn(n, lambda g: g.normal(0, 100, n), rate_logit=-1)
    yield "far out", drawn(n, lambda g: 1e4 * g.normal(size=n) ** 3, rate_logit=-4)
    yield "half tied, half spread", drawn(n, lambda g: np.where(g.random(n) < 0.5, -3.0, g.normal(-3, 2, n)))


def by_score(logits: Array, labels: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Each distinct score, with the weights of its negatives and positives."""
    scores, places = np.unique(logits, return_inverse=True)
    negatives, positives = (np.zeros(len(scores)) for _ in range(2))
    np.add.at(negatives, places, weights * (1 - labels))
    np.add.at(positives, places, weights * labels)
    return scores, negatives, positives


def exact_auc(logits: Array, labels: Array, weights: Array) -> float:
    """Of the pairs of a positive and a negative, those that are in order; by Mann and Whitney."""
    _, negatives, positives = by_score(logits, labels, weights)
    below = np.concatenate([[0.0], np.cumsum(negatives)[:-1]])
    return float((positives * (below + negatives / 2)).sum() / (negatives.sum() * positives.sum()))


def exact_pr_auc(logits: Array, labels: Array, weights: Array) -> float:
    """For each distinct score, the precision among all samples at least as high, weighted by its positives."""
    _, negatives, positives = by_score(logits, labels, weights)
    found, missed = np.cumsum(positives[::-1]), np.cumsum(negatives[::-1])
    return float((positives[::-1] * found / np.maximum(found + missed, 1e-300)).sum() / positives.sum())


def exact_logloss(logits: Array, labels: Array, weights: Array) -> float:
    return float(np.average(np.logaddexp(0, np.where(labels == 1, -logits, logits)), weights=weights))


def exact_ne(logits: Array, labels: Array, weights: Array) -> float:
    rate = float(np.average(labels, weights=weights))
    return exact_logloss(logits, labels, weights) / -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))


def exact_calibration(logits: Array, labels: Array, weights: Array) -> float:
    with np.errstate(over="ignore"):
        return float((weights * sigmoid(logits)).sum() / (weights * labels).sum())


def exact_accuracy(logits: Array, labels: Array, weights: Array) -> float:
    with np.errstate(over="ignore"):
        p = sigmoid(logits)
    return float(np.average(np.where(labels == 1, p >= 0.5, p < 0.5), weights=weights))


def exact_mse(logits: Array, labels: Array, weights: Array) -> float:
    with np.errstate(over="ignore"):
        return float(np.average((sigmoid(logits) - labels) ** 2, weights=weights))


def exact_rmse(logits: Array, labels: Array, weights: Array) -> float:
    return math.sqrt(exact_mse(logits, labels, weights))


EXACT: dict[str, Callable[[Array, Array, Array], float]] = {
    "accuracy": exact_accuracy,
    "auc": exact_auc,
    "calibration": exact_calibration,
    "logloss": exact_logloss,
    "mse": exact_mse,
    "ne": exact_ne,
    "pr_auc": exact_pr_auc,
    "rmse": exact_rmse,
}
