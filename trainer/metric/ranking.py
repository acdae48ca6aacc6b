"""Samples in the order of their scores: what AUC, PR-AUC and the curves are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ranking:
    """Weights of the negatives and the positives at each score, or of several neighbouring ones: then of their middle.

    Attributes:
        logits: Rising, float64 [n].
        negatives: Weight of the samples of label 0 at the score, float64 [n].
        positives: Weight of the samples of label 1 at the score, float64 [n].
        tied_positives: Weight of the positives that have exactly the score of an average positive there, itself
            included, float64 [n]; all of them, unless several scores share the place.
        tied: Weight of all samples that have, float64 [n].
    """

    logits: torch.Tensor
    negatives: torch.Tensor
    positives: torch.Tensor
    tied_positives: torch.Tensor
    tied: torch.Tensor

    def first(self, number: int) -> Ranking:
        """The lowest scores."""
        return Ranking(**{name: values[:number] for name, values in vars(self).items()})

    def flipped(self) -> Ranking:
        """From the highest score down."""
        return Ranking(**{name: values.flip(0) for name, values in vars(self).items()})

    def merged_by(self, groups: torch.Tensor) -> torch.Tensor:
        """Sums of (negatives, positives, weighted predictions), float64 [groups, 3], by rising group numbers [n]."""
        weights = self.negatives + self.positives
        values = torch.stack([self.negatives, self.positives, weights * self.logits.sigmoid()], dim=1)
        sums = torch.zeros(int(groups[-1]) + 1 if len(groups) else 0, 3, dtype=torch.float64)
        return sums.index_add_(0, groups, values)
