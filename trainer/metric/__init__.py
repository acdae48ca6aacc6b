"""The metrics, found by looking into this folder: one file, one subclass of :class:`Metric`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

import torch

from trainer.config.metrics import MetricsConfig
from trainer.metric.base import Metric, Totals
from trainer.metric.ranking import Ranking
from trainer.metric.samples import Samples, Term
from trainer.metric.score_sketch import CAPACITY, ScoreSketch
from trainer.metric.tally import Tally, merge_over_ranks

CHUNK_ROWS = 1 << 17
"""Samples that are kept as they are before they are counted, in one go: what that costs hardly depends on them."""


@cache
def metric_classes() -> tuple[type[Metric], ...]:
    """Every metric, by file name."""
    classes: list[type[Metric]] = []
    for module in pkgutil.iter_modules(__path__):
        members = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
        found = [m for m in members if inspect.isclass(m) and issubclass(m, Metric) and m is not Metric]
        classes += [metric for metric in found if metric.__module__.endswith(f".{module.name}")]
    return tuple(classes)


class Figures:
    """All metrics, and what they need to know of the samples.

    Args:
        config: Of the metrics.

    Attributes:
        terms: What is summed up for them.
    """

    def __init__(self, config: MetricsConfig) -> None:
        self._metrics = [metric(config) for metric in metric_classes()]
        self._unranked = ScoreSketch.empty(CAPACITY, torch.device("cpu")).ranking()
        self.terms: list[Term] = list(dict.fromkeys(term for metric in self._metrics for term in metric.terms))

    def of(self, sums: torch.Tensor, ranking: Ranking | None) -> dict[str, float]:
        """The metrics by name; without a ranking, those that need none.

        Args:
            sums: Of the terms, over all ranks, float64 [terms].
            ranking: Over all ranks.
        """
        totals: Totals = dict(zip(self.terms, sums.tolist(), strict=True))
        return {
            metric.name: metric.compute(totals, ranking or self._unranked)
            for metric in self._metrics
            if ranking is not None or not metric.ranked
        }


class MetricSet:
    """All metrics over a stretch of samples.

    Sums of integers below 2**53 are exact in float64, so that an AUC of samples of weight 1 does not
    depend on how they were spread over the ranks; other figures do in the last places of float64.

    Args:
        device: Where predictions are.
        config: Of the metrics.
        capacity: Places for scores; see :class:`ScoreSketch`.
    """

    def __init__(self, device: torch.device, config: MetricsConfig, *, capacity: int = CAPACITY) -> None:
        self.figures = Figures(config)
        self._empty = Tally.empty(len(self.figures.terms), capacity, device)
        self._tally = self._empty
        self._waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._num_waiting = 0

    def update(self, logits_B: torch.Tensor, labels_B: torch.Tensor, weights_B: torch.Tensor) -> None:
        """Adds a batch, whose tensors may not be written to later; does not wait for the device.

        Args:
            logits_B: Before the sigmoid, float [B].
            labels_B: 0 or 1, float [B].
            weights_B: Sample weights, 0 for padding, float [B].
        """
        self._waiting.append((logits_B.detach(), labels_B, weights_B))
        self._num_waiting += len(logits_B)
        if self._num_waiting >= CHUNK_ROWS:
            self._count_waiting()

    def over_ranks(self) -> Tally:
        """What is known of the samples of all ranks, on the CPU. All ranks must call this."""
        self._count_waiting()
        (tally,) = merge_over_ranks([self._tally])
        return tally

    def over_no_samples(self) -> Tally:
        """A tally of no samples, on the CPU."""
        return self._empty.to(torch.device("cpu"))

    def compute(self) -> dict[str, float]:
        """The metrics over all ranks, by name. All ranks must call this."""
        tally = self.over_ranks()
        return self.figures.of(tally.sums, tally.scores.ranking())

    def restore(self, tally: Tally | None) -> None:
        """Goes on from what is given, or from nothing.

        Args:
            tally: Of this rank; None if another rank has it.
        """
        self.reset()
        if tally is not None:
            self._tally = tally.to(self._empty.sums.device)

    def reset(self) -> None:
        """Forgets everything."""
        self._tally = self._empty
        self._waiting, self._num_waiting = [], 0

    def _count_waiting(self) -> None:
        if self._waiting:
            logits, labels, weights = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
            self._tally = self._tally.with_samples(Samples(logits.float(), labels, weights), self.figures.terms)
        self._waiting, self._num_waiting = [], 0
