"""The optimizer of each table: rules by pattern, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode
from torchrec.distributed.planner.shard_estimators import _get_optimizer_multipler

from data.schema import parse_schema
from tests.conftest import SCHEMA
from trainer.config import TrainConfig
from trainer.config.optimizer import SPARSE_OPTIMIZERS, SparseOptimizerConfig
from trainer.errors import ConfigError
from trainer.model.ctr import row_layout
from trainer.model.embeddings import embedding_tables
from trainer.table_optimizer import (
    check_table_optimizers,
    fuse_optimizers,
    state_bytes,
    states_as_planned,
    table_settings,
)

Make = Callable[..., TrainConfig]

SCHEMA_OF_CLICKS = parse_schema(SCHEMA, where="test")
REPLICAS = {"sharding": {"types": ["data_parallel"]}}


def test_the_last_rule_that_gives_a_key_decides_it(make_config: Make) -> None:
    rules = [
        {"match": "*", "eps": 0.125},
        {"match": "*s*", "name": "sgd", "lr": 0.25, "max_grad_value": 2.0},
        {"match": "user", "lr": 0.5},
    ]
    settings = table_settings(SCHEMA_OF_CLICKS, make_config(optimizer={"tables": rules}).optimizer)
    assert settings == {
        "site": SparseOptimizerConfig(name="sgd", lr=0.25, eps=0.125, max_grad_value=2.0),
        "user": SparseOptimizerConfig(name="sgd", lr=0.5, eps=0.125, max_grad_value=2.0),
        "row_id": SparseOptimizerConfig(eps=0.125),
        "tags": SparseOptimizerConfig(name="sgd", lr=0.25, eps=0.125, max_grad_value=2.0),
    }


def test_a_rule_that_matches_no_table_is_refused_with_the_tables(make_config: Make) -> None:
    config = make_config(optimizer={"tables": [{"match": "*"}, {"match": "users"}]})
    with pytest.raises(ConfigError) as refused:
        table_settings(SCHEMA_OF_CLICKS, config.optimizer)
    assert str(refused.value) == (
        "optimizer.tables[1].match is 'users', which matches no table. Did you mean 'user'? "
        "Known names: site, user, row_id, tags."
    )


CPU_LACKS = "which FBGEMM's CPU kernels do not have; use sgd, adagrad, rowwise_adagrad, "
REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("cpu", {"name": "adam"}, {}, f"'adam', {CPU_LACKS}replicate it (sharding=data_parallel), or train on CUDA."),
    *(
        ("cpu", {"name": name}, {}, f"the optimizer of table 'site' is '{name}', {CPU_LACKS}or train on CUDA.")
        for name in ("partial_rowwise_adam", "lamb", "partial_rowwise_lamb")
    ),
    (
        "cpu",
        {"weight_decay": 0.1},
        {},
        "the weight_decay of table 'site' is 0.1, over all rows, but a sharded table's optimizer sees the rows that a "
        "step looks up; use sharding=data_parallel, on CUDA weight_decay_rows=touched, or weight_decay=0.",
    ),
    ("cuda", {"weight_decay": 0.1}, {}, "over all rows, but a sharded table's optimizer sees the rows"),
    *(
        (
            "cpu",
            {"name": name, "weight_decay": 0.1, "weight_decay_rows": "touched"},
            {},
            "the weight_decay of table 'site' is 0.1, which FBGEMM's CPU kernels leave out without a word",
        )
        for name in ("sgd", "adagrad", "rowwise_adagrad")
    ),
    *(
        (
            "cuda",
            {"name": name, "weight_decay": 0.1, "weight_decay_rows": "touched"},
            {},
            f"'l2', which FBGEMM's kernel of '{name}' does not have; those of rowwise_adagrad have it. "
            f"'{name}' has {has}.",
        )
        for name, has in [("sgd", "no decay"), ("adagrad", "no decay"), ("adam", "decoupled"), ("lamb", "decoupled")]
    ),
    (
        "cuda",
        {"name": "adagrad", "weight_decay": 0.1, "weight_decay_rows": "touched", "weight_decay_mode": "decoupled"},
        {},
        "those of rowwise_adagrad, adam, partial_rowwise_adam, lamb, partial_rowwise_lamb have it.",
    ),
    *(
        (
            device,
            {"name": "lamb"},
            {"sharding": {"types": ["table_wise", "data_parallel"]} if device == "cuda" else REPLICAS["sharding"]},
            "'lamb', which only FBGEMM's CUDA kernels have, but the table may be replicated; use sgd, adagrad, "
            "rowwise_adagrad, adam, or sharding without data_parallel.",
        )
        for device in ("cpu", "cuda")
    ),
    (
        "cpu",
        {"weight_decay": 0.1, "weight_decay_rows": "touched"},
        REPLICAS,
        "over the touched rows, but the table may be replicated, and torch's optimizers step whole tables; "
        "use weight_decay_rows=all, or sharding without data_parallel.",
    ),
    (
        "cpu",
        {"name": "adagrad", "weight_decay": 0.1, "weight_decay_mode": "decoupled"},
        REPLICAS,
        "'decoupled', which torch's adagrad does not have; use weight_decay_mode=l2, or name=adam.",
    ),
    (
        "cuda",
        {},
        {**REPLICAS, "precision": {"tables": "fp16"}},
        "precision.tables is 'fp16', but torch's optimizers would round small steps of replicated tables away, "
        "such as 'site'",
    ),
]


@pytest.mark.parametrize(("device", "sparse", "more", "message"), REFUSED)
def test_what_a_kernel_would_not_do_is_refused(
    device: str, sparse: dict[str, Any], more: dict[str, Any], message: str, make_config: Make
) -> None:
    config = make_config(optimizer={"sparse": sparse}, **more)
    settings = table_settings(SCHEMA_OF_CLICKS, config.optimizer)
    with pytest.raises(ConfigError) as refused:
        check_table_optimizers(settings, config.sharding, config.precision, device)
    assert message in str(refused.value)


def test_each_table_is_held_against_its_own_sharding(make_config: Make) -> None:
    replicas = [{"match": "user", "types": ["data_parallel"]}]
    config = make_config(
        optimizer={"tables": [{"match": "user", "name": "adam", "weight_decay": 0.1}]}, sharding={"tables": replicas}
    )
    settings = table_settings(SCHEMA_OF_CLICKS, config.optimizer)
    check_table_optimizers(settings, config.sharding, config.precision, "cpu")
    with pytest.raises(ConfigError, match="the optimizer of table 'user' is 'adam'"):
        check_table_optimizers(settings, make_config().sharding, config.precision, "cpu")


TOUCHED = {"weight_decay": 0.1, "weight_decay_rows": "touched"}
EPS, BETAS = {"eps": 0.5}, {"beta1": 0.5, "beta2": 0.25}
KERNELS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"name": "sgd"}, {"optimizer": EmbOptimType.EXACT_SGD}),
    ({"name": "adagrad"}, {"optimizer": EmbOptimType.EXACT_ADAGRAD, **EPS}),
    ({"name": "rowwise_adagrad"}, {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, **EPS}),
    (
        {"name": "rowwise_adagrad", **TOUCHED},
        {
            "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            **EPS,
            "weight_decay": 0.1,
            "weight_decay_mode": WeightDecayMode.L2,
        },
    ),
    ({"name": "adam"}, {"optimizer": EmbOptimType.ADAM, **EPS, **BETAS}),
    (
        {"name": "adam", **TOUCHED, "weight_decay_mode": "decoupled"},
        {"optimizer": EmbOptimType.ADAM, **EPS, **BETAS, "weight_decay": 0.1},
    ),
    ({"name": "partial_rowwise_adam"}, {"optimizer": EmbOptimType.PARTIAL_ROWWISE_ADAM, **EPS, **BETAS}),
    ({"name": "lamb"}, {"optimizer": EmbOptimType.LAMB, **EPS, **BETAS}),
    ({"name": "partial_rowwise_lamb"}, {"optimizer": EmbOptimType.PARTIAL_ROWWISE_LAMB, **EPS, **BETAS}),
]


@pytest.mark.parametrize(("sparse", "expected"), KERNELS)
def test_a_kernel_gets_what_its_optimizer_reads(
    sparse: dict[str, Any], expected: dict[str, Any], make_config: Make
) -> None:
    config = make_config(optimizer={"sparse": {**sparse, "lr": 0.75, **EPS, **BETAS}})
    settings = table_settings(SCHEMA_OF_CLICKS, config.optimizer)
    check_table_optimizers(settings, config.sharding, config.precision, "cuda")
    tables = embedding_tables(SCHEMA_OF_CLICKS, row_layout(config.model))
    fuse_optimizers(tables, settings, config.precision)
    for parameter in tables.parameters():
        assert parameter._optimizer_kwargs == [{"lr": 0.75, **expected}]


@pytest.mark.parametrize(("rounding", "stochastic"), [("auto", True), ("stochastic", True), ("nearest", False)])
def test_a_kernel_of_half_rows_is_told_how_to_round(rounding: str, stochastic: bool, make_config: Make) -> None:
    config = make_config(precision={"tables": "fp16", "rounding": rounding})
    settings = table_settings(SCHEMA_OF_CLICKS, config.optimizer)
    check_table_optimizers(settings, config.sharding, config.precision, "cuda")
    tables = embedding_tables(SCHEMA_OF_CLICKS, row_layout(config.model), half=True)
    fuse_optimizers(tables, settings, config.precision)
    assert all(p._optimizer_kwargs[0]["stochastic_rounding"] is stochastic for p in tables.parameters())


@pytest.mark.parametrize("name", SPARSE_OPTIMIZERS)
def test_bytes_of_states_are_what_torchrecs_planner_counts_or_a_number_a_row_more(name: str, make_config: Make) -> None:
    width = 8
    config = make_config(optimizer={"sparse": {"name": name}})
    settings = table_settings(SCHEMA_OF_CLICKS, config.optimizer)
    tables = embedding_tables(SCHEMA_OF_CLICKS, row_layout(config.model))
    fuse_optimizers(tables, settings, config.precision)
    (kind,) = next(tables.parameters())._optimizer_classes
    counted = _get_optimizer_multipler(kind, torch.Size([10, width]))
    assert states_as_planned(width, settings["site"]) == counted
    more = 4 if name.startswith("partial") else 0
    assert state_bytes(width, settings["site"]) == 4 * width * counted + more
