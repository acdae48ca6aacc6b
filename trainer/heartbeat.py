"""Signs of life that the ranks leave for each other, so that a host that is gone is noticed long before a timeout.

A process that ends closes its connections, and its peers know at once. A host that loses its power or its
network closes nothing: whoever waits for it would wait for the whole timeout of a collective.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import Store

_STORE_TIMEOUT = timedelta(seconds=5)
_LOST = "heartbeat/lost"


@dataclass(frozen=True)
class Act:
    """What a rank is at.

    Attributes:
        what: In words.
        alone: Whether it needs no other rank.
        done: Whether it has nothing more to do, and gives no more signs.
    """

    what: str
    alone: bool
    done: bool = False


@dataclass(frozen=True)
class Sign:
    """A sign of life.

    Attributes:
        count: Of the rank's signs so far.
        host: The name of its host.
        act: What it is at.
    """

    count: int
    host: str
    act: Act

    @classmethod
    def read(cls, text: bytes) -> Sign:
        """From what :meth:`write` made."""
        values = json.loads(text)
        return cls(values["count"], values["host"], Act(**values["act"]))

    def write(self) -> str:
        """As the store holds it."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Trouble:
    """Why the job cannot go on.

    Attributes:
        told: In words.
        store_lost: Whether the job's store is gone for this rank, and for its torchrun as well.
    """

    told: str
    store_lost: bool


class Heartbeat:
    """A thread that leaves this rank's signs in the job's store and looks for those of others.

    Rank 0 looks at all ranks and tells whom it misses; the others look at rank 0. So a job of W ranks asks
    O(W) of the store in each interval. The thread alone talks with the store: who asks for
    :attr:`trouble` waits for nobody, even if the store's host is gone.

    Args:
        rank: Of this process.
        world_size: Of the job.
        host: The name of this host.
        store: Of this life of the job, for this thread alone.
        interval_s: Seconds between two signs.
        timeout_s: Seconds without a sign after which a rank counts as lost.
        act: Tells what this rank is at.
    """

    def __init__(
        self,
        *,
        rank: int,
        world_size: int,
        host: str,
        store: Any,
        interval_s: float,
        timeout_s: float,
        act: Callable[[], Act],
    ) -> None:
        self._rank, self._world_size, self._host = rank, world_size, host
        self._store: Store = store
        self._store.set_timeout(_STORE_TIMEOUT)
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._act = act
        self._num_signs = 0
        self._answers = 0
        self._lost: str | None = None
        self._seen: dict[int, Sign] = {}
        self._silent_s: dict[int, float] = {}
        self._deaf = _Silence(interval_s)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends, with a last sign that says so if the store still answers; waits for no store that does not."""
        self._stopped.set()
        self._thread.join(timeout=2 * self._interval_s)

    def trouble(self) -> Trouble | None:
        """Who is lost; None while all is well. To be asked once an interval."""
        if self._lost is not None:
            return Trouble(self._lost, store_lost=False)
        if self._deaf.after(self._answers) > self._timeout_s:
            told = (
                f"the job's store has not answered for {self._timeout_s:g} s: the host that keeps it, that of rank 0 "
            )
            return Trouble(told + "or of the rendezvous, is gone or cut off from this one", store_lost=True)
        return None

    def _beat(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self._leave_sign(self._act())
                self._look()
                self._answers += 1
            except (RuntimeError, OSError):  # told by trouble(), if it lasts
                continue
        try:
            self._leave_sign(Act("having ended", alone=True, done=True))
        except (RuntimeError, OSError):  # the store went before this rank did
            return

    def _leave_sign(self, act: Act) -> None:
        self._num_signs += 1
        self._store.set(key(self._rank), Sign(self._num_signs, self._host, act).write())

    def _look(self) -> None:
        missed = []
        for rank in range(1, self._world_size) if self._rank == 0 else (0,):
            sign = Sign.read(self._store.get(key(rank))) if self._store.check([key(rank)]) else None
            if sign is None or sign.act.done:  # it sets up its libraries still, or has ended
                self._silent_s.pop(rank, None)
            elif sign != self._seen.get(rank):
                self._seen[rank] = sign
                self._silent_s[rank] = 0.0
            else:
                # In the looks of this rank: time in which it did not run itself does not count.
                self._silent_s[rank] += self._interval_s
                if self._silent_s[rank] > self._timeout_s:
                    missed.append(rank)
        if missed:
            self._lost = self._describe(missed)
            if self._rank == 0:
                self._store.set(_LOST, self._lost)
        elif self._rank != 0 and self._store.check([_LOST]):
            self._lost = self._store.get(_LOST).decode()

    def _describe(self, ranks: list[int]) -> str:
        each = [f"rank {rank} on {self._seen[rank].host} (last seen at: {self._seen[rank].act.what})" for rank in ranks]
        shown = "; ".join(each[:8]) + (f"; and {len(each) - 8} more" if len(each) > 8 else "")
        return f"no sign of life for {self._timeout_s:g} s (host or network gone, or stopped) from {shown}"


class _Silence:
    """Seconds since a number last changed, as far as this process ran."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._number = -1
        self._silent_s = 0.0
        self._before = time.monotonic()

    def after(self, number: int) -> float:
        """The seconds, now that the number is this."""
        now = time.monotonic()
        passed_s, self._before = min(now - self._before, 2 * self._interval_s), now
        self._silent_s = 0.0 if number != self._number else self._silent_s + passed_s
        self._number = number
        return self._silent_s


def key(rank: int) -> str:
    """Where a rank leaves its signs."""
    return f"heartbeat/{rank}"
