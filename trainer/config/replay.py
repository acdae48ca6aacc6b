"""A look at the rows of one step."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from trainer.config.data import DataConfig
from trainer.config.rules import at_least, check


@dataclass
class ReplayConfig:
    """Which step of which run to rebuild; ``data`` is None to take the data set of the run itself."""

    checkpoint_path: str | None = None
    run_dir: str | None = None
    step: int = MISSING
    lanes: list[int] | None = None
    data: DataConfig | None = None
    max_rows: int = 20
    logits: bool = True
    out: str | None = None

    def __post_init__(self) -> None:
        sources = [self.checkpoint_path, self.run_dir]
        check(
            sources.count(None) == 1,
            "checkpoint",
            self.checkpoint_path,
            "a step-... directory, or null with run_dir given instead",
        )
        at_least(1, self.step, "step")
        at_least(0, self.max_rows, "max_rows")
