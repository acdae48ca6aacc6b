"""The metrics, found by looking into this folder: one file, one subclass of :class:`Metric`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

import torch
import torch.distributed as dist

from trainer.metric.base import Metric
from trainer.metric.curves import Curve, curves_of
from trainer.metric.histogram import ranking


@cache
def known_metrics() -> tuple[Metric, ...]:
    """One of every metric, by file name."""
    metrics: list[Metric] = []
    for module in pkgutil.iter_modules(__path__):
        members = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
        found = [m for m in members if inspect.isclass(m) and issubclass(m, Metric) and m is not Metric]
        metrics += [metric() for metric in found if metric.__module__.endswith(f".{module.name}")]
    return tuple(metrics)


class MetricSet:
    """All metrics over a stretch of samples, in one vector of float64 sums on the device.

    Sums of integers below 2**53 are exact in float64, and an AUC is made of nothing else, so that the
    figures do not depend on how the samples were spread over the ranks.

    Args:
        device: Where predictions are.
    """

    def __init__(self, device: torch.device) -> None:
        self._metrics = known_metrics()
        self._sums = torch.zeros(sum(m.num_sums for m in self._metrics), dtype=torch.float64, device=device)

    def update(self, logits_B: torch.Tensor, labels_B: torch.Tensor, weights_B: torch.Tensor) -> None:
        """Adds a batch; does not wait for the device.

        Args:
            logits_B: Before the sigmoid, float [B].
            labels_B: 0 or 1, float [B].
            weights_B: Sample weights, 0 for padding, float [B].
        """
        logits, labels, weights = (values.detach().double() for values in (logits_B, labels_B, weights_B))
        for metric, sums in zip(self._metrics, self._parts(self._sums), strict=True):
            metric.update(sums, logits, labels, weights)

    def global_sums(self) -> torch.Tensor:
        """The sums over all ranks, float64, a copy. All ranks must call this."""
        total = self._sums.clone()
        dist.all_reduce(total)
        return total

    def compute(self) -> dict[str, float]:
        """The metrics over all ranks, by name. All ranks must call this."""
        return self._figures(self.global_sums().cpu())

    def compute_with_curves(self) -> tuple[dict[str, float], dict[str, Curve]]:
        """The metrics and the curves over all ranks, by name. All ranks must call this."""
        sums = self.global_sums().cpu()
        names = [metric.name for metric in self._metrics]
        return self._figures(sums), curves_of(ranking(self._parts(sums)[names.index("auc")]))

    def restore(self, global_sums: torch.Tensor) -> None:
        """Continues from saved sums, which rank 0 takes as its own. All ranks must call this."""
        self._sums.copy_(global_sums)
        if dist.get_rank() != 0:
            self._sums.zero_()

    def reset(self) -> None:
        """Forgets everything."""
        self._sums.zero_()

    def _figures(self, sums: torch.Tensor) -> dict[str, float]:
        parts = zip(self._metrics, self._parts(sums), strict=True)
        return {metric.name: metric.compute(part) for metric, part in parts}

    def _parts(self, sums: torch.Tensor) -> list[torch.Tensor]:
        return list(sums.split([metric.num_sums for metric in self._metrics]))
