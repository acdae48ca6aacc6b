"""When checkpoints are written, kept and resumed."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from trainer.config.rules import at_least


@dataclass
class CheckpointConfig:
    """When to save, how many to keep, and where a run starts (``auto``, ``none`` or a path).

    ``asynchronous`` writes from a copy in host memory, as large as this rank's part of the state, while
    training goes on; else training waits until all is written.
    """

    directory: str = MISSING
    every_steps: int = 1000
    keep_last: int = 3
    asynchronous: bool = True
    resume: str = "auto"

    def __post_init__(self) -> None:
        at_least(1, self.every_steps, "checkpoint.every_steps")
        at_least(1, self.keep_last, "checkpoint.keep_last")
