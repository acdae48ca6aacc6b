"""What the evaluations during training lead to."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.config.rules import at_least, check, one_of

MONITORED = {"auc": True, "gauc": True, "pr_auc": True, "logloss": False, "ne": False, "mse": False}
"""Metrics that say how good a model is, and whether larger is better."""


@dataclass
class MonitorConfig:
    """The metric of an evaluation set that is followed, and what happens where it does not improve.

    The set is the one named by ``set``, or ``data.valid``, or else ``data.test``.

    ``patience`` counts evaluations without improvement (by more than ``min_delta``), after which the run
    ends; each of them multiplies all learning rates by ``lr_factor``. With ``use_best``, every evaluated
    step is saved, the best one kept, and the run ends with its model instead of the last.
    """

    set: str | None = None
    metric: str = "auc"
    min_delta: float = 0.0
    patience: int | None = None
    lr_factor: float = 1.0
    use_best: bool = False

    def __post_init__(self) -> None:
        one_of(tuple(MONITORED), self.metric, "monitor.metric")
        check(0 <= self.min_delta < math.inf, "monitor.min_delta", self.min_delta, "0 or a positive number")
        if self.patience is not None:
            at_least(1, self.patience, "monitor.patience")
        check(0 < self.lr_factor <= 1, "monitor.lr_factor", self.lr_factor, "above 0 and at most 1")

    @property
    def larger_is_better(self) -> bool:
        """Whether a larger value of the metric is a better one."""
        return MONITORED[self.metric]
