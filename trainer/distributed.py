"""The worker's place in the job, its process group, and acts that succeed or fail on all ranks together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, TCPStore

from trainer.ending import end_with_agent
from trainer.errors import ConfigError, LauncherError, PeerError, ShardFMError
from trainer.rendezvous import fresh_store

T = TypeVar("T")


@dataclass(frozen=True)
class Worker:
    """One process of the job.

    Attributes:
        rank: Number within the job, 0 .. world_size - 1.
        world_size: Processes of the job.
        local_rank: Number within the host.
        local_world_size: Processes on this host.
        device: Where this worker computes.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this worker speaks and commits for the job."""
        return self.rank == 0


def worker_from_environment(device: str) -> Worker:
    """Reads what torchrun put into the environment; without torchrun, a world of one.

    Args:
        device: ``auto`` (CUDA where it is found), ``cpu`` or ``cuda``.

    Raises:
        LauncherError: Variables are missing, or do not fit together.
        ConfigError: CUDA is asked for and there is none, or fewer GPUs than workers on this host.
    """
    rank, world_size = _place("RANK", "WORLD_SIZE")
    local_rank, local_world_size = _place("LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if local_world_size > world_size:
        raise _wrong("LOCAL_WORLD_SIZE", local_world_size, f"at most WORLD_SIZE={world_size}")
    if "RANK" in os.environ:
        _check_meeting_point()
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but PyTorch finds no CUDA device here; use device=cpu or device=auto.")
    use_cuda = device != "cpu" and torch.cuda.is_available()
    if use_cuda and local_world_size > torch.cuda.device_count():
        raise ConfigError(
            f"{local_world_size} workers were started on this host, but it has {torch.cuda.device_count()} GPUs; "
            "lower --nproc_per_node, or use device=cpu."
        )
    return Worker(
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=local_world_size,
        device=torch.device("cuda", local_rank) if use_cuda else torch.device("cpu"),
    )


def _place(number: str, count: str) -> tuple[int, int]:
    """A worker's number among so many; without the variables, the only one."""
    if number not in os.environ and os.environ.get(count, "1") != "1":
        raise _wrong(number, None, f"set where {count}={os.environ[count]} is")
    rank, size = (_integer(name, os.environ.get(name, default)) for name, default in ((number, "0"), (count, "1")))
    if size < 1:
        raise _wrong(count, size, "at least 1")
    if not 0 <= rank < size:
        raise _wrong(number, rank, f"0 or more and below {count}, which is {os.environ.get(count, 'not set')}")
    return rank, size


def _check_meeting_point() -> None:
    """Where the workers find each other; torch would end with a trace, or wait."""
    for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise _wrong(name, None, "set where RANK is")
    port = _integer("MASTER_PORT", os.environ["MASTER_PORT"])
    if not 0 < port < 1 << 16:
        raise _wrong("MASTER_PORT", port, "a port, 1 to 65535")


def _integer(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError as cause:
        raise _wrong(name, repr(value), "an integer") from cause


def _wrong(name: str, value: object, rule: str) -> LauncherError:
    told = "is not set" if value is None else f"is {value}"
    return LauncherError(
        f"environment variable {name} {told}, but has to be {rule}; start the workers with torchrun, which sets RANK, "
        "WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or unset all of these for one process."
    )


@contextmanager
def process_group(worker: Worker, *, timeout_s: float) -> Iterator[None]:
    """Joins the job's process group, and leaves it when the block ends well. All ranks must call this.

    Args:
        worker: This process.
        timeout_s: Seconds after which a collective that waits for a dead rank gives up. On CUDA, NCCL's own
            watchdog then ends the process (TORCH_NCCL_ASYNC_ERROR_HANDLING, which torchrun switches on).
    """
    if worker.device.type == "cuda":
        torch.cuda.set_device(worker.device)
    # On CUDA gloo stays beside NCCL, for what is said between hosts (errors, file names, plans).
    backend = "cpu:gloo,cuda:nccl" if worker.device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=timeout_s)
    end_with_agent()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        shared = TCPStore(address, port, worker.world_size, is_master=False, timeout=timeout)
        store = fresh_store(shared, worker.rank, worker.world_size, timeout)
        dist.init_process_group(backend, timeout=timeout, store=store, rank=worker.rank, world_size=worker.world_size)
    elif "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        dist.init_process_group(backend, timeout=timeout, store=HashStore(), rank=0, world_size=1)
    yield
    # Only after success: a failing rank must not wait here for the others, it must end.
    dist.barrier()
    dist.destroy_process_group()


def on_main(act: Callable[[], T], *, group: dist.ProcessGroup | None = None) -> T:
    """Runs an act on rank 0 alone and gives its result to all ranks. All ranks must call this.

    Args:
        act: Called on rank 0; its result must be picklable.
        group: Of all ranks, to tell them through; None for the job's own.

    Raises:
        ShardFMError: What the act raised, on rank 0.
        PeerError: The same message, on the other ranks.
    """
    error: Exception | None = None
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = act()
        except Exception as failure:  # told to all ranks before it is raised
            error = failure
            outcome[1] = describe(failure)
    dist.broadcast_object_list(outcome, src=0, group=group)
    if error is not None:
        raise error
    if outcome[1] is not None:
        raise PeerError(outcome[1])
    result: T = outcome[0]
    return result


def on_all(act: Callable[[], T], *, group: dist.ProcessGroup | None = None) -> T:
    """Runs an act on every rank; if it fails anywhere, all ranks raise. All ranks must call this.

    Args:
        act: Must not call collectives itself: a rank that fails in it would leave the others waiting.
        group: Of all ranks, to agree through; None for the job's own.

    Raises:
        ShardFMError: What the act raised here.
        PeerError: The message of the first rank that failed, on the ranks that did not.
    """
    error: Exception | None = None
    result: Any = None
    try:
        result = act()
    except Exception as failure:  # told to all ranks before it is raised
        error = failure
    messages: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(messages, None if error is None else describe(error), group=group)
    failed = [rank for rank, message in enumerate(messages) if message is not None]
    if error is not None:
        # Where several ranks fail alike, one of them speaks.
        raise error if failed[0] == dist.get_rank() else PeerError(describe(error)) from error
    if failed:
        raise PeerError(f"rank {failed[0]}: {messages[failed[0]]}")
    return result


def gather(value: T, *, group: dist.ProcessGroup | None = None) -> list[T]:
    """Every rank's value, in the order of the ranks, on every rank. All ranks must call this."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=group)
    return values


def describe(error: Exception) -> str:
    """An error in the words that another rank repeats."""
    return str(error) if isinstance(error, ShardFMError) else f"{type(error).__name__}: {error}"


def lost_peer(error: RuntimeError) -> str | None:
    """What to say of a collective that failed because of another rank; None if it failed for a fault of its own."""
    told = " ".join(str(error).split())
    if any(sign in told for sign in ("Timed out waiting", "timeout caused pair closure")):
        return f"another rank did not answer within distributed.timeout_s ({told})"
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    if isinstance(error, dist.DistError) or any(sign in told for sign in signs):
        return f"lost the connection to another rank, whose own message says why ({told})"
    return None
