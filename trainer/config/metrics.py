"""What is measured."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config.rules import at_least, check


@dataclass
class MetricsConfig:
    """What is measured, beyond what needs no choice.

    Attributes:
        threshold: Predicted probability from which on a sample is called a click, for the accuracy.
        window_steps: Steps of the moving window over the training rows; None for none.
    """

    threshold: float = 0.5
    window_steps: int | None = None

    def __post_init__(self) -> None:
        check(0 < self.threshold < 1, "metrics.threshold", self.threshold, "between 0 and 1")
        if self.window_steps is not None:
            at_least(1, self.window_steps, "metrics.window_steps")
