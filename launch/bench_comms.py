"""What the exchanges of a step cost between the ranks of a job: bandwidth by size of the messages."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from trainer.distributed import Worker

_SIZES = tuple(1 << exponent for exponent in range(12, 27, 2))
"""Bytes of a rank's message: 4 KiB to 64 MiB."""


@dataclass(frozen=True)
class Exchange:
    """A collective with messages of one size.

    Attributes:
        collective: Its name.
        message_bytes: What each rank gives.
        ms: The median of several calls, on the slowest rank.
        gb_per_s: What each rank sends, by the least that the collective needs.
    """

    collective: str
    message_bytes: int
    ms: float
    gb_per_s: float


def measure_exchanges(worker: Worker, *, repeats: int) -> list[Exchange]:
    """Times them, the sizes by turns. All ranks must call this."""
    share = (worker.world_size - 1) / worker.world_size
    measured: dict[tuple[str, int, float], list[float]] = {}
    for number in range(repeats + 1):
        for size in _SIZES:
            given = torch.zeros(size // 4 // worker.world_size * worker.world_size, device=worker.device)
            taken = torch.empty_like(given)
            for name, act, sent in (
                ("all-to-all", lambda g=given, t=taken: dist.all_to_all_single(t, g), share * size),
                ("all-reduce", lambda g=given: dist.all_reduce(g), 2 * share * size),
            ):
                seconds = _seconds(act, worker)
                if number:  # the first calls set up connections
                    measured.setdefault((name, size, sent), []).append(seconds)
    return [
        Exchange(name, size, 1000 * statistics.median(seconds), sent / statistics.median(seconds) / 1e9)
        for (name, size, sent), seconds in sorted(measured.items())
    ]


def report(exchanges: list[Exchange], worker: Worker) -> str:
    """The figures, for people."""
    lines = [f"{worker.world_size} ranks on {worker.device.type}", f"{'':<12} {'KiB':>10} {'ms':>10} {'GB/s':>8}"]
    lines += [f"{e.collective:<12} {e.message_bytes // 1024:>10,} {e.ms:>10.3f} {e.gb_per_s:>8.3f}" for e in exchanges]
    return "\n".join(lines)


def _seconds(act: Callable[[], object], worker: Worker) -> float:
    """Of a call, on the slowest rank."""
    dist.barrier()
    started = time.perf_counter()
    act()
    if worker.device.type == "cuda":
        torch.cuda.synchronize(worker.device)
    slowest = torch.tensor([time.perf_counter() - started], dtype=torch.float64)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return float(slowest)
