"""Histograms of logits by label: what rankings are measured from in constant memory."""

from __future__ import annotations

import torch

from trainer.metric.ranking import Ranking

BINS = 1 << 16
_LIMIT = 20.0


def add_to_histograms(sums: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> None:
    """Adds a batch to the weights by bin, in place.

    Args:
        sums: float64 [2 * BINS]: of the negatives, then of the positives; equal bins over [-20, 20], the
            outer ones open.
        logits: Before the sigmoid, float64 [B].
        labels: 0 or 1, float64 [B].
        weights: Sample weights, float64 [B].
    """
    bins = ((logits + _LIMIT) * (BINS / (2 * _LIMIT))).clamp(0, BINS - 1).long()
    sums.index_add_(0, bins + BINS * labels.long(), weights)


def ranking(sums: torch.Tensor) -> Ranking:
    """The bins that hold something, by their middles.

    Args:
        sums: float64 [2 * BINS], over all ranks, on the CPU.
    """
    negatives, positives = sums.split(BINS)
    held = (negatives + positives > 0).nonzero().squeeze(1)
    return Ranking((held + 0.5) * (2 * _LIMIT / BINS) - _LIMIT, negatives[held], positives[held])
