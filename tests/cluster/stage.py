"""A job on several hosts, to which something is going to happen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.agents import Agent, Start
from tests.cluster.network import Network
from tests.distributed.records import JOB, arguments, write_data

HEARTBEAT_S = 6.0
# A dead agent is missed after so long; a rendezvous that may begin with fewer hosts waits no longer for more.
ELASTIC = "join_timeout=90,last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=3,read_timeout=10"


@dataclass
class Stage:
    """A network, a job on its hosts, and what happened.

    Attributes:
        folder: For everything.
        by_command: Whether torchrun is started as a command.
        num_hosts: Of the network.
    """

    folder: Path
    by_command: bool = False
    num_hosts: int = 2
    agents: dict[int, Agent] = field(default_factory=dict)
    network: Network = field(init=False)
    start: Start = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_data(self.folder / "data")
        (self.folder / "records").mkdir()
        self._exit = ExitStack()
        self._never = threading.Event()
        self.network = self._exit.enter_context(Network(self.num_hosts))

    def begin(
        self,
        *,
        elastic: bool,
        restarts: int = 0,
        more: Sequence[str] = (),
        on_hosts: Sequence[int] | None = None,
        **host: Any,
    ) -> None:
        """Starts the job on the hosts; ``host`` holds more arguments of the last one's :class:`Agent`."""
        limits = [f"distributed.heartbeat_timeout_s={HEARTBEAT_S}", "distributed.timeout_s=120"]
        self.start = Start(
            [JOB, *arguments(self.folder / "data", self.folder / "run"), "logging.every_steps=1", *limits, *more],
            nnodes=f"1:{self.num_hosts}" if elastic else str(self.num_hosts),
            options=[f"--max-restarts={restarts}"],
            rdzv_conf=ELASTIC,
            environment={"RECORD_DIR": str(self.folder / "records"), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
            by_command=self.by_command,
        )
        numbers = range(self.num_hosts) if on_hosts is None else on_hosts
        for number in numbers:
            self.enter(number, **(host if number == self.num_hosts - 1 else {}))

    def enter(self, number: int, **host: Any) -> None:
        """Starts the agent of a host."""
        self.agents[number] = Agent(self.network, number, self.start, folder=self.folder / "logs", **host)

    def together(self) -> None:
        """Waits until all hosts train, and a checkpoint of that is there."""
        sign = f"{self.num_hosts} ranks on cpu"
        self.wait_for(lambda: "saved" in self.output().rpartition(sign)[2] and sign in self.output())

    def wait_for(self, condition: Callable[[], bool], deadline_s: float = 150) -> float:
        """Waits for a condition; returns the time at which it was met."""
        deadline = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < deadline, self.output()
            self.pause(0.02)
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        """Waits for so long."""
        self._never.wait(seconds)

    def output(self) -> str:
        """What all hosts printed."""
        return "".join(agent.output() for agent in self.agents.values())

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self.agents.values():
            agent.kill()
        self._exit.close()
