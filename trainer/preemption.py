"""SIGTERM and SIGUSR1: a cluster that wants its machines back gets a checkpoint first."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from trainer.errors import ShardFMError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
SAME_S = 10.0
"""A signal that comes again so soon is the same one: a cluster tells all processes, and torchrun then its workers."""


class PreemptedError(ShardFMError):
    """The job was told to stop, and has saved; starting it again continues it."""


class PreemptionGuard:
    """Listens for signals on every rank and makes all ranks stop after the same step.

    The first signal asks for a stop; another one, or the same one some time later, ends the process at once.
    The ranks agree through a group of their own, a step behind: each step starts the exchange that the next
    one reads, so that nobody waits for it. All ranks must create it, and use it as a context.

    Args:
        timeout_s: Seconds after which an exchange that waits for a dead rank gives up.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._asked: int | None = None
        self._asked_at = 0.0
        self._pending: tuple[torch.Tensor, Any] | None = None
        self._previous: dict[int, Any] = {}

    def agreed(self) -> str | None:
        """The signal that some rank got, on all ranks in the same step; None to go on.

        All ranks must call this, once a step.
        """
        heard = 0
        if self._pending is not None:
            flag, work = self._pending
            work.wait()
            heard = int(flag.item())
        flag = torch.tensor([self._asked or 0])
        self._pending = (flag, dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True))
        return signal.Signals(heard).name if heard else None

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._asked is None:
            self._asked, self._asked_at = number, time.monotonic()
        elif number != self._asked or time.monotonic() > self._asked_at + SAME_S:
            os._exit(128 + number)

    def __enter__(self) -> PreemptionGuard:
        self._previous = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._pending is not None and error is None:
            self._pending[1].wait()
