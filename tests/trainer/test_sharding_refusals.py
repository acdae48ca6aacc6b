"""Every combination of sharding that is refused, and its message; a test reads that none is left out."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from data.schema import Schema, parse_schema
from tests.conftest import SCHEMA
from trainer import sharding_rules, table_groups
from trainer.config import ShardingConfig, TrainConfig
from trainer.errors import ConfigError

Make = Callable[..., TrainConfig]

# (sharding, device, message)
BACKENDS: list[tuple[dict[str, Any], str, str]] = [
    (
        {"kernels": ["fused", "fused_uvm"]},
        "cpu",
        "sharding.kernels: fused_uvm need a GPU, and this job is on cpu, whose one kernel is fused; use "
        "sharding.kernels=[fused], or device=cuda.",
    ),
    (
        {"tables": [{"match": "user", "kernels": ["fused_uvm_caching"]}]},
        "cpu",
        "sharding.kernels: fused_uvm_caching need a GPU",
    ),
    (
        {"prefetch": True},
        "cpu",
        "sharding.prefetch fetches rows into caches on GPUs, and this job is on cpu, where rows have no cache; use "
        "sharding.prefetch=false, or device=cuda.",
    ),
    (
        {"comms": {"forward": "bf16"}},
        "cpu",
        "sharding.comms: bf16 is not to be had on cpu; use one of fp32, fp16.",
    ),
    ({"comms": {"backward": "fp8"}}, "cpu", "sharding.comms: fp8 is not to be had on cpu; use one of fp32, fp16."),
    (
        {"comms": {"forward": "fp8"}},
        "cuda",
        "sharding.comms: fp8 cannot be summed up between ranks, as row_wise would need; use bf16 or fp16, or "
        "sharding.types without them.",
    ),
    (
        {"cache_load_factor": 0.5},
        "cuda",
        "sharding.cache_load_factor is given, but no table may have a cache; add fused_uvm_caching to "
        "sharding.kernels, or leave it out.",
    ),
    (
        {"tables": [{"match": "user", "cache_load_factor": 0.5}]},
        "cuda",
        "sharding.cache_load_factor is given, but no table may have a cache",
    ),
    (
        {"prefetch": True},
        "cuda",
        "sharding.prefetch is true, but no table may have a cache to fetch rows into; add fused_uvm_caching to "
        "sharding.kernels, or use sharding.prefetch=false.",
    ),
    (
        {"group_size": 2, "kernels": ["fused_uvm_caching"]},
        "cuda",
        "sharding.group_size is 2, but the average over groups would not see rows in the caches of fused_uvm_caching; "
        "use fused or fused_uvm, or sharding.group_size=null.",
    ),
    (
        {"group_size": 2, "types": ["data_parallel"]},
        "cuda",
        "sharding.group_size is 2, but every table is data_parallel, so that every rank has them all; use "
        "sharding.group_size=null, or other sharding.types.",
    ),
    (
        {"tables": [{"match": "usr"}]},
        "cuda",
        "sharding.tables[0].match is 'usr', which matches no table. Did you mean 'user'? Known names: site, user",
    ),
    (
        {"tables": [{"match": "user", "min_partition": 8}]},
        "cuda",
        "sharding.tables[0].min_partition is 8, but its types ['table_wise', 'row_wise'] cut no columns; add one of "
        "column_wise, grid_shard, table_column_wise, or leave it out.",
    ),
]
# (sharding, ranks of each rank's host, message)
HOSTS: list[tuple[dict[str, Any], tuple[int, ...], str]] = [
    (
        {"types": ["row_wise", "table_row_wise", "grid_shard"]},
        (2, 2, 1),
        "sharding.types: grid_shard, table_row_wise goes by hosts, which must all have as many ranks, numbered host by "
        "host, but the ranks of this job are on hosts of 2, 2, 1; use the same --nproc_per_node on all hosts, or "
        "table_wise, row_wise, column_wise and data_parallel without groups.",
    ),
    ({"group_size": 1}, (2, 2, 1), "sharding.group_size=1 goes by hosts, which must all have as many ranks"),
]
# (sharding, ranks, ranks of a host, message)
WORLDS: list[tuple[dict[str, Any], int, int, str]] = [
    (
        {"group_size": 8},
        12,
        4,
        "sharding.group_size is 8, but the job's 12 ranks are no multiple of it; use one of 1, 2, 3, 4, 6, 12, or "
        "null.",
    ),
    (
        {"group_size": 6},
        24,
        4,
        "sharding.group_size is 6, but hosts have 4 ranks: a group takes whole hosts, or an equal part of one; use a "
        "multiple of 4, or one of 1, 2, 4.",
    ),
]
VALUES: list[tuple[dict[str, Any], str]] = [
    ({"types": ["rowwise"]}, "sharding.types is 'rowwise', which is unknown. Did you mean 'row_wise'?"),
    ({"types": []}, "sharding.types is [], but must be at least one sharding type."),
    ({"kernels": ["fused_uv"]}, "sharding.kernels is 'fused_uv', which is unknown. Did you mean 'fused_uvm'?"),
    ({"comms": {"forward": "int8"}}, "sharding.comms.forward is 'int8', which is unknown."),
    ({"tables": [{"match": "user", "types": ["x"]}]}, "sharding.tables.types is 'x', which is unknown."),
    ({"tables": [{"match": "user", "min_partition": 6}]}, "sharding.tables.min_partition is 6, but must be a multiple"),
    (
        {"tables": [{"match": "u", "pooling_factor": 0}]},
        "sharding.tables.pooling_factor is 0.0, but must be",
    ),
    ({"cache_load_factor": 2}, "sharding.cache_load_factor is 2.0, but must be above 0 and up to 1."),
    ({"hbm_cap_gib": -1}, "sharding.hbm_cap_gib is -1.0, but must be a positive number."),
    ({"reserved_fraction": 1}, "sharding.reserved_fraction is 1.0, but must be at least 0 and below 1."),
    ({"group_size": 0}, "sharding.group_size is 0, but must be at least 1."),
    ({"average_every_steps": 0}, "sharding.average_every_steps is 0, but must be at least 1."),
    ({"average_every_steps": 4}, "sharding.average_every_steps is 4, but must be 1 without sharding.group_size."),
]


@pytest.fixture(scope="module")
def schema() -> Schema:
    return parse_schema(SCHEMA, where="test")


def refused_at(act: Callable[[], Any], message: str, module: ModuleType) -> int:
    """The line of a module that refused; its message is the expected one."""
    with pytest.raises(ConfigError) as error:
        act()
    assert message in str(error.value)
    (*_, line) = [entry.lineno for entry in error.traceback if str(entry.path) == module.__file__]
    return int(line)


def refusing_lines(module: ModuleType) -> list[range]:
    """Where a module refuses, from the first to the last line of each statement (counted from 0, as tracebacks do)."""
    return [
        range(node.lineno - 1, (node.end_lineno or node.lineno))
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Raise)
    ]


def test_what_a_backend_lacks_or_would_change_nothing_is_refused_with_what_there_is(
    make_config: Make, schema: Schema
) -> None:
    lines = []
    for sharding, device, message in BACKENDS:
        config: ShardingConfig = make_config(sharding=sharding).sharding

        def check(config: ShardingConfig = config, device: str = device) -> None:
            sharding_rules.check_sharding(config, schema, device)

        lines.append(refused_at(check, message, sharding_rules))
    for sharding, sizes, message in HOSTS:
        config = make_config(sharding=sharding).sharding

        def check_hosts(config: ShardingConfig = config, sizes: tuple[int, ...] = sizes) -> None:
            sharding_rules.check_hosts(config, sizes, alike=False)

        lines.append(refused_at(check_hosts, message, sharding_rules))
    for statement in refusing_lines(sharding_rules):
        assert any(line in statement for line in lines), f"line {statement.start + 1} of sharding_rules.py"


def test_worlds_that_do_not_fall_into_groups_are_refused(make_config: Make) -> None:
    lines = []
    for sharding, ranks, of_a_host, message in WORLDS:
        config: ShardingConfig = make_config(sharding=sharding).sharding

        def check(config: ShardingConfig = config, ranks: int = ranks, of_a_host: int = of_a_host) -> None:
            table_groups.table_groups(config, world_size=ranks, ranks_per_node=of_a_host)

        lines.append(refused_at(check, message, table_groups))
    for statement in refusing_lines(table_groups):
        assert any(line in statement for line in lines), f"line {statement.start + 1} of table_groups.py"


@pytest.mark.parametrize(("sharding", "message"), VALUES)
def test_values_out_of_their_range_are_refused_by_name(
    sharding: dict[str, Any], message: str, make_config: Make
) -> None:
    with pytest.raises(ConfigError) as error:
        make_config(sharding=sharding)
    assert message in str(error.value)


def test_every_sharding_type_is_accepted_on_gpus_and_cpus(make_config: Make, schema: Schema) -> None:
    types = ["table_wise", "row_wise", "table_row_wise", "column_wise", "table_column_wise", "grid_shard"]
    config = make_config(sharding={"types": [*types, "data_parallel"]}).sharding
    for device in ("cpu", "cuda"):
        sharding_rules.check_sharding(config, schema, device)
