"""The matrix of sharding types, kernels, optimizers and precisions on CUDA devices, against tables in GPU memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.checkpoints import tensors_of
from tests.conftest import SCHEMA
from tests.launch.processes import run_torchrun
from trainer.config import TrainConfig
from trainer.config.optimizer import SPARSE_OPTIMIZERS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

WORLD_SIZE = min(2, torch.cuda.device_count())
TYPES = ("table_wise", "row_wise", "table_row_wise", "column_wise", "table_column_wise", "grid_shard")
KERNELS = ("fused", "fused_uvm", "fused_uvm_caching")
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
ROWS = 200_000
"""Of one table, of which a cache holds a hundredth: far more than a step looks up, far fewer than the table has."""

Make = Callable[..., TrainConfig]


def trained(config: TrainConfig, data: Path, *overrides: str) -> dict[str, torch.Tensor]:
    """The final checkpoint of a run of ten steps in a job of its own."""
    run_dir = Path(config.run_dir)
    done = run_torchrun(
        WORLD_SIZE,
        *("launch/train.py", "data=parquet", f"data.root={data}", "device=cuda", f"run_dir={run_dir}", "seed=7"),
        *("global_batch_size=16", "eval_global_batch_size=24", "data.lanes=4", "data.window_rows=30", "epochs=2"),
        *("model.embedding_dim=15", "model.network.layers=[8]", "model.network.dropout=0", "optimizer.sparse.lr=0.02"),
        *("max_steps=10", "optimizer.sparse.eps=0.01", "eval_every_steps=4", *overrides),
    )
    assert done.exit_code == 0, done.stderr
    return tensors_of(run_dir / "checkpoints" / "step-00000010")


def differences(ours: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> float:
    weights = [key for key in reference if key.endswith("/weight")]
    assert weights
    return max(float((ours[key].float() - reference[key].float()).abs().max()) for key in weights)


@pytest.fixture
def large(click_log: Path) -> Path:
    """The click log with one table that no small cache holds."""
    sparse = [{**f, "num_embeddings": ROWS if f["name"] == "row_id" else f["num_embeddings"]} for f in SCHEMA["sparse"]]
    (click_log / "schema.yaml").write_text(yaml.safe_dump({**SCHEMA, "sparse": sparse}), encoding="utf-8")
    return click_log


@pytest.mark.parametrize("rows", TOLERANCE)
@pytest.mark.parametrize("optimizer", SPARSE_OPTIMIZERS)
def test_every_kernel_trains_what_tables_in_gpu_memory_train(
    optimizer: str, rows: str, make_config: Make, large: Path, tmp_path: Path
) -> None:
    overrides = [f"optimizer.sparse.name={optimizer}", f"precision.tables={rows}"]
    states: dict[str, dict[str, torch.Tensor]] = {}
    for kernel in KERNELS:
        cache = ["sharding.cache_load_factor=0.01"] if kernel == "fused_uvm_caching" else []
        config = make_config(run_dir=tmp_path / kernel)
        states[kernel] = trained(config, large, f"sharding.kernels=[{kernel}]", *cache, *overrides)
    for kernel in KERNELS[1:]:
        assert differences(states[kernel], states["fused"]) < TOLERANCE[rows], kernel


@pytest.mark.parametrize("sharding", TYPES)
def test_every_sharding_type_trains_what_table_wise_trains(
    sharding: str, make_config: Make, large: Path, tmp_path: Path
) -> None:
    states = {
        name: trained(make_config(run_dir=tmp_path / name), large, f"sharding.types=[{name}]")
        for name in {"table_wise", sharding}
    }
    # Element-wise Adagrad does not see how rows are cut.
    assert differences(states[sharding], states["table_wise"]) < TOLERANCE["fp32"]


def test_rows_that_are_fetched_ahead_train_the_same_through_evaluations(
    make_config: Make, large: Path, tmp_path: Path
) -> None:
    cached = ["sharding.kernels=[fused_uvm_caching]", "sharding.cache_load_factor=0.01"]
    states = {
        prefetch: trained(make_config(run_dir=tmp_path / prefetch), large, *cached, f"sharding.prefetch={prefetch}")
        for prefetch in ("false", "true")
    }
    assert differences(states["true"], states["false"]) < TOLERANCE["fp32"]


def test_the_best_model_is_not_read_from_a_cache_of_later_rows(make_config: Make, large: Path, tmp_path: Path) -> None:
    overrides: dict[str, Any] = {
        "fused": [],
        "fused_uvm_caching": ["sharding.cache_load_factor=0.01"],
    }
    outcomes = []
    for kernel, more in overrides.items():
        config = make_config(run_dir=tmp_path / kernel)
        trained(config, large, f"sharding.kernels=[{kernel}]", "monitor.use_best=true", *more)
        outcomes.append(yaml.safe_load((Path(config.run_dir) / "result.json").read_text())["metrics"]["logloss"])
    assert outcomes[0] == pytest.approx(outcomes[1], abs=1e-4)
