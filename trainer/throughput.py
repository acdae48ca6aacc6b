"""How fast a run goes."""

from __future__ import annotations

import time


class Throughput:
    """Steps and samples per second of wall time, without the first step and without what is paused.

    The first step of a process builds and traces; evaluation and checkpoints stop the training. Neither
    says how fast training is, so neither is counted.
    """

    def __init__(self) -> None:
        self.total_steps = 0
        self.total_s = 0.0
        self._window_steps = 0
        self._window_s = 0.0
        self._since: float | None = None

    def step_done(self) -> None:
        """Counts a step, from the end of the one before it; the first one after a pause is not counted."""
        now = time.perf_counter()
        if self._since is not None:
            self.total_steps += 1
            self._window_steps += 1
            self.total_s += now - self._since
            self._window_s += now - self._since
        self._since = now

    def pause(self) -> None:
        """What follows, until the next step is done, is not training."""
        self._since = None

    def take_window(self) -> float | None:
        """Seconds per step since the last call, None if no step was counted."""
        step_s = self._window_s / self._window_steps if self._window_steps else None
        self._window_steps, self._window_s = 0, 0.0
        return step_s
