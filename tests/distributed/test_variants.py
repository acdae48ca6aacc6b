"""Models and data sets that leave something out still train."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from tests.conftest import SCHEMA, click_rows
from tests.ranks import results_of, run_ranks
from trainer.config import ModelConfig, TrainConfig, to_config
from trainer.distributed import Worker
from trainer.job import build
from trainer.loop import train

pytestmark = pytest.mark.distributed


def run_training(worker: Worker, config: TrainConfig) -> dict[str, float]:
    return train(config, worker).metrics


MODELS = sorted(path.stem for path in Path("configs/model").glob("*.yaml"))


def composed_model(name: str) -> ModelConfig:
    choices = (f"model={name}", "model.embedding_dim=3", "model.network.layers=[6,5]", "model.network.norm=batch")
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    with initialize_config_dir(str(Path("configs").resolve()), version_base="1.3"):
        return to_config(compose("train", list(choices)), TrainConfig).model


def train_all(worker: Worker, configs: dict[str, TrainConfig]) -> dict[str, tuple[dict[str, float], int]]:
    outcomes = {}
    for name, config in configs.items():
        outcomes[name] = (train(config, worker).metrics, build(config, worker).assembled.num_parameters)
    return outcomes


def expected_parameters(name: str) -> int:
    """Rows of all tables V, fields M, sparse among them F, factors D, network 6-5-1 with batch normalization."""
    V, M, N, D = 40 + 11 + 1000 + 20, 5, 1, 3

    def network(width: int) -> int:
        return (width * 6 + 6) + 2 * 6 + (6 * 5 + 5) + 2 * 5 + (5 + 1)

    linear, factors = (V + N) + 1, (V + N) * D
    pairs = M * (M - 1) // 2
    cross = 3 * ((M * D) ** 2 + M * D) + M * D + 1
    cin = 64 * M * M + 64 * 64 * M + 128 + 1
    return {
        "lr": linear,
        "fm": linear + factors,
        "fnn": (V + N) * (1 + D) + network(M * (1 + D)),
        "ipnn": factors + network(M * D + pairs),
        "opnn": factors + network(M * D + D * D),
        "pnn": factors + network(M * D + pairs + D * D),
        "wide_deep": linear + factors + network(M * D),
        "deepfm": linear + factors + network(M * D),
        "fm_dnn": linear + 2 * factors + network(M * D),
        "dcn_v2": factors + cross + network(M * D),
        "xdeepfm": linear + factors + cin + network(M * D),
    }[name]


def test_every_model_trains_sharded_alike_on_all_ranks_with_the_parameters_of_its_formula(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    configs = {
        name: dataclasses.replace(make_config(run_dir=tmp_path / name), model=composed_model(name)) for name in MODELS
    }
    first, second = results_of(run_ranks(2, train_all, configs))
    assert first == second
    for name, (metrics, num_parameters) in first.items():
        assert all(math.isfinite(value) for value in metrics.values()), name
        assert num_parameters == expected_parameters(name), name


SCHEMAS: dict[str, dict[str, Any]] = {
    "no dense columns": {**SCHEMA, "dense": []},
    "one sparse feature": {**SCHEMA, "sparse": SCHEMA["sparse"][:1]},
    # Names that attributes of torch's own modules have, too.
    "names that are taken": {
        **SCHEMA,
        "sparse": [
            {"name": "values", "column": "user", "kind": "id", "num_embeddings": 11},
            {"name": "type", "column": "site", "kind": "hash", "num_embeddings": 9, "table": "keys"},
        ],
    },
    "a shared table": {
        **SCHEMA,
        "sparse": [
            {"name": "user", "kind": "id", "num_embeddings": 11, "table": "people"},
            {"name": "friend", "column": "user", "kind": "id", "num_embeddings": 11, "table": "people"},
        ],
    },
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_any_schema_trains(schema: str, make_config: Callable[..., TrainConfig], click_log: Path) -> None:
    (click_log / "schema.yaml").write_text(yaml.safe_dump(SCHEMAS[schema]))
    first, second = results_of(run_ranks(2, run_training, make_config()))
    assert first == second
    assert all(math.isfinite(value) for value in first.values())


def write_log(root: Path, rows: pa.Table, schema: dict[str, Any]) -> None:
    for split in ("train", "test"):
        for path in (root / split).iterdir():
            path.unlink()
        pq.write_table(rows, root / split / "part-0.parquet")
    (root / "schema.yaml").write_text(yaml.safe_dump(schema))


def test_a_weight_of_four_trains_and_counts_like_four_copies(
    make_config: Callable[..., TrainConfig], click_log: Path, tmp_path: Path
) -> None:
    rows, ignored = click_rows(32), click_rows(96, first_id=500)
    copies = pa.concat_tables([rows] * 4)
    weighted = pa.concat_tables([rows, ignored]).append_column("w", pa.array([4.0] * 32 + [0.0] * 96))
    sgd = {"sparse": {"name": "sgd", "lr": 0.5}, "dense": {"name": "sgd", "lr": 0.5}}
    outcomes = []
    for name, table, schema in (("copies", copies, SCHEMA), ("weighted", weighted, {**SCHEMA, "weight": "w"})):
        write_log(click_log, table, schema)
        config = make_config(run_dir=tmp_path / name, optimizer=sgd, global_batch_size=128, epochs=2)
        outcomes.append(results_of(run_ranks(2, run_training, config))[0])
    assert outcomes[0] == pytest.approx(outcomes[1], rel=1e-4)
