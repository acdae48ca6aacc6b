"""What a plan means for each rank: memory by use, and the time of a step by its parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from math import prod

import numpy as np
from torch import nn
from torchrec.distributed.planner.types import ShardingOption

from data.schema import Schema
from launch.plan_figures import Estimate, TableEstimate
from trainer.cluster import cluster_of_group, memory_of_rank
from trainer.config import ClusterConfig, PrecisionConfig
from trainer.config.plan import PlanConfig
from trainer.dense_cost import DenseCost, dense_cost
from trainer.errors import ConfigError
from trainer.model.ctr import row_layout
from trainer.model.embeddings import TABLE_PREFIX, embedding_tables
from trainer.sharding import plan_sharding
from trainer.sharding_rules import check_sharding, values_of_rows
from trainer.table_groups import TableGroups, table_groups
from trainer.table_optimizer import (
    TABLE_BYTES,
    Settings,
    check_table_optimizers,
    fuse_optimizers,
    row_bytes,
    rowwise_state_bytes,
    state_bytes,
    states_as_planned,
    table_settings,
)
from trainer.table_replicas import averaged_in

USES = ("tables", "optimizer", "gradients", "buffers", "dense", "activations", "saving")
PARTS = ("fwd_compute", "fwd_comms", "bwd_compute", "bwd_comms", "prefetch")
_PERF = {"prefetch": "prefetch_compute"}
_COPIES_OF_INPUT = 20
"""Of a batch's ids on a rank: two batches in the pipeline with ten internal copies each, as TorchRec counts."""


def estimate(config: PlanConfig, schema: Schema, lengths: Mapping[str, float] | None = None) -> Estimate:
    """Plans and counts.

    Args:
        config: The run and the cluster.
        schema: The tables and their features.
        lengths: Mean lengths of lists by feature, where they are known; others count as full.

    Raises:
        ConfigError: The planner finds no plan, or the config asks for what the cluster's device lacks.
    """
    config = dataclasses.replace(config, precision=_settled(config))
    cluster, settings = config.cluster, table_settings(schema, config.optimizer)
    check_sharding(config.sharding, schema, cluster.device)
    check_table_optimizers(settings, config.sharding, config.precision, cluster.device)
    groups = table_groups(config.sharding, world_size=cluster.world_size, ranks_per_node=cluster.ranks_per_node)
    group = cluster_of_group(cluster, groups)
    batch_size = -(-config.global_batch_size // cluster.world_size)
    dense = dense_cost(schema, config, batch_size=batch_size, world_size=cluster.world_size)
    of_features = values_of_rows(config.sharding, schema, lengths or {})
    values = {table.name: sum(of_features[name] for name in table.features) for table in schema.tables()}
    inputs = int(8 * batch_size * sum(values.values()) * _COPIES_OF_INPUT)
    width = row_layout(config.model).width
    plan = plan_sharding(
        _meta_model(config, schema, settings),
        config.sharding,
        schema,
        group,
        batch_size=batch_size,
        fixed_bytes=dense.total_bytes + inputs,
        row_bytes=row_bytes(width, settings, config.precision),
        lengths=lengths or {},
    )
    places = {f"{TABLE_PREFIX}{table.name}": place for place, table in enumerate(schema.tables())}
    options = sorted(plan.options, key=lambda option: places[option.name])
    memory, host = _memory(options, config, settings, dense, inputs, groups)
    capacity = memory_of_rank(group, config.sharding)
    own = capacity[cluster.device == "cpu"]
    flops_per_ms = _peak(config) * 1e9 * cluster.dense_utilization
    return Estimate(
        cluster=cluster,
        batch_size=batch_size,
        groups=groups,
        tables=[_table(option, config, settings, values) for option in options],
        memory=memory,
        host=host,
        capacity=(own, capacity[1]),
        reserved=int(own * config.sharding.reserved_fraction),
        embedding_ms=_times(options, groups.size),
        dense=dense,
        dense_tflops=_peak(config),
        dense_ms=dense.flops / flops_per_ms,
        all_reduce_ms=_all_reduce_ms(dense.parameter_bytes, cluster, cluster.world_size),
        average_ms=_average_ms(memory, config, groups),
    )


def _meta_model(config: PlanConfig, schema: Schema, settings: Settings) -> nn.Module:
    """Nothing but the tables, under the name that they have in the model."""
    half = config.precision.tables == "fp16"
    tables = embedding_tables(schema, row_layout(config.model), half=half)
    fuse_optimizers(tables, settings, config.precision)
    return nn.ModuleDict({"embeddings": tables})


def _shard_bytes(option: ShardingOption, config: PlanConfig, settings: Settings) -> list[tuple[int, int]]:
    """(rows, optimizer states) of each shard; states are float32, whatever the rows are."""
    element, optimizer = TABLE_BYTES[config.precision.tables], settings[option.name.removeprefix(TABLE_PREFIX)]
    return [
        (element * prod(shard.size), shard.size[0] * state_bytes(shard.size[1], optimizer)) for shard in option.shards
    ]


def _table(
    option: ShardingOption, config: PlanConfig, settings: Settings, values: Mapping[str, float]
) -> TableEstimate:
    return TableEstimate(
        name=option.name.removeprefix(TABLE_PREFIX),
        rows=option.tensor.shape[0],
        sharding_type=option.sharding_type,
        kernel=option.compute_kernel,
        ranks=[shard.rank for shard in option.shards],
        shard_bytes=[rows + states for rows, states in _shard_bytes(option, config, settings)],
        values=values[option.name.removeprefix(TABLE_PREFIX)],
        ms=max(shard.perf.total for shard in option.shards),
    )


def _memory(
    options: list[ShardingOption],
    config: PlanConfig,
    settings: Settings,
    dense: DenseCost,
    inputs: int,
    groups: TableGroups,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Bytes by use and rank, and the main memory of GPU ranks."""
    on_gpu = config.cluster.device == "cuda"
    memory = {use: np.zeros(groups.size, dtype=np.int64) for use in USES}
    host, copied = np.zeros((2, groups.size), dtype=np.int64)
    for option in options:
        caching, replicated = option.compute_kernel == "fused_uvm_caching", option.compute_kernel == "dense"
        in_main = option.compute_kernel in ("fused_uvm", "fused_uvm_caching")
        cached = (option.cache_load_factor or 0.2) if caching else 0.0
        rowwise = rowwise_state_bytes(settings[option.name.removeprefix(TABLE_PREFIX)])
        for shard, (rows, states) in zip(option.shards, _shard_bytes(option, config, settings), strict=True):
            counted = shard.storage.hbm if on_gpu else shard.storage.ddr
            # What the planner counts beyond the shard's rows and states is input and output of the lookup.
            multiplier = states_as_planned(option.tensor.shape[1], settings[option.name.removeprefix(TABLE_PREFIX)])
            share = cached if in_main else 1.0
            memory["buffers"][shard.rank] += max(0, counted - int(share * rows * (1 + multiplier)))
            on_device = rowwise * shard.size[0] if in_main else states
            memory["tables"][shard.rank] += int(share * rows)
            memory["optimizer"][shard.rank] += on_device
            # Replicas have gradients of whole tables.
            memory["gradients"][shard.rank] += replicated * rows
            host[shard.rank] += in_main * (rows + states - on_device)
            # Of what several ranks hold alike, each writes a part.
            copied[shard.rank] += (rows + states) // (groups.count * (groups.size if replicated else 1))
    memory["buffers"] += inputs
    memory["dense"] += dense.resident_bytes
    memory["activations"] += dense.activation_bytes
    if config.checkpoint.asynchronous:
        copied += (dense.parameter_bytes + dense.optimizer_bytes) // config.cluster.world_size
        saving = host if on_gpu else memory["saving"]
        saving += copied
    return memory, host


def _times(options: list[ShardingOption], world_size: int) -> dict[str, np.ndarray]:
    times = {part: np.zeros(world_size) for part in PARTS}
    for option in options:
        for shard in option.shards:
            for part in PARTS:
                times[part][shard.rank] += getattr(shard.perf, _PERF.get(part, part))
    return times


def _settled(config: PlanConfig) -> PrecisionConfig:
    """``auto`` is what it would be there: bf16, if the cluster multiplies it faster."""
    if config.precision.dense != "auto":
        return config.precision
    peaks = config.cluster.dense_tflops
    faster = peaks.get("bf16", 0.0) > peaks.get("fp32", 0.0)
    return dataclasses.replace(config.precision, dense="bf16" if faster else "fp32")


def _peak(config: PlanConfig) -> float:
    """TFLOP/s of matrix products in the configured precision."""
    peaks, precision = config.cluster.dense_tflops, config.precision.dense
    if precision not in peaks:
        raise ConfigError(
            f"cluster.dense_tflops has {', '.join(sorted(peaks))}, but precision.dense is '{precision}'; add its peak."
        )
    return peaks[precision]


def _average_ms(memory: dict[str, np.ndarray], config: PlanConfig, groups: TableGroups) -> float:
    """Milliseconds of a step for the average of the fullest rank's rows and states over the groups, by turns."""
    numbers = memory["tables"] / TABLE_BYTES[config.precision.tables] + memory["optimizer"] / 4
    num_bytes = int(numbers.max()) * averaged_in(groups.count).itemsize
    return _all_reduce_ms(num_bytes, config.cluster, groups.count) / config.sharding.average_every_steps


def _all_reduce_ms(num_bytes: int, cluster: ClusterConfig, ranks: int) -> float:
    """A ring: every rank sends and receives 2 (W - 1) / W of what is summed up."""
    link = cluster.intra_node_gb_per_s if cluster.nodes == 1 else cluster.inter_node_gb_per_s
    return 2 * (ranks - 1) / ranks * num_bytes / (link * 1e6)
