"""Measures how long training stands still for a checkpoint, written while it waits and while it goes on."""

from __future__ import annotations

import functools
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.checkpoint import state, storage
from trainer.checkpoint.background import Background
from trainer.checkpoint.parts import Part, Stored, Tensors
from trainer.checkpoint.staging import Staging
from trainer.distributed import process_group, worker_from_environment

_WIDTH = 64
_TABLES = 8


@dataclass(frozen=True)
class SaveTimes:
    """Medians, in seconds.

    Attributes:
        synchronous_s: That training stands still for a save that it waits for.
        asynchronous_s: That it stands still for one that is written while it goes on.
        written_s: From the start of such a save to its end.
        step_s: Of a step of some computation, with nothing written.
        step_beside_s: Of the same while a checkpoint is written.
        longest_step_s: The longest of those.
    """

    synchronous_s: float
    asynchronous_s: float
    written_s: float
    step_s: float
    step_beside_s: float
    longest_step_s: float


def measure_saves(*, table_bytes: int, repeats: int, folder: str | None) -> SaveTimes:
    """Saves tables by turns in both ways, in a process of its own and on its device.

    Args:
        table_bytes: Of all tables together.
        repeats: Saves of each kind, after one that is not counted: it takes the memory for the copy.
        folder: Where to write; None for the system's place for temporary files.
    """
    worker = worker_from_environment("auto")
    with process_group(worker, timeout_s=600), _directory(folder) as directory:
        tensors, staging, background = _tables(table_bytes, worker.device), Staging(), Background(timeout_s=600)
        waited, stood, written, alone, beside = [], [], [], [], []
        for number in range(repeats + 1):
            alone += _steps(worker.device, 10)
            started = time.perf_counter()
            _write(tensors, directory, 2 * number, None)
            waited.append(time.perf_counter() - started)

            started = time.perf_counter()
            copy = staging.copy(tensors)
            background.start(functools.partial(_write, copy, directory, 2 * number + 1, background.group))
            stood.append(time.perf_counter() - started)
            while background.active:
                beside += _steps(worker.device, 1)
            background.wait()
            written.append(time.perf_counter() - started)
    stands, goes_on, written_s, step, beside_s = (
        statistics.median(times[1:]) for times in (waited, stood, written, alone, beside)
    )
    return SaveTimes(stands, goes_on, written_s, step, beside_s, max(beside))


def report(times: SaveTimes, table_bytes: int) -> str:
    """The figures, for people."""
    ratio = times.synchronous_s / times.asynchronous_s
    return (
        f"tables of {table_bytes / 2**30:.2f} GiB\n"
        f"training stands still, synchronous   {times.synchronous_s:8.2f} s\n"
        f"training stands still, asynchronous  {times.asynchronous_s:8.2f} s   ({ratio:.1f} times less)\n"
        f"written and on disk after            {times.written_s:8.2f} s\n"
        f"a step alone                         {1000 * times.step_s:8.1f} ms\n"
        f"a step beside the writing            {1000 * times.step_beside_s:8.1f} ms   "
        f"(longest {1000 * times.longest_step_s:.1f} ms)"
    )


def _write(tensors: Tensors, directory: Path, step: int, group: torch.distributed.ProcessGroup | None) -> None:
    """As a run does, but that nothing is kept."""
    staged = storage.stage(directory, step)
    files = state.write(tensors, staged, group=group)
    manifest = storage.Manifest(
        step=step, epoch=0, identity={}, config={}, versions={}, world_size=1, monitor={}, files=files
    )
    storage.delete(storage.commit(directory, manifest))


def _tables(num_bytes: int, device: torch.device) -> Tensors:
    rows = num_bytes // (4 * _WIDTH * _TABLES)
    tables = {f"tables/table_{number}/weight": torch.rand(rows, _WIDTH, device=device) for number in range(_TABLES)}
    return {key: Stored((rows, _WIDTH), table.dtype, (Part((0, 0), table),)) for key, table in tables.items()}


def _steps(device: torch.device, count: int) -> list[float]:
    """Seconds of some computation that a training step might be, many small operations from Python."""
    x = torch.rand(256, 256, device=device)
    times = []
    for _ in range(count):
        started = time.perf_counter()
        for _ in range(20):
            x = torch.relu(x @ x) / x.norm()
        float(x.sum())  # waits for the device
        times.append(time.perf_counter() - started)
    return times


@contextmanager
def _directory(folder: str | None) -> Iterator[Path]:
    temporary = Path(tempfile.mkdtemp(prefix="bench-checkpoint-", dir=folder))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary)
