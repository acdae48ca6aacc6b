"""Nothing grows with the steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ranks import results_of, run_ranks
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.logging.record import NAME, read_record
from trainer.loop import Result, train

pytestmark = pytest.mark.distributed

STEPS = 2250


def run_training(worker: Worker, config: TrainConfig) -> Result:
    return train(config, worker)


def test_the_memory_of_many_steps_and_epochs_is_that_of_the_first(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """Of the whole loop: reading, steps, figures, evaluations and checkpoints."""
    config = make_config(
        run_dir=tmp_path / "run",
        epochs=STEPS // 9,
        eval_every_epochs=25,
        checkpoint={"every_steps": 225, "keep_last": 1},
        logging={"every_steps": 75, "tensorboard": False},
    )
    results_of(run_ranks(1, run_training, config))
    peaks = {
        line["step"]: line["host_peak_bytes"] for line in read_record(tmp_path / "run" / NAME) if line["kind"] == "time"
    }
    # Allocators still settle, by up to 1.6 MiB as seen; 3 KiB a step are more, and less than a batch that is kept.
    assert peaks[STEPS] - peaks[1200] < 3072 * (STEPS - 1200)
