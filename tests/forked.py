"""The workers of a command as torchrun would start them, forked from a server that has the libraries loaded.

A worker is there in a fraction of a second, where torchrun's takes many seconds. There is no agent: no worker is
restarted, and none is ended because another one failed.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from tests.ranks import context, free_port

DEADLINE_S = 120.0


class ForkedJob:
    """A job in the background, the output of each rank in a file of its own.

    Args:
        world_size: Workers.
        command: The script and its arguments.
        folder: For the output; made if it is missing.
        environment: Variables to set.
    """

    def __init__(
        self, world_size: int, command: Sequence[str], *, folder: Path, environment: dict[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._logs = [folder / f"rank-{rank}.log" for rank in range(world_size)]
        port = str(free_port())
        self.workers: list[BaseProcess] = []
        for rank, log in enumerate(self._logs):
            variables = {
                **(environment or {}),
                **{name: str(rank) for name in ("RANK", "LOCAL_RANK")},
                **{name: str(world_size) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")},
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "TORCHELASTIC_ERROR_FILE": str(log.with_suffix(".json")),
            }
            process = context.Process(target=_work, args=(list(command), variables, str(log)), daemon=True)
            process.start()
            self.workers.append(process)

    def output(self, rank: int) -> str:
        """What a rank printed so far, to stdout and stderr."""
        return self._logs[rank].read_text(errors="replace") if self._logs[rank].exists() else ""

    def send(self, rank: int, number: signal.Signals) -> None:
        """Sends a signal to a worker."""
        os.kill(int(self.workers[rank].pid or 0), number)

    def kill(self) -> None:
        """SIGKILL to all workers at once, as if the power went."""
        for process in self.workers:
            process.kill()
        self.wait()

    def end_like_an_agent(self) -> list[int | None]:
        """What torchrun does when a worker has failed: SIGTERM to the others; returns all exit codes."""
        for process in self.workers:
            process.terminate()
        return self.wait()

    def end_with_the_first(self) -> list[int | None]:
        """Waits until some worker has ended, then ends the others as torchrun would; returns all exit codes."""
        deadline = time.monotonic() + DEADLINE_S
        while all(process.is_alive() for process in self.workers):
            assert time.monotonic() < deadline, f"still running after {DEADLINE_S:g} s:\n{self.output(0)}"
            time.sleep(0.02)
        return self.end_like_an_agent()

    def running(self) -> bool:
        """Whether some worker is."""
        return any(process.is_alive() for process in self.workers)

    def wait(self, ranks: Sequence[int] | None = None) -> list[int | None]:
        """Waits for some workers, or all; returns their exit codes, negative for a signal."""
        chosen = [self.workers[rank] for rank in (range(len(self.workers)) if ranks is None else ranks)]
        for process in chosen:
            process.join(DEADLINE_S)
            assert not process.is_alive(), f"still running after {DEADLINE_S:g} s:\n{self.output(0)}"
        return [process.exitcode for process in chosen]


def _work(command: list[str], variables: dict[str, str], log: str) -> None:
    os.environ.update(variables)
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.argv = list(command)
    runpy.run_path(command[0], run_name="__main__")
    sys.stdout.flush()
    os._exit(0)
