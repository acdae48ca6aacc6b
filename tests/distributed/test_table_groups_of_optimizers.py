"""Tables with optimizers and rates of their own, against torch's in an unsharded reference, and across a resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import assert_equal_bits, tensors_of
from tests.distributed.test_sharded_equals_unsharded import (
    STEPS,
    TOLERANCE,
    Step,
    reference_from,
    step_reference,
    train_and_record,
)
from tests.ranks import results_of, run_ranks
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.errors import CheckpointError
from trainer.loop import Result, train
from trainer.lr_schedule import lr_factor

pytestmark = pytest.mark.distributed

Make = Callable[..., TrainConfig]

EPS = 1e-2
DENSE = {"name": "sgd", "lr": 0.5}
# Tables of one rule lie in one kernel; of all that is not named, sparse tells.
FUSED = {
    "sharding": {"types": ["table_wise", "row_wise"], "tables": [{"match": "user", "types": ["data_parallel"]}]},
    "tables": [{"match": "*", "lr": 0.3}, {"match": "*i*", "name": "sgd", "lr": 0.2}, {"match": "user", "lr": 0.4}],
    "kinds": {
        "site": (torch.optim.SGD, {"lr": 0.2}),
        "user": (torch.optim.Adagrad, {"lr": 0.4, "eps": EPS}),
        "row_id": (torch.optim.SGD, {"lr": 0.2}),
        "tags": (torch.optim.Adagrad, {"lr": 0.3, "eps": EPS}),
    },
}
REPLICATED = {
    "sharding": {"types": ["data_parallel"]},
    "tables": [
        {"match": "user", "name": "adam", "weight_decay": 0.2, "weight_decay_mode": "decoupled", "beta1": 0.5},
        {"match": "tags", "name": "adam", "weight_decay": 0.2, "beta2": 0.9},
        {"match": "row_id", "weight_decay": 0.05, "lr": 0.2},
    ],
    "kinds": {
        "site": (torch.optim.Adagrad, {"lr": 0.1, "eps": EPS}),
        "user": (torch.optim.AdamW, {"lr": 0.1, "eps": EPS, "weight_decay": 0.2, "betas": (0.5, 0.999)}),
        "row_id": (torch.optim.Adagrad, {"lr": 0.2, "eps": EPS, "weight_decay": 0.05}),
        "tags": (torch.optim.Adam, {"lr": 0.1, "eps": EPS, "weight_decay": 0.2, "betas": (0.9, 0.9)}),
    },
}


def grouped(make_config: Make, case: dict[str, Any], **more: Any) -> TrainConfig:
    sparse = {"name": "adagrad", "lr": 0.1, "eps": EPS}
    schedule = {"name": "step", "milestones": [7, 8], "gamma": 0.5}
    optimizer = {"sparse": sparse, "tables": case["tables"], "dense": DENSE, "schedule": schedule}
    return make_config(sharding=case["sharding"], optimizer=optimizer, **more)


@pytest.mark.parametrize("case", [FUSED, REPLICATED], ids=["fused", "replicated"])
def test_each_table_steps_by_its_own_rule_and_all_by_the_schedule(
    case: dict[str, Any], make_config: Make, tmp_path: Path
) -> None:
    config = grouped(make_config, case)
    first_step = 6
    ranks: list[list[Step]] = results_of(run_ranks(2, train_and_record, config, str(tmp_path), first_step))
    reference = reference_from(tensors_of(tmp_path / "before"), config)
    optimizers = [
        kind([reference.factors[table], reference.first_order[table]], **settings)
        for table, (kind, settings) in case["kinds"].items()
    ]
    optimizers.append(torch.optim.SGD(reference.dense(), lr=0.5))
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    for step in range(STEPS):
        factor = lr_factor(config.optimizer.schedule, first_step + step, 18)
        assert factor == 0.5**step
        for rate, group in zip(rates, (g for o in optimizers for g in o.param_groups), strict=True):
            group["lr"] = rate * factor
        step_reference(reference, optimizers, [rank[step] for rank in ranks], config.global_batch_size)

    trained = reference_from(tensors_of(tmp_path / "after"), config)
    for ours, expected in zip(trained.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, atol=TOLERANCE, rtol=0)


def run_training(worker: Worker, configs: list[TrainConfig]) -> list[Result]:
    return [train(config, worker) for config in configs]


def test_a_run_with_rules_continues_bit_for_bit_and_on_other_kernels(make_config: Make, tmp_path: Path) -> None:
    names = [{"match": "user", "name": "sgd"}, {"match": "tags", "name": "rowwise_adagrad"}]
    case = {"tables": names, "sharding": {"types": ["table_wise"]}}
    whole = grouped(make_config, case, run_dir=tmp_path / "whole")
    begun = grouped(make_config, case, run_dir=tmp_path / "parts", max_steps=7)
    continued = grouped(make_config, case, run_dir=tmp_path / "parts")
    uninterrupted, _, resumed = results_of(run_ranks(2, run_training, [whole, begun, continued]))[0]
    assert resumed.resumed_at == 7
    saved = tensors_of(Path(uninterrupted.checkpoint))
    assert_equal_bits(tensors_of(Path(resumed.checkpoint)), saved)
    assert sorted(name for name in saved if name.startswith("tables/") and name.endswith("/sum")) == [
        f"tables/{table}/sum" for table in ("row_id", "site", "tags")
    ]
    assert saved["tables/tags/sum"].shape == (20,)

    # Other patterns that lead to the same optimizers, and other rates, under another sharding.
    case = {
        "tables": [{"match": "u*", "name": "sgd", "lr": 1.0}, {"match": "t*", "name": "rowwise_adagrad"}],
        "sharding": {"types": ["data_parallel"]},
    }
    moved = grouped(make_config, case, run_dir=tmp_path / "parts", max_steps=19, epochs=3)
    ((result,),) = results_of(run_ranks(1, run_training, [moved]))
    assert result.resumed_at == 18
    other = grouped(make_config, {**case, "tables": []}, run_dir=tmp_path / "parts", epochs=3)
    (error,) = run_ranks(1, run_training, [other])
    assert isinstance(error, CheckpointError)
    assert "optimizer.tables.user: 'sgd' in the checkpoint, 'absent' here" in str(error)
