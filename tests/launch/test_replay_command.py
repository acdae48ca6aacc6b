"""``launch/replay.py``: the rows of a step, as every number of workers was served them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.launch.processes import run_python
from tests.poison import poison
from tests.ranks import results_of, run_ranks
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.job import build
from trainer.loop import train

pytestmark = pytest.mark.distributed

STEP = 3  # counted from 0, of nine in an epoch


def train_up_to_the_step(worker: Worker, config: TrainConfig) -> tuple[list[int], list[float]]:
    """Saves before the step; then the rows of this rank in the step, by their ids, and their logits in training."""
    train(config, worker)
    job = build(config, worker)
    with job.train_loader.batches(STEP, STEP + 1) as batches:
        rows = next(batches).sparse["row_id"].values().tolist()
    pipeline = job.pipeline()
    with job.train_loader.batches(STEP, STEP + 1) as batches:
        (logits, _, weights), _ = pipeline.step(batches)
    return rows, logits[weights > 0].tolist()


def test_rows_and_logits_are_those_that_the_ranks_had(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = make_config(max_steps=STEP)
    ranks = results_of(run_ranks(2, train_up_to_the_step, config))
    checkpoint = Path(config.checkpoint.directory, f"step-{STEP:08d}")
    out = tmp_path / "rows.parquet"
    done = run_python("launch/replay.py", f"checkpoint={checkpoint}", f"step={STEP + 1}", f"out={out}")
    assert done.exit_code == 0, done.stderr

    rows = pq.read_table(out).to_pylist()
    assert [row["row_id"] for row in rows] == [number for numbers, _ in ranks for number in numbers]
    logits = [logit for _, of_rank in ranks for logit in of_rank]
    assert [row["_logit"] for row in rows] == pytest.approx(logits, rel=1e-5)  # float32, in batches of other sizes
    for row in rows:
        at_place = pq.ParquetFile(row["_file"]).read_row_group(row["_row_group"]).to_pylist()[row["_row"]]
        assert at_place == {name: value for name, value in row.items() if not name.startswith("_")}

    assert done.stdout.startswith("epoch 1, step 4: 16 rows, 0 of them with a logit that is not finite\n")
    first = rows[0]
    shown = re.search(r"lane 0: (\S+), row group (\d+), row (\d+)\n  label (\d)  weight 1  logit (\S+)", done.stdout)
    assert shown is not None, done.stdout
    assert shown.groups()[:4] == (first["_file"], str(first["_row_group"]), str(first["_row"]), str(first["click"]))
    assert float(shown[5]) == pytest.approx(first["_logit"], rel=1e-4)
    assert f"row_id [{first['row_id']}]  tags {first['tags'][:4]}" in done.stdout


def test_lanes_of_one_rank_with_the_row_that_is_not_finite_first(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = make_config(max_steps=1)
    place = poison(config, STEP, (2, 3))
    results_of(run_ranks(2, run_training, config))
    checkpoint = Path(config.checkpoint.directory, "step-00000001")
    done = run_python("launch/replay.py", f"checkpoint={checkpoint}", f"step={STEP + 1}", "lanes=[2,3]", "max_rows=1")
    assert done.exit_code == 0, done.stderr
    header, first, *_ = done.stdout.splitlines()
    assert header == "epoch 1, step 4: 8 rows, 1 of them with a logit that is not finite"
    assert first == f"lane {place.lane}: {place}"
    assert "logit nan" in done.stdout
    assert "and 7 more" in done.stdout

    before_any_checkpoint = run_python("launch/replay.py", f"run_dir={config.run_dir}", "step=4", "lanes=[3]")
    assert before_any_checkpoint.stdout.startswith("epoch 1, step 4: 4 rows\nlane 3: ")


def run_training(worker: Worker, config: TrainConfig) -> None:
    train(config, worker)


def test_mistakes_are_told(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = make_config(max_steps=1)
    results_of(run_ranks(1, run_training, config))
    checkpoint = Path(config.checkpoint.directory, "step-00000001")
    neither = run_python("launch/replay.py", "step=4")
    assert (
        "error: config: checkpoint is None, but must be a step-... directory, or null with run_dir given"
        in neither.stderr
    )
    beyond = run_python("launch/replay.py", f"run_dir={config.run_dir}", "step=19")
    assert "error: step is 19, but must be at most 18, the run's last." in beyond.stderr
    (Path(config.data.root) / "train" / "part-0.parquet").unlink()
    changed = run_python("launch/replay.py", f"checkpoint={checkpoint}", "step=4")
    assert "does not fit this run: data.train: " in changed.stderr
    assert "Only the data that the run was trained on gives the rows of the step." in changed.stderr
    assert {neither.exit_code, beyond.exit_code, changed.exit_code} == {2}
