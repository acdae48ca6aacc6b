"""torchrun's agents on the hosts, forked from a server that has the libraries loaded, or as a command."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.namespaces import enter_host, name_hosts
from tests.cluster.network import Address, Network
from tests.launch.processes import ROOT
from tests.ranks import context

DEADLINE_S = 150.0
PORT = 29500


@dataclass(frozen=True)
class Start:
    """How torchrun is started on every host.

    Attributes:
        script: And its arguments.
        workers: On each host.
        nnodes: As torchrun takes it.
        options: More of torchrun.
        rdzv_conf: Of the rendezvous.
        environment: Variables to set.
        rdzv_host: The host whose agent keeps the store.
        by_command: Start torchrun as a user would. Else its agent is forked, and its workers from it: they
            are there in a fraction of a second, where Python needs many seconds to load the libraries.
    """

    script: Sequence[str]
    workers: int = 1
    nnodes: str = "2"
    options: Sequence[str] = ()
    rdzv_conf: str = "join_timeout=60"
    environment: Mapping[str, str] = field(default_factory=dict)
    rdzv_host: int = 0
    by_command: bool = False

    def torchrun(self, network: Network, number: int) -> list[str]:
        """The arguments of torchrun on a host."""
        meeting, own = network.hosts[self.rdzv_host], network.hosts[number]
        endpoint = f"[{meeting.ipv6}]" if network.ipv6_only else meeting.ipv4
        return [
            *(f"--nnodes={self.nnodes}", f"--nproc_per_node={self.workers}"),
            *("--rdzv_backend=c10d", f"--rdzv_endpoint={endpoint}:{PORT}", "--rdzv_id=job"),
            *(f"--local_addr={own.ipv6 if network.ipv6_only else own.ipv4}", *self.options),
            *([] if self.by_command else ["--run-path", "--start-method=fork"]),
            f"--rdzv_conf=is_host={str(number == self.rdzv_host).lower()},{self.rdzv_conf}",
            *self.script,
        ]


class Agent:
    """A host's torchrun in the background, its output in a file.

    Args:
        network: With the host.
        number: Of the host.
        start: How.
        folder: For the output.
        mounts: See :func:`tests.cluster.namespaces.enter_host`.
        cgroup: A file that the agent's process id is to be written to.
        environment: More variables, of this host alone.
    """

    def __init__(
        self,
        network: Network,
        number: int,
        start: Start,
        *,
        folder: Path,
        mounts: Mapping[str, str] | None = None,
        cgroup: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.number = number
        self._network = network
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / f"host-{number}-{len(list(folder.glob(f'host-{number}-*')))}.log"
        self._log.touch()
        names = {host.hostname: host.ipv6 if network.ipv6_only else host.ipv4 for host in network.hosts}
        mounts = {"/etc/hosts": name_hosts(folder, names), **(mounts or {})}
        variables = {"GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1", **start.environment, **(environment or {})}
        # Python's own: neither a variable nor an import of the tests may decide which code the workers load.
        variables.setdefault("PYTHONPATH", str(ROOT))
        arguments = (network.hosts[number], start.torchrun(network, number), variables, mounts, cgroup)
        self._process = context.Process(target=_be_agent, args=(*arguments, start.by_command, str(self._log)))
        self._process.start()

    def output(self) -> str:
        """What it and its workers printed so far."""
        return self._log.read_text(errors="replace")

    def running(self) -> bool:
        """Whether the agent is."""
        return self._process.is_alive()

    def workers(self) -> list[int]:
        """Process ids of all that runs on the host, but the agent."""
        return _descendants(int(self._process.pid or 0))

    def wait(self, deadline_s: float = DEADLINE_S) -> int | None:
        """Waits for the end; returns the exit code."""
        self._process.join(deadline_s)
        assert not self._process.is_alive(), f"host {self.number} still runs after {deadline_s:g} s:\n{self.output()}"
        return self._process.exitcode

    def wait_for(self, condition: Callable[[str], bool]) -> None:
        """Waits until the output so far meets a condition; fails if the agent ends or the deadline passes first."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition(self.output()):
            assert self._process.is_alive(), f"host {self.number} ended early:\n{self.output()}"
            assert time.monotonic() < deadline, f"host {self.number}:\n{self.output()}"
            self._process.join(0.02)

    def pause(self, seconds: float) -> None:
        """Waits for so long, or for the end."""
        self._process.join(seconds)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the agent."""
        os.kill(int(self._process.pid or 0), number)

    def kill(self) -> None:
        """SIGKILL to the agent and all its workers."""
        pids = [int(self._process.pid or 0), *self.workers()] if self._process.is_alive() else []
        for pid in pids:
            with suppress(ProcessLookupError):  # a worker ends with its agent
                os.kill(pid, signal.SIGKILL)
        self._process.join(DEADLINE_S)

    def crash(self) -> None:
        """The host is gone: first its network, so that no last word gets out, then all that ran there."""
        self._network.cut(self.number)
        self.kill()
        self._network.remove(self.number)


def _be_agent(
    host: Address,
    torchrun: list[str],
    variables: dict[str, str],
    mounts: dict[str, str],
    cgroup: Path | None,
    by_command: bool,
    log: str,
) -> None:
    os.chdir(ROOT)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if cgroup is not None:
        cgroup.write_text(str(os.getpid()), encoding="ascii")
    enter_host(host.namespace, host.hostname, mounts)
    os.environ.update(variables)
    if by_command:
        os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *torchrun])
    import torch.distributed.run

    torch.set_num_threads(1)
    sys.path[:0] = variables["PYTHONPATH"].split(os.pathsep)  # as a new interpreter would have it
    code = 0
    try:
        torch.distributed.run.main(torchrun)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _descendants(pid: int) -> list[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except FileNotFoundError:
        return []
    return [descendant for child in children for descendant in (child, *_descendants(child))]
