"""A disk that is slow for some processes: the kernel's own limit for a control group, of either version."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

_V1 = Path("/sys/fs/cgroup/blkio")
_V2 = Path("/sys/fs/cgroup")


class SlowDisk:
    """A control group whose processes write no faster to the disk of a folder; a context, which removes it.

    Args:
        folder: On the disk.
        bytes_per_s: Written.

    Attributes:
        processes: The file to write a process id to.
    """

    def __init__(self, folder: Path, *, bytes_per_s: int) -> None:
        self._group = _group()
        self._limit = f"{_disk(folder)} {bytes_per_s}"
        self.processes = self._group / "cgroup.procs"

    @staticmethod
    def why_not(folder: Path) -> str | None:
        """Why there can be none here; None if there can."""
        if not Path("/sys/dev/block", _disk(folder)).exists():
            return f"{folder} lies on no block device"
        try:
            with SlowDisk(folder, bytes_per_s=1 << 30):
                return None
        except OSError as cause:
            return f"no control group for input and output ({cause})"

    def __enter__(self) -> SlowDisk:
        self._group.mkdir()
        device, rate = self._limit.split()
        try:
            if _V1.is_dir():
                (self._group / "blkio.throttle.write_bps_device").write_text(self._limit)
            else:
                (_V2 / "cgroup.subtree_control").write_text("+io")
                (self._group / "io.max").write_text(f"{device} wbps={rate}")
        except OSError:
            self._group.rmdir()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._group.rmdir()


def _group() -> Path:
    return (_V1 if _V1.is_dir() else _V2) / f"shardfm-{os.getpid()}"


def _disk(folder: Path) -> str:
    device = os.stat(folder).st_dev
    return f"{os.major(device)}:{os.minor(device)}"
