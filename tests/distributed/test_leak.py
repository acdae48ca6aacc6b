"""Nothing grows with the steps."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

import trainer.timing.observer
from tests.ranks import results_of, run_ranks
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.logging.record import NAME, read_record
from trainer.loop import Result, train

pytestmark = pytest.mark.distributed

STEPS = 2250
BYTES_OF_AN_OBJECT = 64


class MallInfo(ctypes.Structure):
    """What glibc's ``mallinfo2`` returns."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "top",
        )
    )


def allocated_bytes() -> int:
    """By malloc, by Arrow, and by Python for its small objects; what is resident would hide a leak in freed memory."""
    gc.collect()
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = MallInfo
    found = mallinfo2()
    small = BYTES_OF_AN_OBJECT * sys.getallocatedblocks()
    return int(found.uordblks + found.hblkhd) + pa.total_allocated_bytes() + small


def run_training(worker: Worker, config: TrainConfig) -> Result:
    """Has the journal record what is allocated, where it has the resident peak otherwise."""
    vars(trainer.timing.observer).update(host_peak_bytes=allocated_bytes)
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
    taken = {
        line["step"]: line["host_peak_bytes"] for line in read_record(tmp_path / "run" / NAME) if line["kind"] == "time"
    }
    # By then, the sketches of the metrics have seen all scores. Anything that a step keeps would be more.
    assert taken[2175] - taken[1200] < 128 * (2175 - 1200)
