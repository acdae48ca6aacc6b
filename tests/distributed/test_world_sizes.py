"""Every optimizer takes the same steps on 1, 2 and 4 ranks, with the same global batches, padding among them.

``STEPS=200 python -m pytest -o timeout=0 --log-cli-level=INFO tests/distributed/test_world_sizes.py`` takes more
steps, and prints the largest differences; ``EPS=1e-8`` is the eps of the tables' optimizers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import tensors_of
from tests.ranks import results_of, run_ranks
from trainer.checkpoint import state
from trainer.checkpoint.canonical import training_state
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.job import build

pytestmark = pytest.mark.distributed

logger = logging.getLogger(__name__)

STEPS = int(os.environ.get("STEPS", "20"))
WORLD_SIZES = (1, 2, 4)
STEPS_AT_ONCE = 100
"""Of all runs of a process, which has two minutes."""

# Weights are of size 1. Per step the sums of a gradient are rounded in another order; what that comes to is divided
# by the root of a second moment, which an eps well above rounding keeps from turning into steps of full size.
TOLERANCE = 1e-5
EPS = float(os.environ.get("EPS", "1e-2"))
SHARDED = {"types": ["table_wise"], "tables": [{"match": "*s*", "types": ["row_wise"]}]}
REPLICATED = {"types": ["data_parallel"]}
HEADS = {"linear": {}, "fm": {}, "dnn": {"layers": [12, 8], "dropout": 0.1, "norm": "layer"}}
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # tables, dense, more of the optimizer: name to settings
    "sgd / sgd": (SHARDED, {"name": "sgd", "lr": 0.2}, {"name": "sgd", "lr": 0.1}),
    "adagrad / adagrad": (SHARDED, {"name": "adagrad", "lr": 0.05}, {"name": "adagrad", "lr": 0.02}),
    "row-wise adagrad / adam": (SHARDED, {"name": "rowwise_adagrad", "lr": 0.05}, {"name": "adam", "lr": 1e-3}),
    "replicated sgd / sgd": (
        REPLICATED,
        {"name": "sgd", "lr": 0.2, "weight_decay": 1e-3},
        {"name": "sgd", "lr": 0.1, "weight_decay": 1e-3},
    ),
    "replicated row-wise adagrad / adagrad": (
        REPLICATED,
        {"name": "rowwise_adagrad", "lr": 0.05, "weight_decay": 1e-3},
        {"name": "adagrad", "lr": 0.02},
    ),
    "replicated adam / adamw": (
        REPLICATED,
        {"name": "adam", "lr": 1e-2, "weight_decay": 1e-3},
        {"name": "adamw", "lr": 1e-3, "weight_decay": 1e-2},
    ),
    "adagrad / adam, clipped, in parts": (
        SHARDED,
        {"name": "adagrad", "lr": 0.05, "max_grad_value": 0.01},
        {"name": "adam", "lr": 1e-3, "max_grad_norm": 0.3},
    ),
}


@pytest.fixture
def configs(make_config: Callable[..., TrainConfig]) -> dict[str, TrainConfig]:
    """The runs, by name."""
    return {
        name: make_config(
            epochs=-(-STEPS // 9),
            model={"heads": HEADS},
            sharding=sharding,
            optimizer={
                "sparse": {"eps": EPS, **sparse},
                "dense": dense,
                "accumulate_steps": 2 if "parts" in name else 1,
            },
        )
        for name, (sharding, sparse, dense) in RUNS.items()
    }


def train_and_save(worker: Worker, configs: dict[str, TrainConfig], folder: Path) -> None:
    for name, config in configs.items():
        job = build(config, worker)
        pipeline = job.pipeline()
        with job.train_loader.batches(0, STEPS) as batches:
            for step in range(STEPS):
                job.optimizers.set_learning_rates(step)
                job.assembled.step_context.advance(step)
                _, trained = pipeline.step(batches)
                assert trained
        tensors = training_state(job.assembled.model, job.optimizers, torch.zeros(1)).tensors
        state.write(tensors, folder / name.replace("/", "-"))


def far(folder: Path, name: str, world_size: int, kind: str) -> float:
    """The largest difference of a number to what one rank made of it."""
    ours, alone = (tensors_of(folder / str(size) / name.replace("/", "-")) for size in (world_size, 1))
    assert ours.keys() == alone.keys()
    differences = [
        float((tensor.double() - alone[key].double()).abs().max()) for key, tensor in ours.items() if _kind(key) == kind
    ]
    return max(differences, default=0.0)


def _kind(key: str) -> str:
    if key.startswith("tables/"):
        return "tables" if key.endswith("/weight") else "states"
    return "dense" if key.count("/") == 1 else "states"


def test_one_two_and_four_ranks_take_the_same_steps(configs: dict[str, TrainConfig], tmp_path: Path) -> None:
    together = [configs] if STEPS <= STEPS_AT_ONCE else [{name: config} for name, config in configs.items()]
    for world_size in WORLD_SIZES:
        (tmp_path / str(world_size)).mkdir()
        for runs in together:
            results_of(run_ranks(world_size, train_and_save, runs, tmp_path / str(world_size)))
    logger.info("%d steps; largest difference to 1 rank of | tables | dense | optimizer states", STEPS)
    differences = {}
    for name in configs:
        for world_size in WORLD_SIZES[1:]:
            found = {kind: far(tmp_path, name, world_size, kind) for kind in ("tables", "dense", "states")}
            told = " | ".join(f"{value:.1e}" for value in found.values())
            logger.info("| %s | %d ranks | %s |", name, world_size, told)
            differences[name, world_size] = max(found.values())
    assert max(differences.values()) < TOLERANCE, differences
    # The runs are runs: something has moved, and not the same way everywhere.
    tables = [tensors_of(tmp_path / "1" / name.replace("/", "-"))["tables/user/weight"] for name in configs]
    assert all(float((a - b).abs().max()) > 100 * TOLERANCE for i, a in enumerate(tables) for b in tables[:i])
