"""Two ranks of which one is slow, each time in another way: the verdict names it, and the stages are all there was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import trainer.checkpoint.storage
import trainer.job
import trainer.loop
from data.batch import Batch
from data.loader import BatchStream
from tests.ranks import results_of, run_ranks
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.logging.journal import Journal
from trainer.logging.record import read_record
from trainer.model.ctr import HeadSum, Outputs
from trainer.pipeline import TrainPipeline
from trainer.timing.stages import Stage

pytestmark = pytest.mark.distributed

NUM_STEPS = 12


class Nap:
    """Sleeps several times as long as the time since it last woke up: the most of every step, on any machine."""

    def __init__(self) -> None:
        self._awake_since: float | None = None

    def __call__(self) -> None:
        awake_s = 0.0 if self._awake_since is None else time.monotonic() - self._awake_since
        time.sleep(max(0.03, 4 * awake_s))
        self._awake_since = time.monotonic()


def slow_reader(worker: Worker) -> Callable[[], None]:
    read, nap = BatchStream.__next__, Nap()

    def read_late(self: BatchStream) -> Batch:
        if worker.rank == 1:
            nap()
        return read(self)

    return patched(BatchStream, "__next__", read_late)


def slow_rank(worker: Worker) -> Callable[[], None]:
    forward, nap = HeadSum.forward, Nap()

    def compute_late(self: HeadSum, *inputs: Any) -> Any:
        if worker.rank == 1:
            nap()
        return forward(self, *inputs)

    return patched(HeadSum, "forward", compute_late)


def slow_directory(worker: Worker) -> Callable[[], None]:
    commit, nap = trainer.checkpoint.storage.commit, Nap()

    def commit_late(*arguments: Any) -> Any:
        nap()
        return commit(*arguments)

    return patched(trainer.checkpoint.storage, "commit", commit_late)


def slow_writer(worker: Worker) -> Callable[[], None]:
    write = Journal.evaluated

    def write_late(self: Journal, *arguments: Any) -> None:
        if worker.is_main:
            time.sleep(0.4)
        write(self, *arguments)

    return patched(Journal, "evaluated", write_late)


def patched(owner: Any, name: str, replacement: Any) -> Callable[[], None]:
    original = getattr(owner, name)
    setattr(owner, name, replacement)
    return lambda: setattr(owner, name, original)


class StampedPipeline(TrainPipeline):
    """Notes when each step was done, by a clock of its own."""

    stamps: list[float]

    def step(self, batches: Iterator[Batch]) -> tuple[Outputs, bool]:
        """See :meth:`TrainPipeline.step`."""
        outputs = super().step(batches)
        StampedPipeline.stamps.append(time.monotonic())
        return outputs


def train_slowly(worker: Worker, config: TrainConfig, slow: Callable[[Worker], Callable[[], None]]) -> float:
    """Returns the milliseconds from the end of the first step to that of the last."""
    StampedPipeline.stamps = []
    vars(trainer.job).update(TrainPipeline=StampedPipeline)
    undo = slow(worker)
    trainer.loop.train(config, worker)
    undo()
    assert len(StampedPipeline.stamps) == NUM_STEPS
    return 1000 * (StampedPipeline.stamps[-1] - StampedPipeline.stamps[0])


SLOW = (slow_reader, slow_rank, slow_directory, slow_writer)


def train_all(worker: Worker, configs: list[TrainConfig]) -> list[float]:
    return [train_slowly(worker, config, slow) for config, slow in zip(configs, SLOW, strict=True)]


@pytest.fixture
def runs(make_config: Callable[..., TrainConfig], tmp_path: Path) -> dict[str, tuple[list[dict[str, Any]], float]]:
    """What each run wrote of its time, and what its rank 0 measured from outside."""
    configs = [
        make_config(
            run_dir=tmp_path / slow.__name__,
            logging={"every_steps": 4, "tensorboard": False},
            max_steps=NUM_STEPS,
            epochs=4,
            eval_every_epochs=4,
            eval_every_steps=5 if slow is slow_writer else None,
            checkpoint={"every_steps": 1 if slow is slow_directory else 1000},
        )
        for slow in SLOW
    ]
    walls = results_of(run_ranks(2, train_all, configs))[0]
    records = [read_record(Path(config.run_dir, "metrics.jsonl")) for config in configs]
    times = [[line for line in record if line["kind"] == "time"] for record in records]
    return {slow.__name__: (lines, wall) for slow, lines, wall in zip(SLOW, times, walls, strict=True)}


def test_slowness_is_named_and_the_stages_add_up_to_the_wall_time(
    runs: dict[str, tuple[list[dict[str, Any]], float]],
) -> None:
    # In the middle of the run: in its last steps, there is nothing left to read.
    reader, rank, directory, writer = (runs[slow.__name__][0][1] for slow in SLOW)
    assert reader["verdict"]["text"].startswith("data-bound: rank 1 waits ")
    assert rank["verdict"]["text"].startswith("rank 1 is slow: the others wait ")
    assert rank["verdict"]["text"].endswith(" for its dense forward")
    assert directory["verdict"]["text"].startswith("checkpoint-bound: training stands still for saves ")

    for line, stage in ((reader, Stage.DATA_WAIT), (rank, Stage.DENSE_FORWARD)):
        slowest = line["stages"][stage.value]
        assert line["slowest_rank"] == slowest["max_rank"] == 1
        assert slowest["max_ms"] > line["step_ms"] / 2

    # Both ranks wait for who writes in the evaluation, and not in the steps.
    assert writer["stages"]["evaluation"]["mean_ms"] > 0.8 * writer["stages"]["evaluation"]["max_ms"] > 0

    for name, (lines, wall_ms) in runs.items():
        assert [line["num_steps"] for line in lines] == [3, 4, 4], "all but the first step, which builds"
        stages_ms = [line["num_steps"] * sum(stage["mean_ms"] for stage in line["stages"].values()) for line in lines]
        assert sum(stages_ms) == pytest.approx(wall_ms, rel=0.05), name
