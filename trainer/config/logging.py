"""What a run tells of itself, where, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config.rules import at_least, one_of

CONSOLES = ("text", "json")


@dataclass
class LoggingConfig:
    """How often figures are written, and whether to TensorBoard, too.

    ``console`` is ``text`` (a progress bar on a terminal, else lines) or ``json`` (one object a line).
    ``histograms_every_steps`` adds histograms of the norms of ``histogram_rows`` rows of each table, and of the
    gradients of the dense part; null leaves them out.
    """

    every_steps: int = 100
    tensorboard: bool = True
    console: str = "text"
    histograms_every_steps: int | None = None
    histogram_rows: int = 2000

    def __post_init__(self) -> None:
        at_least(1, self.every_steps, "logging.every_steps")
        one_of(CONSOLES, self.console, "logging.console")
        at_least(1, self.histogram_rows, "logging.histogram_rows")
        if self.histograms_every_steps is not None:
            at_least(1, self.histograms_every_steps, "logging.histograms_every_steps")


@dataclass
class ProfilerConfig:
    """Which steps torch's profiler records, on every rank: ``num_steps`` from ``start_step`` on; null for none.

    ``memory_snapshot`` keeps the history of allocations on CUDA, and writes it where memory does not suffice.
    """

    start_step: int | None = None
    num_steps: int = 5
    memory_snapshot: bool = False

    def __post_init__(self) -> None:
        at_least(1, self.num_steps, "profiler.num_steps")
        if self.start_step is not None:
            at_least(1, self.start_step, "profiler.start_step")
