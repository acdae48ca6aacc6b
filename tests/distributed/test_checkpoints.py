"""Which checkpoint a run keeps, and which it continues from."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import tensors_of
from tests.ranks import results_of, run_ranks, train_listening
from trainer.checkpoint import storage
from trainer.config import TrainConfig
from trainer.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.distributed


@pytest.fixture
def config(make_config: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    def make(**changes: Any) -> TrainConfig:
        changes.setdefault("max_steps", 6)
        changes.setdefault("checkpoint", {"every_steps": 2})
        return make_config(**changes)

    return make


def steps_of(config: TrainConfig) -> list[int]:
    return [storage.read_manifest(path).step for path in storage.committed(Path(config.checkpoint.directory))]


def test_the_last_ones_are_kept(config: Callable[..., TrainConfig]) -> None:
    keeping = config(checkpoint={"every_steps": 1, "keep_last": 2})
    results_of(run_ranks(2, train_listening, keeping))
    assert steps_of(keeping) == [5, 6]
    assert sorted(p.name for p in Path(keeping.checkpoint.directory).iterdir()) == ["step-00000005", "step-00000006"]


def test_those_of_every_so_many_steps_and_the_best_are_kept(config: Callable[..., TrainConfig]) -> None:
    keeping = config(
        max_steps=9,
        eval_every_steps=1,
        monitor={"metric": "logloss"},
        # Rates that make the model worse from the first step on, so that the best one is early.
        optimizer={"sparse": {"name": "sgd", "lr": 2.0}, "dense": {"name": "sgd", "lr": 2.0}},
        checkpoint={"every_steps": 100, "keep_last": 1, "keep_every_steps": 4, "keep_best": True},
    )
    (result, _), _ = results_of(run_ranks(2, train_listening, keeping))
    assert result.best_step in (1, 2, 3, 5, 6, 7), "one that no other rule keeps"
    assert steps_of(keeping) == sorted({4, 8, 9, result.best_step})
    # What was best is remembered over a resume.
    keeping.max_steps = 12
    ((result, _),) = results_of(run_ranks(1, train_listening, keeping))
    assert steps_of(keeping) == sorted({4, 8, 12, result.best_step})


def test_a_checkpoint_holds_everything_that_a_run_needs(config: Callable[..., TrainConfig]) -> None:
    (result, _), _ = results_of(run_ranks(2, train_listening, config()))
    names = set(tensors_of(Path(result.checkpoint)))
    layer = "dense/head_sum.heads.dnn.network.layers.0.weight"
    assert {"tables/user/weight", "tables/user/sum", layer, "metric_sums"} <= names
    assert {f"{layer}/{moment}" for moment in ("step", "exp_avg", "exp_avg_sq")} <= names
    manifest = storage.read_manifest(Path(result.checkpoint))
    assert (manifest.step, manifest.epoch, manifest.world_size) == (6, 0, 2)
    assert manifest.config["model"]["embedding_dim"] == 7
    assert "torchrec" in manifest.versions
    assert {"schema", "data.train", "model", "seed", "data.lanes"} <= manifest.identity.keys()


def test_a_damaged_one_is_named_and_the_one_before_it_taken(config: Callable[..., TrainConfig]) -> None:
    results_of(run_ranks(2, train_listening, config()))
    damaged = Path(config().checkpoint.directory, "step-00000006", "__0_0.distcp")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    (result, warnings), _ = results_of(run_ranks(2, train_listening, config(max_steps=8)))
    assert result.resumed_at == 4
    assert len(warnings) == 1
    assert str(damaged) in warnings[0]
    assert "Falling back to the one before it." in warnings[0]
    assert steps_of(config()) == [2, 4, 6, 8]


def test_if_all_are_damaged_nothing_is_overwritten(config: Callable[..., TrainConfig]) -> None:
    results_of(run_ranks(1, train_listening, config()))
    for path in Path(config().checkpoint.directory).glob("*/.metadata"):
        path.unlink()
    (error,) = run_ranks(1, train_listening, config())
    assert isinstance(error, CheckpointError)
    assert "all 3 checkpoints are damaged, the newest of them so: " in str(error)
    assert "step-00000006/.metadata: is missing" in str(error)
    assert len(storage.committed(Path(config().checkpoint.directory))) == 3


def test_a_path_is_continued_from(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    results_of(run_ranks(1, train_listening, config()))
    chosen = str(Path(config().checkpoint.directory, "step-00000002"))
    branch = config(run_dir=tmp_path / "branch", checkpoint={"resume": chosen})
    ((result, _),) = results_of(run_ranks(1, train_listening, branch))
    assert result.resumed_at == 2
    assert steps_of(branch) == [6]


@pytest.mark.parametrize("resume", ["a path", "none"])
def test_the_same_command_goes_on_wherever_it_began(
    resume: str, config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    results_of(run_ranks(1, train_listening, config()))
    chosen = str(Path(config().checkpoint.directory, "step-00000002")) if resume == "a path" else resume
    branch = functools.partial(config, run_dir=tmp_path / "branch", checkpoint={"resume": chosen})
    results_of(run_ranks(1, train_listening, branch()))
    ((again, _),) = results_of(run_ranks(1, train_listening, branch(logging={"every_steps": 3})))
    assert again.resumed_at == 6
    (other,) = run_ranks(1, train_listening, branch(optimizer={"dense": {"lr": 0.5}}))
    if resume == "none":
        assert "of an earlier run" in str(other)
    else:
        assert other[0].resumed_at == 2


def test_a_damaged_path_is_refused(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    results_of(run_ranks(1, train_listening, config()))
    chosen = Path(config().checkpoint.directory, "step-00000002")
    (chosen / ".metadata").unlink()
    branch = config(run_dir=tmp_path / "branch", checkpoint={"resume": str(chosen)})
    (error,) = run_ranks(1, train_listening, branch)
    assert isinstance(error, CheckpointError)
    assert ".metadata: is missing; the checkpoint is damaged" in str(error)


def test_starting_anew_over_checkpoints_is_refused(config: Callable[..., TrainConfig]) -> None:
    results_of(run_ranks(1, train_listening, config()))
    (error,) = run_ranks(1, train_listening, config(checkpoint={"resume": "none"}))
    assert isinstance(error, ConfigError)
    assert "checkpoint.resume is 'none', but" in str(error)
    assert "holds 3 checkpoints of an earlier run" in str(error)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"seed": 8}, "seed: 7 in the checkpoint, 8 here"),
        ({"global_batch_size": 32}, "global_batch_size: 16 in the checkpoint, 32 here"),
        ({"model": {"embedding_dim": 3}}, "model.embedding_dim: 7 in the checkpoint, 3 here"),
        ({"data": {"train": "test"}}, "data.train: "),
        ({"optimizer": {"dense": {"name": "sgd"}}}, "optimizer.dense.name: 'adam' in the checkpoint, 'sgd' here"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_run_is_refused_with_the_difference(
    change: dict[str, Any], difference: str, config: Callable[..., TrainConfig], click_log: Path
) -> None:
    results_of(run_ranks(1, train_listening, config()))
    if "data" in change:
        change = {"data": {"train": str(click_log / "test")}}
    (error,) = run_ranks(1, train_listening, config(**change))
    assert isinstance(error, CheckpointError)
    assert f"does not fit this run: {difference}" in str(error)
    key = difference.partition(":")[0]
    assert f"add 'checkpoint.allow_differences=[{key}]'" in str(error)


def test_differences_that_are_allowed_by_name_are_told_and_continued(config: Callable[..., TrainConfig]) -> None:
    results_of(run_ranks(1, train_listening, config()))
    changes: dict[str, Any] = {"seed": 8, "optimizer": {"dense": {"name": "sgd"}}, "max_steps": 8}
    checkpoint: dict[str, Any] = {"every_steps": 2, "allow_differences": ["seed"]}
    (error,) = run_ranks(1, train_listening, config(**changes, checkpoint=checkpoint))
    assert "does not fit this run: optimizer.dense.name: 'adam' in the checkpoint, 'sgd' here. " in str(error)
    assert "add 'checkpoint.allow_differences=[seed,optimizer.dense.name]'" in str(error)
    # What cannot be is refused all the same: another optimizer has other moments.
    checkpoint["allow_differences"] = ["seed", "optimizer"]
    (error,) = run_ranks(1, train_listening, config(**changes, checkpoint=checkpoint))
    assert isinstance(error, CheckpointError)
    assert "the checkpoint holds dense/" in str(error)
    assert "for which this run has no place" in str(error)

    del changes["optimizer"]
    ((result, warnings),) = results_of(run_ranks(1, train_listening, config(**changes, checkpoint=checkpoint)))
    assert result.resumed_at == 6
    assert any("continued although it differs: seed: 7 in the checkpoint, 8 here" in told for told in warnings)


def test_an_unknown_difference_is_refused_with_the_known_ones(config: Callable[..., TrainConfig]) -> None:
    results_of(run_ranks(1, train_listening, config()))
    (error,) = run_ranks(1, train_listening, config(checkpoint={"every_steps": 2, "allow_differences": ["sead"]}))
    assert isinstance(error, ConfigError)
    assert "checkpoint.allow_differences names 'sead'" in str(error)
    assert "Known names: data.lanes, data.train, " in str(error)


def test_a_checkpoint_of_an_older_format_is_refused_as_such(config: Callable[..., TrainConfig]) -> None:
    results_of(run_ranks(1, train_listening, config()))
    for path in storage.committed(Path(config().checkpoint.directory)):
        manifest = Path(str(path), storage.MANIFEST)
        manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 1'))
    (error,) = run_ranks(1, train_listening, config())
    assert isinstance(error, CheckpointError)
    assert "step-00000006: has format 1, but this version reads format 2" in str(error)


@pytest.mark.parametrize("damage", ["truncated", "no manifest", "deleted"])
def test_whatever_became_of_the_newest_the_one_before_it_is_taken(
    damage: str, config: Callable[..., TrainConfig]
) -> None:
    results_of(run_ranks(2, train_listening, config()))
    newest = Path(config().checkpoint.directory, "step-00000006")
    if damage == "truncated":
        with open(newest / "__1_0.distcp", "r+b") as file:
            file.truncate(1000)
        told = "__1_0.distcp: has 1000 bytes instead of "
    elif damage == "no manifest":
        (newest / storage.MANIFEST).unlink()
        told = "step-00000006: has no manifest.json, so it is not a committed checkpoint"
    else:
        shutil.rmtree(newest)
        told = ""
    (result, warnings), _ = results_of(run_ranks(2, train_listening, config(max_steps=8)))
    assert result.resumed_at == 4
    assert len(warnings) == bool(told)
    assert all(told in warning and "Falling back to the one before it." in warning for warning in warnings)
    assert steps_of(config()) == [2, 4, 6, 8]
