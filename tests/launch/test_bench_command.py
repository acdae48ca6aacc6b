from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from launch.bench import BenchConfig
from launch.bench_data import measure
from launch.bench_files import KINDS, cardinalities, schema_of, write_files
from tests.launch.processes import run_torchrun
from trainer.config import to_config
from trainer.errors import ConfigError

ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "launch/bench.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_the_command_prints_a_line_for_each_kind(tmp_path: Path) -> None:
    done = bench(
        "rows=3000", "row_group_rows=1000", "window_rows=2000", "batch_size=256", "repeats=1", f"folder={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in table[2:]] == list(KINDS)
    assert all(float(row[1].replace(",", "")) > 0 for row in table[2:])


def test_saves_are_measured_in_both_ways(tmp_path: Path) -> None:
    done = bench("target=checkpoint", "table_mib=8", "repeats=1", f"folder={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "tables of 0.01 GiB" in done.stdout
    seconds = re.findall(r"stands still, (synchronous|asynchronous) +([0-9.]+) s", done.stdout)
    assert [name for name, _ in seconds] == ["synchronous", "asynchronous"]
    assert not list(tmp_path.iterdir()), "what was measured with is removed"


TINY = ("rows=2000", "row_group_rows=500", "batch_size=64", "embedding_dim=3", "layers=[8]", "max_cardinality=50")


def test_training_is_measured_next_to_its_limits_and_to_pytorch_alone(tmp_path: Path) -> None:
    done = bench("target=train", *TINY, "steps=2", "repeats=2", f"folder={tmp_path}/data", f"out={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out/bench-train.json").read_text())
    contenders = {contender["name"]: contender for contender in figures["contenders"]}
    assert list(contenders) == [
        *("ShardFM bf16, from Parquet", "ShardFM bf16, from memory"),
        *("ShardFM fp32, from Parquet", "ShardFM fp32, from memory"),
        *("hand-tuned PyTorch bf16", "hand-tuned PyTorch fp32", "plain PyTorch fp32"),
    ]
    for name, contender in contenders.items():
        assert name in done.stdout
        assert len(contender["step_ms"]) == 2
        assert contender["samples_per_s"] == pytest.approx(64_000 / np.median(contender["step_ms"]))
    parts = contenders["ShardFM fp32, from Parquet"]["parts"]
    stages = sum(stage["mean_ms"] for stage in parts["stages"].values())
    assert parts["num_steps"] == 2
    assert stages == pytest.approx(parts["step_ms"])
    # What happens in other contenders' turns is no part of a step.
    assert stages <= 1.5 * contenders["ShardFM fp32, from Parquet"]["step_ms"][-1]
    assert (tmp_path / "out/bench-train.png").stat().st_size > 1000
    assert sorted(path.suffix for path in (tmp_path / "data").iterdir()) == [".parquet", ".yaml"]


def test_evaluation_is_measured(tmp_path: Path) -> None:
    done = bench("target=eval", *TINY, "steps=2", "repeats=1", f"folder={tmp_path}", "precisions=[fp32]")
    assert done.returncode == 0, done.stderr
    assert re.search(r"ShardFM fp32, from memory +[0-9.]+", done.stdout)


def test_memory_is_measured_next_to_its_parts(tmp_path: Path) -> None:
    # Tables of a million rows of 8 floats and one accumulator, so that what else moves in the process is little.
    shape = ("rows=2000", "row_group_rows=500", "batch_size=64", "embedding_dim=7", "layers=[8]", "steps=4")
    done = bench("target=memory", *shape, "max_cardinality=1000000", f"folder={tmp_path}", "precisions=[fp32]")
    assert done.returncode == 0, done.stderr
    parts = dict(re.findall(r"^  ([a-z, ]+?) +([0-9.]+)(?:  |$)", done.stdout, re.MULTILINE))
    mib = {name: float(value) for name, value in parts.items()}
    rows = sum(size + 2 for size in cardinalities(1_000_000))
    assert mib["tables"] == pytest.approx(rows * 32 / 2**20, rel=0.01)
    assert mib["optimizer"] == pytest.approx(rows * 4 / 2**20, rel=0.01)
    together = sum(mib[use] for use in mib if use not in ("together", "measured"))
    assert mib["together"] == pytest.approx(together, abs=1)
    assert 0.85 * (mib["together"] - mib["reading, at most"]) < mib["measured"] < 1.1 * mib["together"]


def test_exchanges_are_measured_between_ranks(tmp_path: Path) -> None:
    done = run_torchrun(2, "launch/bench.py", "target=comms", "repeats=1")
    assert done.exit_code == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("all-")]
    assert [row[0] for row in rows] == ["all-reduce"] * 8 + ["all-to-all"] * 8
    assert all(float(row[2]) > 0 for row in rows)
    alone = bench("target=comms")
    assert alone.returncode == 2
    assert "one rank has nobody to talk to" in alone.stderr


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "target=gpu",
            "target is 'gpu', which is unknown. Known names: data, step, train, eval, memory, comms, checkpoint",
        ),
        ("kinds=[floats]", "kinds: 'floats' is unknown. Known names: ids, strings, lists"),
        ("repeats=0", "repeats is 0, but must be at least 1"),
        (
            "target=train rows=300 row_group_rows=1024 batch_size=301 device=cpu",
            "batch_size is 301, but must be at most",
        ),
    ],
)
def test_a_mistake_is_told_in_one_message(argument: str, message: str) -> None:
    done = bench(*argument.split())
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("key", ["kinds", "precisions"])
def test_nothing_to_measure_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}.* must name at least one"):
        to_config({key: []}, BenchConfig)


@pytest.mark.parametrize(("rows", "row_group_rows"), [(4096, 65536), (65536, 4096)])
def test_the_baselines_need_row_groups_of_a_batch(rows: int, row_group_rows: int) -> None:
    BenchConfig(rows=rows, row_group_rows=row_group_rows, batch_size=4096).check_baselines()
    with pytest.raises(ConfigError, match=r"batch_size is 4097, but must be at most rows .* set it to 4096 or less"):
        BenchConfig(rows=rows, row_group_rows=row_group_rows, batch_size=4097).check_baselines()


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_measurement_counts_every_row_and_byte(tmp_path: Path, kind: str) -> None:
    file = write_files(tmp_path, kind, rows=500, row_group_rows=200)
    measured = measure(file, kind, window_rows=300, batch_size=100, num_threads=1, repeats=1)
    assert measured.file_bytes_per_row == file.stat().st_size / 500
    values = 26 if kind != "lists" else 20 + 6 * 4  # lists have 0 to 8 values
    one_value_and_length = measured.batch_bytes_per_row - 4 * 15 - 4 * 26
    assert one_value_and_length == pytest.approx(4 * values, rel=0.2 if kind == "lists" else 0)
    assert schema_of(kind).id_dtype().itemsize == 4
    assert measured.ratio == pytest.approx(measured.rows_per_s / measured.ceiling_rows_per_s)
