"""Checkpoints written while training goes on: the same bits, and no failure of a write is lost."""

from __future__ import annotations

import logging
import re
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from tests.checkpoints import assert_equal_bits, tensors_of
from tests.ranks import results_of, run_ranks
from trainer.checkpoint import staging, storage
from trainer.checkpoint.background import Background
from trainer.checkpoint.manager import CheckpointManager
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.errors import CheckpointError, ConfigError, PeerError
from trainer.loop import Result, train

pytestmark = pytest.mark.distributed

SMALLER_THAN_A_SHARD = 20_000


def run_training(worker: Worker, config: TrainConfig) -> Result:
    return train(config, worker)


def train_on_a_full_disk(worker: Worker, config: TrainConfig, full_rank: int) -> Result:
    """The file system refuses what would make a file of one rank larger than a shard."""
    if worker.rank == full_rank:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALLER_THAN_A_SHARD, resource.RLIM_INFINITY))
    return train(config, worker)


def train_in_little_memory(worker: Worker, config: TrainConfig) -> Result:
    """On a host that has a MiB."""
    vars(staging)["host_memory_bytes"] = lambda: 1 << 20
    return train(config, worker)


@pytest.fixture
def config(make_config: Callable[..., TrainConfig], tmp_path: Path) -> Callable[..., TrainConfig]:
    def make(run: str = "run", **checkpoint: Any) -> TrainConfig:
        return make_config(
            run_dir=tmp_path / run, max_steps=12, checkpoint={"every_steps": 2, "asynchronous": True, **checkpoint}
        )

    return make


def names_in(config: TrainConfig) -> list[str]:
    return sorted(path.name for path in Path(config.checkpoint.directory).iterdir())


def test_what_is_written_while_training_goes_on_is_the_state_of_its_step(config: Callable[..., TrainConfig]) -> None:
    waiting, going_on = config("waiting", asynchronous=False), config("going-on")
    for each in (waiting, going_on):
        results_of(run_ranks(2, run_training, each))
    steps = [f"step-{step:08d}" for step in range(2, 13, 2)]
    assert names_in(waiting) == names_in(going_on) == steps
    for name in steps:
        written, expected = (Path(c.checkpoint.directory, name) for c in (going_on, waiting))
        assert_equal_bits(tensors_of(written), tensors_of(expected))
        storage.verify(written, storage.read_manifest(written).files)


@pytest.mark.parametrize(
    ("asynchronous", "full_rank"), [(True, 0), (True, 1), (False, 1)], ids=["main", "other", "synchronous"]
)
def test_a_full_disk_on_one_rank_ends_all_ranks_and_commits_nothing(
    asynchronous: bool, full_rank: int, config: Callable[..., TrainConfig]
) -> None:
    first = config()
    first.max_steps = 2
    results_of(run_ranks(2, run_training, first))
    on_full_disk = config(asynchronous=asynchronous, every_steps=5)
    outcomes = run_ranks(2, train_on_a_full_disk, on_full_disk, full_rank)
    assert all(isinstance(outcome, CheckpointError | PeerError) for outcome in outcomes), outcomes
    assert any(isinstance(outcome, CheckpointError) for outcome in outcomes), "somebody must say it"
    for outcome in outcomes:
        assert re.search(rf"step-00000005: cannot be written: rank {full_rank}: .*File too large", str(outcome))
    assert names_in(config()) == [".staging-step-00000005", "step-00000002"]
    # The run goes on from what was saved before.
    assert results_of(run_ranks(2, run_training, config(every_steps=100)))[0].resumed_at == 2
    assert names_in(config()) == ["step-00000002", "step-00000012"]


def train_on_a_disk_that_is_full_until_the_save(worker: Worker, config: TrainConfig) -> tuple[Result, list[str]]:
    """The result, and what the journal logged."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("trainer.logging.journal").addHandler(handler)
    save = CheckpointManager.save

    def with_room(manager: CheckpointManager, *arguments: Any, **named: Any) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return save(manager, *arguments, **named)

    CheckpointManager.save = with_room  # type: ignore[method-assign,assignment]
    return train_on_a_full_disk(worker, config, full_rank=0), told


def test_figures_that_cannot_be_written_do_not_end_the_run(config: Callable[..., TrainConfig]) -> None:
    squeezed = config(every_steps=100)
    ((result, told),) = results_of(run_ranks(1, train_on_a_disk_that_is_full_until_the_save, squeezed))
    assert result.steps == 12
    assert sum("figures cannot be written ([Errno 27] File too large)" in line for line in told) == 1


def fail_while_stepping(worker: Worker, failing_rank: int) -> tuple[int, str]:
    """An act that fails on one rank while another is a step or more ahead; the step that learns of it, and how."""
    background = Background(timeout_s=60)
    ended = threading.Event()

    def act() -> None:
        if worker.rank == failing_rank:
            ended.wait()
            raise CheckpointError("the disk is full")

    background.start(act)
    for step in range(1000):
        if step == 3:
            ended.set()
        try:
            background.check()
        except (CheckpointError, PeerError) as error:
            background.start(lambda: None)
            background.wait()
            return step, f"{type(error).__name__}: {error}"
        dist.barrier()
    raise AssertionError("nobody learned of the failure")


@pytest.mark.parametrize("failing_rank", [0, 2])
def test_a_failure_in_the_background_surfaces_on_all_ranks_in_the_same_step(failing_rank: int) -> None:
    outcomes = results_of(run_ranks(3, fail_while_stepping, failing_rank))
    assert len({step for step, _ in outcomes}) == 1
    assert outcomes[0][0] > 3
    told = [f"PeerError: rank {failing_rank}: the disk is full"] * 3
    told[failing_rank] = "CheckpointError: the disk is full"
    assert [message for _, message in outcomes] == told


def train_to_the_death(worker: Worker, config: TrainConfig) -> Result:
    """A file of rank 1 that grows larger than a shard kills it, in the middle of the write."""
    if worker.rank == 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALLER_THAN_A_SHARD, resource.RLIM_INFINITY))
    return train(config, worker)


def test_a_rank_that_is_killed_while_it_writes_leaves_nothing_but_a_staging_directory(
    config: Callable[..., TrainConfig],
) -> None:
    first = config()
    first.max_steps = 2
    results_of(run_ranks(2, run_training, first))
    with pytest.raises(EOFError):  # of the rank that is gone
        run_ranks(2, train_to_the_death, config(every_steps=5))
    assert names_in(config()) == [".staging-step-00000005", "step-00000002"]
    assert results_of(run_ranks(2, run_training, config(every_steps=100)))[0].resumed_at == 2
    assert names_in(config()) == ["step-00000002", "step-00000012"]


def test_a_host_without_room_for_the_copies_is_told_before_training(config: Callable[..., TrainConfig]) -> None:
    for outcome in run_ranks(2, train_in_little_memory, config()):
        assert isinstance(outcome, ConfigError)
        assert "checkpoint.asynchronous is true, but " in str(outcome)
        assert "its 2 ranks take " in str(outcome)
    results_of(run_ranks(2, train_in_little_memory, config(asynchronous=False)))
