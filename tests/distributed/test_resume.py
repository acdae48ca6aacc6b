"""A run that stops and goes on equals one that never stopped: the same rows, the same bits, the same curve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data.loader import BatchLoader
from tests.checkpoints import assert_equal_bits, tensors_of
from tests.ranks import results_of, run_ranks
from trainer.checkpoint.canonical import is_weight
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.inputs import make_loader, read_dataset, training_order
from trainer.loop import Result, train

pytestmark = pytest.mark.distributed

TOTAL_STEPS = 18
STOP_AT = 5


def run_training(worker: Worker, config: TrainConfig) -> Result:
    return train(config, worker)


def train_on(world_size: int, config: TrainConfig) -> Result:
    result: Result = results_of(run_ranks(world_size, run_training, config))[0]
    return result


def loss_curve(run_dir: str) -> dict[int, float]:
    events = EventAccumulator(f"{run_dir}/tensorboard", size_guidance={"scalars": 0})
    events.Reload()
    return {event.step: event.value for event in events.Scalars("train/loss")}


def with_dropout(make_config: Callable[..., TrainConfig], **changes: object) -> TrainConfig:
    return make_config(model={"heads": {"linear": {}, "fm": {}, "dnn": {"layers": [12, 8], "dropout": 0.3}}}, **changes)


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise"])
def test_same_world_size_continues_bit_for_bit(
    sharding: str, make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    def config(run: str, max_steps: int | None) -> TrainConfig:
        return with_dropout(
            make_config,
            run_dir=tmp_path / run,
            max_steps=max_steps,
            sharding={"types": [sharding]},
            optimizer={"dense": {"max_grad_norm": 1.0}, "schedule": {"name": "cosine", "warmup_steps": 3}},
        )

    whole = train_on(2, config("whole", None))
    train_on(2, config("parts", STOP_AT))
    parts = train_on(2, config("parts", None))

    assert whole.steps == parts.steps == TOTAL_STEPS
    assert parts.resumed_at == STOP_AT
    assert_equal_bits(tensors_of(Path(whole.checkpoint)), tensors_of(Path(parts.checkpoint)))
    assert whole.metrics == parts.metrics
    assert loss_curve(str(tmp_path / "whole")) == loss_curve(str(tmp_path / "parts"))


@pytest.mark.parametrize("world_size", [1, 4])
def test_other_world_size_continues_on_the_same_curve(
    world_size: int, make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    whole = with_dropout(make_config, run_dir=tmp_path / "whole")
    started = with_dropout(make_config, run_dir=tmp_path / "parts", max_steps=STOP_AT)
    continued = with_dropout(make_config, run_dir=tmp_path / "parts")

    expected = train_on(2, whole)
    train_on(2, started)
    result = train_on(world_size, continued)

    assert result.resumed_at == STOP_AT
    curve, expected_curve = loss_curve(continued.run_dir), loss_curve(whole.run_dir)
    assert sorted(curve) == sorted(expected_curve) == list(range(1, TOTAL_STEPS + 1))
    assert max(abs(curve[step] - expected_curve[step]) for step in curve) < 1e-4
    for name, value in result.metrics.items():
        assert value == pytest.approx(expected.metrics[name], abs=1e-4), name
    trained, reference = tensors_of(Path(result.checkpoint)), tensors_of(Path(expected.checkpoint))
    assert trained.keys() == reference.keys()
    weights = [name for name in trained if is_weight(name)]
    assert max((trained[name] - reference[name]).abs().max() for name in weights) < 1e-3


def global_batches(config: TrainConfig, world_size: int) -> list[list[int]]:
    """The row ids of every global batch from the stop on, rank after rank, as the loaders serve them."""
    dataset = read_dataset(config.data, "train")
    order = training_order(dataset, config.data, global_batch_size=config.global_batch_size, seed=config.seed)
    loaders: list[BatchLoader] = [
        make_loader(dataset, order, config.data, Worker(rank, world_size, rank, world_size, torch.device("cpu")))
        for rank in range(world_size)
    ]
    rows: list[list[int]] = [[] for _ in range(STOP_AT, TOTAL_STEPS)]
    for loader in loaders:
        with loader.batches(STOP_AT, TOTAL_STEPS) as batches:
            for step, batch in enumerate(batches):
                rows[step] += batch.sparse["row_id"].values().tolist()
    return rows


def test_global_batches_are_the_same_rows_on_every_world_size(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config()
    on_two = global_batches(config, 2)
    # 133 rows in four lanes of 34: the last lane ends early, in both epochs.
    assert [len(rows) for rows in on_two[:4]] == [16, 16, 15, 6]
    assert global_batches(config, 1) == on_two
    assert global_batches(config, 4) == on_two


def test_a_complete_run_is_only_evaluated_again(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config(epochs=1)
    first = train_on(2, config)
    again = train_on(1, config)
    assert again.resumed_at == again.steps == first.steps
    assert again.samples_per_s is None
    assert again.checkpoint == first.checkpoint
    assert again.metrics == pytest.approx(first.metrics, abs=1e-6)


def test_dropout_draws_something(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    dropped = train_on(1, with_dropout(make_config, run_dir=tmp_path / "dropped", max_steps=2))
    kept = train_on(1, make_config(run_dir=tmp_path / "kept", max_steps=2))
    assert dropped.metrics != kept.metrics
