"""The model over all ranks: plan, shards, replicas."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder, ShardedEmbeddingBagCollection
from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs_registry
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.proposers import GreedyProposer, GridSearchProposer, UniformProposer
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError, ShardingOption, Stats
from torchrec.distributed.types import ModuleSharder, ParameterSharding, ShardingPlan
from torchrec.modules.embedding_configs import PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from data.schema import Schema
from trainer.cluster import memory_of_rank, topology
from trainer.config import ClusterConfig, ShardingConfig
from trainer.distributed import Worker
from trainer.errors import ConfigError
from trainer.gradient_buckets import fix_gradient_buckets
from trainer.sharding_rules import constraints
from trainer.table_groups import RankPlaces, sharding_environment

_GIB = 1 << 30
_SUMMED_OVER_RANKS = {"row_wise", "table_row_wise", "grid_shard"}
_MAX_GRID_PROPOSALS = 1000
_PATIENCE = 20
"""Proposals without a better plan after which a greedy search of a large space ends."""


class Sharder(EmbeddingBagCollectionSharder):
    """Offers every sharding type and kernel that the config may name; the stock one hides some on CPU."""

    def __init__(self, config: ShardingConfig, device_type: str) -> None:
        comms = QCommsConfig(
            forward_precision=CommType(config.comms.forward), backward_precision=CommType(config.comms.backward)
        )
        registry = get_qcomm_codecs_registry(comms, device=torch.device(device_type))
        fused: dict[str, Any] = {}
        if device_type == "cpu":
            # The kernels refuse an id that is not in its table as they look it up. The sweep over all ids before that
            # is for CUDA's, which do not; it would make such an id a 0 and go on.
            fused["bounds_check_mode"] = BoundsCheckMode.NONE
        if "fused_uvm_caching" in config.all_kernels and not config.prefetch:
            # FBGEMM then counts hits and misses of the cache, on the device. Not of rows that are fetched ahead: a
            # lookup takes the counter for its own batch's, and the next batch's fetching has set it back by then.
            fused["gather_uvm_cache_stats"] = True
        if config.prefetch:
            # For all kernels alike: TorchRec fetches ahead for those without a cache, too, which have nothing to fetch.
            fused["prefetch_pipeline"] = True
        super().__init__(fused_params=fused, qcomm_codecs_registry=registry)
        self._types = list(
            dict.fromkeys([*config.types, *(name for rule in config.tables for name in rule.types or [])])
        )
        self._kernels = sorted(config.all_kernels)

    def shard(
        self, module: EmbeddingBagCollection, params: dict[str, ParameterSharding], *args: Any, **kwargs: Any
    ) -> ShardedEmbeddingBagCollection:
        """The tables by a plan. All ranks must call this."""
        sharded = super().shard(module, params, *args, **kwargs)
        _divide_means_alone(sharded, module, params)
        return sharded

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """The types that the planner may choose from."""
        return self._types

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        """Fused, with the optimizer in the backward pass; replicas have gradients that are summed up first."""
        return ["dense"] if sharding_type == "data_parallel" else self._kernels


def _divide_means_alone(
    sharded: ShardedEmbeddingBagCollection, module: EmbeddingBagCollection, params: dict[str, ParameterSharding]
) -> None:
    """Tells TorchRec which sums it has to divide, after the ranks have summed up the parts of cut rows.

    On its own it leaves the means of grid_shard as sums, and, if there is any mean to divide, divides the lists
    of tables that are not cut by rows as well: sums become means, and means are divided twice. Silently.
    """
    if module.is_weighted():
        return
    features = sharded._pooling_type_to_rs_features
    features.clear()
    for table in module.embedding_bag_configs():
        divides = table.pooling is PoolingType.MEAN and params[table.name].sharding_type in _SUMMED_OVER_RANKS
        # What is listed as a sum is divided by 1.
        features[(PoolingType.MEAN if divides else PoolingType.SUM).value].extend(table.feature_names)
    sharded._has_mean_pooling_callback = PoolingType.MEAN.value in features


class Reservation(FixedPercentageStorageReservation):
    """Keeps a share of every rank's memory out of the plan, and what the dense part and the batches take.

    TorchRec's own ones keep a share of the GPU's memory alone, and tables in main memory might fill that.

    Args:
        fraction: Of the memory, for what nobody has counted.
        fixed_bytes: Of each rank, for what was counted.
    """

    def __init__(self, fraction: float, fixed_bytes: int) -> None:
        super().__init__(percentage=fraction)
        self._fixed_bytes = fixed_bytes

    def reserve(
        self,
        topology: Topology,
        batch_size: int,
        module: nn.Module,
        sharders: list[ModuleSharder[nn.Module]],
        constraints: dict[str, ParameterConstraints] | None = None,
    ) -> Topology:
        """What is left for tables."""
        left = copy.deepcopy(topology)
        own = "hbm" if topology.compute_device == "cuda" else "ddr"
        for device in left.devices:
            for memory in {own, "ddr"}:
                room = int(getattr(device.storage, memory) * (1 - self._percentage))
                setattr(device.storage, memory, max(0, room - (self._fixed_bytes if memory == own else 0)))
        self._last_reserved_topology = left
        return left


@dataclass(frozen=True)
class TablePlan:
    """What TorchRec's planner decided.

    Attributes:
        sharding: As ``DistributedModelParallel`` takes it.
        options: The choice for each table, its shards with their ranks and the planner's estimates.
    """

    sharding: ShardingPlan
    options: list[ShardingOption]


def plan_sharding(
    model: nn.Module,
    config: ShardingConfig,
    schema: Schema,
    cluster: ClusterConfig,
    *,
    batch_size: int,
    fixed_bytes: int,
    row_bytes: int,
    lengths: Mapping[str, float],
) -> TablePlan:
    """Plans where the tables of a meta model go.

    Args:
        model: Holds the tables on the meta device, their optimizer fused.
        config: Sharding types, kernels, rules and memory limits.
        schema: The tables and their features.
        cluster: Ranks, memory and bandwidths.
        batch_size: Rows of a step on one rank.
        fixed_bytes: Of each rank's memory that other things than tables take.
        row_bytes: Of a table's row with its optimizer states.
        lengths: Mean lengths of lists by feature, where they are known; others count as full.

    Raises:
        ConfigError: The tables do not fit; the message tells sizes and remedies.
    """
    rank_bytes = memory_of_rank(cluster, config)[cluster.device == "cpu"]
    room = int(rank_bytes * (1 - config.reserved_fraction)) - fixed_bytes
    per_table = constraints(config, schema, cluster, row_bytes=row_bytes, rank_bytes=max(0, room), lengths=lengths)
    record = _Record()
    planner = EmbeddingShardingPlanner(
        topology=topology(cluster, config),
        batch_size=batch_size,
        proposer=_proposers(len(per_table), cluster.world_size),
        storage_reservation=Reservation(config.reserved_fraction, fixed_bytes),
        constraints=per_table,
        stats=[record],
        debug=False,
    )
    try:
        plan = planner.plan(model, _sharders(config, cluster.device))
    except PlannerError as cause:
        raise ConfigError(_does_not_fit(config, schema, cluster, row_bytes, room, cause)) from cause
    return TablePlan(plan, record.options)


def shard(
    model: nn.Module,
    plan: ShardingPlan,
    config: ShardingConfig,
    worker: Worker,
    places: RankPlaces,
    *,
    timeout_s: float,
) -> DistributedModelParallel:
    """Shards the tables by the plan, in each group alike, and replicates the rest (DDP). All ranks must call this.

    The tables' memory is allocated here and left uninitialized: see ``model.embeddings.initialize_tables``.

    Args:
        model: With meta tables.
        plan: Of one group, its ranks counted from 0.
        config: The plan was made by it.
        worker: This process.
        places: Of all ranks: their groups and hosts.
        timeout_s: Seconds that a collective of a group may take.
    """
    sharded = DistributedModelParallel(
        model,
        env=sharding_environment(places.groups, worker, timeout_s=timeout_s),
        device=worker.device,
        plan=places.plan_of(plan, worker),
        sharders=_sharders(config, worker.device.type),
    )
    fix_gradient_buckets(sharded)
    return sharded


class _Record(Stats):
    """Keeps the options that the planner chose, with their estimates."""

    def __init__(self) -> None:
        self.options: list[ShardingOption] = []

    def log(self, *args: Any, best_plan: list[ShardingOption], **kwargs: Any) -> None:
        self.options = best_plan


def _sharders(config: ShardingConfig, device_type: str) -> list[ModuleSharder[nn.Module]]:
    return [Sharder(config, device_type)]


def _proposers(num_tables: int, world_size: int) -> list[Any]:
    """TorchRec's own searches; on a large cluster without the exhaustive one, and with an end."""
    if num_tables * world_size <= _MAX_GRID_PROPOSALS:
        grid = GridSearchProposer(max_proposals=_MAX_GRID_PROPOSALS)
        return [grid, GreedyProposer(), GreedyProposer(use_depth=False), UniformProposer()]
    greedy = [GreedyProposer(use_depth=depth, threshold=_PATIENCE) for depth in (True, False)]
    return [*greedy, UniformProposer()]


def _does_not_fit(
    config: ShardingConfig, schema: Schema, cluster: ClusterConfig, row_bytes: int, room: int, cause: PlannerError
) -> str:
    tables = schema.tables()
    total = sum(table.num_embeddings for table in tables) * row_bytes
    largest = max(tables, key=lambda table: table.num_embeddings)
    memory = "hbm" if cluster.device == "cuda" else "ddr"
    return (
        f"sharding: no plan fits {len(tables)} tables onto {cluster.world_size} ranks: with optimizer states they take "
        f"{total / _GIB:,.1f} GiB, '{largest.name}' alone {largest.num_embeddings * row_bytes / _GIB:,.1f} GiB, and "
        f"{max(0, room) / _GIB:,.1f} GiB a rank are left for them (sharding.{memory}_cap_gib, "
        f"sharding.reserved_fraction={config.reserved_fraction:g}), with sharding.types={config.types} and "
        f"sharding.kernels={config.kernels}: use more ranks, allow row_wise or column_wise, lower "
        "sharding.reserved_fraction, on GPUs add fused_uvm_caching to sharding.kernels, or lower model.embedding_dim. "
        f"The planner said: {' '.join(str(cause).split())}"
    )
