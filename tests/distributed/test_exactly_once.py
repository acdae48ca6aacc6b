"""A real job, killed at random steps and resumed on other world sizes: every row is trained on once an epoch."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.distributed.records import (
    JOB,
    NUM_ROWS,
    SAVE_EVERY,
    STEPS_PER_EPOCH,
    TOTAL_STEPS,
    Records,
    arguments,
    write_data,
)
from tests.launch.processes import run_torchrun

pytestmark = pytest.mark.distributed


def test_a_job_killed_at_random_steps_trains_on_every_row_exactly_once_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    first = draw.randrange(4, TOTAL_STEPS - 20)
    kills = [first, draw.randrange(first + SAVE_EVERY, TOTAL_STEPS - 4)]
    told = f"seed {seed}, killed at steps {kills}"
    write_data(tmp_path / "data")
    records = Records(tmp_path / "records")
    monkeypatch.setenv("RECORD_DIR", str(tmp_path / "records"))

    for life, (kill_at, world_size) in enumerate(zip([*kills, -1], [2, 1, 4], strict=True)):
        monkeypatch.setenv("KILL_AT", str(kill_at))
        finished = run_torchrun(world_size, JOB, *arguments(tmp_path / "data", tmp_path / "run"))
        assert (finished.exit_code == 0) == (life == 2), f"{told}\n{finished.stderr}"
    first, *resumed = records.starts()
    assert first == 0
    # The checkpoint that was being written is lost, the one before it was committed before that began.
    for kill, start in zip(kills, resumed, strict=True):
        assert start in (kill // SAVE_EVERY * SAVE_EVERY, kill // SAVE_EVERY * SAVE_EVERY - SAVE_EVERY), told

    survived = records.survived()
    assert len(survived) == TOTAL_STEPS, told
    epochs = [[row for rows in survived[e * STEPS_PER_EPOCH :][:STEPS_PER_EPOCH] for row in rows] for e in range(2)]
    assert [sorted(rows) for rows in epochs] == [list(range(NUM_ROWS))] * 2, told
    assert epochs[0] != epochs[1]
