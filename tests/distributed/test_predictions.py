"""A model is looked at on any device, though its run asked for what only GPUs have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ranks import results_of, run_ranks
from trainer.assembly import assemble_to_predict, config_to_predict
from trainer.checkpoint.state import restore_model
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.job import build
from trainer.loop import train
from trainer.replay import logits_of, rebuild
from trainer.table_kernels import table_kernels

pytestmark = pytest.mark.distributed

ON_GPUS_ALONE: list[dict[str, Any]] = [
    {"optimizer": {"sparse": {"name": "adam", "weight_decay": 0.1, "weight_decay_rows": "touched"}}},
    {"optimizer": {"tables": [{"match": "user", "name": "lamb"}]}},
    {"sharding": {"kernels": ["fused", "fused_uvm_caching"], "prefetch": True, "comms": {"forward": "fp8"}}},
    {"sharding": {"group_size": 8, "average_every_steps": 10}},
    {"precision": {"dense": "tf32"}},
    {"compile": "cudagraphs"},
]


def logits_told(worker: Worker, config: TrainConfig, others: list[TrainConfig]) -> list[list[float]]:
    """Of the rows of a step, by the model that was trained, rebuilt by the config of its run and by others."""
    checkpoint = Path(train(config, worker).checkpoint)
    replay = rebuild(config, config.data, 3, None)
    return [logits_of(replay, one, checkpoint, worker).tolist() for one in (config, *others)]


def test_the_model_of_a_run_on_gpus_tells_its_logits_on_a_cpu(make_config: Callable[..., TrainConfig]) -> None:
    others = [make_config(**changes) for changes in ON_GPUS_ALONE]
    ((own, *told),) = results_of(run_ranks(1, logits_told, make_config(max_steps=6), others))
    assert told == [own] * len(others)


def test_on_gpus_the_tables_lie_as_they_did_but_nothing_waits_for_a_step(
    make_config: Callable[..., TrainConfig],
) -> None:
    caching = {"kernels": ["fused", "fused_uvm_caching"], "types": ["column_wise"], "hbm_cap_gib": 8.0}
    steps = {"prefetch": True, "group_size": 2, "average_every_steps": 5}
    config = make_config(sharding={**caching, **steps}, precision={"dense": "tf32"}, compile="cudagraphs")
    there = config_to_predict(config, "cuda")
    assert vars(there.sharding) == vars(make_config(sharding=caching).sharding)
    assert (there.precision.dense, there.compile) == ("tf32", None)


def number_of_states(worker: Worker, config: TrainConfig) -> list[int]:
    """Numbers in the states of the tables' optimizers, in training and where a model is looked at."""
    job = build(config, worker)
    path = Path(train(config, worker).checkpoint)
    looked_at = assemble_to_predict(job.train_loader.schema, config, worker, job.train_loader)
    restore_model(path, looked_at.model)
    kernels = [table_kernels(model) for model in (job.assembled.model, looked_at.model)]
    return [
        sum(s.numel() for kernel in of for states in kernel.split_optimizer_states() for s in states) for of in kernels
    ]


def test_a_model_that_is_looked_at_has_no_states_of_optimizers(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config(optimizer={"sparse": {"name": "adagrad"}}, sharding={"types": ["table_wise"]}, max_steps=2)
    ((in_training, looked_at),) = results_of(run_ranks(1, number_of_states, config))
    assert in_training > 0
    assert looked_at == 0
