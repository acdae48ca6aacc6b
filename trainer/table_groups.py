"""Sharding groups: ranks that hold one copy of the tables among them, beside other such groups (2D parallelism).

TorchRec's ``DMPCollection`` does the same for CUDA alone: it refuses other devices, and keeps replicas equal with
NCCL's average of weights and of states called ``sum``, which only Adagrad has. Its parts hold for every device: the
sharding environment made here is its own, and ``DistributedModelParallel`` shards by it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from zlib import crc32

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.remote_device import _remote_device
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    EnumerableShardingSpec,
    ShardingEnv,
    ShardingEnv2D,
    ShardingPlan,
)

from trainer.config import ShardingConfig
from trainer.distributed import Worker
from trainer.errors import ConfigError


@dataclass(frozen=True)
class TableGroups:
    """How the ranks are grouped: ranks 0 .. size - 1 are the first group, and so on.

    Attributes:
        size: Ranks of a group.
        count: Groups, and so copies of every sharded table.
    """

    size: int
    count: int

    def of_rank(self, rank: int) -> int:
        """The number of a rank's group."""
        return rank // self.size


def table_groups(config: ShardingConfig, *, world_size: int, ranks_per_node: int) -> TableGroups:
    """The groups of a job; one if it has no more ranks than a group.

    Raises:
        ConfigError: The ranks do not fall into whole groups, or the groups not onto whole hosts.
    """
    size = world_size if config.group_size is None else min(config.group_size, world_size)
    if world_size % size:
        raise ConfigError(
            f"sharding.group_size is {size}, but the job's {world_size} ranks are no multiple of it; "
            f"use one of {_listed(n for n in range(1, world_size + 1) if world_size % n == 0)}, or null."
        )
    if size % ranks_per_node and ranks_per_node % size:
        raise ConfigError(
            f"sharding.group_size is {size}, but hosts have {ranks_per_node} ranks: a group takes whole hosts, or an "
            f"equal part of one; use a multiple of {ranks_per_node}, or one of "
            f"{_listed(n for n in range(1, ranks_per_node + 1) if ranks_per_node % n == 0)}."
        )
    return TableGroups(size, world_size // size)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def sharding_environment(groups: TableGroups, worker: Worker, *, timeout_s: float) -> ShardingEnv:
    """What TorchRec shards by: all ranks, or this rank's group. All ranks must call this.

    Args:
        groups: Of the job.
        worker: This process.
        timeout_s: Seconds after which a collective of a group gives up.
    """
    world = dist.group.WORLD
    assert world is not None, "the process group comes first"
    if groups.count == 1:
        return ShardingEnv.from_process_group(world)
    mesh = torch.arange(worker.world_size).view(groups.count, groups.size)
    row, column = divmod(worker.rank, groups.size)
    timeout = timedelta(seconds=timeout_s)
    replica, shard = (
        dist.new_group(ranks.tolist(), timeout=timeout, use_local_synchronization=True)
        for ranks in (mesh[:, column], mesh[row])
    )
    environment = ShardingEnv2D(
        sharding_pg=shard,
        replica_pg=replica,
        global_pg=world,
        device_mesh=DeviceMesh.from_group(
            [replica, shard], worker.device.type, mesh=mesh, mesh_dim_names=("replicate", "shard")
        ),
        node_group_size=min(worker.local_world_size, groups.size),
        # Groups of neighbouring ranks: lookups stay within a group's hosts, averages go between them.
        use_inter_host_allreduce=True,
    )
    # States are then told as within one group, which is how checkpoints see them.
    environment.output_dtensor = False
    return environment


@dataclass(frozen=True)
class RankPlaces:
    """Where the ranks of a job are.

    Attributes:
        groups: Sharding groups.
        local_ranks: Of every rank, its number within its host, and so its GPU.
    """

    groups: TableGroups
    local_ranks: tuple[int, ...]

    def plan_of(self, plan: ShardingPlan, worker: Worker) -> ShardingPlan:
        """A plan for ranks 0 .. size - 1 of some group as the plan of this worker's group, on the GPUs of its ranks."""
        plan = copy.deepcopy(plan)
        first = self.groups.of_rank(worker.rank) * self.groups.size
        for module_plan in plan.plan.values():
            assert isinstance(module_plan, EmbeddingModuleShardingPlan)
            for sharding in module_plan.values():
                sharding.ranks = [first + rank for rank in sharding.ranks or []]
                if not isinstance(sharding.sharding_spec, EnumerableShardingSpec):
                    continue
                for shard in sharding.sharding_spec.shards:
                    assert isinstance(shard.placement, _remote_device)
                    shard.placement = self._place(first + (shard.placement.rank() or 0), worker.device.type)
        return plan

    def _place(self, rank: int, device_type: str) -> _remote_device:
        device = f"cuda:{self.local_ranks[rank]}" if device_type == "cuda" else device_type
        return _remote_device(f"rank:{rank}/{device}")


@dataclass(frozen=True)
class GroupPlace:
    """This rank's group, as a sharded model knows it.

    Attributes:
        number: Of the group.
        count: Of all groups.
        process_group: Of its ranks; None for all of the job.
    """

    number: int
    count: int
    process_group: dist.ProcessGroup | None

    def writes(self, key: str) -> bool:
        """Whether this group writes a tensor that all groups hold: each writes its share of them."""
        return crc32(key.encode()) % self.count == self.number


def group_place(model: nn.Module) -> GroupPlace:
    """Of a sharded model."""
    environment = getattr(model, "_env", None)
    if not isinstance(environment, ShardingEnv2D):
        return GroupPlace(0, 1, None)
    return GroupPlace(
        environment.global_rank // environment.world_size,
        environment.num_sharding_groups(),
        environment.sharding_pg,
    )
