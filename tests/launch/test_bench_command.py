from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launch.bench_data import measure
from launch.bench_files import KINDS, schema_of, write_files

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


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("target=gpu", "target is 'gpu', which is unknown. Known names: data, checkpoint"),
        ("kinds=[floats]", "kinds: 'floats' is unknown. Known names: ids, strings, lists"),
        ("repeats=0", "repeats is 0, but must be at least 1"),
    ],
)
def test_a_mistake_is_told_in_one_message(argument: str, message: str) -> None:
    done = bench(argument)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


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
