"""A step in parts is the step: on fused and replicated tables, across a resume, and where the loss is not finite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import assert_equal_bits, tensors_of
from tests.poison import poison
from tests.ranks import results_of, run_ranks
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.loop import Result, train

pytestmark = pytest.mark.distributed

Make = Callable[..., TrainConfig]

TOLERANCE = 2e-6
HEADS = {"linear": {}, "fm": {}, "dnn": {"layers": [12, 8], "dropout": 0.2, "norm": "layer"}}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "fused": {"sharding": {"types": ["table_wise", "row_wise"]}, "sparse": {"name": "adagrad", "eps": 1e-2}},
    "replicated": {
        "sharding": {"types": ["data_parallel"]},
        "sparse": {"name": "adam", "lr": 0.01, "eps": 1e-2, "weight_decay": 0.01},
    },
}


def in_parts(make_config: Make, kind: str, num_parts: int, **more: Any) -> TrainConfig:
    case = OPTIMIZERS[kind]
    return make_config(
        model={"heads": HEADS},
        sharding=case["sharding"],
        optimizer={
            "sparse": case["sparse"],
            "dense": {"name": "sgd", "lr": 0.2, "max_grad_norm": 0.5},
            "accumulate_steps": num_parts,
        },
        **more,
    )


def run_training(worker: Worker, configs: list[TrainConfig]) -> list[Result]:
    return [train(config, worker) for config in configs]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_run_in_parts_is_the_run_and_continues_bit_for_bit(kind: str, make_config: Make, tmp_path: Path) -> None:
    configs = [
        in_parts(make_config, kind, 1, run_dir=tmp_path / "whole"),
        in_parts(make_config, kind, 3, run_dir=tmp_path / "parts"),
        in_parts(make_config, kind, 3, run_dir=tmp_path / "stopped", max_steps=11),
        in_parts(make_config, kind, 3, run_dir=tmp_path / "stopped"),
    ]
    results: list[Result] = results_of(run_ranks(2, run_training, configs))[0]
    # Steps of the optimizer, of the schedule and of the epochs are those of the global batch.
    assert [result.steps for result in results] == [18, 18, 11, 18]
    whole, parts, _, resumed = (tensors_of(Path(result.checkpoint)) for result in results)
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        if name == "metric_sums":
            continue  # bins of scores; the figures are compared below
        torch.testing.assert_close(parts[name], tensor, atol=TOLERANCE, rtol=1e-5, msg=lambda told: f"{name}: {told}")  # noqa: B023
    assert any(not torch.equal(parts[name], whole[name]) for name in whole), "rounded in another order"
    assert_equal_bits(resumed, parts)
    for metric, value in results[0].metrics.items():
        assert results[1].metrics[metric] == pytest.approx(value, abs=1e-4)


def test_nothing_of_a_step_with_a_bad_part_is_trained_on(make_config: Make) -> None:
    config = in_parts(make_config, "fused", 4, checkpoint={"every_steps": 1}, on_nonfinite="skip")
    poison(config, 3, (2, 3))
    assert results_of(run_ranks(2, run_training, [config]))[0][0].steps == 18
    before, after, later = (tensors_of(Path(config.checkpoint.directory, f"step-0000000{step}")) for step in (3, 4, 5))
    assert_equal_bits(before, after)
    assert any(not torch.equal(later[name], after[name]) for name in after if name.startswith("tables/"))
    assert all(torch.isfinite(tensor).all() for tensor in later.values())
