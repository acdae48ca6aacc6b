"""The model over all ranks: plan, shards, replicas."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch.distributed as dist
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import HeuristicalStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
from torchrec.distributed.types import ModuleSharder, ShardingEnv, ShardingPlan
from torchrec.modules.embedding_configs import BaseEmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from trainer.config import ShardingConfig
from trainer.distributed import Worker
from trainer.errors import ConfigError
from trainer.model.embeddings import TABLE_PREFIX

_GIB = 1 << 30


class Sharder(EmbeddingBagCollectionSharder):
    """Offers every sharding type that the config may name; the stock one hides row-wise types on CPU."""

    def __init__(self, types: list[str]) -> None:
        super().__init__()
        self._types = types

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """The types that the planner may choose from."""
        return self._types

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Fused, with the optimizer in the backward pass; replicas have gradients that are summed up first."""
        return ["dense" if sharding_type == "data_parallel" else "fused"]


@dataclass(frozen=True)
class PlannedTable:
    """How one table lies over the ranks.

    Attributes:
        name: The table.
        sharding_type: TorchRec's name of the way.
        ranks: The ranks that hold a shard.
        rows: Rows of the table.
        width: Floats of a row.
    """

    name: str
    sharding_type: str
    ranks: tuple[int, ...]
    rows: int
    width: int


def plan_sharding(
    model: nn.Module,
    config: ShardingConfig,
    *,
    world_size: int,
    local_world_size: int,
    device_type: str,
    batch_size: int,
) -> ShardingPlan:
    """Plans where the tables of a meta model go; deterministic, so that every rank finds the same plan.

    Args:
        model: Holds the tables on the meta device.
        config: Sharding types and memory limits.
        world_size: Ranks of the job.
        local_world_size: Ranks on a host.
        device_type: ``cpu`` or ``cuda``.
        batch_size: Rows of a step on one rank.

    Raises:
        ConfigError: The tables do not fit; the message tells sizes and remedies.
    """
    topology = Topology(
        world_size=world_size,
        local_world_size=local_world_size,
        compute_device=device_type,
        ddr_cap=int(config.ddr_cap_gib * _GIB),
        **({} if config.hbm_cap_gib is None else {"hbm_cap": int(config.hbm_cap_gib * _GIB)}),
    )
    tables = [
        table.name
        for module in model.modules()
        if isinstance(module, EmbeddingBagCollection)
        for table in module.embedding_bag_configs()
    ]
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=batch_size,
        storage_reservation=HeuristicalStorageReservation(percentage=config.reserved_fraction),
        constraints={
            name: ParameterConstraints(sharding_types=config.types, compute_kernels=["dense", "fused"])
            for name in tables
        },
    )
    try:
        return planner.plan(model, _sharders(config))
    except PlannerError as cause:
        raise ConfigError(
            f"sharding: no plan fits {len(tables)} tables onto {world_size} ranks with sharding.types={config.types}, "
            f"sharding.ddr_cap_gib={config.ddr_cap_gib:g}, sharding.hbm_cap_gib={config.hbm_cap_gib}: use more ranks, "
            "allow row_wise or column_wise, raise the caps to what the hosts have, or lower model.embedding_dim. "
            f"The planner said: {' '.join(str(cause).split())}"
        ) from cause


def shard(model: nn.Module, plan: ShardingPlan, config: ShardingConfig, worker: Worker) -> DistributedModelParallel:
    """Shards the tables by the plan and replicates the rest (DDP). All ranks must call this.

    The tables' memory is allocated here and left uninitialized: see ``model.embeddings.initialize_tables``.
    """
    group = dist.group.WORLD
    assert group is not None, "the process group comes first"
    return DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(group),
        device=worker.device,
        plan=plan,
        sharders=_sharders(config),
    )


def planned_tables(plan: ShardingPlan, tables: Iterable[BaseEmbeddingConfig]) -> list[PlannedTable]:
    """The plan as records, in the order of the tables' names."""
    shardings = {name: sharding for module_plan in plan.plan.values() for name, sharding in module_plan.items()}
    return sorted(
        (
            PlannedTable(
                name=table.name.removeprefix(TABLE_PREFIX),
                sharding_type=shardings[table.name].sharding_type,
                ranks=tuple(sorted(set(shardings[table.name].ranks))),
                rows=table.num_embeddings,
                width=table.embedding_dim,
            )
            for table in tables
        ),
        key=lambda record: record.name,
    )


def plan_markdown(tables: list[PlannedTable]) -> str:
    """The plan as a Markdown table, for TensorBoard."""
    lines = ["| table | sharding | ranks | rows | row width |", "|---|---|---|---|---|"]
    lines += [
        f"| {t.name} | {t.sharding_type} | {', '.join(map(str, t.ranks))} | {t.rows:,} | {t.width} |" for t in tables
    ]
    return "\n".join(lines)


def _sharders(config: ShardingConfig) -> list[ModuleSharder[nn.Module]]:
    return [Sharder(config.types)]
