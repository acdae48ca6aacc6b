"""Samples in the order of their scores: what AUC, PR-AUC and the curves are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ranking:
    """Weights of the negatives and the positives at each distinct score, over all ranks, on the CPU.

    Attributes:
        logits: Rising, float64 [n].
        negatives: Weight of the samples of label 0 at the score, float64 [n].
        positives: Weight of the samples of label 1 at the score, float64 [n].
    """

    logits: torch.Tensor
    negatives: torch.Tensor
    positives: torch.Tensor

    def merged_by(self, groups: torch.Tensor) -> torch.Tensor:
        """Sums of (negatives, positives, weighted predictions), float64 [groups, 3], by rising group numbers [n]."""
        weights = self.negatives + self.positives
        values = torch.stack([self.negatives, self.positives, weights * self.logits.sigmoid()], dim=1)
        sums = torch.zeros(int(groups[-1]) + 1 if len(groups) else 0, 3, dtype=torch.float64)
        return sums.index_add_(0, groups, values)
