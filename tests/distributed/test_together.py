"""Acts that succeed or fail on all ranks together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from tests.ranks import results_of, run_ranks
from trainer.checkpoint.storage import committed
from trainer.config import TrainConfig
from trainer.distributed import Worker, on_all, on_main
from trainer.errors import CheckpointError, ConfigError, DataError, PeerError
from trainer.loop import train

pytestmark = pytest.mark.distributed


def main_succeeds(worker: Worker) -> int:
    return on_main(lambda: 40 + worker.rank)


def main_fails(worker: Worker) -> None:
    def act() -> None:
        raise DataError("train.parquet: is damaged")

    on_main(act)


def rank_one_fails(worker: Worker) -> int:
    def act() -> int:
        if worker.rank == 1:
            raise ValueError("no disk here")
        return worker.rank

    return on_all(act)


def all_fail(worker: Worker) -> None:
    def act() -> None:
        raise CheckpointError("the same everywhere")

    on_all(act)


def test_on_main_gives_the_result_to_all_ranks() -> None:
    assert results_of(run_ranks(3, main_succeeds)) == [40, 40, 40]


def test_on_main_raises_on_all_ranks_with_the_message() -> None:
    first, second = run_ranks(2, main_fails)
    assert isinstance(first, DataError)
    assert isinstance(second, PeerError)
    assert str(second) == "train.parquet: is damaged"


def test_on_all_tells_which_rank_failed() -> None:
    first, second = run_ranks(2, rank_one_fails)
    assert isinstance(first, PeerError)
    assert str(first) == "rank 1: ValueError: no disk here"
    assert isinstance(second, ValueError)


def test_on_all_lets_one_rank_speak_where_all_fail() -> None:
    first, second = run_ranks(2, all_fail)
    assert isinstance(first, CheckpointError)
    assert isinstance(second, PeerError)


def run_training(worker: Worker, config: TrainConfig) -> None:
    train(config, worker)


def test_world_size_that_does_not_divide_the_lanes_ends_all_ranks(make_config: Callable[..., TrainConfig]) -> None:
    outcomes = run_ranks(3, run_training, make_config())
    assert [type(outcome) for outcome in outcomes] == [ConfigError] * 3
    assert "a world of 3 workers cannot share data.lanes=4 equally; start 1, 2 or 4 workers" in str(outcomes[0])


def test_a_rank_that_cannot_write_its_shard_commits_nothing(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config(max_steps=2)
    outcomes = run_ranks(2, train_with_broken_write_on_rank_one, config)
    assert [type(outcome) for outcome in outcomes] == [CheckpointError, PeerError]
    assert all("rank 1: the disk is full" in str(outcome) for outcome in outcomes)
    assert committed_steps(config) == []


def train_with_broken_write_on_rank_one(worker: Worker, config: TrainConfig) -> None:
    if worker.rank == 1:

        def broken(*_: object) -> None:
            raise OSError("the disk is full")

        FileSystemWriter.write_data = broken  # type: ignore[method-assign,assignment]
    train(config, worker)


def committed_steps(config: TrainConfig) -> list[str]:
    return [path.name for path in committed(Path(config.checkpoint.directory))]
