"""A new run begins with weights of another one, on any sharding, under other names, in larger tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.checkpoints import assert_equal_bits, tensors_of
from tests.forked import ForkedJob
from tests.launch.processes import ROOT
from tests.ranks import results_of, run_ranks
from trainer.checkpoint import state
from trainer.checkpoint.canonical import model_state
from trainer.checkpoint.warm_start import plan_warm_start
from trainer.config import InitFromConfig, TrainConfig
from trainer.distributed import Worker
from trainer.errors import CheckpointError
from trainer.job import build
from trainer.loop import train

pytestmark = pytest.mark.distributed

FM: dict[str, Any] = {"linear": {}, "fm": {}}
FNN: dict[str, Any] = {"dnn": {}}
Make = Callable[..., TrainConfig]


def run_training(worker: Worker, config: TrainConfig) -> None:
    train(config, worker)


def built(worker: Worker, config: TrainConfig, folder: str) -> None:
    """Writes the weights that a run would start with."""
    state.write(model_state(build(config, worker).assembled.model).tensors, Path(folder))


@pytest.fixture
def trained_fm(make_config: Make, tmp_path: Path) -> Path:
    """The checkpoint of an FM that two ranks trained, its tables in shards of rows."""
    config = replaced_heads(make_config(run_dir=tmp_path / "fm", max_steps=3, sharding={"types": ["row_wise"]}), FM)
    results_of(run_ranks(2, run_training, config))
    return Path(config.checkpoint.directory, "step-00000003")


def replaced_heads(config: TrainConfig, heads: dict[str, Any]) -> TrainConfig:
    config.model.heads = {name: config.model.heads[name] for name in heads}
    return config


def tables(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in tensors.items() if key.startswith("tables/") and key.endswith("/weight")}


def start(world_size: int, config: TrainConfig, folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir()
    results_of(run_ranks(world_size, built, config, str(folder)))
    return tensors_of(folder)


@pytest.mark.parametrize(("world_size", "sharding"), [(1, "table_wise"), (4, "column_wise"), (2, "data_parallel")])
def test_a_dnn_begins_with_the_tables_of_an_fm(
    world_size: int, sharding: str, trained_fm: Path, make_config: Make, tmp_path: Path
) -> None:
    config = make_config(init_from={"path": str(trained_fm), "include": ["tables/*"]}, sharding={"types": [sharding]})
    started = start(world_size, replaced_heads(config, FNN), tmp_path / "started")
    assert_equal_bits(tables(started), tables(tensors_of(trained_fm)))
    assert any("dnn" in key for key in started)


@pytest.mark.parametrize("sharding", ["row_wise", "column_wise"])
def test_a_table_grows_and_takes_another_name(
    sharding: str, trained_fm: Path, make_config: Make, click_log: Path, tmp_path: Path
) -> None:
    schema = yaml.safe_load((click_log / "schema.yaml").read_text())
    (user,) = (feature for feature in schema["sparse"] if feature["name"] == "user")
    user |= {"num_embeddings": 90, "table": "member"}
    (click_log / "schema.yaml").write_text(yaml.safe_dump(schema))
    options = {"include": ["tables/*"], "exclude": ["tables/site/*"], "rename": {"tables/user": "tables/member"}}
    changes: dict[str, Any] = {"sharding": {"types": [sharding]}}
    cold = start(2, replaced_heads(make_config(**changes), FM), tmp_path / "cold")
    init_from = {"path": str(trained_fm), **options}
    warm = start(2, replaced_heads(make_config(init_from=init_from, **changes), FM), tmp_path / "warm")

    there = tensors_of(trained_fm)
    member = warm["tables/member/weight"]
    assert torch.equal(member[:11], there["tables/user/weight"])
    assert torch.equal(member[11:], cold["tables/member/weight"][11:])
    assert torch.equal(warm["tables/row_id/weight"], there["tables/row_id/weight"])
    assert torch.equal(warm["tables/site/weight"], cold["tables/site/weight"])
    assert not torch.equal(warm["tables/site/weight"], there["tables/site/weight"])


def test_what_has_another_meaning_is_refused_on_all_ranks(
    trained_fm: Path, make_config: Make, click_log: Path, tmp_path: Path
) -> None:
    everything = {"path": str(trained_fm)}
    # Rows of 5 factors and a weight are as wide as rows of 7, but the weight has another place in them.
    narrow = make_config(init_from={**everything, "include": ["tables/*"]}, model={"embedding_dim": 5})
    outcomes = run_ranks(2, built, replaced_heads(narrow, FM), "")
    assert "were trained with model.embedding_dim=7, but this run has 5" in str(outcomes[0])
    assert str(outcomes[1]) == str(outcomes[0])

    schema = yaml.safe_load((click_log / "schema.yaml").read_text())
    schema["sparse"][0]["num_embeddings"] = 60  # site, which is hashed
    (click_log / "schema.yaml").write_text(yaml.safe_dump(schema))
    (grown,) = run_ranks(1, built, replaced_heads(make_config(init_from=everything), FM), "")
    assert "tables/site/weight has 40 rows there and 60 here, but feature 'site' hashes its values" in str(grown)

    schema["sparse"][0]["num_embeddings"] = 40
    schema["sparse"] = schema["sparse"][1:] + schema["sparse"][:1]
    (click_log / "schema.yaml").write_text(yaml.safe_dump(schema))
    (reordered,) = run_ranks(1, built, replaced_heads(make_config(init_from=everything), FM), "")
    assert "the features are others, or in another order" in str(reordered)


def test_the_command_says_what_comes_from_where_and_only_a_run_of_its_own_is_resumed(
    trained_fm: Path, click_log: Path, tmp_path: Path
) -> None:
    def job(name: str, *more: str) -> ForkedJob:
        command = [
            *(str(ROOT / "launch" / "train.py"), "data=parquet", f"data.root={click_log}", "model=fm", "device=cpu"),
            *("model.embedding_dim=7", "global_batch_size=16", "eval_global_batch_size=16", "data.lanes=4"),
            *(f"run_dir={tmp_path / 'run'}", f"init_from.path={trained_fm}", *more),
        ]
        started = ForkedJob(1, command, folder=tmp_path / name)
        assert started.wait() == [0], started.output(0)
        return started

    first = job("first", "init_from.include=[tables/*]", "init_from.exclude=[tables/tags/*]", "max_steps=2").output(0)
    assert f"initialized from {trained_fm}" in first
    assert "| tables/user/weight | loaded |" in first
    assert "| tables/tags/weight | missing: starts anew |" in first
    assert "| tables/tags/weight | unused: in the checkpoint only |" in first
    second = job("second", "max_steps=3").output(0)
    assert "resumed at step 2" in second
    assert "initialized from" not in second


THERE = {"tables/site/weight": (40, 8), "tables/user/weight": (11, 8), "dense/a.weight": (3, 2)}
HERE = {"tables/page/weight": (40, 8), "tables/user/weight": (15, 8), "dense/a.weight": (3, 2), "dense/b": (4,)}


def test_the_plan_tells_loaded_resized_missing_and_unused() -> None:
    plan = plan_warm_start(InitFromConfig(exclude=["*/a.*"]), THERE, HERE)
    assert plan.sources == {"tables/user/weight": "tables/user/weight"}
    assert plan.resized == {"tables/user/weight": (11, 15)}
    assert plan.missing == ["dense/a.weight", "dense/b", "tables/page/weight"]
    assert plan.unused == ["dense/a.weight", "tables/site/weight"]
    renamed = plan_warm_start(InitFromConfig(rename={"tables/site": "tables/page"}), THERE, HERE)
    assert renamed.sources["tables/page/weight"] == "tables/site/weight"


@pytest.mark.parametrize(
    ("options", "here", "message"),
    [
        (
            {"include": ["table/*"]},
            HERE,
            "init_from.include: 'table/*' fits no tensor in both; there is dense/a.weight",
        ),
        ({"include": ["*/site/*"]}, HERE, "init_from.include: '*/site/*' fits no tensor in both"),
        ({"exclude": ["*/zip/*"]}, HERE, "init_from.exclude: '*/zip/*' fits no tensor in the checkpoint"),
        ({"exclude": ["*"]}, HERE, "init_from.exclude: ['*'] leaves nothing of what init_from.include=['*'] takes"),
        (
            {"include": ["tables/*"], "exclude": ["tables/*"]},
            HERE,
            "leaves nothing of what init_from.include=['tables/*",
        ),
        ({"rename": {"tables/zip": "tables/page"}}, HERE, "init_from.rename: 'tables/zip' fits no tensor in the check"),
        ({"rename": {"tables/site": "tables/zip"}}, HERE, "init_from.rename: 'tables/zip' fits no tensor in this run"),
        ({"rename": {"tables/site": "tables/user"}}, HERE, "gives two tensors of the checkpoint one name"),
        ({}, {**HERE, "tables/user/weight": (9, 8)}, "is 11 x 8 in the checkpoint and 9 x 8 here; only tables may"),
        ({}, {**HERE, "tables/user/weight": (15, 12)}, "is 11 x 8 in the checkpoint and 15 x 12 here"),
        ({}, {**HERE, "dense/a.weight": (4, 2)}, "Leave it out: init_from.exclude=[dense/a.weight]"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], here: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        plan_warm_start(InitFromConfig(**options), THERE, here)
