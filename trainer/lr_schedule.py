"""The learning-rate factor as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from bisect import bisect_right

from trainer.config import ScheduleConfig


def lr_factor(schedule: ScheduleConfig, step: int, total_steps: int) -> float:
    """The factor on every learning rate at a step.

    With w warm-up steps it rises linearly, (step + 1) / (w + 1), to 1 at step w. Then, with
    p = (step - w) / (total_steps - 1 - w), which is 1 at the last step, and f = ``final``:

    - ``constant``: 1
    - ``linear``: f + (1 - f) (1 - p)
    - ``cosine``: f + (1 - f) (1 + cos(pi p)) / 2
    - ``polynomial``: f + (1 - f) (1 - p)^power
    - ``step``: gamma^(milestones that the step has reached), f at least
    - ``inverse_sqrt``: sqrt(max(1, w) / (step + max(1, w) - w)), f at least

    Args:
        schedule: Shape, warm-up and final factor.
        step: 0 .. total_steps - 1.
        total_steps: Steps of the whole run.
    """
    warmup = schedule.warmup_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "step":
        return max(schedule.final, schedule.gamma ** bisect_right(schedule.milestones, step))
    if schedule.name == "inverse_sqrt":
        scale = max(1, warmup)
        return max(schedule.final, math.sqrt(scale / (step + scale - warmup)))
    progress = min(1.0, (step - warmup) / max(1, total_steps - 1 - warmup))
    return schedule.final + (1 - schedule.final) * _shape(schedule, progress)


def _shape(schedule: ScheduleConfig, progress: float) -> float:
    """From 1 to 0 while ``progress`` goes from 0 to 1."""
    if schedule.name == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    power: float = 1.0 if schedule.name == "linear" else schedule.power
    return math.pow(1 - progress, power)
