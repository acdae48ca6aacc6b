"""``launch/train.py``, with the rows of every completed step written down: run by torchrun from the tests.

The data must have sample weights that are the rows' numbers plus one: they come out of the model with the
logits, so that what is written down was trained on, and not merely loaded. RECORD_DIR names the folder;
with KILL_AT, every rank kills itself at the end of that step, before anything is saved of it.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trainer.job
import trainer.loop
from data.batch import Batch
from launch.cli import command
from launch.train import run
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.job import Job
from trainer.job import build as build_job
from trainer.model.ctr import Outputs
from trainer.pipeline import TrainPipeline

start_step = 0


def build(config: TrainConfig, worker: Worker) -> Job:
    """Takes note of where this process starts."""
    global start_step
    job = build_job(config, worker)
    start_step = job.start_step
    return job


class RecordingPipeline(TrainPipeline):
    """Writes a line for every step: its number and the rows of this rank."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        name = f"from-{start_step:05d}-rank-{os.environ['RANK']}-of-{os.environ['WORLD_SIZE']}.jsonl"
        self._file = open(Path(os.environ["RECORD_DIR"], name), "w", encoding="utf-8")  # noqa: SIM115
        self._step = start_step

    def step(self, batches: Iterator[Batch]) -> tuple[Outputs, bool]:
        """See :meth:`TrainPipeline.step`."""
        outputs, trained = super().step(batches)
        rows = [int(weight) - 1 for weight in outputs[2].tolist() if weight]
        self._file.write(json.dumps({"step": self._step, "rows": rows}) + "\n")
        self._file.flush()
        if self._step == int(os.environ.get("KILL_AT", "-1")):
            os.kill(os.getpid(), signal.SIGKILL)
        self._step += 1
        return outputs, trained


if __name__ == "__main__":
    vars(trainer.loop).update(build=build)
    vars(trainer.job).update(TrainPipeline=RecordingPipeline)
    command("train", TrainConfig, run)
