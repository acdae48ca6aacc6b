"""Typed config: ranges, names, and errors that name the key, the value and the rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from launch.cli import open_mappings
from launch.evaluate import evaluated_sets
from trainer.config import EvaluateConfig, TrainConfig, to_config
from trainer.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


def composed(*overrides: str) -> TrainConfig:
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return to_config(compose("train", list(overrides)), TrainConfig)


def group_options() -> list[str]:
    groups = ("model", "optimizer", "sharding", "checkpoint", "logging", "experiment")
    options = [f"{group}={path.stem}" for group in groups for path in sorted((CONFIGS / group).glob("*.yaml"))]
    assert len(options) > len(groups)
    return options


@pytest.mark.parametrize("option", group_options())
def test_every_config_composes(option: str) -> None:
    assert composed(option, "data.root=/data").model.heads


def test_own_data_needs_a_root_alone() -> None:
    config = composed("data=parquet", "data.root=/logs")
    assert (config.data.schema, config.data.train, config.data.test) == (
        "/logs/schema.yaml",
        "/logs/train",
        "/logs/test",
    )


def test_command_line_overrides_reach_the_config() -> None:
    config = composed("model.embedding_dim=32", "optimizer.sparse.lr=0.5", "model.network.layers=[8]")
    assert config.model.embedding_dim == 32
    assert config.optimizer.sparse.lr == 0.5
    assert config.model.network.layers == config.model.heads["dnn"]["layers"] == [8]


def test_a_head_may_differ_from_the_models_network() -> None:
    config = composed("model.network.dropout=0.5", "+model.heads.dnn.layers=[7]")
    assert config.model.network.layers == [400, 400, 400]
    assert (config.model.heads["dnn"]["layers"], config.model.heads["dnn"]["dropout"]) == ([7], 0.5)


def test_a_shape_by_name_reaches_the_heads() -> None:
    config = composed("model=pnn", "model.network.shape=increasing")
    assert config.model.heads["products"]["layers"] == [100, 200, 300]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"device": "gpu:0"}, "device is 'gpu:0', which is unknown. Known names: auto, cpu, cuda."),
    ({"seed": -1}, "seed is -1, but must be at least 0."),
    ({"epochs": 0}, "epochs is 0, but must be at least 1."),
    ({"max_steps": 0}, "max_steps is 0, but must be at least 1."),
    ({"eval_every_epochs": 0}, "eval_every_epochs is 0, but must be at least 1."),
    ({"global_batch_size": 18}, "global_batch_size is 18, but must be a positive multiple of data.lanes (4); try 16."),
    ({"eval_global_batch_size": 0}, "eval_global_batch_size is 0, but must be a positive multiple"),
    ({"data": {"lanes": 0}}, "data.lanes is 0, but must be at least 1."),
    ({"data": {"window_rows": 0}}, "data.window_rows is 0, but must be at least 1."),
    ({"data": {"train": []}}, "data.train is [], but must be a path, a glob, a directory or a list of them."),
    ({"data": {"test": [3]}}, "data.test is [3], but must be a path"),
    ({"model": {"embedding_dim": 0}}, "model.embedding_dim is 0, but must be at least 1."),
    ({"model": {"init_std": -0.1}}, "model.init_std is -0.1, but must be between 0 and 10."),
    (
        {"model": {"heads": {"dnn": {"layers": []}}}},
        "model.heads.dnn: layers is [], but must be a list of at least one layer",
    ),
    ({"model": {"heads": {"dnn": {"dropout": 1.0}}}}, "model.heads.dnn: dropout is 1.0, but must be at least 0"),
    ({"model": {"heads": {"dnn": {"activation": "swish"}}}}, "activation is 'swish', but must be one of relu, tanh"),
    ({"model": {"heads": {"dnn": {"layrs": [3]}}}}, "model.heads.dnn: unknown key 'layrs'. Did you mean 'layers'?"),
    ({"model": {"heads": {"dnn": {"layers": "wide"}}}}, "model.heads.dnn: 'layers': must be a list, like [1, 2]."),
    ({"model": {"heads": {"dnn": 5}}}, "model.heads.dnn: is 5, but must be a mapping"),
    ({"model": {"heads": {"deep": {}}}}, "model.heads: unknown head 'deep'. Known names: cin, cross, dnn, fm,"),
    ({"model": {"heads": {"cross": {"depth": 0}}}}, "model.heads.cross: depth is 0, but must be at least 1."),
    ({"model": {"heads": {"cross": {"rank": 0}}}}, "model.heads.cross: rank is 0, but must be at least 1, or null"),
    ({"model": {"heads": {"cin": {"maps": []}}}}, "model.heads.cin: maps is [], but must list at least one layer"),
    ({"model": {"network": {"norm": "group"}}}, "model.network.norm is 'group', but must be one of none, batch, layer"),
    ({"optimizer": {"sparse": {"weight_decay": -1}}}, "optimizer.sparse.weight_decay is -1.0, but must be 0 or a pos"),
    ({"optimizer": {"sparse": {"name": "adagard"}}}, "is 'adagard', which is unknown. Did you mean 'adagrad'?"),
    ({"optimizer": {"sparse": {"lr": 0}}}, "optimizer.sparse.lr is 0.0, but must be a positive number."),
    (
        {"precision": {"dense": "fp16"}, "on_nonfinite": "ignore"},
        "on_nonfinite is 'ignore', but must be raise or skip with precision=fp16",
    ),
    ({"optimizer": {"accumulate_steps": 0}}, "optimizer.accumulate_steps is 0, but must be at least 1."),
    (
        {"precision": {"tables": "bf16"}},
        "precision.tables is 'bf16', but FBGEMM's training kernels hold rows of float32",
    ),
    ({"precision": {"rounding": "nearest"}}, "precision.rounding is 'nearest', but rows in fp32 are not rounded;"),
    (
        {"precision": {"loss_scale": {"initial": 1000}}},
        "precision.loss_scale.initial is 1000.0, but must be a power of 2",
    ),
    (
        {"precision": {"loss_scale": {"growth_steps": 0}}},
        "precision.loss_scale.growth_steps is 0, but must be at least 1",
    ),
    ({"optimizer": {"sparse": {"beta1": 1}}}, "optimizer.sparse.beta1 is 1.0, but must be at least 0 and below 1."),
    (
        {"optimizer": {"sparse": {"name": "lam"}}},
        "optimizer.sparse.name is 'lam', which is unknown. Did you mean 'lamb'?",
    ),
    (
        {"optimizer": {"sparse": {"max_grad_value": 0}}},
        "optimizer.sparse.max_grad_value is 0.0, but must be a positive",
    ),
    (
        {"optimizer": {"tables": [{"match": "*", "lr": 0}]}},
        "optimizer.tables.lr is 0.0, but must be a positive number.",
    ),
    (
        {"optimizer": {"tables": [{"match": "*", "weight_decay_mode": "l1"}]}},
        "optimizer.tables.weight_decay_mode is 'l1', which is unknown. Known names: l2, decoupled.",
    ),
    (
        {"optimizer": {"dense": {"max_grad_norm": 1, "max_grad_value": 2}}},
        "optimizer.dense.max_grad_norm is 1 and max_grad_value 2, but gradients are clipped by one of them",
    ),
    ({"optimizer": {"sparse": {"eps": 0}}}, "optimizer.sparse.eps is 0.0, but must be a positive number."),
    ({"optimizer": {"dense": {"lr": float("nan")}}}, "optimizer.dense.lr is nan, but must be a positive number."),
    ({"optimizer": {"dense": {"weight_decay": -1}}}, "optimizer.dense.weight_decay is -1.0, but must be 0 or"),
    ({"optimizer": {"dense": {"max_grad_norm": 0}}}, "optimizer.dense.max_grad_norm is 0.0, but must be a positive"),
    ({"optimizer": {"schedule": {"name": "stepp"}}}, "optimizer.schedule.name is 'stepp', which is unknown."),
    ({"optimizer": {"schedule": {"final": 2}}}, "optimizer.schedule.final is 2.0, but must be between 0 and 1."),
    ({"sharding": {"types": []}}, "sharding.types is [], but must be at least one sharding type."),
    ({"sharding": {"types": ["rows"]}}, "sharding.types is 'rows', which is unknown."),
    ({"sharding": {"reserved_fraction": 1}}, "sharding.reserved_fraction is 1.0, but must be at least 0 and below 1."),
    ({"checkpoint": {"every_steps": 0}}, "checkpoint.every_steps is 0, but must be at least 1."),
    ({"checkpoint": {"keep_last": 0}}, "checkpoint.keep_last is 0, but must be at least 1."),
    ({"logging": {"every_steps": 0}}, "logging.every_steps is 0, but must be at least 1."),
    ({"distributed": {"timeout_s": 0}}, "distributed.timeout_s is 0.0, but must be a positive number."),
    ({"epoch": 3}, "unknown key 'epoch'. Did you mean 'epochs'?"),
    ({"epochs": "many"}, "'epochs': Value 'many' of type 'str' could not be converted to Integer."),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_refused_values_are_named(
    changes: dict[str, Any], message: str, make_config: Callable[..., TrainConfig]
) -> None:
    with pytest.raises(ConfigError) as error:
        make_config(**changes)
    assert message in str(error.value)


def test_mappings_take_keys_that_they_do_not_have_yet() -> None:
    overrides = open_mappings(["init_from.rename={tables/site: tables/page}", "model.heads={cin: {}}", "epochs=2"])
    config = composed(*overrides)
    assert config.init_from.rename == {"tables/site": "tables/page"}
    assert list(config.model.heads) == ["linear", "fm", "dnn", "cin"]
    assert config.epochs == 2
    with pytest.raises(ConfigError, match=r"model\.heads: unknown head 'cn'"):
        composed(*open_mappings(["model.heads={cn: {}}"]))
    with pytest.raises(ConfigError, match=r"unknown key 'init_form'\. Did you mean 'init_from'\?"):
        composed(*open_mappings(["init_form={path: x}"]))


@pytest.mark.parametrize(
    "argument", ["--multirun", "~model.heads.fm", "+model.heads.dnn={}", "sharding.tables=[{match: x}]", "name='={'"]
)
def test_other_arguments_stay_as_they_are(argument: str) -> None:
    assert open_mappings([argument]) == [argument]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+global_batchsize=8", "unknown key 'global_batchsize'. Did you mean 'global_batch_size'?"),
        ("+data.lane=2", "unknown key 'data.lane'. Did you mean 'lanes'?"),
        ("++optimizer.dense.rl=3", "unknown key 'optimizer.dense.rl'. Known names: lr,"),
        ("++sharding.tpes=[row_wise]", "unknown key 'sharding.tpes'. Did you mean 'types'?"),
    ],
)
def test_a_misspelt_key_is_refused_when_it_is_added_by_force(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        composed(override)
    assert message in str(error.value)


def test_no_heads_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.heads is \{\}, but must be at least one head"):
        composed("~model.heads.linear", "~model.heads.fm", "~model.heads.dnn")


def test_evaluation_needs_a_checkpoint() -> None:
    with pytest.raises(ConfigError, match="'checkpoint_path' has no value: it is mandatory"):
        to_config({}, EvaluateConfig)


def test_evaluation_refuses_an_unknown_split() -> None:
    config = to_config({"checkpoint_path": "x", "split": "validation"}, EvaluateConfig)
    with pytest.raises(ConfigError, match=r"split is 'validation', but .* choose another split: all, train, test\."):
        evaluated_sets(config, composed().data)
