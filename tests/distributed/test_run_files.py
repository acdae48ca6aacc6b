"""What a run of two ranks leaves behind, read back: event file, records, traces, histograms."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.checkpoints import tensors_of
from tests.ranks import results_of, run_ranks
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.job import build
from trainer.logging.histograms import embedding_norms
from trainer.logging.record import read_record
from trainer.loop import train
from trainer.metric import metric_classes

pytestmark = pytest.mark.distributed

TABLES = {"site", "user", "row_id", "tags"}
NUM_ROWS = 6


def train_and_sample(worker: Worker, config: TrainConfig) -> dict[str, list[float]]:
    """Trains, then restores the end of it and samples the tables."""
    train(config, worker)
    norms = embedding_norms(build(config, worker).assembled.model, num_rows=NUM_ROWS)
    return {name: values.tolist() for name, values in norms.items()}


@pytest.fixture
def finished(make_config: Callable[..., TrainConfig]) -> tuple[Path, list[dict[str, list[float]]]]:
    config = make_config(
        logging={"every_steps": 2, "histograms_every_steps": 4},
        profiler={"start_step": 4, "num_steps": 2},
        max_steps=9,
        sharding={"types": ["row_wise", "column_wise"], "tables": [{"match": "user", "types": ["column_wise"]}]},
    )
    return Path(config.run_dir), results_of(run_ranks(2, train_and_sample, config))


def test_a_run_can_be_read_back(finished: tuple[Path, list[dict[str, list[float]]]]) -> None:
    run_dir, norms = finished
    check_events(run_dir)
    check_records(run_dir)
    for rank in (0, 1):
        check_trace(run_dir / "profile" / f"rank-{rank}.pt.trace.json.gz")
    check_norms(run_dir, norms)


def check_events(run_dir: Path) -> None:
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    first = [f"at_a_glance/{name}" for name in ("auc_test", "auc_train", "logloss_test", "logloss_train")]
    assert sorted(scalars)[:4] == first, "TensorBoard sorts by name"
    assert {f"final/test_{metric.name}" for metric in metric_classes()} <= scalars
    assert [event.step for event in events.Scalars("time/lag_ms")] == [2, 4, 6, 8, 9]

    histograms = set(events.Tags()["histograms"])
    assert {f"embedding_norm/{table}" for table in TABLES} <= histograms
    assert {"gradient/fields.dense_vectors", "gradient/fields.dense_weights"} <= histograms
    assert [event.step for event in events.Histograms("embedding_norm/site")] == [4, 8]
    assert events.Histograms("embedding_norm/site")[0].histogram_value.num == 40

    curves = {f"curves/test_{name}" for name in ("reliability", "precision_recall", "roc")}
    assert set(events.Tags()["images"]) == curves
    assert events.Images("curves/test_roc")[0].encoded_image_string.startswith(b"\x89PNG")

    def text(tag: str) -> str:
        proto = events.Tensors(f"run/{tag}/text_summary")[0].tensor_proto
        return str(proto.string_val[0].decode())

    assert "| user | column_wise |" in text("sharding_plan")
    assert "every_steps: 2" in text("config")
    assert "| train | 133 | 5 | 12 |" in text("data")
    assert "| site | hash | 40 |" in text("data")
    assert "| price | number | - |" in text("data")
    assert "| torch | 2." in text("made_with")
    assert "| revision | " in text("made_with")


def check_records(run_dir: Path) -> None:
    lines = read_record(run_dir / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [2, 4, 6, 8, 9]
    (evaluation,) = (line for line in lines if line["kind"] == "evaluation")
    result = json.loads((run_dir / "result.json").read_text())
    assert (evaluation["set"], evaluation["metrics"]) == ("test", result["metrics"])
    summary = json.loads((run_dir / "run.json").read_text())
    assert (summary["world_size"], summary["total_steps"], summary["steps_per_epoch"]) == (2, 9, 9)
    assert {table["name"] for table in summary["plan"]} == TABLES


def check_trace(path: Path) -> None:
    with gzip.open(path, "rt") as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert sorted({name for name in names if name.startswith("ProfilerStep#")}) == ["ProfilerStep#3", "ProfilerStep#4"]
    assert len({name for name in names if name.startswith("## forward ")}) == 2


def check_norms(run_dir: Path, norms: list[dict[str, list[float]]]) -> None:
    """Against the tables of the last checkpoint, which are whole there."""
    assert norms[0] == norms[1]
    tensors = tensors_of(run_dir / "checkpoints" / "step-00000009")
    for table in TABLES:
        weight = tensors[f"tables/{table}/weight"].numpy()
        rows = [number * len(weight) // NUM_ROWS for number in range(NUM_ROWS)]
        np.testing.assert_allclose(norms[0][table], np.linalg.norm(weight[rows], axis=1), rtol=1e-6)
