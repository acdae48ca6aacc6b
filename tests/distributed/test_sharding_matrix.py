"""Every sharding type, fused optimizer and precision of rows on two ranks, against the unsharded reference."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

from data.schema import parse_schema
from tests.checkpoints import tensors_of
from tests.conftest import SCHEMA
from tests.distributed.test_sharded_equals_unsharded import (
    STEPS,
    TOLERANCE,
    Step,
    reference_from,
    rows_of,
    step_reference,
)
from tests.ranks import results_of, run_ranks
from tests.reference import ReferenceDeepFM
from trainer.checkpoint import state
from trainer.checkpoint.canonical import model_state
from trainer.config import TrainConfig
from trainer.config.optimizer import SPARSE_OPTIMIZERS
from trainer.distributed import Worker
from trainer.errors import ConfigError
from trainer.job import build
from trainer.table_optimizer import check_table_optimizers, table_settings

pytestmark = pytest.mark.distributed

Make = Callable[..., TrainConfig]

TYPES = ("table_wise", "row_wise", "table_row_wise", "column_wise", "table_column_wise", "grid_shard")
CUTS_COLUMNS = ("column_wise", "table_column_wise", "grid_shard")
COLUMNS = 4
"""Of a shard, where columns are cut: half of a row."""
# An eps well above rounding, as in the test of replicated tables.
SPARSE: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "lr": 0.5},
    "adagrad": {"name": "adagrad", "lr": 0.1, "eps": 1e-2},
    "rowwise_adagrad": {"name": "rowwise_adagrad", "lr": 0.1, "eps": 1e-2},
}
DENSE = {"name": "sgd", "lr": 0.5}


class Tolerance(NamedTuple):
    """Largest differences from the reference, in float64."""

    weights: float
    logits: float


# A float16 below 1 is rounded by 2^-11 at most, or by 2^-10 if that is stochastic, at each of three steps; a logit adds
# up some dozens of products of such numbers.
ROW_TOLERANCES = {"fp32": Tolerance(TOLERANCE, TOLERANCE), "fp16": Tolerance(4e-3, 3e-2)}
# The last three steps of the first epoch, padding in the last of them among them.
FIRST_STEP = 6


class RowWiseAdagrad:
    """One accumulator for each row of a shard: the mean of the squared gradients over the shard's columns.

    The rule of Duchi et al. 2011 with the mean in place of each square, in plain tensors.
    """

    def __init__(self, reference: ReferenceDeepFM, *, columns: int, lr: float, eps: float) -> None:
        self._tables = [(reference.factors[name], reference.first_order[name]) for name in reference.factors]
        self._sums: list[list[torch.Tensor | float]] = [[0.0] * (8 // columns) for _ in self._tables]
        self._columns, self._lr, self._eps = columns, lr, eps

    def zero_grad(self) -> None:
        for factors, first_order in self._tables:
            factors.grad = first_order.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for (factors, first_order), sums in zip(self._tables, self._sums, strict=True):
            assert factors.grad is not None
            assert first_order.grad is not None
            gradient = torch.cat([factors.grad, first_order.grad.unsqueeze(1)], 1)
            parts = []
            for shard, part in enumerate(gradient.split(self._columns, dim=1)):
                sums[shard] = sums[shard] + part.square().mean(1, keepdim=True)
                parts.append(self._lr * part / (torch.as_tensor(sums[shard]).sqrt() + self._eps))
            update = torch.cat(parts, 1)
            factors -= update[:, :-1]
            first_order -= update[:, -1]


def on_two_hosts(worker: Worker, configs: dict[str, TrainConfig], folder: str) -> Any:
    """As :func:`train_all`, with the ranks as if half of them were on another host."""
    local_world_size = worker.world_size // 2
    # TorchRec asks the environment which ranks share a host.
    os.environ.update(LOCAL_WORLD_SIZE=str(local_world_size), LOCAL_RANK=str(worker.rank % local_world_size))
    local_rank = worker.rank % local_world_size
    return train_all(
        dataclasses.replace(worker, local_world_size=local_world_size, local_rank=local_rank), configs, folder
    )


UNEVEN = ((0, 2), (1, 2), (0, 1))
"""(local rank, ranks of its host) of three ranks on two hosts."""


def on_uneven_hosts(worker: Worker, configs: dict[str, TrainConfig], folder: str) -> Any:
    """As :func:`train_all`, and how one that goes by hosts is refused there."""
    local_rank, local_world_size = UNEVEN[worker.rank]
    os.environ.update(LOCAL_WORLD_SIZE=str(local_world_size), LOCAL_RANK=str(local_rank))
    here = dataclasses.replace(worker, local_world_size=local_world_size, local_rank=local_rank)
    refused = configs.pop("refused")
    return refusals(here, [refused]), train_all(here, configs, folder)


def train_all(worker: Worker, configs: dict[str, TrainConfig], folder: str) -> dict[str, tuple[set[str], list[Step]]]:
    """Trains each config for a few steps; returns the sharding types in its plan and what was seen."""
    return {name: train(worker, config, Path(folder, name)) for name, config in configs.items()}


def train(worker: Worker, config: TrainConfig, folder: Path) -> tuple[set[str], list[Step]]:
    job = build(config, worker)
    folder.mkdir(exist_ok=True)
    state.write(model_state(job.assembled.model).tensors, folder / "before")
    pipeline = job.pipeline()
    steps: list[Step] = []
    with (
        job.train_loader.batches(FIRST_STEP, FIRST_STEP + STEPS) as batches,
        job.train_loader.batches(FIRST_STEP, FIRST_STEP + STEPS) as copies,
    ):
        for step in range(FIRST_STEP, FIRST_STEP + STEPS):
            job.optimizers.set_learning_rates(step)
            (logits, _, weights), _ = pipeline.step(batches)
            job.assembled.replicas.step_done(step + 1)
            ids, dense, labels = rows_of(next(copies))
            steps.append(Step(ids, dense, labels, logits[weights > 0].double()))
    state.write(model_state(job.assembled.model).tensors, folder / "after")
    return {table.sharding_type for table in job.assembled.plan}, steps


def sharded(
    make_config: Make, sharding: str, optimizer: str, *, more: dict[str, Any] | None = None, **of_sharding: Any
) -> TrainConfig:
    rules = [{"match": "*", "types": [sharding], "min_partition": COLUMNS if sharding in CUTS_COLUMNS else None}]
    # The dimension is 7, so that a row holds 8 numbers and none is padding.
    return make_config(
        sharding={"types": [sharding], "tables": rules, **of_sharding},
        optimizer={"sparse": SPARSE[optimizer], "dense": DENSE},
        **(more or {}),
    )


def reference_optimizers(reference: ReferenceDeepFM, optimizer: str, sharding: str) -> list[Any]:
    settings = {key: value for key, value in SPARSE[optimizer].items() if key != "name"}
    dense = torch.optim.SGD(reference.dense(), lr=0.5)
    if optimizer == "rowwise_adagrad":
        # By design of the kernel, a row that is cut has an accumulator for each part.
        columns = COLUMNS if sharding in CUTS_COLUMNS else 8
        return [RowWiseAdagrad(reference, columns=columns, **settings), dense]
    rules: dict[str, Any] = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad}
    return [rules[optimizer](reference.tables(), **settings), dense]


@pytest.mark.parametrize("optimizer", SPARSE)
def test_every_sharding_type_and_row_precision_matches_the_reference(
    optimizer: str, make_config: Make, tmp_path: Path
) -> None:
    configs = {
        (sharding, rows): sharded(make_config, sharding, optimizer, more={"precision": {"tables": rows}})
        for rows in ROW_TOLERANCES
        for sharding in TYPES
    }
    named = {f"{sharding}-{rows}": config for (sharding, rows), config in configs.items()}
    ranks = results_of(run_ranks(2, train_all, named, str(tmp_path)))
    for sharding, rows in configs:
        assert ranks[0][f"{sharding}-{rows}"][0] == {sharding}
    for rows, tolerance in ROW_TOLERANCES.items():
        of_rows = {f"{sharding}-{rows}": configs[sharding, rows] for sharding in TYPES}
        compare(ranks, of_rows, tmp_path, optimizer, tolerance=tolerance)


def test_the_matrix_holds_every_optimizer_that_the_cpu_has_and_the_others_are_refused(make_config: Make) -> None:
    schema = parse_schema(SCHEMA, where="test")
    for name in SPARSE_OPTIMIZERS:
        config = make_config(optimizer={"sparse": {"name": name}})
        settings = table_settings(schema, config.optimizer)
        refused = pytest.raises(ConfigError, match=f"is '{name}', which FBGEMM's CPU kernels do not have; use")
        with nullcontext() if name in SPARSE else refused:
            check_table_optimizers(settings, config.sharding, config.precision, device_type="cpu")


def test_a_grid_over_hosts_matches_the_reference(make_config: Make, tmp_path: Path) -> None:
    configs = {"grid_shard": sharded(make_config, "grid_shard", "rowwise_adagrad")}
    ranks = results_of(run_ranks(4, on_two_hosts, configs, str(tmp_path)))
    assert ranks[0]["grid_shard"][0] == {"grid_shard"}
    compare(ranks, configs, tmp_path, "rowwise_adagrad")


def test_hosts_of_unequal_size_match_the_reference_or_are_refused(make_config: Make, tmp_path: Path) -> None:
    thirds = {"data": {"lanes": 12}, "global_batch_size": 24}
    configs = {
        sharding: sharded(make_config, sharding, "rowwise_adagrad", more=thirds)
        for sharding in ("table_wise", "row_wise")
    }
    refused = sharded(make_config, "table_row_wise", "rowwise_adagrad", more=thirds)
    outcomes = results_of(run_ranks(3, on_uneven_hosts, {**configs, "refused": refused}, str(tmp_path)))
    for messages, _ in outcomes:
        assert messages == [
            "sharding.types: table_row_wise goes by hosts, which must all have as many ranks, numbered host by host, "
            "but the ranks of this job are on hosts of 2, 2, 1; use the same --nproc_per_node on all hosts, or "
            "table_wise, row_wise, column_wise and data_parallel without groups."
        ]
    compare([trained for _, trained in outcomes], configs, tmp_path, "rowwise_adagrad")


def compare(
    ranks: list[Any],
    configs: dict[str, TrainConfig],
    folder: Path,
    optimizer: str,
    *,
    tolerance: Tolerance = ROW_TOLERANCES["fp32"],
) -> None:
    """Logits of each step, and the weights at the end."""
    for name, config in configs.items():
        reference = reference_from(tensors_of(folder / name / "before"), config)
        optimizers = reference_optimizers(reference, optimizer, config.sharding.types[0])
        for step in range(STEPS):
            seen = [rank[name][1][step] for rank in ranks]
            step_reference(reference, optimizers, seen, config.global_batch_size, tolerance=tolerance.logits)
        trained = reference_from(tensors_of(folder / name / "after"), config)
        for ours, expected in zip(trained.parameters(), reference.parameters(), strict=True):
            assert torch.allclose(ours, expected, atol=tolerance.weights, rtol=0), name


def test_lists_keep_their_pooling_beside_a_mean_that_is_cut_by_rows(
    make_config: Make, click_log: Path, tmp_path: Path
) -> None:
    lists = {"column": "tags", "kind": "id", "num_embeddings": 20, "max_length": 4}
    features = [{"name": f"tags_{pooling}", "pooling": pooling, **lists} for pooling in ("sum", "mean")]
    schema = {**SCHEMA, "sparse": [*SCHEMA["sparse"], *features]}
    (click_log / "schema.yaml").write_text(yaml.safe_dump(schema), encoding="utf-8")
    rule = {"match": "tags", "types": ["row_wise"]}
    shardings = {"whole": {"types": ["table_wise"]}, "mixed": {"types": ["table_wise"], "tables": [rule]}}
    configs = {name: make_config(sharding=sharding) for name, sharding in shardings.items()}
    ranks = results_of(run_ranks(2, train_all, configs, str(tmp_path)))
    assert ranks[0]["mixed"][0] == {"table_wise", "row_wise"}
    # Tables on one rank each are compared with the reference above.
    for rank in ranks:
        for mixed, whole in zip(rank["mixed"][1], rank["whole"][1], strict=True):
            torch.testing.assert_close(mixed.logits, whole.logits, atol=TOLERANCE, rtol=0)


def test_half_precision_communication_rounds_and_no_more(make_config: Make, tmp_path: Path) -> None:
    comms = {"fp32": {}, "forward": {"forward": "fp16"}, "both": {"forward": "fp16", "backward": "fp16"}}
    configs = {
        f"{sharding}-{name}": sharded(make_config, sharding, "sgd", comms=setting)
        for sharding in ("table_wise", "row_wise")
        for name, setting in comms.items()
    }
    results_of(run_ranks(2, train_all, configs, str(tmp_path)))
    for sharding in ("table_wise", "row_wise"):
        exact = tensors_of(tmp_path / f"{sharding}-fp32" / "after")
        rounded = [tensors_of(tmp_path / f"{sharding}-{name}" / "after") for name in ("forward", "both")]
        # Half precision has 11 bits: values below 2 are moved by 2^-11 at most, at each of the three steps and ways.
        for tensors in rounded:
            assert all(torch.allclose(tensors[key], exact[key], atol=5e-3, rtol=0) for key in exact)
        tables = [key for key in exact if key.startswith("tables/")]
        assert any(not torch.equal(rounded[0][key], exact[key]) for key in tables)
        assert any(not torch.equal(rounded[1][key], rounded[0][key]) for key in tables)


def refusals(worker: Worker, configs: list[TrainConfig]) -> list[str]:
    messages = []
    for config in configs:
        try:
            build(config, worker)
        except ConfigError as error:
            messages.append(str(error))
    return messages


def test_what_the_cpu_cannot_do_is_refused_before_training(make_config: Make) -> None:
    refused = {
        "fused_uvm need a GPU, and this job is on cpu": {"kernels": ["fused", "fused_uvm"]},
        "fused_uvm_caching need a GPU": {"tables": [{"match": "user", "kernels": ["fused_uvm_caching"]}]},
        "sharding.comms: bf16 is not to be had on cpu; use one of fp32, fp16.": {"comms": {"forward": "bf16"}},
        "sharding.comms: fp8 is not to be had on cpu": {"comms": {"backward": "fp8"}},
        "matches no table. Did you mean 'user'? Known names: site, user": {"tables": [{"match": "usr"}]},
        "sharding.cache_load_factor is given, but no table may have a cache": {"cache_load_factor": 0.5},
    }
    configs = [make_config(sharding=sharding) for sharding in refused.values()]
    (messages,) = results_of(run_ranks(1, refusals, configs))
    assert len(messages) == len(refused)
    for part, message in zip(refused, messages, strict=True):
        assert part in message
