"""Models and data sets that leave something out still train."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.conftest import SCHEMA, click_rows
from tests.ranks import results_of, run_ranks
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.loop import train

pytestmark = pytest.mark.distributed


def run_training(worker: Worker, config: TrainConfig) -> dict[str, float]:
    return train(config, worker).metrics


@pytest.mark.parametrize("heads", [("linear",), ("fm",), ("dnn",), ("linear", "fm")], ids="+".join)
def test_any_choice_of_heads_trains(heads: tuple[str, ...], make_config: Callable[..., TrainConfig]) -> None:
    config = make_config()
    config.model.heads = {name: config.model.heads[name] for name in heads}
    metrics = results_of(run_ranks(2, run_training, config))
    assert metrics[0] == metrics[1]
    assert all(math.isfinite(value) for value in metrics[0].values())


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
