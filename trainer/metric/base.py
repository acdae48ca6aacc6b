"""What a metric is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

from trainer.config.metrics import MetricsConfig
from trainer.metric.ranking import Ranking
from trainer.metric.samples import Term

Totals = dict[Term, float]
"""Each term's sum over the samples, weighted."""


class Metric(ABC):
    """A figure computed from sums over samples, and from the order of their scores.

    Sums and the record of the scores are kept once for all metrics, add up over batches and ranks, and fit
    a checkpoint: a metric names the terms that it needs and says what follows from their sums.

    Args:
        config: Of the metrics.

    Attributes:
        name: As printed and logged.
        terms: What is to be summed up.
        ranked: Whether it needs the order of the scores; such a figure is not kept for the moving window.
    """

    name: ClassVar[str]
    terms: tuple[Term, ...] = ()
    ranked: ClassVar[bool] = False

    def __init__(self, config: MetricsConfig) -> None:
        del config

    @abstractmethod
    def compute(self, totals: Totals, ranking: Ranking) -> float:
        """The figure; NaN where it is not defined.

        Args:
            totals: Over all ranks, with the metric's terms.
            ranking: Over all ranks; empty, unless ``ranked``.
        """


def ratio(part: float, whole: float) -> float:
    """``part / whole``, NaN for a whole of nothing."""
    return part / whole if whole else math.nan
