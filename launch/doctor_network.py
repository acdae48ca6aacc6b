"""Whether the ranks can talk, rightly and how fast, and whether their clocks agree."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.distributed as dist

from launch.doctor_report import Finding
from trainer.config.doctor import DoctorConfig
from trainer.distributed import Worker, gather

_MIB = 1 << 20
_REPEATS = 3
_PINGS = 5
_ALL_PAIRS_HOSTS = 8
"""Up to so many hosts each pair is measured, of more the neighbours in a ring."""
_REMEDY = (
    "Look at that host's cable, switch port and duplex (ethtool), at NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME, and at "
    "who else uses the link; or leave the host out."
)


@dataclass(frozen=True)
class Bandwidth:
    """What was measured, in 10^9 bytes a second and in one direction.

    Attributes:
        intra_node: Between a rank and the others of its host, in the largest all-to-all; None on hosts of one rank.
        inter_node: Between a rank and the other hosts, in the largest all-to-all; None on one host.
        findings: For the table.
    """

    intra_node: float | None
    inter_node: float | None
    findings: tuple[Finding, ...]


def check_collectives(worker: Worker) -> list[Finding]:
    """Lets all ranks add and exchange numbers whose outcome is known. All ranks must call this."""
    world_size, rank = worker.world_size, worker.rank
    summed = torch.full((1024,), float(rank + 1), device=worker.device)
    dist.all_reduce(summed)
    sent = torch.arange(world_size, dtype=torch.float32, device=worker.device) + 1000 * rank
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    expected = 1000 * torch.arange(world_size, dtype=torch.float32, device=worker.device) + rank
    right = bool((summed == world_size * (world_size + 1) / 2).all()) and bool((received == expected).all())
    if all(gather(right)):
        return [Finding("ok", "collectives", f"all-reduce and all-to-all of {world_size} ranks give what they should")]
    remedy = "The network or a GPU damages data, or versions of NCCL differ: take the host out."
    return [Finding("fail", "collectives", "all-reduce or all-to-all gave wrong numbers", remedy, socket.gethostname())]


def check_clocks(worker: Worker, limit_s: float, clock: Callable[[], float] = time.time) -> list[Finding]:
    """Compares the clock of each host with that of rank 0's. All ranks must call this.

    Rank 0 answers each question with its time, which lies in the middle between question and answer, as far
    as both ways take equally long; of several questions the quickest counts.

    Args:
        worker: This process.
        limit_s: Seconds that are worth a warning.
        clock: Seconds since some common moment.
    """
    offset_s = 0.0
    for leader in _leaders(worker)[1:]:
        if worker.rank == leader:
            offset_s = min((_ask(clock) for _ in range(_PINGS)), key=lambda asked: asked[0])[1]
        elif worker.rank == 0:
            for _ in range(_PINGS):
                _answer(leader, clock)
    if worker.local_rank != 0:
        return []
    status, remedy = "ok", ""
    if abs(offset_s) > limit_s:
        status, remedy = "warn", "Start NTP or chrony there: logs and TensorBoard mix up the order of what happened."
    told = f"within {limit_s:g} s of rank 0's" if status == "ok" else f"{offset_s:+.1f} s from that of rank 0's host"
    return [Finding("warn" if remedy else "ok", "clock", told, remedy, socket.gethostname())]


def measure(config: DoctorConfig, worker: Worker) -> Bandwidth:
    """Times messages between hosts and collectives of all ranks. All ranks must call this."""
    findings = _measure_links(config, worker)
    sizes = [int(size * _MIB) for size in config.message_mib]
    for name, collective, share in (("all-to-all", _all_to_all, 1.0), ("all-reduce", _all_reduce, 2.0)):
        moved = share * (worker.world_size - 1) / worker.world_size
        rates = [(size, moved * size / _slowest(collective(size, worker), worker)) for size in sizes]
        told = ", ".join(f"{size / _MIB:g} MiB: {_rate(rate)}" for size, rate in rates)
        findings.append(Finding("ok", name, f"of each rank, by size of its message: {told}"))
    largest = max(sizes)
    return Bandwidth(_intra_node(largest, worker), _inter_node(largest, worker), tuple(findings))


def _measure_links(config: DoctorConfig, worker: Worker) -> list[Finding]:
    """Each direction between the first ranks of hosts, one after the other."""
    leaders = _leaders(worker)
    num_bytes = int(max(config.message_mib) * _MIB)
    own: dict[tuple[int, int], float] = {}
    for one, other in _pairs(leaders):
        for sender, receiver in ((one, other), (other, one)):
            if worker.rank in (sender, receiver):
                own[sender, receiver] = num_bytes / _send(num_bytes, sender, receiver, worker)
            dist.barrier()
    hosts = gather(socket.gethostname())
    # The sender may be done as soon as its buffers are full: the receiver knows.
    told = [(link, rate) for rank, rates in enumerate(gather(own)) for link, rate in rates.items() if link[1] == rank]
    if not told:
        return []
    fastest = max(rate for _, rate in told)
    slow = {link: rate for link, rate in told if rate < config.slow_share * fastest}
    findings = []
    for (sender, receiver), rate in slow.items():
        status = "fail" if rate < config.broken_share * fastest else "warn"
        text = f"{hosts[sender]} -> {hosts[receiver]}: {_rate(rate)}, where the fastest link has {_rate(fastest)}"
        findings.append(Finding("fail" if status == "fail" else "warn", "links", text, _REMEDY))
    if not findings:
        text = f"{len(told)} directions between {len(leaders)} hosts: {_rate(min(rate for _, rate in told))} to "
        findings.append(Finding("ok", "links", f"{text}{_rate(fastest)}"))
    return findings


def _send(num_bytes: int, sender: int, receiver: int, worker: Worker) -> float:
    message = torch.empty(num_bytes, dtype=torch.uint8, device=worker.device)
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        if worker.rank == sender:
            dist.send(message, receiver)
        else:
            dist.recv(message, sender)
        _finish(worker)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _all_to_all(num_bytes: int, worker: Worker, group: dist.ProcessGroup | None = None) -> float:
    size = dist.get_world_size(group)
    sent = torch.zeros(max(1, num_bytes // size) * size, dtype=torch.uint8, device=worker.device)
    received = torch.empty_like(sent)
    return _timed(lambda: dist.all_to_all_single(received, sent, group=group), worker, group)


def _all_reduce(num_bytes: int, worker: Worker) -> float:
    summed = torch.zeros(max(1, num_bytes // 4), device=worker.device)
    return _timed(lambda: dist.all_reduce(summed), worker, None)


def _timed(collective: Callable[[], object], worker: Worker, group: dist.ProcessGroup | None) -> float:
    """Seconds of the quickest of some calls; the first one, which may set up connections, does not count."""
    collective()
    seconds = []
    for _ in range(_REPEATS):
        dist.barrier(group)
        _finish(worker)
        started = time.perf_counter()
        collective()
        _finish(worker)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _intra_node(num_bytes: int, worker: Worker) -> float | None:
    """All hosts at a time, each within itself: the slowest host's rate."""
    leaders, count = _leaders(worker), worker.local_world_size
    groups = [dist.new_group(list(range(leader, leader + count))) for leader in leaders]
    if count == 1:
        return None
    own = groups[leaders.index(worker.rank - worker.local_rank)]
    return num_bytes * (count - 1) / count / _slowest(_all_to_all(num_bytes, worker, own), worker)


def _inter_node(num_bytes: int, worker: Worker) -> float | None:
    """What of an all-to-all goes to other hosts, in the time of the whole of it."""
    away = worker.world_size - worker.local_world_size
    if away == 0:
        return None
    return num_bytes * away / worker.world_size / _slowest(_all_to_all(num_bytes, worker), worker)


def _slowest(seconds: float, worker: Worker) -> float:
    return max(gather(seconds))


def _finish(worker: Worker) -> None:
    if worker.device.type == "cuda":
        torch.cuda.synchronize(worker.device)


def _leaders(worker: Worker) -> list[int]:
    """The first rank of each host; torchrun numbers the ranks of a host one after the other."""
    return list(range(0, worker.world_size, worker.local_world_size))


def _pairs(leaders: Sequence[int]) -> list[tuple[int, int]]:
    if len(leaders) <= _ALL_PAIRS_HOSTS:
        return list(combinations(leaders, 2))
    return list(zip(leaders, [*leaders[1:], leaders[0]], strict=True))


def _ask(clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds until the answer, and how far this clock is ahead."""
    answer = torch.zeros(1, dtype=torch.float64)
    asked = clock()
    dist.send(answer, 0)
    dist.recv(answer, 0)
    answered = clock()
    return answered - asked, (asked + answered) / 2 - float(answer)


def _answer(rank: int, clock: Callable[[], float]) -> None:
    message = torch.zeros(1, dtype=torch.float64)
    dist.recv(message, rank)
    message.fill_(clock())
    dist.send(message, rank)


def _rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:.3g} GB/s"
