"""Several hosts on one machine: network namespaces with addresses of their own, joined by a bridge."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from types import TracebackType

from tests.cluster.relay import Relay, without_offloads


@cache
def why_not() -> str | None:
    """Why this machine cannot make hosts; None where it can."""
    if os.geteuid() != 0:
        return "tests of several hosts were NOT run: network namespaces need root"
    missing = [tool for tool in ("ip", "bridge", "tc") if shutil.which(tool) is None]
    if missing:
        return f"tests of several hosts were NOT run: {', '.join(missing)} (iproute2) not found"
    name = f"shardfm-{os.getpid()}-probe"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode == 0:
        # A container may make namespaces, and yet no bridges in them.
        tried = subprocess.run(
            ["ip", "-n", name, "link", "add", "br0", "type", "bridge"], capture_output=True, text=True
        )
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    if tried.returncode:
        return f"tests of several hosts were NOT run: no network namespaces or bridges here ({tried.stderr.strip()})"
    return None


@dataclass(frozen=True)
class Address:
    """Where a host is.

    Attributes:
        namespace: Of the network.
        hostname: That its processes see.
        ipv4: Of its eth0.
        ipv6: Of its eth0.
    """

    namespace: str
    hostname: str
    ipv4: str
    ipv6: str


class Network:
    """A switch with hosts at its ports; a context, which removes them all.

    Args:
        num_hosts: Hosts with addresses 10.77.0.1, ... and fd77::1, ...
        ipv6_only: Without the former.
    """

    def __init__(self, num_hosts: int, *, ipv6_only: bool = False) -> None:
        self.ipv6_only = ipv6_only
        # Namespaces are the machine's: tests may run in several processes.
        self._prefix = f"shardfm-{os.getpid()}"
        self._switch = f"{self._prefix}-switch"
        self._relay: Relay | None = None
        self.hosts = [
            Address(f"{self._prefix}-{i}", f"host-{i}", f"10.77.0.{i + 1}", f"fd77::{i + 1}") for i in range(num_hosts)
        ]

    def boot(self, number: int) -> None:
        """Makes a host, as if its power came (back)."""
        host, port = self.hosts[number], f"port{number}"
        ip("netns", "add", host.namespace)
        ip("link", "add", port, "netns", self._switch, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        # That a host keeps: else the others would go on sending to the old one for a while after it came back.
        ip("-n", host.namespace, "link", "set", "eth0", "address", f"02:00:00:00:00:{number + 1:02x}")
        ip("-n", self._switch, "link", "set", port, "master", "br0", "up")
        ip("-n", host.namespace, "link", "set", "lo", "up")
        if not self.ipv6_only:
            ip("-n", host.namespace, "address", "add", f"{host.ipv4}/24", "dev", "eth0")
        ip("-n", host.namespace, "address", "add", f"{host.ipv6}/64", "dev", "eth0", "nodad")
        ip("-n", host.namespace, "link", "set", "eth0", "up")

    def remove(self, number: int) -> None:
        """The host's network is gone at once, without a last packet."""
        self.cut(number)
        ip("netns", "del", self.hosts[number].namespace)
        # The interface goes when the last process in the namespace does; its port must not be in the way of a new one.
        with suppress(subprocess.CalledProcessError):
            ip("-n", self._switch, "link", "del", f"port{number}")

    def cut(self, number: int) -> None:
        """From now on the switch drops all that comes from the host or goes to it; the host's own link stays up."""
        _run("ip", "netns", "exec", self._switch, "bridge", "link", "set", "dev", f"port{number}", "state", "0")

    def mend(self, number: int) -> None:
        """Ends a cut."""
        _run("ip", "netns", "exec", self._switch, "bridge", "link", "set", "dev", f"port{number}", "state", "3")

    def throttle(self, number: int, *, mbit_per_s: float) -> None:
        """What the host sends goes no faster than that."""
        rate = ["rate", f"{mbit_per_s}mbit", "burst", "64kb", "latency", "400ms"]
        ip("netns", "exec", self.hosts[number].namespace, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *rate)

    def disturb(self, *, delay_ms: float, loss_percent: float) -> str:
        """Delays every packet between hosts, and loses some of them; returns by what means.

        The kernel does it where it has netem; else a relay takes the place of the switch.
        """
        netem = ["delay", f"{delay_ms}ms", "loss", f"{loss_percent}%"]
        for host in self.hosts:
            command = ["tc", "-n", host.namespace, "qdisc", "add", "dev", "eth0", "root", "netem", *netem]
            if subprocess.run(command, capture_output=True).returncode:
                break
        else:
            return "netem"
        ports = [f"port{number}" for number in range(len(self.hosts))]
        for number, host in enumerate(self.hosts):
            ip("-n", self._switch, "link", "set", ports[number], "nomaster")
            # Frames have to be whole on the wire: checksums filled in, none longer than the link carries.
            without_offloads(host.namespace, "eth0")
        self._relay = Relay(self._switch, ports, delay_s=delay_ms / 1000, loss=loss_percent / 100)
        return "relay"

    def calm(self) -> None:
        """Ends a disturbance."""
        if self._relay is None:
            for host in self.hosts:
                ip("netns", "exec", host.namespace, "tc", "qdisc", "del", "dev", "eth0", "root")
            return
        self._relay.close()
        self._relay = None
        for number in range(len(self.hosts)):
            ip("-n", self._switch, "link", "set", f"port{number}", "master", "br0")

    def __enter__(self) -> Network:
        ip("netns", "add", self._switch)
        ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        ip("-n", self._switch, "link", "set", "br0", "up")
        for number in range(len(self.hosts)):
            self.boot(number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._relay is not None:
            self._relay.close()
        for name in [host.namespace for host in self.hosts] + [self._switch]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def ip(*arguments: str) -> None:
    """Runs ``ip``."""
    _run("ip", *arguments)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
