"""Ranks that were not started alike, or do not see the same files, are refused on all of them, with what differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import trainer.agreement
from tests.ranks import results_of, run_ranks
from trainer.agreement import check_hosts_alike, check_shared
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.errors import ConfigError, ShardFMError

pytestmark = pytest.mark.distributed


def start_differently(worker: Worker, config: TrainConfig) -> None:
    own_seed = dataclasses.replace(config, seed=worker.rank)
    # What may differ between hosts does.
    data = dataclasses.replace(config.data, num_threads=worker.rank + 1)
    check_hosts_alike(dataclasses.replace(own_seed, data=data), worker)


def find_no_gpu(worker: Worker, config: TrainConfig) -> None:
    kind = "cpu" if worker.rank == 1 else "cuda"
    check_hosts_alike(config, dataclasses.replace(worker, device=torch.device(kind)))


def look_elsewhere(worker: Worker, folder: Path, shared: bool) -> None:
    vars(trainer.agreement)["_VISIBLE_S"] = 0.5
    of_two_hosts = dataclasses.replace(worker, local_rank=0, local_world_size=1)
    check_shared(folder / ("one" if shared else str(worker.rank)), of_two_hosts)


def look_on_one_host(worker: Worker, folder: Path) -> None:
    check_shared(folder, worker)


def test_another_command_line_is_told_by_its_key_on_all_ranks(make_config: Callable[..., TrainConfig]) -> None:
    outcomes = run_ranks(2, start_differently, make_config())
    assert all(isinstance(outcome, ConfigError) for outcome in outcomes)
    assert len({str(outcome) for outcome in outcomes}) == 1
    told = str(outcomes[0])
    assert told.startswith("the hosts do not run the same job: seed is 0 on ")
    assert "(rank 0), but 1 on " in told
    assert "num_threads" not in told


def test_a_host_without_the_others_kind_of_device_is_told(make_config: Callable[..., TrainConfig]) -> None:
    for outcome in run_ranks(2, find_no_gpu, make_config()):
        assert isinstance(outcome, ConfigError)
        assert "the hosts do not run the same job: kind of device is cuda on " in str(outcome)


def test_one_folder_for_all_is_shared_and_left_as_it_was(tmp_path: Path) -> None:
    results_of(run_ranks(2, look_elsewhere, tmp_path, True))
    assert not list((tmp_path / "one").iterdir())


def test_a_folder_of_each_rank_is_not_shared(tmp_path: Path) -> None:
    outcomes = run_ranks(2, look_elsewhere, tmp_path, False)
    assert all(isinstance(outcome, ShardFMError) for outcome in outcomes)
    assert "it is not the folder that rank 0 sees" in str(outcomes[1])


def test_a_folder_that_cannot_be_written_is_told_on_one_host_too(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "checkpoints"
    told, told_by_others = run_ranks(2, look_on_one_host, folder)
    assert isinstance(told, ConfigError)
    assert f"checkpoint.directory={folder}: cannot be written on " in str(told)
    assert str(told_by_others) == str(told)
