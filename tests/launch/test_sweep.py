"""Hydra's multirun: one job after the other in the same workers, and the objective that a sweeper sees."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen

from launch.train import free_memory
from tests.launch.processes import run_python, run_torchrun
from tests.ranks import results_of, run_ranks
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.loop import train

pytestmark = pytest.mark.distributed


def small(click_log: Path, run_dir: Path) -> list[str]:
    return [
        *("--multirun", "data=parquet", f"data.root={click_log}", "data.lanes=4", "global_batch_size=16"),
        *("eval_global_batch_size=16", "device=cpu", "model.embedding_dim=3", "model.network.layers=[4]"),
        f"run_dir={run_dir}",
    ]


def results(run_dir: Path) -> list[dict[str, float]]:
    paths = sorted(run_dir.glob("*/result.json"))
    return [json.loads(path.read_text())["metrics"] for path in paths]


def test_a_grid_trains_each_point_in_a_directory_of_its_own(click_log: Path, tmp_path: Path) -> None:
    done = run_torchrun(2, "launch/train.py", *small(click_log, tmp_path), "model=lr,fm", "seed=1")
    assert done.exit_code == 0, done.stderr
    configs = [yaml.safe_load((tmp_path / job / "config.yaml").read_text()) for job in ("0", "1")]
    assert [list(config["model"]["heads"]) for config in configs] == [["linear"], ["linear", "fm"]]
    assert len(results(tmp_path)) == 2


def test_optuna_maximizes_the_watched_metric(click_log: Path, tmp_path: Path) -> None:
    done = run_python(
        *("launch/train.py", *small(click_log, tmp_path), "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3"),
        *("hydra.sweeper.direction=maximize", "hydra.sweeper.sampler.seed=1", "optimizer.dense.lr=interval(0.001,0.1)"),
    )
    assert done.exit_code == 0, done.stderr
    best = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    aucs = [metrics["auc"] for metrics in results(tmp_path)]
    assert len(aucs) == 3
    assert best["best_value"] == max(aucs)


def test_a_sweep_ends_with_the_first_job_that_fails(click_log: Path, tmp_path: Path) -> None:
    done = run_python("launch/train.py", *small(click_log, tmp_path), "epochs=0,1")
    assert done.exit_code == 2
    assert "epochs is 0, but must be at least 1" in done.stderr
    assert results(tmp_path) == []


def tables_left(worker: Worker, config: TrainConfig) -> int:
    """Kernels with tables that are alive after a job has ended."""
    train(config, worker)
    free_memory()
    return sum(isinstance(held, SplitTableBatchedEmbeddingBagsCodegen) for held in gc.get_objects())


def test_an_ended_job_leaves_its_memory_to_the_next(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config(sharding={"types": ["table_wise"]}, max_steps=2)
    assert results_of(run_ranks(1, tables_left, config)) == [0]
