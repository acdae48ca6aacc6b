"""Initial rows depend on the seed and their place in the table alone, not on ranks, sharding or groups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.checkpoints import assert_equal_bits, tensors_of
from tests.conftest import SCHEMA
from tests.ranks import results_of, run_ranks
from trainer.checkpoint import state
from trainer.checkpoint.canonical import model_state
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.job import build

pytestmark = pytest.mark.distributed

STD = 0.3
ROWS = 70_000
"""Of one table: more than are drawn at once, and cut within what is drawn at once."""

ALONE: dict[str, dict[str, Any]] = {"reference": {"types": ["table_wise"]}}
RULES = [{"match": "*", "min_partition": 4}]
ON_TWO: dict[str, dict[str, Any]] = {
    "row_wise": {"types": ["row_wise"]},
    "column_wise": {"types": ["column_wise"], "tables": RULES},
    "data_parallel": {"types": ["data_parallel"]},
}
ON_FOUR: dict[str, dict[str, Any]] = {
    "table_wise": {"types": ["table_wise"]},
    "row_wise": {"types": ["row_wise"]},
    "grid_shard": {"types": ["grid_shard"], "tables": RULES},
    "table_row_wise": {"types": ["table_row_wise"]},
    "groups": {"types": ["row_wise"], "group_size": 2},
}


def write_initial(worker: Worker, configs: dict[str, TrainConfig], folder: Path) -> dict[str, set[str]]:
    """Writes what each job begins with; returns the sharding types in its plan."""
    types = {}
    for name, config in configs.items():
        job = build(config, worker)
        state.write(model_state(job.assembled.model).tensors, folder / f"{worker.world_size}-{name}")
        types[name] = {table.sharding_type for table in job.assembled.plan}
    return types


def test_tables_begin_with_the_same_bits_on_every_world_size_and_sharding(
    make_config: Callable[..., TrainConfig], click_log: Path, tmp_path: Path
) -> None:
    sizes = {"row_id": ROWS}
    sparse = [{**f, "num_embeddings": sizes.get(f["name"], f["num_embeddings"])} for f in SCHEMA["sparse"]]
    (click_log / "schema.yaml").write_text(yaml.safe_dump({**SCHEMA, "sparse": sparse}), encoding="utf-8")
    for world_size, shardings in ((1, ALONE), (2, ON_TWO), (4, ON_FOUR)):
        configs = {name: make_config(sharding=sharding) for name, sharding in shardings.items()}
        (types, *_) = results_of(run_ranks(world_size, write_initial, configs, tmp_path))
        assert {name: set(config.sharding.types) for name, config in configs.items()} == types
    reference = tensors_of(tmp_path / "1-reference")
    for path in tmp_path.glob("[24]-*"):
        assert_equal_bits(tensors_of(path), reference)

    factors, first_order = reference["tables/row_id/weight"].split([7, 1], dim=1)
    # No row repeats another one, as shards that are drawn with one seed do.
    assert len(torch.unique(factors, dim=0)) == ROWS
    assert abs(factors.mean()) < 5 * STD / factors.numel() ** 0.5
    assert factors.std().item() == pytest.approx(STD, rel=0.01)
    assert not first_order.any()
    assert not torch.equal(reference["tables/user/weight"], reference["tables/site/weight"][:11])
