"""One act at a time beside the training, on all ranks; how it ended, all ranks learn in the same step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from trainer.distributed import describe, gather
from trainer.errors import PeerError

_FAILED, _RUNNING, _DONE = -1, 0, 1


class Background:
    """A thread that may come and go, with process groups of its own. All ranks must create it.

    A process group must not be used by two threads at once: the act agrees through ``group``, and the
    training thread asks how it stands through another, a step behind, so that nobody waits for the answer.

    Args:
        timeout_s: Seconds after which a collective that waits for a dead rank gives up.

    Attributes:
        group: For the act's collectives.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self.group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._asking = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._pending: tuple[torch.Tensor, Any] | None = None

    @property
    def active(self) -> bool:
        """Whether an act goes on here."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, act: Callable[[], object]) -> None:
        """Begins an act, once the one before it has ended well. All ranks must call this.

        Raises:
            ShardFMError: The one before it failed.
        """
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(act,), name="background")
        self._thread.start()

    def check(self) -> None:
        """Raises what the act failed with, on all ranks in the same step. All ranks must call this, once a step.

        Raises:
            ShardFMError: What it failed with here.
            PeerError: It failed on another rank.
        """
        if self._thread is None:
            return
        if self._pending is not None:
            status, work = self._pending
            self._pending = None
            work.wait()
            if int(status) != _RUNNING:
                self.wait()
                return
        status = torch.tensor(_RUNNING if self._thread.is_alive() else _FAILED if self._error else _DONE)
        self._pending = (status, dist.all_reduce(status, dist.ReduceOp.MIN, group=self._asking, async_op=True))

    def wait(self) -> None:
        """Waits for the act, if there is one. All ranks must call this.

        Raises:
            ShardFMError: What it failed with here.
            PeerError: It failed on another rank.
        """
        if self._thread is None:
            return
        if self._pending is not None:
            self._pending[1].wait()
            self._pending = None
        error = self._join()
        own = error is not None and not isinstance(error, PeerError)
        outcomes = gather((own, None if error is None else describe(error)))
        # Who has the error itself speaks, and of several the first.
        failed = [rank for rank, (has_it, _) in enumerate(outcomes) if has_it]
        if error is not None and failed[:1] == [dist.get_rank()]:
            raise error
        for rank in [*failed, *range(len(outcomes))]:
            if outcomes[rank][1] is not None:
                raise PeerError(f"rank {rank}: {outcomes[rank][1]}") from error

    def settle(self) -> None:
        """Lets the act end, and says nothing of how it ended: for when this rank already fails by itself.

        It does end: the ranks that are left reach the end of it together, and a rank that is gone fails it.
        """
        if self._thread is not None:
            self._join()

    def _join(self) -> Exception | None:
        assert self._thread is not None
        self._thread.join()
        error, self._thread, self._error = self._error, None, None
        return error

    def _run(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # kept for the training thread
            self._error = error
