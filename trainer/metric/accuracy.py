"""Accuracy at a threshold."""

from __future__ import annotations

import math

import torch

from trainer.config.metrics import MetricsConfig
from trainer.metric.base import Metric, Totals, ratio
from trainer.metric.ranking import Ranking
from trainer.metric.samples import Samples, one


class Accuracy(Metric):
    """Share of the samples that are on the right side of ``metrics.threshold``; at it counts as a click."""

    name = "accuracy"

    def __init__(self, config: MetricsConfig) -> None:
        # On the logits, where a threshold of one half is exactly 0.
        self._threshold = math.log(config.threshold) - math.log1p(-config.threshold)
        self.terms = (self.right, one)

    def right(self, samples: Samples) -> torch.Tensor:
        """1 for what is on its side of the threshold, else 0."""
        return ((samples.logits >= self._threshold) == (samples.labels > 0)).double()

    def compute(self, totals: Totals, ranking: Ranking) -> float:
        """See :meth:`Metric.compute`."""
        return ratio(totals[self.right], totals[one])
