"""A loss that is not finite on one rank: no rank trains on the step, whatever the optimizers are."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data.batch import Batch
from data.places import Place
from tests.checkpoints import assert_equal_bits, tensors_of
from tests.poison import poison
from tests.ranks import results_of, run_ranks
from trainer.checkpoint import state
from trainer.checkpoint.canonical import training_state
from trainer.checkpoint.parts import whole
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.job import build
from trainer.loop import Result, train
from trainer.nonfinite import NonFiniteError
from trainer.pipeline import DeferringPipeline
from trainer.timing.clock import StageClock

pytestmark = pytest.mark.distributed

POISONED_STEP = 3
RANK_ONE = (2, 3)  # its lanes, of four lanes on two ranks


@pytest.fixture
def poisoned(make_config: Callable[..., TrainConfig]) -> Place:
    """A row that only rank 1 serves in step 3."""
    return poison(make_config(), POISONED_STEP, RANK_ONE)


def count_pass(module: torch.nn.Module, *_: object) -> None:
    """A forward pass that leaves something behind, as running statistics do."""
    assert isinstance(module.passes, torch.Tensor)
    module.passes += 1


def step_and_write(
    worker: Worker, config: TrainConfig, folder: str, *, deferring: bool = False
) -> list[tuple[bool, bool]]:
    """Writes the whole state around the poisoned step; for each step: was it taken, were the logits finite here."""
    job = build(config, worker)
    dense = job.assembled.model.module.head_sum
    dense.register_buffer("passes", torch.zeros(1))
    dense.register_forward_hook(count_pass)
    pipeline = job.pipeline()
    if deferring:
        # What a prefetching pipeline does, which runs on GPUs alone, in the place of the one that overrides a method.
        model, optimizer = job.assembled.model, job.optimizers.combined
        pipeline._pipeline = DeferringPipeline(model, optimizer, worker.device, StageClock(worker.device), None, True)
    told = []
    with job.train_loader.batches(0, POISONED_STEP + 2) as batches:
        feed: Iterator[Batch] = batches
        for step in range(POISONED_STEP + 2):
            job.optimizers.set_learning_rates(step)
            if deferring and step in (0, 2):
                # No batch may be in flight at an evaluation (here after two steps): the next come from another feed.
                feed = itertools.islice(batches, 2 if step == 0 else None)
            outputs, trained = pipeline.step(feed)
            told.append((trained, bool(torch.isfinite(outputs[0]).all())))
            tensors = training_state(job.assembled.model, job.optimizers, torch.zeros(1)).tensors
            state.write({**tensors, "passes": whole(dense.passes)}, Path(folder, str(step)))
    return told


@pytest.mark.parametrize(
    ("sharding", "sparse", "dense"),
    [("row_wise", "adagrad", "adam"), ("table_wise", "rowwise_adagrad", "adagrad"), ("data_parallel", "adam", "adamw")],
)
def test_a_loss_that_is_nan_on_one_rank_leaves_every_bit_of_all_ranks_as_it_was(
    sharding: str, sparse: str, dense: str, poisoned: Place, make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = make_config(
        sharding={"types": [sharding]},
        optimizer={"sparse": {"name": sparse}, "dense": {"name": dense, "weight_decay": 0.1, "max_grad_norm": 1.0}},
    )
    told = results_of(run_ranks(2, step_and_write, config, str(tmp_path)))
    fine, refused_here, refused_elsewhere = (True, True), (False, False), (False, True)
    assert told == [
        [fine, fine, fine, refused_elsewhere, fine],
        [fine, fine, fine, refused_here, fine],
    ]
    before, after, later = (tensors_of(tmp_path / str(POISONED_STEP + offset)) for offset in (-1, 0, 1))
    assert_equal_bits(before, after)
    assert {name for name in later if "heads.dnn" in name} <= {n for n in later if not torch.equal(later[n], after[n])}
    assert all(torch.isfinite(tensor).all() for tensor in later.values())


def step_and_write_both(worker: Worker, config: TrainConfig, folders: list[str]) -> list[list[tuple[bool, bool]]]:
    return [step_and_write(worker, config, folder, deferring=n > 0) for n, folder in enumerate(folders)]


def test_the_guard_of_a_prefetching_pipeline_does_the_same(
    poisoned: Place, make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    folders = [tmp_path / "overridden", tmp_path / "deferred"]
    for folder in folders:
        folder.mkdir()
    told = results_of(run_ranks(2, step_and_write_both, make_config(), [str(folder) for folder in folders]))
    assert all(overridden == deferred for overridden, deferred in told)
    assert [trained for trained, _ in told[0][1]] == [True, True, True, False, True]
    for step in range(POISONED_STEP + 2):
        assert_equal_bits(*(tensors_of(folder / str(step)) for folder in folders))


def run_training(worker: Worker, config: TrainConfig) -> Result:
    return train(config, worker)


def test_raise_ends_all_ranks_with_the_rows_and_the_command_to_look_at_them(
    poisoned: Place, make_config: Callable[..., TrainConfig]
) -> None:
    config = make_config(checkpoint={"every_steps": 2})
    errors = run_ranks(2, run_training, config)
    assert [type(error) for error in errors] == [NonFiniteError] * 2
    first, second = map(str, errors)
    assert first == second
    assert first.startswith(
        f"epoch 1, step 4: the loss is not finite. Rows with such a logit: 1, the first on rank 1: "
        f"{poisoned.group.path}, row group {poisoned.group.index}, row {poisoned.row}."
    )
    lines = re.findall(r"^  lane (\d): .*rows? .*$", first, re.MULTILINE)
    assert lines == ["0", "1", "2", "3"]
    newest = f"{config.checkpoint.directory}/step-00000002"
    assert f"Look at them with: python launch/replay.py checkpoint={newest} step=4" in first
    assert Path(newest).is_dir()


def test_before_the_first_checkpoint_the_command_names_the_run(
    poisoned: Place, make_config: Callable[..., TrainConfig]
) -> None:
    config = make_config()
    (error,) = run_ranks(1, run_training, config)
    assert f"python launch/replay.py run_dir={config.run_dir} step=4" in str(error)


def test_a_learning_rate_that_explodes_is_found_before_it_is_written(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config(
        optimizer={"sparse": {"name": "sgd", "lr": 1e30}, "dense": {"name": "sgd", "lr": 1e30}},
        checkpoint={"every_steps": 1},
    )
    errors = run_ranks(2, run_training, config)
    assert [type(error) for error in errors] == [NonFiniteError] * 2
    assert str(errors[0]).startswith("epoch 1, step 2: the loss is not finite. Rows with such a logit: ")
    saved = tensors_of(Path(config.checkpoint.directory, "step-00000001"))
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())


def test_ignore_does_not_look(poisoned: Place, make_config: Callable[..., TrainConfig]) -> None:
    config = make_config(on_nonfinite="ignore", max_steps=POISONED_STEP + 2)
    result = results_of(run_ranks(2, run_training, config))[0]
    assert result.steps == POISONED_STEP + 2
    assert not torch.isfinite(tensors_of(Path(result.checkpoint))["tables/user/weight"]).all()


def test_skip_leaves_the_step_out_counts_it_and_shows_it(
    poisoned: Place, make_config: Callable[..., TrainConfig]
) -> None:
    config = make_config(on_nonfinite="skip", max_nonfinite_steps=2, logging={"every_steps": 1})
    result = results_of(run_ranks(2, run_training, config))[0]
    assert result.steps == 18
    events = EventAccumulator(f"{config.run_dir}/tensorboard", size_guidance={"scalars": 0})
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("train/nonfinite_steps")]
    # The row comes once an epoch of nine steps.
    assert [value for _, value in shown] == [1, 2]
    assert shown[0][0] == POISONED_STEP + 1
    assert 9 < shown[1][0] <= 18
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    assert sorted(step for step, loss in losses.items() if np.isnan(loss)) == [step for step, _ in shown]


def test_more_steps_than_the_budget_raise_in_whichever_process(
    poisoned: Place, make_config: Callable[..., TrainConfig]
) -> None:
    policy = {"on_nonfinite": "skip", "max_nonfinite_steps": 1}
    results_of(run_ranks(2, run_training, make_config(max_steps=9, **policy)))
    errors = run_ranks(2, run_training, make_config(**policy))
    assert [type(error) for error in errors] == [NonFiniteError] * 2
    assert "This is step 2 that is left out for this reason, more than max_nonfinite_steps allows (1)." in str(
        errors[1]
    )
    assert re.match(r"epoch 2, step \d+: the loss is not finite", str(errors[0]))
