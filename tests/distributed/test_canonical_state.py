"""A checkpoint does not tell how its tables were sharded: any sharding on any world size continues from it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchrec.distributed.types import ShardedTensor

from tests.checkpoints import assert_equal_bits, tensors_of
from tests.ranks import results_of, run_ranks
from trainer.checkpoint import state
from trainer.checkpoint.canonical import training_state
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.errors import CheckpointError, PeerError
from trainer.job import Job, build

pytestmark = pytest.mark.distributed

logger = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]

FUSED = ("sgd", "adagrad", "rowwise_adagrad")
TARGETS = ("table_wise", "row_wise", "column_wise", "grid_shard", "data_parallel")
SAVED_AGAIN = ("column_wise", "data_parallel")
STEPS = 3


@pytest.fixture
def config(make_config: Callable[..., TrainConfig], tmp_path: Path) -> Callable[[str, str], TrainConfig]:
    """A sharding type and an optimizer of tables to a config; rows are wide enough for two shards of columns."""

    def make(sharding: str, optimizer: str) -> TrainConfig:
        return make_config(
            run_dir=tmp_path / "run",
            global_batch_size=24,
            data={"lanes": 12},
            model={"embedding_dim": 255, "heads": {"linear": {}, "fm": {}, "dnn": {"layers": [4]}}},
            sharding={"types": [sharding]},
            optimizer={"sparse": {"name": optimizer}},
        )

    return make


def trained(config: TrainConfig, worker: Worker) -> Job:
    job = build(config, worker)
    pipeline = job.pipeline()
    with job.train_loader.batches(0, STEPS) as batches:
        for step in range(STEPS):
            job.optimizers.set_learning_rates(step)
            job.assembled.step_context.advance(step)
            outputs, _ = pipeline.step(batches)
            job.assembled.replicas.step_done(step + 1)
            job.metrics.update(*outputs)
    return job


def save(job: Job, path: Path) -> None:
    state.write(training_state(job.assembled.model, job.optimizers, job.metrics.state()).tensors, path)


def train_and_save(worker: Worker, configs: dict[str, TrainConfig], folder: Path) -> list[dict[str, Any]]:
    """Saves each; returns what this rank's kernels hold, as TorchRec tells it."""
    held = []
    for name, config in configs.items():
        job = trained(config, worker)
        save(job, folder / name)
        held.append(sums_of_shards(job))
    return held


def sums_of_shards(job: Job) -> dict[str, list[tuple[int, torch.Tensor]]]:
    """Table to (offset, values) of the first moment's shards."""
    return {
        name.split(".")[-2].removeprefix("t_"): [
            (shard.metadata.shard_offsets[0], shard.tensor.clone())
            for value in moments.values()
            for shard in value.local_shards()
        ]
        for name, moments in job.optimizers.fused.state_dict()["state"].items()
    }


def load_all(worker: Worker, cases: list[tuple[str, TrainConfig]], folder: Path) -> list[bool]:
    """Loads each case, compares what TorchRec and torch then hold with the saved bits, and saves it again."""
    saved = {name: tensors_of(folder / name) for name, _ in cases}
    outcomes = []
    for name, config in cases:
        job = build(config, worker)
        assert not holds(job, saved[name]), "a fresh model equals the trained one, so that equality shows nothing"
        state.restore_training(folder / name, job.assembled.model, job.optimizers, job.metrics)
        outcomes.append(holds(job, saved[name]))
        if config.sharding.types[0] in SAVED_AGAIN:
            save(job, folder / f"again-{worker.world_size}-{config.sharding.types[0]}-{name}")
    return outcomes


def holds(job: Job, saved: Tensors) -> bool:
    """Whether this rank's shards and replicas equal their place in the saved tensors, bit for bit."""
    equal = []
    for name, value in job.assembled.model.state_dict().items():
        table = name.split(".")[-2].removeprefix("t_") if "embedding_bags" in name else None
        equal.append(shards_equal(value, saved[f"tables/{table}/weight" if table else f"dense/{name}"]))
    for optimizer in (job.optimizers.fused, job.optimizers.replicated, job.optimizers.dense):
        for name, moments in optimizer.state_dict()["state"].items() if optimizer else ():
            table = name.split(".")[-2].removeprefix("t_") if "embedding_bags" in name else None
            for moment, value in moments.items():
                moment = {f"t_{table}.momentum1": "sum"}.get(moment, moment)
                if table and moment == "step" and f"tables/{table}/sum" in saved:
                    continue  # torch's Adagrad counts what it does not use
                equal.append(
                    shards_equal(value, saved[f"tables/{table}/{moment}" if table else f"dense/{name}/{moment}"])
                )
    return all(equal)


def shards_equal(value: torch.Tensor, expected: torch.Tensor) -> bool:
    if not isinstance(value, ShardedTensor):
        return torch.equal(value.reshape(expected.shape), expected)
    for shard in value.local_shards():
        offsets, sizes = shard.metadata.shard_offsets, shard.metadata.shard_sizes
        # Row-wise sums of several shards of columns lie behind each other, each as long as the table.
        first = offsets[0] % len(expected) if expected.dim() == 1 and sizes[0] else 0
        box = (
            [slice(first, first + sizes[0])]
            if expected.dim() == 1
            else [slice(offset, offset + size) for offset, size in zip(offsets, sizes, strict=True)]
        )
        if not torch.equal(shard.tensor, expected[tuple(box)]):
            return False
    return True


def test_tables_saved_under_table_wise_load_under_any_sharding_on_any_world_size(
    config: Callable[[str, str], TrainConfig], tmp_path: Path
) -> None:
    sources = {optimizer: config("table_wise", optimizer) for optimizer in FUSED}
    sources["adam"] = config("data_parallel", "adam")
    results_of(run_ranks(2, train_and_save, sources, tmp_path))
    cases = [(optimizer, config(sharding, optimizer)) for optimizer in FUSED for sharding in TARGETS]
    cases.append(("adam", config("data_parallel", "adam")))

    outcomes = {
        world_size: [
            all(case) for case in zip(*results_of(run_ranks(world_size, load_all, cases, tmp_path)), strict=True)
        ]
        for world_size in (1, 3, 4)
    }
    logger.info("| optimizer | saved on 2 ranks | loaded under | on 1 | on 3 | on 4 ranks |")
    for number, (optimizer, target) in enumerate(cases):
        told = ["equal" if outcomes[world_size][number] else "DIFFERS" for world_size in (1, 3, 4)]
        saved_as = sources[optimizer].sharding.types[0]
        logger.info("| %s | %s | %s | %s |", optimizer, saved_as, target.sharding.types[0], " | ".join(told))
    assert all(all(equal) for equal in outcomes.values())
    # What was loaded is saved as what it was.
    for optimizer in sources:
        saved = tensors_of(tmp_path / optimizer)
        for again in tmp_path.glob(f"again-*-{optimizer}"):
            assert_equal_bits(tensors_of(again), saved)


def test_column_shards_row_sums_are_stored_as_their_mean_by_width(
    config: Callable[[str, str], TrainConfig], tmp_path: Path
) -> None:
    columns = config("column_wise", "rowwise_adagrad")
    ranks = results_of(run_ranks(2, train_and_save, {"columns": columns}, tmp_path))
    saved = tensors_of(tmp_path / "columns")
    for table, rows in {"site": 40, "user": 11, "row_id": 1000, "tags": 20}.items():
        shards = [tensor for (held,) in ranks for _, tensor in held[table]]
        assert [len(shard) for shard in shards] == [rows, rows], "two shards of 128 columns"
        assert not torch.equal(shards[0], shards[1])
        expected = torch.stack(shards).double().mean(0).float()
        assert torch.equal(saved[f"tables/{table}/sum"], expected)
    assert all(all(rank) for rank in results_of(run_ranks(2, load_all, [("columns", columns)], tmp_path)))
    assert_equal_bits(tensors_of(tmp_path / "again-2-column_wise-columns"), saved)


def load_into(worker: Worker, configs: list[TrainConfig], path: Path) -> list[str]:
    """The refusals."""
    messages = []
    for config in configs:
        job = build(config, worker)
        with pytest.raises((CheckpointError, PeerError)) as refused:
            state.restore_training(path, job.assembled.model, job.optimizers, job.metrics)
        messages.append(str(refused.value))
    return messages


def test_missing_and_extra_keys_and_other_shapes_are_refused_on_all_ranks_by_name(
    config: Callable[[str, str], TrainConfig], tmp_path: Path
) -> None:
    results_of(
        run_ranks(1, train_and_save, {"sgd": config("row_wise", "sgd"), "ada": config("row_wise", "adagrad")}, tmp_path)
    )
    deeper = config("row_wise", "adagrad")
    deeper.model.heads["dnn"] = {"layers": [4, 3]}
    for messages in results_of(run_ranks(2, load_into, [config("row_wise", "adagrad"), deeper], tmp_path / "sgd")):
        missing = ", ".join(f"tables/{table}/sum" for table in ("row_id", "site", "tags", "user"))
        assert f"this run needs {missing}, which the checkpoint does not hold" in messages[0]
        assert re.search(r"needs dense/head_sum.* and \d+ more, which the checkpoint does not hold", messages[1])
        assert ".weight is 1 x 4 in the checkpoint and 3 x 4 here" in messages[1]
    for messages in results_of(run_ranks(2, load_into, [config("table_wise", "sgd"), deeper], tmp_path / "ada")):
        assert "the checkpoint holds tables/row_id/sum, " in messages[0]
        assert "for which this run has no place" in messages[0]
        assert "this run needs dense/head_sum.heads.dnn." in messages[1]
