"""A place in torchrun's store that this life of the job has for itself.

torchrun keeps one store through all restarts of its workers, with what the workers before have left in it:
addresses at which nobody listens any more. A process group that is built over those fails, or waits. The
restart count does not tell the lives apart, since the agents of an elastic job count by themselves.
"""

from __future__ import annotations

import json
import time
import uuid
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store

from trainer.errors import ShardFMError

_POLL_S = 0.02


class RendezvousError(ShardFMError):
    """Not all workers of the job came together in time."""


def fresh_store(store: Store, rank: int, world_size: int, timeout: timedelta) -> Store:
    """The store under a prefix that only the workers of this life know. All ranks must call this.

    Every rank leaves a number that it has drawn. Rank 0 offers a prefix together with the numbers that it
    found; a rank takes the offer only if its own number is in it, and so tells what is left of earlier
    lives from what is not. When all have taken the same offer, it holds.

    Args:
        store: That all ranks of all lives share.
        rank: Of this process.
        world_size: Of this life.
        timeout: For all of it.

    Raises:
        RendezvousError: Not all ranks came in time.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    own = uuid.uuid4().hex
    store.set(f"life/number/{rank}", own)
    prefix = _offer(store, world_size, deadline) if rank == 0 else _take(store, rank, own, deadline)
    return PrefixStore(prefix, store)


def _offer(store: Store, world_size: int, deadline: float) -> str:
    keys = [f"life/number/{rank}" for rank in range(world_size)]
    offered: list[str] = []
    prefix = ""
    while True:
        if store.check(keys):
            numbers = [number.decode() for number in store.multi_get(keys)]
            if numbers != offered:
                offered, prefix = numbers, f"life/{uuid.uuid4().hex}"
                store.set("life/offer", json.dumps({"prefix": prefix, "numbers": numbers}))
            if store.add(f"{prefix}/taken", 0) == world_size - 1:
                store.set(f"{prefix}/holds", "")
                return prefix
        _wait(deadline, world_size)


def _take(store: Store, rank: int, own: str, deadline: float) -> str:
    taken = ""
    while True:
        if store.check(["life/offer"]):
            offer = json.loads(store.get("life/offer"))
            prefix, numbers = offer["prefix"], offer["numbers"]
            if rank < len(numbers) and numbers[rank] == own and prefix != taken:
                taken = prefix
                store.add(f"{taken}/taken", 1)
            if taken and store.check([f"{taken}/holds"]):
                return taken
        _wait(deadline, None)


def _wait(deadline: float, world_size: int | None) -> None:
    if time.monotonic() > deadline:
        raise RendezvousError(
            f"not all {'' if world_size is None else f'{world_size} '}workers of the job came together within "
            "distributed.timeout_s; look for one that did not start."
        )
    time.sleep(_POLL_S)
