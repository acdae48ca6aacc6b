"""``launch/train.py`` in which one rank meets a fault at a step: FAULT, FAULT_RANK and FAULT_STEP say which.

raise, oom: the step of the model raises, or asks for more memory than there is.
read, hang: the thread that reads ahead raises, or blocks for ever.
stuck: the step raises while that thread blocks for ever.
stop, kill: the process is stopped, or killed, without a word.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch

import data.windows
import trainer.job
from data.batch import Batch
from data.errors import DataError
from data.windows import StepRows, Windows
from launch.cli import command
from launch.train import run
from trainer.config import TrainConfig
from trainer.model.ctr import Outputs
from trainer.pipeline import TrainPipeline

FAULT = os.environ["FAULT"]
STEP = int(os.environ["FAULT_STEP"])
IS_FIRST_LIFE = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
IS_MINE = IS_FIRST_LIFE and os.environ.get("RANK", "0") == os.environ["FAULT_RANK"]

take = Windows.take
blocked = threading.Event()


def faulty_take(self: Windows, step: int) -> StepRows:
    """Reads, or does not."""
    if IS_MINE and step == STEP and FAULT == "read":
        raise DataError("part-7.parquet: is not what it was")
    if IS_MINE and step == STEP and FAULT in ("hang", "stuck"):
        blocked.set()
        threading.Event().wait()
    return take(self, step)


class FaultyPipeline(TrainPipeline):
    """Trains up to the step."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._steps_done = 0

    def step(self, batches: Iterator[Batch]) -> tuple[Outputs, bool]:
        """See :meth:`TrainPipeline.step`."""
        if IS_MINE and self._steps_done == STEP - 3 and FAULT == "stuck":
            blocked.wait()
            raise ZeroDivisionError("no such luck")
        if IS_MINE and self._steps_done == STEP:
            if FAULT == "raise":
                raise ZeroDivisionError("no such luck")
            if FAULT == "oom":
                torch.empty(1 << 50)
            if FAULT in ("stop", "kill"):
                os.kill(os.getpid(), signal.SIGSTOP if FAULT == "stop" else signal.SIGKILL)
        self._steps_done += 1
        return super().step(batches)


if __name__ == "__main__":
    vars(trainer.job).update(TrainPipeline=FaultyPipeline)
    vars(data.windows)["Windows"].take = faulty_take
    command("train", TrainConfig, run)
