"""A thread that ends the process, and with it the job, when it gets no further."""

from __future__ import annotations

import faulthandler
import math
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import torch.distributed as dist

from trainer.config import DistributedConfig
from trainer.distributed import Worker
from trainer.ending import STALLED_EXIT_CODE, end_agent, end_process
from trainer.heartbeat import Act, Heartbeat, Sign, key

T = TypeVar("T")

_ANSWER_S = 10.0
"""For the question what the other ranks are at; without an answer this rank ends all the same."""


@dataclass(frozen=True)
class _Act:
    """What the main thread is at.

    Attributes:
        what: In words.
        alone: Whether it needs no other rank; a collective's time is not this rank's own.
        limit_s: Seconds that it may take.
    """

    what: str
    alone: bool
    limit_s: float


class Watchdog:
    """Watches the main thread of a rank, and knows what the other ranks are at.

    Collectives have timeouts of their own. They tell neither a rank that waits for its data nor a stopped
    process, and where they fire, they do not say for whom they waited. So every rank leaves signs of life
    in the job's store (see :class:`trainer.heartbeat.Heartbeat`); the rank that got no further in time prints
    the stacks of its threads, names the ranks that hold up the others, and ends. A rank that stands still by
    itself ends a little earlier than those that wait for it, so that it can tell the cause. And when the
    signs of a rank stop, all others end, without waiting for what they are at.

    Time in which the process was suspended does not count.

    Args:
        worker: This process.
        config: ``stall_timeout_s``, ``timeout_s`` and ``heartbeat_timeout_s``.
    """

    def __init__(self, worker: Worker, config: DistributedConfig) -> None:
        self._worker = worker
        self._config = config
        self._interval_s = min(2.0, config.stall_timeout_s / 10, config.heartbeat_timeout_s / 5)
        self._act = _Act("setting up", alone=True, limit_s=math.inf)
        self._beats = 0
        self._failure: Exception | None = None
        self._stopped = threading.Event()
        # Connections of their own, where torch can make them: what waits on the main thread's would hold these up, too.
        store: Any = dist.distributed_c10d._get_default_store()
        cloned = worker.world_size > 1 and hasattr(store, "clone")
        self._store = store.clone() if cloned else None
        self._heartbeat = self._make_heartbeat(store.clone()) if cloned else None
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @contextmanager
    def doing(self, what: str, *, alone: bool = False, limit_s: float | None = None) -> Iterator[None]:
        """Says what the main thread is at, for as long as it is.

        Args:
            what: In words that follow "is at: ".
            alone: Whether it needs no other rank.
            limit_s: Seconds that it may take; None for ``stall_timeout_s``.
        """
        outer = self._act
        self._enter(_Act(what, alone, self._config.stall_timeout_s if limit_s is None else limit_s))
        try:
            yield
        finally:
            self._enter(outer)

    def saving(self, step: int) -> AbstractContextManager[None]:
        """:meth:`doing` for a checkpoint, which may take as long as the other ranks would wait: ``timeout_s``."""
        limit_s = max(self._config.timeout_s, self._config.stall_timeout_s)
        return self.doing(f"saving the checkpoint of step {step}", limit_s=limit_s)

    def steps(self, steps: range) -> Iterator[int]:
        """The steps of a training loop, each of them under watch while the loop's body runs."""
        for step in steps:
            with self.doing(f"step {step + 1}"):
                yield step

    def reads(self, items: Iterator[T]) -> Iterator[T]:
        """The items, each of them waited for under watch."""
        while True:
            with self.doing("waiting for the data of a coming step", alone=True):
                item = next(items, None)
            if item is None:
                return
            yield item

    @contextmanager
    def notes_failure(self) -> Iterator[None]:
        """Remembers an error that leaves the block, so that it is told even if what follows it hangs."""
        try:
            yield
        except Exception as error:
            self._failure = error
            self._enter(_Act("ending after a failure", alone=True, limit_s=self._config.stall_timeout_s))
            raise

    def _enter(self, act: _Act) -> None:
        self._act = act
        self._beats += 1

    def _make_heartbeat(self, store: Any) -> Heartbeat:
        return Heartbeat(
            rank=self._worker.rank,
            world_size=self._worker.world_size,
            host=socket.gethostname(),
            store=store,
            interval_s=self._interval_s,
            timeout_s=self._config.heartbeat_timeout_s,
            act=lambda: Act(self._act.what, self._act.alone),
        )

    def _watch(self) -> None:
        seen, idle_s, before = -1, 0.0, time.monotonic()
        while not self._stopped.wait(self._interval_s):
            act, beats, now = self._act, self._beats, time.monotonic()
            # A longer pause than that was none of the main thread's: the whole process did not run.
            idle_s = 0.0 if beats != seen else idle_s + min(now - before, 2 * self._interval_s)
            seen, before = beats, now
            trouble = self._heartbeat.trouble() if self._heartbeat is not None else None
            if trouble is not None:
                if trouble.store_lost:
                    end_agent()
                told = f"rank {self._worker.rank} ends: {trouble.told}."
                self._end(f"{told} The limit is distributed.heartbeat_timeout_s={self._config.heartbeat_timeout_s:g}.")
            # Who waits for others lets a rank that stands still by itself speak first.
            if idle_s > act.limit_s + (0 if act.alone else 3 * self._interval_s):
                self._give_up(act, idle_s)

    def _give_up(self, act: _Act, idle_s: float) -> None:
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        told = f"rank {self._worker.rank} got no further for {idle_s:.0f} s; it is at: {act.what}."
        blocking = [] if act.alone else self._blocking_ranks()
        if blocking:
            told += f" It waits for {'; '.join(blocking)}."
        limit = "timeout_s" if act.limit_s > self._config.stall_timeout_s else "stall_timeout_s"
        told += f" The stacks of its threads are printed above. The limit is distributed.{limit}={act.limit_s:g}."
        self._end(told)

    def _end(self, told: str) -> NoReturn:
        if self._failure is not None:
            told += f" The failure: {type(self._failure).__name__}: {self._failure}"
        end_process(told, code=STALLED_EXIT_CODE)

    def _blocking_ranks(self) -> list[str]:
        """The ranks that give no sign of life, or are at something of their own; none if the store does not answer."""
        blocking: list[str] = []
        asking = threading.Thread(target=lambda: blocking.extend(self._ask_all_ranks()), daemon=True)
        asking.start()
        asking.join(3 * self._interval_s + _ANSWER_S)
        return list(blocking)

    def _ask_all_ranks(self) -> list[str]:
        first = self._signs()
        time.sleep(3 * self._interval_s)
        second = self._signs()
        blocking = []
        for rank, sign in second.items():
            if sign == first.get(rank) or sign is None:
                at = f", last seen at: {sign.act.what}" if sign else ""
                blocking.append(f"rank {rank}, which gives no sign of life (stopped, cut off or dead{at})")
            elif sign.act.alone:
                blocking.append(f"rank {rank}, which is at: {sign.act.what}")
        return blocking

    def _signs(self) -> dict[int, Sign | None]:
        signs: dict[int, Sign | None] = {}
        for rank in range(self._worker.world_size):
            if rank == self._worker.rank or self._store is None:
                continue
            try:
                found = self._store.check([key(rank)])
                signs[rank] = Sign.read(self._store.get(key(rank))) if found else None
            except (RuntimeError, OSError):
                return {}
        return signs

    def __enter__(self) -> Watchdog:
        self._thread.start()
        if self._heartbeat is not None:
            self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if error is None:
            self._thread.join()
            if self._heartbeat is not None:
                self._heartbeat.stop()
