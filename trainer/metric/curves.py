"""Curves over a ranking of the samples: what a single figure leaves out."""

from __future__ import annotations

import torch

from trainer.metric.ranking import Ranking

Curve = dict[str, list[float]]
"""Columns of equal length, by name; a row is a point."""

RELIABILITY_BINS = 20
POINTS = 200


def curves_of(ranking: Ranking) -> dict[str, Curve]:
    """All curves, by name; empty columns where they are not defined."""
    return {
        "reliability": reliability(ranking),
        "precision_recall": precision_recall(ranking),
        "roc": roc(ranking),
    }


def reliability(ranking: Ranking, bins: int = RELIABILITY_BINS) -> Curve:
    """What was predicted against what came, in bins of equal weight from the lowest predictions up.

    A score that many samples share is not split, so that there may be fewer bins.

    Returns:
        ``prediction`` (mean of the bin), ``rate`` (of positives in the bin) and ``weight`` (of the samples).
    """
    groups = _equal_shares(ranking.negatives + ranking.positives, bins)
    negatives, positives, predictions = ranking.merged_by(groups).unbind(1)
    weights = negatives + positives
    seen = weights > 0
    return _columns(prediction=(predictions / weights)[seen], rate=(positives / weights)[seen], weight=weights[seen])


def precision_recall(ranking: Ranking, points: int = POINTS) -> Curve:
    """Precision and recall of calling all samples positive whose prediction is at least the threshold.

    About ``points`` thresholds, from the highest down, about equally far apart in recall.

    Returns:
        ``threshold`` (a probability), ``precision`` and ``recall``.
    """
    total = ranking.positives.sum()
    if total == 0:
        return {"threshold": [], "precision": [], "recall": []}
    found, seen, thresholds = _from_the_top(ranking, ranking.positives, points)
    return _columns(threshold=thresholds, precision=found / seen, recall=found / total)


def roc(ranking: Ranking, points: int = POINTS) -> Curve:
    """True and false positive rate of calling all samples positive whose prediction is at least the threshold.

    About ``points`` thresholds, from the highest down, about equally far apart in the sum of both rates.

    Returns:
        ``threshold`` (a probability), ``true_positive_rate`` and ``false_positive_rate``.
    """
    negative, positive = ranking.negatives.sum(), ranking.positives.sum()
    if negative == 0 or positive == 0:
        return {"threshold": [], "true_positive_rate": [], "false_positive_rate": []}
    rates = ranking.negatives / negative + ranking.positives / positive
    found, seen, thresholds = _from_the_top(ranking, rates, points)
    return _columns(
        threshold=thresholds,
        true_positive_rate=found / positive,
        false_positive_rate=(seen - found) / negative,
    )


def _from_the_top(
    ranking: Ranking, shares: torch.Tensor, points: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(positives, all samples, threshold) from the highest score down, where another share of the whole is reached."""
    flipped = ranking.flipped()
    groups = _equal_shares(shares.flip(0), points)
    negatives, positives, _ = flipped.merged_by(groups).cumsum(0).unbind(1)
    last = torch.cat([groups[1:] != groups[:-1], torch.ones(1, dtype=torch.bool)])
    thresholds = flipped.logits[last].sigmoid()
    seen = negatives + positives > 0
    return positives[seen], (negatives + positives)[seen], thresholds[seen]


def _equal_shares(weights: torch.Tensor, shares: int) -> torch.Tensor:
    """Consecutive elements in groups of about equal weight: numbers of the groups, int64 [n], without gaps."""
    total = weights.sum()
    if total == 0:
        return torch.zeros(len(weights), dtype=torch.int64)
    # The middle of an element tells its group, so that one that is heavier than a share is not pushed away.
    middle = weights.cumsum(0) - weights / 2
    wanted = (middle * (shares / total)).long().clamp(max=shares - 1)
    return torch.unique_consecutive(wanted, return_inverse=True)[1]


def _columns(**values: torch.Tensor) -> Curve:
    return {name: column.tolist() for name, column in values.items()}
