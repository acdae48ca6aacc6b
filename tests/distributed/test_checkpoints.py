"""Which checkpoint a run keeps, and which it continues from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import tensors_of
from tests.ranks import results_of, run_ranks
from trainer.checkpoint import storage
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.errors import CheckpointError, ConfigError
from trainer.loop import Result, train

pytestmark = pytest.mark.distributed


def run_training(worker: Worker, config: TrainConfig) -> tuple[Result, list[str]]:
    """The result, and what was logged as a warning."""
    warnings: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warnings.append(record.getMessage())

    logging.getLogger("trainer").addHandler(Collect(logging.WARNING))
    return train(config, worker), warnings


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
    results_of(run_ranks(2, run_training, keeping))
    assert steps_of(keeping) == [5, 6]
    assert sorted(p.name for p in Path(keeping.checkpoint.directory).iterdir()) == ["step-00000005", "step-00000006"]


def test_a_checkpoint_holds_everything_that_a_run_needs(config: Callable[..., TrainConfig]) -> None:
    (result, _), _ = results_of(run_ranks(2, run_training, config()))
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
    results_of(run_ranks(2, run_training, config()))
    damaged = Path(config().checkpoint.directory, "step-00000006", "__0_0.distcp")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    (result, warnings), _ = results_of(run_ranks(2, run_training, config(max_steps=8)))
    assert result.resumed_at == 4
    assert len(warnings) == 1
    assert str(damaged) in warnings[0]
    assert "Falling back to the one before it." in warnings[0]
    assert steps_of(config()) == [2, 4, 6, 8]


def test_if_all_are_damaged_nothing_is_overwritten(config: Callable[..., TrainConfig]) -> None:
    results_of(run_ranks(1, run_training, config()))
    for path in Path(config().checkpoint.directory).glob("*/.metadata"):
        path.unlink()
    (error,) = run_ranks(1, run_training, config())
    assert isinstance(error, CheckpointError)
    assert "all 3 checkpoints are damaged, the newest of them so: " in str(error)
    assert "step-00000006/.metadata: is missing" in str(error)
    assert len(storage.committed(Path(config().checkpoint.directory))) == 3


def test_a_path_is_continued_from(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    results_of(run_ranks(1, run_training, config()))
    chosen = str(Path(config().checkpoint.directory, "step-00000002"))
    branch = config(run_dir=tmp_path / "branch", checkpoint={"resume": chosen})
    ((result, _),) = results_of(run_ranks(1, run_training, branch))
    assert result.resumed_at == 2
    assert steps_of(branch) == [6]


def test_a_damaged_path_is_refused(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    results_of(run_ranks(1, run_training, config()))
    chosen = Path(config().checkpoint.directory, "step-00000002")
    (chosen / ".metadata").unlink()
    branch = config(run_dir=tmp_path / "branch", checkpoint={"resume": str(chosen)})
    (error,) = run_ranks(1, run_training, branch)
    assert isinstance(error, CheckpointError)
    assert ".metadata: is missing; the checkpoint is damaged" in str(error)


def test_starting_anew_over_checkpoints_is_refused(config: Callable[..., TrainConfig]) -> None:
    results_of(run_ranks(1, run_training, config()))
    (error,) = run_ranks(1, run_training, config(checkpoint={"resume": "none"}))
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
    results_of(run_ranks(1, run_training, config()))
    if "data" in change:
        change = {"data": {"train": str(click_log / "test")}}
    (error,) = run_ranks(1, run_training, config(**change))
    assert isinstance(error, CheckpointError)
    assert f"does not fit this run: {difference}" in str(error)
