"""What a training run comes to."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        split: The evaluation set that the final model was evaluated on.
        metrics: Of that set, by name.
        steps: Completed in all, by this and earlier processes.
        best_step: Where the watched metric was best; the final model is of this step under ``monitor.use_best``,
            unless its checkpoint turned out to be damaged.
        resumed_at: The step that this process continued from, None if it started the run.
        samples_per_s: Training samples per second over all ranks in this process; None if it had
            nothing to train.
        train_s: Seconds of this process in training steps.
        num_parameters: That are learned.
        checkpoint: Of the final model.
        tensorboard: Directory of the event files, None if there are none.
    """

    split: str
    metrics: dict[str, float]
    steps: int
    best_step: int | None
    resumed_at: int | None
    samples_per_s: float | None
    train_s: float
    num_parameters: int
    checkpoint: str
    tensorboard: str | None

    def write(self, run_dir: str) -> None:
        """Writes ``result.json``, which says that the run has ended."""
        record = json.dumps(dataclasses.asdict(self), indent=1)
        Path(run_dir, "result.json").write_text(record + "\n", encoding="utf-8")
