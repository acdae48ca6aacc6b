"""Signals end a job after a checkpoint, on all ranks together, and nothing is lost."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.checkpoints import assert_equal_bits, tensors_of
from tests.forked import ForkedJob
from tests.launch.processes import RunningJob, run_python
from trainer.checkpoint import storage

pytestmark = pytest.mark.distributed


def arguments(run_dir: Path) -> list[str]:
    options = ["epochs=3", "checkpoint.every_steps=1000", "logging.every_steps=1", "eval_every_epochs=100"]
    return ["launch/train.py", "experiment=adult", f"run_dir={run_dir}", *options]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    job = ForkedJob(2, arguments(folder / "run"), folder=folder / "logs")
    assert job.wait() == [0, 0], job.output(0)
    return folder / "run" / "checkpoints" / "step-00000192"


def started(tmp_path: Path) -> RunningJob:
    job = RunningJob(2, *arguments(tmp_path / "run"), log=tmp_path / "log")
    job.wait_for(lambda output: "step 20/192" in output)
    return job


def assert_continues_exactly(tmp_path: Path, uninterrupted: Path) -> None:
    (saved,) = storage.committed(tmp_path / "run" / "checkpoints")
    step = storage.read_manifest(saved).step
    assert 20 <= step < 192
    again = ForkedJob(2, arguments(tmp_path / "run"), folder=tmp_path / "again")
    assert again.wait() == [0, 0], again.output(0)
    assert f"adult: 192 steps (resumed at {step})" in again.output(0)
    assert_equal_bits(tensors_of(tmp_path / "run" / "checkpoints" / uninterrupted.name), tensors_of(uninterrupted))


def test_sigterm_to_the_agent_saves_and_resumes_exactly(tmp_path: Path, uninterrupted: Path) -> None:
    job = started(tmp_path)
    assert job.signal_agent(signal.SIGTERM) != 0
    assert re.search(r"^SIGTERM: saved .*step-\d+ and stopped; the same command continues", job.output(), re.MULTILINE)
    assert_continues_exactly(tmp_path, uninterrupted)


def test_sigusr1_to_one_worker_stops_all_ranks_after_the_same_step(tmp_path: Path, uninterrupted: Path) -> None:
    job = started(tmp_path)
    os.kill(job.workers()[1], signal.SIGUSR1)
    assert job.wait() != 0
    assert len(re.findall(r"^SIGUSR1: saved", job.output(), re.MULTILINE)) == 1
    assert "exitcode  : 75" in job.output()
    assert_continues_exactly(tmp_path, uninterrupted)


TWO_SIGNALS = """
import os, signal
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from trainer.preemption import PreemptionGuard

dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
with PreemptionGuard(timeout_s=60) as guard:
    os.kill(os.getpid(), signal.SIGTERM)
    guard.agreed()
    print(guard.agreed(), flush=True)
    os.kill(os.getpid(), signal.SIGUSR1)
    print("still here", flush=True)
"""


def test_a_signal_that_comes_again_at_once_is_the_same_one() -> None:
    done = run_python("-c", TWO_SIGNALS.replace("SIGUSR1", "SIGTERM"))
    assert done.stdout == "SIGTERM\nstill here\n"
    assert done.exit_code == 0


def test_a_second_signal_exits_at_once() -> None:
    done = run_python("-c", TWO_SIGNALS)
    assert done.stdout == "SIGTERM\n"
    assert done.exit_code == 128 + signal.SIGUSR1
