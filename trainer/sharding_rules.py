"""What the planner may do with each table, and what a backend cannot do at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import CacheParams

from data.schema import Schema
from data.structured import suggestion
from trainer.config import ClusterConfig, ShardingConfig
from trainer.errors import ConfigError
from trainer.model.embeddings import TABLE_PREFIX

_CPU_KERNELS = {"fused"}
_COMMS = {"cpu": {"fp16"}, "cuda": {"fp16", "bf16", "fp8"}}
_SUMMED_OVER_RANKS = {"row_wise", "table_row_wise", "grid_shard"}
_CUTS_COLUMNS = {"column_wise", "table_column_wise", "grid_shard"}
_BY_HOST = {"table_row_wise", "grid_shard", "table_column_wise"}
_A_SHARD_FOR_EACH_RANK = {"row_wise", "data_parallel"}

_MAX_SHARDS = 20_000
"""Beyond, TorchRec's planner takes minutes: its time goes with the shards of all options of all tables."""


def check_sharding(config: ShardingConfig, schema: Schema, device_type: str) -> None:
    """Refuses what a backend lacks and what would change nothing; TorchRec is silent about much of it.

    Raises:
        ConfigError: The message names the key and what there is instead.
    """
    _check_kernels(config, device_type)
    _check_comms(config, device_type)
    _check_caches(config)
    _check_groups(config)
    _check_rules(config, [table.name for table in schema.tables()])


def check_hosts(config: ShardingConfig, sizes: Sequence[int], *, alike: bool) -> None:
    """Refuses what needs hosts that are all alike, where they are not.

    Args:
        config: Types and groups.
        sizes: Of every rank, the ranks of its host.
        alike: Whether all hosts have as many ranks, numbered host by host.

    Raises:
        ConfigError: The message names the types, and what the hosts have.
    """
    types = {*config.types, *(name for rule in config.tables for name in rule.types or [])}
    by_host = sorted(types & _BY_HOST)
    if alike or (not by_host and config.group_size is None):
        return
    what = f"sharding.types: {', '.join(by_host)}" if by_host else f"sharding.group_size={config.group_size}"
    raise ConfigError(
        f"{what} goes by hosts, which must all have as many ranks, numbered host by host, but the ranks of this job "
        f"are on hosts of {', '.join(map(str, sizes))}; use the same --nproc_per_node on all hosts, or "
        "table_wise, row_wise, column_wise and data_parallel without groups."
    )


def _check_kernels(config: ShardingConfig, device_type: str) -> None:
    missing = sorted(config.all_kernels - _CPU_KERNELS) if device_type == "cpu" else []
    if missing:
        raise ConfigError(
            f"sharding.kernels: {', '.join(missing)} need a GPU, and this job is on cpu, whose one kernel is fused; "
            "use sharding.kernels=[fused], or device=cuda."
        )
    if config.prefetch and device_type == "cpu":
        raise ConfigError(
            "sharding.prefetch fetches rows into caches on GPUs, and this job is on cpu, where rows have no cache; "
            "use sharding.prefetch=false, or device=cuda."
        )


def _check_caches(config: ShardingConfig) -> None:
    if "fused_uvm_caching" in config.all_kernels:
        return
    if config.cache_load_factor or any(rule.cache_load_factor for rule in config.tables):
        raise ConfigError(
            "sharding.cache_load_factor is given, but no table may have a cache; add fused_uvm_caching to "
            "sharding.kernels, or leave it out."
        )
    if config.prefetch:
        raise ConfigError(
            "sharding.prefetch is true, but no table may have a cache to fetch rows into; add fused_uvm_caching to "
            "sharding.kernels, or use sharding.prefetch=false."
        )


def _check_groups(config: ShardingConfig) -> None:
    if config.group_size is None:
        return
    if "fused_uvm_caching" in config.all_kernels:
        raise ConfigError(
            f"sharding.group_size is {config.group_size}, but the average over groups would not see rows in the caches "
            "of fused_uvm_caching; use fused or fused_uvm, or sharding.group_size=null."
        )
    if config.replicates_all:
        raise ConfigError(
            f"sharding.group_size is {config.group_size}, but every table is data_parallel, so that every rank has "
            "them all; use sharding.group_size=null, or other sharding.types."
        )


def _check_rules(config: ShardingConfig, names: list[str]) -> None:
    for place, rule in enumerate(config.tables):
        if not any(fnmatchcase(name, rule.match) for name in names):
            raise ConfigError(
                f"sharding.tables[{place}].match is '{rule.match}', which matches no table."
                f"{suggestion(rule.match, names)}"
            )
        types = rule.types or config.types
        if rule.min_partition is not None and not _CUTS_COLUMNS & set(types):
            raise ConfigError(
                f"sharding.tables[{place}].min_partition is {rule.min_partition}, but its types {types} cut no "
                f"columns; add one of {', '.join(sorted(_CUTS_COLUMNS))}, or leave it out."
            )


def _check_comms(config: ShardingConfig, device_type: str) -> None:
    lacking = sorted(config.comms.precisions - _COMMS[device_type])
    if lacking:
        raise ConfigError(
            f"sharding.comms: {', '.join(lacking)} is not to be had on {device_type}; "
            f"use one of fp32, {', '.join(sorted(_COMMS[device_type]))}."
        )
    types = {*config.types, *(name for rule in config.tables for name in rule.types or [])}
    summed = sorted(types & _SUMMED_OVER_RANKS)
    if "fp8" in config.comms.precisions and summed:
        raise ConfigError(
            f"sharding.comms: fp8 cannot be summed up between ranks, as {', '.join(summed)} would need; "
            "use bf16 or fp16, or sharding.types without them."
        )


def constraints(
    config: ShardingConfig,
    schema: Schema,
    cluster: ClusterConfig,
    *,
    row_bytes: int,
    rank_bytes: int,
    lengths: Mapping[str, float],
) -> dict[str, ParameterConstraints]:
    """What TorchRec's planner may choose from, by its name of a table.

    Args:
        config: Types, kernels and rules.
        schema: The tables and their features.
        cluster: Hosts and ranks.
        row_bytes: Of a table's row with its optimizer states.
        rank_bytes: Of memory for tables on a rank.
        lengths: See :func:`values_of_rows`.
    """
    factors = values_of_rows(config, schema, lengths)
    found = {}
    for table in schema.tables():
        types = _setting(config, table.name, "types", config.types)
        if cluster.world_size == 1:
            # Cut or not, all of it lies here; cut by rows, its ids would be sorted first for nothing.
            types = [name for name in types if name in ("table_wise", "data_parallel")] or types
        if len(schema.tables()) * cluster.world_size > _MAX_SHARDS:
            types = _affordable(types, table.num_embeddings * row_bytes, cluster, rank_bytes)
        kernels = _setting(config, table.name, "kernels", config.kernels)
        factor = _setting(config, table.name, "cache_load_factor", config.cache_load_factor)
        found[f"{TABLE_PREFIX}{table.name}"] = ParameterConstraints(
            sharding_types=types,
            compute_kernels=["dense", *kernels],
            min_partition=_setting(config, table.name, "min_partition", None),
            pooling_factors=[factors[name] for name in table.features],
            cache_params=CacheParams(load_factor=factor) if factor and "fused_uvm_caching" in kernels else None,
        )
    return found


def values_of_rows(config: ShardingConfig, schema: Schema, lengths: Mapping[str, float]) -> dict[str, float]:
    """Values that a row has on average, by feature: of the last rule that says so, as measured, or of a full list.

    Args:
        config: Its rules.
        schema: The features.
        lengths: The mean lengths of lists, by feature, where they are known.
    """
    stated = {table.name: _setting(config, table.name, "pooling_factor", None) for table in schema.tables()}
    # A mean below one value, as of lists that are mostly empty, is none that the planner's estimates are made for.
    return {f.name: stated[f.table] or max(1.0, lengths.get(f.name, float(f.max_length))) for f in schema.sparse}


def _setting(config: ShardingConfig, table: str, key: str, default: Any) -> Any:
    """What the last rule for a table that gives a key says."""
    values = [getattr(rule, key) for rule in config.tables if fnmatchcase(table, rule.match)]
    return next((value for value in reversed(values) if value is not None), default)


def _affordable(types: Sequence[str], table_bytes: int, cluster: ClusterConfig, rank_bytes: int) -> list[str]:
    """The types of few shards, for a table that they can hold: in a plan of many tables over many ranks."""
    few = [name for name in types if name not in _A_SHARD_FOR_EACH_RANK]
    on_a_host = any(name in _BY_HOST for name in few)
    room = rank_bytes * (cluster.ranks_per_node if on_a_host else 1)
    if not few or table_bytes > room / 2:
        return list(types)
    if "table_wise" in few and table_bytes <= rank_bytes / 4:
        # Every further option costs a search step over all tables; these are placed well as they are.
        return [name for name in few if name in ("table_wise", "column_wise")]
    return few
