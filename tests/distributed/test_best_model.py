"""A watched metric lowers the learning rates, ends the run, and chooses the model that it ends with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.checkpoints import assert_equal_bits, tensors_of
from tests.ranks import results_of, run_ranks, train_listening
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.evaluation import read_evaluation
from trainer.loop import Result, train

pytestmark = pytest.mark.distributed

STEPS_PER_EPOCH = 9


def run_training(worker: Worker, config: TrainConfig) -> Result:
    return train(config, worker)


def train_on(world_size: int, config: TrainConfig) -> Result:
    result: Result = results_of(run_ranks(world_size, run_training, config))[0]
    return result


@pytest.fixture
def overfitting(make_config: Callable[..., TrainConfig], click_log: Path) -> Callable[..., TrainConfig]:
    """A run whose validation AUC soon falls; the rows for validation are those of the test split."""

    def make(**changes: Any) -> TrainConfig:
        return make_config(
            epochs=30,
            data={"valid": str(click_log / "test"), "test": str(click_log / "train")},
            monitor={"patience": 3, "lr_factor": 0.5, "use_best": True},
            optimizer={"sparse": {"lr": 0.5}, "dense": {"lr": 0.03}},
            checkpoint={"every_steps": 1000, "keep_last": 1},
            **changes,
        )

    return make


@pytest.fixture
def worsening(make_config: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    """A run at rates that make the model worse from its first steps on, each of which is evaluated."""

    def make(**changes: Any) -> TrainConfig:
        rates = {"sparse": {"name": "sgd", "lr": 2.0}, "dense": {"name": "sgd", "lr": 2.0}}
        monitor = {"metric": "logloss", "use_best": True, **changes.pop("monitor", {})}
        return make_config(eval_every_steps=1, optimizer=rates, monitor=monitor, **changes)

    return make


def curve(result: Result, tag: str) -> dict[int, float]:
    events = EventAccumulator(result.tensorboard)
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_the_run_ends_with_the_best_model_when_patience_is_over(overfitting: Callable[..., TrainConfig]) -> None:
    result = train_on(2, overfitting())
    values = curve(result, "valid/auc")
    assert result.best_step == max(values, key=lambda step: (values[step], -step))
    assert result.best_step < result.steps == result.best_step + 3 * STEPS_PER_EPOCH < 30 * STEPS_PER_EPOCH
    assert result.checkpoint.endswith(f"step-{result.best_step:08d}")
    # The learning rates fell by half at each evaluation that brought no improvement, from the next step on.
    rates, factor, best = curve(result, "learning_rate/dense"), 1.0, 0.0
    for step, value in values.items():
        assert rates[step] == pytest.approx(0.03 * factor)
        factor, best = (factor, value) if value > best else (factor / 2, best)
    # What it ends with is the model of the best step: its figures on the other split are measured once.
    ((at, auc),) = curve(result, "test/auc").items()
    assert (result.split, at) == ("test", result.steps)
    assert result.metrics["auc"] == pytest.approx(auc)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    overfitting: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    whole = train_on(2, overfitting(run_dir=tmp_path / "whole"))
    # Stops of all kinds: in mid-epoch, and between the checkpoint of an evaluated step and what follows.
    for stop in (4, 3 * STEPS_PER_EPOCH):
        train_on(2, overfitting(run_dir=tmp_path / "parts", max_steps=stop))
    parts = train_on(2, overfitting(run_dir=tmp_path / "parts"))
    assert (parts.best_step, parts.steps, parts.metrics) == (whole.best_step, whole.steps, whole.metrics)
    newest = [max((tmp_path / run / "checkpoints").glob("step-*")) for run in ("whole", "parts")]
    assert_equal_bits(tensors_of(newest[0]), tensors_of(newest[1]))
    again = train_on(1, overfitting(run_dir=tmp_path / "parts"))
    assert (again.best_step, again.steps) == (whole.best_step, whole.steps)
    assert again.metrics == pytest.approx(whole.metrics, rel=1e-4)  # other sums, of other numbers of rows


def test_without_validation_rows_the_test_split_is_watched(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    result = train_on(1, make_config(epochs=1, eval_every_steps=4))
    assert sorted(curve(result, "test/auc")) == [4, 8, 9]
    assert result.split == "test"
    files = sorted((tmp_path / "run" / "evaluations" / "test").iterdir())
    assert [file.name for file in files] == ["step-00000004.json", "step-00000008.json", "step-00000009.json"]
    evaluation = read_evaluation(files[-1])
    assert evaluation.metrics == result.metrics
    assert sum(evaluation.curves["reliability"]["weight"]) == 71


def test_validation_rows_are_enough(make_config: Callable[..., TrainConfig], click_log: Path) -> None:
    result = train_on(1, make_config(epochs=1, data={"valid": str(click_log / "test"), "test": None}))
    assert (result.split, list(curve(result, "valid/auc"))) == ("valid", [9])


def test_a_best_step_of_another_directory_is_forgotten(worsening: Callable[..., TrainConfig], tmp_path: Path) -> None:
    first = train_on(2, worsening(run_dir=tmp_path / "first", max_steps=4))
    assert first.best_step is not None
    assert first.best_step < 4
    newest = tmp_path / "first" / "checkpoints" / "step-00000004"
    changes: dict[str, Any] = {"run_dir": tmp_path / "second", "checkpoint": {"resume": str(newest)}}
    (result, told), (_, told_by_others) = results_of(run_ranks(2, train_listening, worsening(max_steps=6, **changes)))
    # The step that it starts from was saved before it was evaluated, and counts.
    values = curve(result, "test/logloss")
    assert result.best_step == min((4, 5, 6), key=lambda step: values[step]) == 4
    assert result.checkpoint == str(tmp_path / "second" / "checkpoints" / "step-00000004")
    assert result.metrics["logloss"] == pytest.approx(values[4], rel=1e-5)
    (warning,) = (text for text in told if "best step" in text)
    assert warning.startswith(
        f"the best step of {newest} was {first.best_step}, whose checkpoint {tmp_path / 'second'}"
    )
    assert not told_by_others


def test_a_best_step_that_was_not_saved_is_forgotten(worsening: Callable[..., TrainConfig]) -> None:
    first = train_on(1, worsening(max_steps=4, monitor={"use_best": False}, checkpoint={"every_steps": 4}))
    assert first.best_step is not None
    assert first.best_step < 4
    ((result, told),) = results_of(run_ranks(1, train_listening, worsening(max_steps=6)))
    assert result.best_step in (4, 5, 6)
    assert Path(result.checkpoint).name == f"step-{result.best_step:08d}"
    assert any(f"was {first.best_step}, whose checkpoint" in text for text in told)


def test_another_watched_metric_forgets_the_best_step(worsening: Callable[..., TrainConfig]) -> None:
    first = train_on(1, worsening(max_steps=4, monitor={"metric": "auc"}))
    assert first.best_step is not None
    assert first.best_step < 4
    outcomes = run_ranks(2, train_listening, worsening(max_steps=6, monitor={"metric": "pr_auc"}))
    (result, told), (_, told_by_others) = results_of(outcomes)
    values = {step: value for step, value in curve(result, "test/pr_auc").items() if step >= 4}
    assert result.best_step == max(values, key=lambda step: values[step])
    (warning,) = (text for text in told if "watched" in text)
    assert warning.endswith("watched was auc of test, and is now pr_auc of test: the best step from here on counts")
    assert not told_by_others


def test_a_damaged_best_checkpoint_leaves_the_last_model(worsening: Callable[..., TrainConfig]) -> None:
    first = train_on(2, worsening(max_steps=4))
    assert first.best_step is not None
    assert first.best_step < 4
    damaged = next(Path(first.checkpoint).glob("*.distcp"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    (result, told), _ = results_of(run_ranks(2, train_listening, worsening(max_steps=6)))
    assert (result.best_step, Path(result.checkpoint).name) == (first.best_step, "step-00000006")
    assert result.metrics["logloss"] == pytest.approx(curve(result, "test/logloss")[6], rel=1e-5)
    (warning,) = (text for text in told if "is damaged" in text)
    assert warning.startswith(f"{damaged}: its checksum is not the one recorded")
    assert warning.endswith(f"The final model is that of the last step: {result.checkpoint}")


def test_rows_of_one_label_end_the_run_with_that_reason(
    make_config: Callable[..., TrainConfig], click_log: Path, tmp_path: Path
) -> None:
    rows = pq.read_table(click_log / "test")
    pq.write_table(rows.filter(pc.equal(rows["click"], 0)), tmp_path / "unclicked.parquet")
    config = make_config(
        data={"valid": str(tmp_path / "unclicked.parquet")},
        eval_every_steps=1,
        monitor={"patience": 2, "use_best": True},
    )
    (result, told), (_, told_by_others) = results_of(run_ranks(2, train_listening, config))
    assert (result.steps, result.best_step, Path(result.checkpoint).name) == (2, None, "step-00000002")
    reason = "auc of valid is nan, which is no improvement: the rows do not have both labels"
    assert told == [f"step {step}: {reason}" for step in (1, 2)]
    assert not told_by_others
