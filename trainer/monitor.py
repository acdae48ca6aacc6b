"""What the evaluations during training lead to: lower learning rates, an early end, the choice of the best step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trainer.config import MonitorConfig


@dataclass
class MonitorState:
    """What is remembered of the evaluations; all of it is in every checkpoint.

    Attributes:
        best: The best value so far, None before the first.
        best_step: Where it was reached.
        last_step: Of the newest evaluation.
        stale: Evaluations since the best one.
        lr_factor: On all learning rates.
        metric: What was watched; None in checkpoints that do not tell.
        set: Over which rows; as ``metric``.
    """

    best: float | None = None
    best_step: int | None = None
    last_step: int = 0
    stale: int = 0
    lr_factor: float = 1.0
    metric: str | None = None
    set: str | None = None


class Monitor:
    """Follows one metric of the validation rows; a pure function of the evaluations it was told of.

    Args:
        config: The metric and what follows from it.
        watched_set: The evaluation set whose metric it is.
        saved: What :meth:`state` gave, to continue from; values of another metric or set say nothing of this one,
            and are forgotten.

    Attributes:
        watched_set: As given.
        replaced: That metric and set, for people; None if they are the same or not told.
    """

    def __init__(self, config: MonitorConfig, watched_set: str, saved: dict[str, Any] | None = None) -> None:
        self._config = config
        self.watched_set = watched_set
        self._state = MonitorState(**(saved or {}))
        before = (self._state.metric, self._state.set)
        self._state.metric, self._state.set = config.metric, watched_set
        self.replaced: str | None = None
        if None not in before and before != (config.metric, watched_set):
            self.replaced = "{} of {}".format(*before)
            self.forget_best()

    def state(self) -> dict[str, float | str | None]:
        """Plain values for the checkpoint's record."""
        return asdict(self._state)

    @property
    def best(self) -> float | None:
        """The best value so far."""
        return self._state.best

    @property
    def best_step(self) -> int | None:
        """Where the best value was reached."""
        return self._state.best_step

    @property
    def last_step(self) -> int:
        """The step of the newest evaluation, 0 if there was none."""
        return self._state.last_step

    @property
    def lr_factor(self) -> float:
        """The factor on all learning rates that past evaluations led to."""
        return self._state.lr_factor

    @property
    def exhausted(self) -> bool:
        """Whether so many evaluations passed without improvement that the run is to end."""
        patience = self._config.patience
        return patience is not None and self._state.stale >= patience

    def forget_best(self) -> None:
        """Lets the next evaluation be the best one so far; the learning rates stay as low as they are."""
        self._state.best, self._state.best_step, self._state.stale = None, None, 0

    @property
    def reason_to_end(self) -> str:
        """What :attr:`exhausted` means, for people."""
        if self._state.best_step is None:
            return f"{self._watched} was not finite in {self._state.stale} evaluations"
        return f"{self._watched} is not better than at step {self._state.best_step}"

    def see(self, step: int, metrics: Mapping[str, float]) -> str | None:
        """Takes note of an evaluation, the same on every rank.

        Args:
            step: Steps completed.
            metrics: Over the validation rows; one that is not finite is no improvement.

        Returns:
            Why the watched metric is not finite, for people; None if it is.
        """
        value, state = metrics[self._config.metric], self._state
        state.last_step = step
        finite = math.isfinite(value)
        if finite and (state.best is None or self._improves(value, state.best)):
            state.best, state.best_step, state.stale = value, step, 0
        else:
            state.stale += 1
            state.lr_factor *= self._config.lr_factor
        return None if finite else f"{self._watched} is {value}, which is no improvement: {self._doubt(metrics)}"

    def _doubt(self, metrics: Mapping[str, float]) -> str:
        if not math.isfinite(metrics["logloss"]):
            return "predictions are not finite, or the rows have no weight"
        return f"{'no group of the rows has' if self._config.metric == 'gauc' else 'the rows do not have'} both labels"

    @property
    def _watched(self) -> str:
        return f"{self._state.metric} of {self._state.set}"

    def _improves(self, value: float, best: float) -> bool:
        return (value - best if self._config.larger_is_better else best - value) > self._config.min_delta
