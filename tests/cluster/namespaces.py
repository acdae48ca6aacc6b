"""The system calls that put a process onto a host of its own."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Mapping
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWNET = 0x00020000, 0x04000000, 0x40000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


def enter_network(namespace: str) -> None:
    """This process has from now on the network of a namespace that ``ip netns`` made."""
    with open(f"/run/netns/{namespace}", "rb") as file:
        _call(_libc.setns, file.fileno(), _CLONE_NEWNET)


def enter_host(namespace: str, hostname: str, mounts: Mapping[str, str]) -> None:
    """This process runs from now on as on a host of its own.

    Args:
        namespace: Of the network.
        hostname: Its name.
        mounts: What lies at a path on this host alone: another path, ``ro`` for what lies there anyway but
            cannot be written, or ``empty`` for an empty folder of its own.
    """
    enter_network(namespace)
    _call(_libc.unshare, _CLONE_NEWNS | _CLONE_NEWUTS)
    socket.sethostname(hostname)
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("sysfs", "/sys", "sysfs", 0)  # else it shows the interfaces of the machine
    for path, source in mounts.items():
        if source == "empty":
            _mount("tmpfs", path, "tmpfs", 0)
        else:
            _mount(path if source == "ro" else source, path, None, _MS_BIND | _MS_REC)
            if source == "ro":
                _mount("none", path, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY)


def name_hosts(folder: Path, addresses: Mapping[str, str]) -> str:
    """A file for ``/etc/hosts`` that knows the hosts by name."""
    path = folder / "hosts"
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    return str(path)


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind)]
    _call(_libc.mount, *words, ctypes.c_ulong(flags), None)


def _call(function: object, *arguments: object) -> None:
    if function(*arguments) != 0:  # type: ignore[operator]
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(arguments))
