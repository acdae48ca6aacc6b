"""The learning-rate factor as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from trainer.config import ScheduleConfig


def lr_factor(schedule: ScheduleConfig, step: int, total_steps: int) -> float:
    """The factor on every learning rate at a step.

    Args:
        schedule: Shape, warm-up and final factor.
        step: 0 .. total_steps - 1.
        total_steps: Steps of the whole run.

    Returns:
        Rises linearly to 1 over ``warmup_steps``, then stays (constant) or falls to ``final`` at the
        last step, along a line or half a cosine.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    if schedule.name == "constant":
        return 1.0
    span = max(1, total_steps - 1 - schedule.warmup_steps)
    progress = min(1.0, (step - schedule.warmup_steps) / span)
    shape = 1 - progress if schedule.name == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return schedule.final + (1 - schedule.final) * shape
