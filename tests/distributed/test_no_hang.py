"""A rank that dies, raises or stands still ends the job on all ranks within the configured time, cause last."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from tests.distributed.records import arguments, write_data
from tests.forked import ForkedJob
from tests.launch.processes import ROOT, run_torchrun
from trainer.ending import STALLED_EXIT_CODE, UNEXPECTED_EXIT_CODE, USER_ERROR_EXIT_CODE

pytestmark = pytest.mark.distributed

JOB = str(ROOT / "tests" / "distributed" / "faulty_job.py")
# Far below the limits that are not under test, and below the time that the tests wait.
SHORT, LONG = 2, 1000


def faulty(fault: str, tmp_path: Path, *more: str, stall_s: float = SHORT, timeout_s: float = LONG) -> ForkedJob:
    write_data(tmp_path / "data")
    limits = [f"distributed.stall_timeout_s={stall_s}", f"distributed.timeout_s={timeout_s}"]
    return ForkedJob(
        2,
        [JOB, *arguments(tmp_path / "data", tmp_path / "run"), *limits, *more],
        folder=tmp_path / "logs",
        environment={"FAULT": fault, "FAULT_RANK": "1", "FAULT_STEP": "5"},
    )


def told_at(tmp_path: Path, rank: int) -> int:
    """When a rank says that it failed: torchrun prints the earliest last, as the root cause."""
    record = json.loads((tmp_path / "logs" / f"rank-{rank}.json").read_text())
    return int(record["message"]["extraInfo"]["timestamp"])


def test_a_killed_rank_ends_the_others_at_once(tmp_path: Path) -> None:
    job = faulty("kill", tmp_path, stall_s=LONG)
    assert job.wait() == [USER_ERROR_EXIT_CODE, -signal.SIGKILL]


@pytest.mark.parametrize(
    ("fault", "exit_code", "message"),
    [
        ("raise", UNEXPECTED_EXIT_CODE, "error: rank 1: ZeroDivisionError: no such luck"),
        ("oom", UNEXPECTED_EXIT_CODE, "DefaultCPUAllocator: can't allocate memory"),
        ("read", USER_ERROR_EXIT_CODE, "error: part-7.parquet: is not what it was"),
    ],
)
def test_a_rank_that_fails_ends_the_others_at_once(fault: str, exit_code: int, message: str, tmp_path: Path) -> None:
    job = faulty(fault, tmp_path, stall_s=LONG)
    assert job.wait() == [USER_ERROR_EXIT_CODE, exit_code]
    assert message in job.output(1).strip().splitlines()[-1]
    assert "error:" not in job.output(0)
    assert told_at(tmp_path, 0) > told_at(tmp_path, 1)


def test_a_reader_that_blocks_is_noticed_and_named_by_its_own_rank(tmp_path: Path) -> None:
    job = faulty("hang", tmp_path)
    assert job.wait() == [USER_ERROR_EXIT_CODE, STALLED_EXIT_CODE]
    told = job.output(1)
    assert "in faulty_take" in told  # the stacks show where
    last = told.strip().splitlines()[-1]
    assert last.startswith("error: rank 1 got no further for")
    assert "it is at: waiting for the data of a coming step" in last
    assert "The limit is distributed.stall_timeout_s=2." in last
    assert told_at(tmp_path, 0) > told_at(tmp_path, 1)


def test_a_failure_is_told_even_if_the_rank_cannot_end_after_it(tmp_path: Path) -> None:
    job = faulty("stuck", tmp_path)
    codes = job.wait()
    assert codes[1] == STALLED_EXIT_CODE
    last = job.output(1).strip().splitlines()[-1]
    assert "it is at: ending after a failure." in last
    assert "The failure: ZeroDivisionError: no such luck" in last


def test_a_stopped_rank_is_named_by_those_that_wait_for_it(tmp_path: Path) -> None:
    job = faulty("stop", tmp_path)
    assert job.wait([0]) == [STALLED_EXIT_CODE]
    last = job.output(0).strip().splitlines()[-1]
    assert "it is at: step 6. It waits for rank 1, which gives no sign of life (stopped, cut off or dead" in last
    job.kill()


def test_a_rank_without_signs_of_life_is_missed_before_anything_else_fires(tmp_path: Path) -> None:
    job = faulty("stop", tmp_path, f"distributed.heartbeat_timeout_s={SHORT}", stall_s=LONG)
    assert job.wait([0]) == [STALLED_EXIT_CODE]
    last = job.output(0).strip().splitlines()[-1]
    assert last.startswith(
        "error: rank 0 ends: no sign of life for 2 s (host or network gone, or stopped) from rank 1 on "
    )
    assert re.search(r" \(last seen at: \S.*\)\. The limit is distributed\.heartbeat_timeout_s=2\.$", last)
    job.kill()


def test_a_collective_has_the_configured_timeout(tmp_path: Path) -> None:
    job = faulty("stop", tmp_path, stall_s=LONG, timeout_s=SHORT)
    assert job.wait([0]) == [USER_ERROR_EXIT_CODE]
    assert "error: another rank did not answer within distributed.timeout_s" in job.output(0).splitlines()[-2]
    job.kill()


def test_torchrun_prints_the_first_cause_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path / "data")
    for name, value in {"FAULT": "read", "FAULT_RANK": "1", "FAULT_STEP": "5"}.items():
        monkeypatch.setenv(name, value)
    done = run_torchrun(2, JOB, *arguments(tmp_path / "data", tmp_path / "run"))
    assert done.exit_code != 0
    root_cause = done.stderr.partition("Root Cause (first observed failure):")[2]
    assert "rank      : 1 (local_rank: 1)" in root_cause
    assert "error: part-7.parquet: is not what it was" in root_cause
