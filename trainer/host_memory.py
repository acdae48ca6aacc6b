"""Main memory: what processes of this host may use, and what this one takes."""

from __future__ import annotations

from pathlib import Path


def host_memory_bytes() -> int:
    """Bytes of main memory that processes here may use: the host's, or less in a container."""
    limits = [_entry(Path("/proc/meminfo"), "MemTotal")]
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


def process_memory_bytes(key: str) -> int:
    """Bytes of memory of this process.

    Args:
        key: What is counted, as Linux names it: ``VmRSS`` all that is resident, ``VmHWM`` the most that was,
            ``RssAnon`` without files that are mapped.
    """
    return _entry(Path("/proc/self/status"), key)


def _entry(path: Path, key: str) -> int:
    (kib,) = [line.split()[1] for line in path.read_text().splitlines() if line.startswith(f"{key}:")]
    return 1024 * int(kib)
