"""What a plan says of memory is what the workers of a real run take."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from data.list_lengths import mean_list_lengths
from launch.plan_estimate import estimate
from tests.conftest import SCHEMA
from tests.ranks import results_of, run_ranks
from trainer.config import ClusterConfig, TrainConfig
from trainer.config.plan import PlanConfig
from trainer.distributed import Worker
from trainer.inputs import read_dataset
from trainer.job import Job, build
from trainer.pipeline import TrainPipeline

pytestmark = pytest.mark.distributed

ROWS = {"table_wise": 600_000, "data_parallel": 300_000}
"""Of each of four tables: some hundred MiB on a rank, so that what else moves in the process is little."""


def resident_bytes() -> int:
    """Memory of this process, without what the allocator keeps for later."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def trained(worker: Worker, config: TrainConfig) -> tuple[Job, TrainPipeline]:
    job = build(config, worker)
    pipeline = job.pipeline()
    with job.train_loader.batches(0, 3) as batches:
        for step in range(3):
            job.optimizers.set_learning_rates(step)
            job.assembled.step_context.advance(step)
            pipeline.step(batches)
    return job, pipeline


def growth(worker: Worker, small: TrainConfig, large: TrainConfig) -> int:
    """Bytes that a training takes, once libraries and threads are there."""
    held = [trained(worker, small)]
    held.clear()
    before = resident_bytes()
    held.append(trained(worker, large))
    return resident_bytes() - before


@pytest.mark.parametrize(("sharding", "optimizer"), [("table_wise", "adagrad"), ("data_parallel", "adam")])
def test_planned_memory_is_measured_memory(
    sharding: str, optimizer: str, make_config: Callable[..., TrainConfig], click_log: Path, tmp_path: Path
) -> None:
    path = click_log / "large.yaml"
    sparse = [{**feature, "num_embeddings": ROWS[sharding]} for feature in SCHEMA["sparse"]]
    path.write_text(yaml.safe_dump({**SCHEMA, "sparse": sparse}), encoding="utf-8")
    large = make_config(
        run_dir=tmp_path / "large",
        data={"schema": str(path)},
        model={"embedding_dim": 31, "heads": {"linear": {}, "fm": {}, "dnn": {"layers": [1024, 1024]}}},
        sharding={"types": [sharding]},
        optimizer={"sparse": {"name": optimizer}},
    )
    measured: list[int] = results_of(run_ranks(2, growth, make_config(), large))

    cluster = ClusterConfig(name="here", device="cpu", nodes=1, ranks_per_node=2, ddr_gib=16)
    values = {field.name: getattr(large, field.name) for field in dataclasses.fields(large)}
    # Tables lie where they do by what their lookups cost: the plan has to know of the lists what training knows.
    dataset = read_dataset(large.data, "train")
    lengths = mean_list_lengths(dataset.index.row_groups, dataset.schema)
    plan = estimate(PlanConfig(**values, cluster=cluster), dataset.schema, lengths)
    for rank in range(2):
        resident = sum(int(plan.memory[use][rank]) for use in ("tables", "optimizer", "gradients", "dense"))
        assert resident == pytest.approx(measured[rank], rel=0.15)
