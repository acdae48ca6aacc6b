"""The hosts and links that a plan is made for: found on this machine, or described by a config."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import torch
from torchrec.distributed.planner import Topology

from trainer.config import ClusterConfig, ShardingConfig
from trainer.distributed import Worker
from trainer.table_groups import TableGroups

_GIB = 1 << 30
_GB_PER_S = 1e9 / 1000
"""TorchRec counts in bytes a millisecond."""


def detected_cluster(worker: Worker) -> ClusterConfig:
    """The cluster of a running job, taken to be made of hosts like this one.

    Memory is what the GPU and the host have, or what the container may use; bandwidths are TorchRec's
    defaults, unless the config knows better (see :func:`topology`).
    """
    on_gpu = worker.device.type == "cuda"
    hbm_gib = torch.cuda.get_device_properties(worker.device).total_memory / _GIB if on_gpu else 0.0
    return ClusterConfig(
        name="detected",
        device=worker.device.type,
        nodes=max(1, worker.world_size // worker.local_world_size),
        ranks_per_node=min(worker.local_world_size, worker.world_size),
        hbm_gib=hbm_gib,
        ddr_gib=_host_memory() / _GIB,
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


def _host_memory() -> int:
    """Bytes of main memory that processes here may use: the host's, or less in a container."""
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    limits = [int(total.split()[1]) * 1024]
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():
            limits.append(int(text))
    return min(limits)
