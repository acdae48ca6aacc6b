"""The same job on CUDA devices: NCCL, pinned memory, side streams. Runs where a GPU is found."""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest
import torch

from launch.bench_contenders import Training
from tests.checkpoints import tensors_of
from tests.launch.processes import run_python, run_torchrun
from tests.poison import poison
from tests.ranks import results_of, run_ranks
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.ending import USER_ERROR_EXIT_CODE
from trainer.job import build
from trainer.logging.record import read_record

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def metrics_of(run_dir: Path) -> dict[str, float]:
    metrics: dict[str, float] = json.loads((run_dir / "result.json").read_text())["metrics"]
    return metrics


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise"])
def test_demo_on_all_gpus_agrees_with_the_cpu(sharding: str, tmp_path: Path) -> None:
    world_size = 2 if torch.cuda.device_count() >= 2 else 1
    # Masks are drawn by the device's own generator: without dropout both devices do the same arithmetic.
    arguments = ["experiment=adult", "epochs=2", "model.network.dropout=0", "precision=fp32", f"sharding={sharding}"]
    for device in ("cuda", "cpu"):
        done = run_torchrun(
            world_size, "launch/train.py", *arguments, f"device={device}", f"run_dir={tmp_path / device}"
        )
        assert done.exit_code == 0, done.stderr
    on_gpu, on_cpu = metrics_of(tmp_path / "cuda"), metrics_of(tmp_path / "cpu")
    # The tables' initial values differ by device, so the figures agree as two seeds would.
    assert on_gpu["auc"] == pytest.approx(on_cpu["auc"], abs=2e-3)
    assert on_gpu["logloss"] == pytest.approx(on_cpu["logloss"], abs=5e-3)


def test_a_run_moves_between_gpu_and_cpu(tmp_path: Path) -> None:
    arguments = ["launch/train.py", "experiment=adult", "epochs=1", f"run_dir={tmp_path}"]
    assert run_python(*arguments, "device=cuda", "max_steps=20").exit_code == 0
    continued = run_python(*arguments, "device=cpu")
    assert continued.exit_code == 0, continued.stderr
    assert "(resumed at 20)" in continued.stdout


def waits_of_steps(worker: Worker, config: TrainConfig) -> list[str]:
    """Where, in some steps after the first ones, the host waited for the stream that computes."""
    training = Training(build(config, worker), config.precision.dense, "memory")
    training(5)
    torch.cuda.synchronize()
    computing, places = torch.cuda.current_stream(), []

    def tell(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if "synchroniz" in str(message) and torch.cuda.current_stream() == computing:
            places.append(f"{Path(filename).name}:{lineno}")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = tell
        torch.cuda.set_sync_debug_mode("warn")
        training(10)
        torch.cuda.set_sync_debug_mode("default")
    training.close()
    return places


def test_no_call_in_a_step_waits_for_the_stream_that_computes(make_config: Callable[..., TrainConfig]) -> None:
    # TorchRec reads on the host how many ids come from each rank, a batch ahead and on a stream of its own.
    # (The check for a finite loss waits for an event, which this mode does not tell of.)
    (places,) = results_of(run_ranks(1, waits_of_steps, make_config(device="cuda"), device="cuda"))
    assert places == []


@pytest.mark.parametrize("compiler", ["inductor", "cudagraphs"])
def test_compiled_heads_train_on_gpus(compiler: str, tmp_path: Path) -> None:
    arguments = ["launch/train.py", "experiment=adult", "epochs=1", "device=cuda", f"compile={compiler}"]
    done = run_python(*arguments, f"run_dir={tmp_path}")
    assert done.exit_code == 0, done.stderr
    assert metrics_of(tmp_path)["auc"] > 0.88


def test_the_stages_of_a_step_add_up_to_the_wall_time(tmp_path: Path) -> None:
    done = run_python(
        *("launch/train.py", "experiment=adult", "device=cuda", f"run_dir={tmp_path}", "epochs=8"),
        *("logging.every_steps=32", "eval_every_epochs=8", "profiler.start_step=10", "profiler.num_steps=2"),
    )
    assert done.exit_code == 0, done.stderr
    first, *later = (line for line in read_record(tmp_path / "metrics.jsonl") if line["kind"] == "time")
    told_s = sum(
        line["num_steps"] * sum(stage["mean_ms"] for stage in line["stages"].values()) / 1000 for line in later
    )
    # The device may be a step behind when a report is written.
    assert told_s == pytest.approx(later[-1]["unix_s"] - first["unix_s"], rel=0.05)
    assert later[-1]["device_peak_bytes"] > 0
    with gzip.open(tmp_path / "profile" / "rank-0.pt.trace.json.gz", "rt") as trace:
        assert any(event.get("cat") == "kernel" for event in json.load(trace)["traceEvents"])


def test_a_loss_that_is_not_finite_is_found_before_it_is_written(
    click_log: Path, make_config: Callable[..., TrainConfig]
) -> None:
    config = make_config(checkpoint={"every_steps": 1})
    place = poison(config, 3, (0, 1, 2, 3))
    done = run_python(
        *("launch/train.py", "data=parquet", f"data.root={click_log}", "device=cuda", f"run_dir={config.run_dir}"),
        *("seed=7", "global_batch_size=16", "eval_global_batch_size=24", "data.lanes=4", "data.window_rows=30"),
        *("checkpoint.every_steps=1", "model.network.layers=[8]"),
    )
    assert done.exit_code == USER_ERROR_EXIT_CODE
    assert (
        f"epoch 1, step 4: the loss is not finite. Rows with such a logit: 1, the first on rank 0: {place}."
        in done.stderr
    )
    saved = tensors_of(Path(config.checkpoint.directory, "step-00000003"))
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())


DECOUPLED = ("weight_decay=1e-6", "weight_decay_mode=decoupled", "weight_decay_rows=touched")


@pytest.mark.parametrize(
    "sparse",
    [
        ("name=adam", "lr=0.001"),
        ("name=adam", "lr=0.001", *DECOUPLED),
        ("name=partial_rowwise_adam", "lr=0.001"),
        ("name=lamb", "lr=0.001"),
        ("name=partial_rowwise_lamb", "lr=0.001"),
        ("name=rowwise_adagrad", "weight_decay=1e-6", "weight_decay_rows=touched"),
    ],
    ids=" ".join,
)
def test_fused_optimizers_train_the_tables_and_their_states_come_back(sparse: tuple[str, ...], tmp_path: Path) -> None:
    arguments = ["launch/train.py", "experiment=adult", "epochs=1", "device=cuda", f"run_dir={tmp_path}"]
    arguments += [f"optimizer.sparse.{setting}" for setting in sparse]
    stopped = run_python(*arguments, "max_steps=20")
    assert stopped.exit_code == 0, stopped.stderr
    done = run_python(*arguments)
    assert done.exit_code == 0, done.stderr
    assert "(resumed at 20)" in done.stdout
    assert metrics_of(tmp_path)["auc"] > 0.88


@pytest.mark.parametrize("more", [("precision=fp16",), ("precision.tables=fp16",), ("optimizer.accumulate_steps=4",)])
def test_half_precision_and_parts_train_on_gpus(more: tuple[str, ...], tmp_path: Path) -> None:
    arguments = ["experiment=adult", "epochs=1", "device=cuda", "model.network.norm=layer", *more]
    done = run_python("launch/train.py", *arguments, f"run_dir={tmp_path}")
    assert done.exit_code == 0, done.stderr
    assert metrics_of(tmp_path)["auc"] > 0.88
