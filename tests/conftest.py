"""Small real data and configs that the tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from trainer.config import TrainConfig, to_config


@pytest.fixture(autouse=True)
def sees_no_gpu_unless_it_is_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a host with GPUs, workers of all tests but those for GPUs do as on one without."""
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


SHARD_ROWS = (37, 0, 3, 60, 33)
"""Rows of each shard: uneven, one of them empty, one with fewer rows than ranks."""


def click_rows(num_rows: int, *, first_id: int = 0, seed: int = 0) -> pa.Table:
    """A click log: a row id, a number with nulls, a string with nulls, an id, a list, and a label that they explain."""
    rng = np.random.default_rng([seed, first_id])
    price = rng.normal(size=num_rows)
    site = rng.integers(0, 5, num_rows)
    user = rng.integers(0, 11, num_rows)
    clicked = rng.random(num_rows) < 1 / (1 + np.exp(-(price + 0.5 * (site - 2) + 0.2 * (user - 5))))
    return pa.table(
        {
            "click": pa.array(clicked.astype(np.int8)),
            "row_id": pa.array(np.arange(first_id, first_id + num_rows)),
            "price": pa.array(price, mask=rng.random(num_rows) < 0.1),
            "site": pa.array([f"site-{s}" for s in site], pa.string(), mask=rng.random(num_rows) < 0.1),
            "user": pa.array(user),
            "tags": pa.array(
                [rng.integers(0, 20, rng.integers(0, 4)).tolist() for _ in range(num_rows)], pa.list_(pa.int64())
            ),
        },
    )


SCHEMA: dict[str, Any] = {
    "label": "click",
    "dense": [{"name": "price"}],
    "sparse": [
        {"name": "site", "kind": "hash", "num_embeddings": 40},
        {"name": "user", "kind": "id", "num_embeddings": 11},
        {"name": "row_id", "kind": "id", "num_embeddings": 1000},
        {"name": "tags", "kind": "id", "num_embeddings": 20, "max_length": 4, "pooling": "mean"},
    ],
}


@pytest.fixture
def click_log(tmp_path: Path) -> Path:
    """A data set of uneven shards with its schema: ``root/schema.yaml``, ``root/train``, ``root/test``."""
    root = tmp_path / "clicks"
    for split, shards in (("train", SHARD_ROWS), ("test", (50, 21))):
        (root / split).mkdir(parents=True)
        first = 0
        for number, rows in enumerate(shards):
            table = click_rows(rows, first_id=first, seed=split == "test")
            pq.write_table(table, root / split / f"part-{number}.parquet", row_group_size=16)
            first += rows
    (root / "schema.yaml").write_text(yaml.safe_dump(SCHEMA), encoding="utf-8")
    return root


@pytest.fixture
def make_config(click_log: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """A small training config over ``click_log``; keyword arguments replace whole keys or, with dicts, parts."""

    def make(**changes: Any) -> TrainConfig:
        run_dir = str(changes.pop("run_dir", tmp_path / "run"))
        values: dict[str, Any] = {
            "name": "test",
            "run_dir": run_dir,
            "device": "cpu",
            "seed": 7,
            "global_batch_size": 16,
            "eval_global_batch_size": 24,
            "epochs": 2,
            "data": {
                "name": "clicks",
                "root": str(click_log),
                "schema": str(click_log / "schema.yaml"),
                "train": str(click_log / "train"),
                "test": str(click_log / "test"),
                "lanes": 4,
                "window_rows": 30,
            },
            "precision": {"dense": "fp32"},
            "model": {
                "embedding_dim": 7,
                "init_std": 0.3,
                "heads": {"linear": {}, "fm": {}, "dnn": {"layers": [12, 8]}},
            },
            "checkpoint": {"directory": f"{run_dir}/checkpoints", "every_steps": 1000, "keep_last": 100},
            "logging": {"every_steps": 1},
        }
        return to_config(_merged(values, changes), TrainConfig)

    return make


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, change in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, change) if isinstance(old, dict) and isinstance(change, dict) else change
    return merged
