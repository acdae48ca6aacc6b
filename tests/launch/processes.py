"""Starts the commands as a user would, and kills them as a cluster would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEADLINE_S = 120.0


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str


def run_python(*arguments: str, cwd: Path = ROOT) -> Finished:
    """Runs ``python ...`` to its end, without torchrun's environment."""
    return _run([sys.executable, *arguments], cwd)


def run_torchrun(world_size: int, *arguments: str, cwd: Path = ROOT) -> Finished:
    """Runs ``torchrun --standalone --nproc_per_node=world_size ...`` to its end."""
    return _run([*_torchrun(world_size), *arguments], cwd)


class RunningJob:
    """A torchrun job in the background, its output in a file.

    Args:
        world_size: Workers of this agent.
        arguments: The script and its arguments.
        log: The file.
        options: Of torchrun.
    """

    def __init__(self, world_size: int, *arguments: str, log: Path, options: Sequence[str] = ("--standalone",)) -> None:
        self._log = log
        command = [*_torchrun(world_size, options), *arguments]
        with open(log, "wb") as output:
            self._process = subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=output, stderr=output)

    def wait_for(self, condition: Callable[[str], bool]) -> None:
        """Waits until the output so far meets a condition; fails if the job ends or the deadline passes first."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition(self._log.read_text(errors="replace")):
            assert self._process.poll() is None, f"the job ended early:\n{self._log.read_text(errors='replace')}"
            assert time.monotonic() < deadline, self._log.read_text(errors="replace")
            try:  # a wait on the job itself, so that its end is noticed at once
                self._process.wait(timeout=0.01)
            except subprocess.TimeoutExpired:
                continue

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        return _descendants(self._process.pid)

    def running(self) -> bool:
        """Whether the agent is."""
        return self._process.poll() is None

    def pause(self, seconds: float) -> None:
        """Waits for so long, or for the end."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=seconds)

    def output(self) -> str:
        """What was printed so far."""
        return self._log.read_text(errors="replace")

    def signal_agent(self, number: signal.Signals) -> int:
        """Sends a signal to torchrun's agent and waits for the end; returns the exit code."""
        self._process.send_signal(number)
        return self._process.wait(timeout=DEADLINE_S)

    def wait(self) -> int:
        """Waits for the end; returns the exit code."""
        return self._process.wait(timeout=DEADLINE_S)

    def kill(self) -> None:
        """SIGKILL to the agent and to every worker, as a host that goes down would."""
        for pid in [self._process.pid, *_descendants(self._process.pid)]:
            with suppress(ProcessLookupError):  # a worker ends with its agent
                os.kill(pid, signal.SIGKILL)
        self._process.wait(timeout=DEADLINE_S)


def _run(command: list[str], cwd: Path) -> Finished:
    done = subprocess.run(command, cwd=cwd, env=_environment(), capture_output=True, text=True, timeout=DEADLINE_S)
    return Finished(done.returncode, done.stdout, done.stderr)


def _torchrun(world_size: int, options: Sequence[str] = ("--standalone",)) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *options, f"--nproc_per_node={world_size}"]


def _environment() -> dict[str, str]:
    # The commands find the packages as an editable install would have it, whatever environment runs the tests.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def _descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [descendant for child in children for descendant in (child, *_descendants(child))]
