"""The hosts and links that a plan is made for: found on this machine, or described by a config."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

import torch
from torchrec.distributed.planner import Topology

from trainer.config import ClusterConfig, ShardingConfig
from trainer.distributed import Worker, gather
from trainer.host_memory import host_memory_bytes
from trainer.table_groups import TableGroups

_GIB = 1 << 30
_GB_PER_S = 1e9 / 1000
"""TorchRec counts in bytes a millisecond."""


@dataclass(frozen=True)
class Hosts:
    """The hosts of a running job, as all its ranks see them.

    Attributes:
        local_ranks: Of every rank, its number within its host.
        sizes: Of every rank, the ranks of its host.
        hbm_gib: Memory of the smallest GPU; 0 without GPUs.
        rank_ddr_gib: Main memory for a rank, where it is least.
    """

    local_ranks: tuple[int, ...]
    sizes: tuple[int, ...]
    hbm_gib: float
    rank_ddr_gib: float

    @property
    def alike(self) -> bool:
        """Whether all hosts have as many ranks, numbered host by host."""
        size = self.sizes[0]
        return set(self.sizes) == {size} and all(local == rank % size for rank, local in enumerate(self.local_ranks))

    @property
    def ranks_per_node(self) -> int:
        """Of each host; where they are not alike, each rank counts as a host of its own."""
        return self.sizes[0] if self.alike else 1


def hosts_of_job(worker: Worker) -> Hosts:
    """Finds the hosts. All ranks must call this.

    Memory is what the GPUs and the hosts have, or what their containers may use.
    """
    found = gather((worker.local_rank, worker.local_world_size, *_memory_here(worker)))
    local_ranks, sizes, hbm, ddr = zip(*found, strict=True)
    return Hosts(local_ranks, sizes, min(hbm), min(ddr))


def detected_cluster(worker: Worker) -> ClusterConfig:
    """The cluster of a running job, as if all its hosts were like this one; see :func:`cluster_of_hosts`."""
    size, count = worker.local_world_size, worker.world_size
    hosts = Hosts(tuple(rank % size for rank in range(count)), (size,) * count, *_memory_here(worker))
    return cluster_of_hosts(hosts, worker.device.type)


def cluster_of_hosts(hosts: Hosts, device_type: str) -> ClusterConfig:
    """The hosts of a running job as a cluster to plan for, all like the smallest.

    Bandwidths are TorchRec's defaults, unless the config knows better (see :func:`topology`).
    """
    return ClusterConfig(
        name="detected",
        device=device_type,
        nodes=len(hosts.sizes) // hosts.ranks_per_node,
        ranks_per_node=hosts.ranks_per_node,
        hbm_gib=hosts.hbm_gib,
        ddr_gib=hosts.rank_ddr_gib * hosts.ranks_per_node,
    )


def cluster_of_group(cluster: ClusterConfig, groups: TableGroups) -> ClusterConfig:
    """The hosts of one sharding group, as if they were all; a group of a part of a host has its share of memory."""
    ranks_per_node = min(cluster.ranks_per_node, groups.size)
    return dataclasses.replace(
        cluster,
        nodes=groups.size // ranks_per_node,
        ranks_per_node=ranks_per_node,
        ddr_gib=cluster.ddr_gib * ranks_per_node / cluster.ranks_per_node,
    )


def memory_of_rank(cluster: ClusterConfig, config: ShardingConfig) -> tuple[int, int]:
    """Bytes of GPU and of main memory that a plan may give to a rank: what there is, or the cap if that is less."""
    ddr_gib = cluster.ddr_gib / cluster.ranks_per_node
    caps = ((cluster.hbm_gib, config.hbm_cap_gib), (ddr_gib, config.ddr_cap_gib))
    hbm, ddr = (int(_GIB * (there if cap is None else min(there, cap))) for there, cap in caps)
    return hbm, ddr


def topology(cluster: ClusterConfig, config: ShardingConfig) -> Topology:
    """TorchRec's picture of a cluster."""
    hbm, ddr = memory_of_rank(cluster, config)
    intra = config.intra_node_gb_per_s or cluster.intra_node_gb_per_s
    inter = config.inter_node_gb_per_s or cluster.inter_node_gb_per_s
    # Its constructor warns of a factory that not all supported versions have.
    noisy = logging.getLogger("torchrec.distributed.planner.types")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        return Topology(
            world_size=cluster.world_size,
            local_world_size=cluster.ranks_per_node,
            compute_device=cluster.device,
            hbm_cap=hbm,
            ddr_cap=ddr,
            hbm_mem_bw=cluster.hbm_gb_per_s * _GB_PER_S,
            ddr_mem_bw=cluster.ddr_gb_per_s * _GB_PER_S,
            hbm_to_ddr_mem_bw=cluster.host_link_gb_per_s * _GB_PER_S,
            intra_host_bw=intra * _GB_PER_S,
            inter_host_bw=inter * _GB_PER_S,
        )
    finally:
        noisy.setLevel(level)


def _memory_here(worker: Worker) -> tuple[float, float]:
    """GiB of this worker's GPU, and of main memory for a worker of this host."""
    on_gpu = worker.device.type == "cuda"
    hbm_gib = torch.cuda.get_device_properties(worker.device).total_memory / _GIB if on_gpu else 0.0
    return hbm_gib, host_memory_bytes() / _GIB / worker.local_world_size
