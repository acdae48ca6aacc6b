"""Several evaluation sets, GAUC and slices: in training and alone, each against another way to the same figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from launch.evaluate import evaluate_checkpoint
from tests.ranks import results_of, run_ranks
from trainer.config import EvaluateConfig, TrainConfig, to_config
from trainer.distributed import Worker
from trainer.errors import ConfigError
from trainer.evaluation import Evaluation, read_evaluation
from trainer.evaluation_set import make_evaluation_set, open_evaluation_data
from trainer.loop import Result, train
from trainer.watchdog import Watchdog

pytestmark = pytest.mark.distributed

METRICS: dict[str, Any] = {
    "gauc_column": "user",
    "slices": [
        {"column": "user", "top": 20},
        {"column": "site", "values": ["site-3"]},
        {"column": "price", "borders": [0]},
    ],
}


def run_training(worker: Worker, config: TrainConfig) -> Result:
    return train(config, worker)


def run_evaluation(worker: Worker, config: EvaluateConfig) -> list[Evaluation]:
    with Watchdog(worker, config.distributed) as watchdog:
        return evaluate_checkpoint(config, worker, watchdog)


def keys_or_refusal(worker: Worker, config: TrainConfig) -> list[int] | str:
    dataset = open_evaluation_data("test", config.data, config.metrics)
    try:
        made = make_evaluation_set("test", dataset, config.data, config.metrics, worker, global_batch_size=16)
    except ConfigError as error:
        return str(error)
    keys = made.slicings[0].keys
    assert keys is not None
    return keys.tolist()


@pytest.fixture
def with_sets(make_config: Callable[..., TrainConfig], click_log: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Beside the test rows, those of one user, those of one site, and those of low prices."""
    rows = pq.read_table(click_log / "test")
    conditions = {
        "user-4": pc.equal(rows["user"], 4),
        "site-3": pc.equal(rows["site"], "site-3"),
        "cheap": pc.less(rows["price"], 0),
    }
    for name, condition in conditions.items():
        pq.write_table(rows.filter(condition), tmp_path / f"{name}.parquet")

    def make(**changes: Any) -> TrainConfig:
        sets = {name: str(tmp_path / f"{name}.parquet") for name in conditions}
        return make_config(epochs=1, data={"eval": sets}, metrics=METRICS, **changes)

    return make


def test_slices_sets_and_groups_agree(with_sets: Callable[..., TrainConfig]) -> None:
    config = with_sets(eval_every_steps=4, monitor={"set": "user-4", "metric": "logloss"})
    result = results_of(run_ranks(2, run_training, config))[0]
    folders = {path.name: path for path in (Path(config.run_dir) / "evaluations").iterdir()}
    assert {name: len(list(path.iterdir())) for name, path in folders.items()} == {
        "test": 1,
        "user-4": 3,
        "site-3": 3,
        "cheap": 3,
    }
    found = {name: read_evaluation(path / "step-00000009.json") for name, path in folders.items()}
    assert result.split == "test"
    check_slices(found)
    # Watched is the set that the config names.
    events = EventAccumulator(result.tensorboard)
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars("user-4/logloss")}
    assert result.best_step == min(losses, key=lambda step: losses[step])

    alone = to_config({"checkpoint_path": result.checkpoint, "split": "all", "device": "cpu"}, EvaluateConfig)
    for evaluations in results_of(run_ranks(1, run_evaluation, alone)):
        assert [evaluation.set for evaluation in evaluations] == list(config.data.evaluation_sets)
        for evaluation in evaluations:
            assert evaluation.metrics == pytest.approx(found[evaluation.set].metrics, rel=1e-5, nan_ok=True)
        check_slices({evaluation.set: evaluation for evaluation in evaluations})


def check_slices(found: dict[str, Evaluation]) -> None:
    slices = {(part.column, part.value): part for part in found["test"].slices}
    for name, key in {"user-4": ("user", "4"), "site-3": ("site", "site-3"), "cheap": ("price", "< 0")}.items():
        metrics = {metric: value for metric, value in found[name].metrics.items() if metric != "gauc"}
        assert slices[key].metrics == pytest.approx(metrics, rel=1e-5, nan_ok=True), name
        assert slices[key].weight == sum(found[name].curves["reliability"]["weight"])
    for column in ("user", "site", "price"):
        assert sum(part.weight for part in found["test"].slices if part.column == column) == 71
    users = [part for part in found["test"].slices if part.column == "user"]
    assert [part.weight for part in users] == sorted((part.weight for part in users), reverse=True)
    both = [part for part in users if part.metrics["auc"] == part.metrics["auc"]]
    expected = sum(part.weight * part.metrics["auc"] for part in both) / sum(part.weight for part in both)
    assert found["test"].metrics["gauc"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("column", "values", "found"),
    [
        ("user", [4, -1], [-1, 4]),
        ("user", [99999999999999999999], "'user': values is [99999999999999999999], but the column holds int64"),
        ("site", [99999999999999999999], "'site': values is [99999999999999999999], but the column holds string"),
        ("hash", [2**64 - 1, 3], [-1, 3]),
        ("hash", [2**64], "'hash': values is [18446744073709551616], but the column holds uint64"),
    ],
)
def test_values_of_slices_may_be_any_that_their_column_holds(
    make_config: Callable[..., TrainConfig], click_log: Path, column: str, values: list[int], found: list[int] | str
) -> None:
    for path in (click_log / "test").iterdir():
        rows = pq.read_table(path)
        pq.write_table(rows.append_column("hash", pa.array(range(rows.num_rows), pa.uint64())), path)
    config = make_config(metrics={"slices": [{"column": column, "values": values}]})
    (outcome,) = results_of(run_ranks(1, keys_or_refusal, config))
    if isinstance(found, str):
        assert outcome == f"metrics.slices: {found}; name values of that type."
    else:
        assert outcome == found


def test_named_sets_are_enough(with_sets: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = with_sets(monitor={"set": "cheap"})
    config.data.test = None
    (result,) = results_of(run_ranks(1, run_training, config))
    assert (result.split, result.best_step) == ("cheap", 9)
    assert sorted(path.name for path in (tmp_path / "run" / "evaluations").iterdir()) == ["cheap", "site-3", "user-4"]
