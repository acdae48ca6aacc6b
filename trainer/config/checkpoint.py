"""When checkpoints are written, kept and resumed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from trainer.config.rules import at_least, check


@dataclass
class CheckpointConfig:
    """When to save, where to, what to keep, and where a run starts (``auto``, ``none`` or a path).

    ``asynchronous`` writes from a copy in host memory, as large as this rank's part of the state, while
    training goes on; else training waits until all is written. ``keep_every_steps`` keeps the
    checkpoints of the steps that it divides for ever, and ``keep_best`` that of the best evaluated step
    so far by ``monitor.metric``. ``allow_differences`` names what may differ between a checkpoint and the
    run that continues from it. ``storage_options`` are those of pyarrow's class for the directory's scheme.
    """

    directory: str = MISSING
    every_steps: int = 1000
    keep_last: int = 3
    keep_every_steps: int | None = None
    keep_best: bool = False
    asynchronous: bool = True
    resume: str = "auto"
    allow_differences: list[str] = field(default_factory=list)
    storage_options: Any = None

    def __post_init__(self) -> None:
        at_least(1, self.every_steps, "checkpoint.every_steps")
        at_least(1, self.keep_last, "checkpoint.keep_last")
        if self.keep_every_steps is not None:
            at_least(1, self.keep_every_steps, "checkpoint.keep_every_steps")
        options = self.storage_options or {}
        plain = isinstance(options, dict) and all(isinstance(v, str | int | float | bool) for v in options.values())
        check(plain, "checkpoint.storage_options", options, "null, or names with strings, numbers or booleans")
