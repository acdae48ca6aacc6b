"""torchrun's restarts continue the run by themselves, on the workers that are left; and not where they should not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import assert_equal_bits, tensors_of
from tests.distributed.records import TOTAL_STEPS, arguments, write_data
from tests.forked import ForkedJob
from tests.launch.processes import ROOT, RunningJob, run_torchrun
from tests.ranks import free_port

pytestmark = pytest.mark.distributed

FAULTY_JOB = str(ROOT / "tests" / "distributed" / "faulty_job.py")
LAST = Path("checkpoints", f"step-{TOTAL_STEPS:08d}")


NO_FAULT = {"FAULT": "none", "FAULT_RANK": "1", "FAULT_STEP": "20"}


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No fault, until a test sets one."""
    write_data(tmp_path / "data")
    for name, value in NO_FAULT.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def job(tmp_path: Path, run: str, *more: str) -> list[str]:
    return [FAULTY_JOB, *arguments(tmp_path / "data", tmp_path / run), *more]


def test_a_restart_after_a_worker_was_killed_continues_to_the_same_bits(
    tmp_path: Path, fault: pytest.MonkeyPatch
) -> None:
    # The server that forks may be older than this test's environment.
    whole = ForkedJob(2, job(tmp_path, "whole"), folder=tmp_path / "logs", environment=NO_FAULT)
    assert whole.wait() == [0, 0], whole.output(0)
    fault.setenv("FAULT", "kill")
    done = run_torchrun(2, "--max-restarts=1", *job(tmp_path, "killed"))
    assert done.exit_code == 0, done.stderr
    # Saves are under way while training goes on: the newest one may not have been committed.
    assert re.search(rf"^parquet: {TOTAL_STEPS} steps \(resumed at 1[258]\)", done.stdout, re.MULTILINE), done.stdout
    assert_equal_bits(tensors_of(tmp_path / "killed" / LAST), tensors_of(tmp_path / "whole" / LAST))


def test_a_preempted_job_is_not_restarted(tmp_path: Path, fault: pytest.MonkeyPatch) -> None:
    running = RunningJob(
        2,
        *job(tmp_path, "run", "epochs=2000"),
        log=tmp_path / "log",
        options=["--standalone", "--max-restarts=3"],
    )
    running.wait_for(lambda output: "step 20/" in output)
    os.kill(running.workers()[0], signal.SIGUSR1)
    assert running.wait() != 0
    saved = re.findall(r"^SIGUSR1: saved .* and stopped", running.output(), re.MULTILINE)
    assert len(saved) == 1
    assert running.output().count("2 ranks on cpu") == 1


def test_workers_that_cannot_share_the_lanes_end_with_the_numbers_that_can(
    tmp_path: Path, fault: pytest.MonkeyPatch
) -> None:
    done = run_torchrun(3, "--max-restarts=3", *job(tmp_path, "run"))
    assert done.exit_code != 0
    told = re.findall(r"^error: .*", done.stderr, re.MULTILINE)
    assert told == [
        "error: a world of 3 workers cannot share data.lanes=4 equally; start 1, 2 or 4 workers, or set data.lanes "
        "to a multiple of 3 (another order)."
    ]


def test_a_worker_has_spoken_when_its_agent_hears_of_a_mistake(tmp_path: Path) -> None:
    """This agent ends its worker at once, and counts what the worker had written until then."""
    worker = (
        "from trainer.ending import end_process; end_process('no such table', code=2, may_restart=False, after_s=60)"
    )
    words = tmp_path / "words"
    agent = f"""
    trap 'wc -l < {words}; kill -KILL $worker; exit' TERM
    {sys.executable} -c "{worker}" 2> {words} & worker=$!
    wait $worker"""
    environment = {**os.environ, "TORCHELASTIC_MAX_RESTARTS": "1", "LOCAL_RANK": "0"}
    done = subprocess.run(
        ["bash", "-c", agent], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["3"], words.read_text()


def test_an_elastic_job_goes_on_with_the_workers_that_are_left(tmp_path: Path, fault: pytest.MonkeyPatch) -> None:
    """Two agents stand for two hosts; the second one is lost with all that runs on it."""
    fault.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    timing = "last_call_timeout=1,keep_alive_interval=2,keep_alive_max_attempt=3,join_timeout=60"
    options = ["--nnodes=1:2", "--max-restarts=2", "--rdzv-id=elastic", "--local-addr=127.0.0.1"]
    options += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    agents = [
        RunningJob(
            1,
            *job(tmp_path, "run", "epochs=1000", "eval_every_epochs=1000", "checkpoint.every_steps=20"),
            log=tmp_path / f"log-{host}",
            options=[*options, f"--rdzv-conf=is_host={host},{timing}"],
        )
        for host in ("true", "false")
    ]
    # The first agent may have begun alone, before the second one was there.
    together, alone, saved, one_more_step = "2 ranks on cpu", "1 ranks on cpu", ": saved ", " step "
    agents[0].wait_for(lambda _: any(saved in each.output().partition(together)[2] for each in agents))
    times_alone = agents[0].output().count(alone)
    agents[1].kill()
    agents[0].wait_for(
        lambda output: output.count(alone) > times_alone and one_more_step in output.rpartition(alone)[2]
    )
    told = agents[0].output()
    agents[0].kill()
    assert "resumed at step " in told.rpartition(alone)[0].splitlines()[-2], told
