"""How the tables are spread over the ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from omegaconf import MISSING

from trainer.config.rules import at_least, check, one_of, positive

SHARDING_TYPES = (
    "table_wise",
    "row_wise",
    "table_row_wise",
    "column_wise",
    "table_column_wise",
    "grid_shard",
    "data_parallel",
)
KERNELS = ("fused", "fused_uvm", "fused_uvm_caching")
PRECISIONS = ("fp32", "fp16", "bf16", "fp8")


@dataclass
class TableRule:
    """What holds for the tables that a pattern matches; the last rule that gives a key decides it.

    Attributes:
        match: Shell pattern over the tables' names, as ``C*``.
        types: Sharding types that the planner may choose from.
        kernels: Compute kernels that it may choose from.
        min_partition: Least columns of a shard, for the types that cut columns.
        pooling_factor: Values that a row has on average, for its estimates.
        cache_load_factor: Share of the rows that a caching kernel keeps on the GPU.
    """

    match: str = MISSING
    types: list[str] | None = None
    kernels: list[str] | None = None
    min_partition: int | None = None
    pooling_factor: float | None = None
    cache_load_factor: float | None = None

    def __post_init__(self) -> None:
        _names(self.types, SHARDING_TYPES, "types", "sharding.tables.types")
        _names(self.kernels, KERNELS, "kernels", "sharding.tables.kernels")
        if self.min_partition is not None:
            at_least(4, self.min_partition, "sharding.tables.min_partition")
            multiple = self.min_partition % 4 == 0
            check(multiple, "sharding.tables.min_partition", self.min_partition, "a multiple of 4")
        if self.pooling_factor is not None:
            positive(self.pooling_factor, "sharding.tables.pooling_factor")
        _share(self.cache_load_factor, "sharding.tables.cache_load_factor")


@dataclass
class QuantizedComms:
    """What embeddings (forward) and their gradients (backward) are rounded to on the way between ranks."""

    forward: str = "fp32"
    backward: str = "fp32"

    def __post_init__(self) -> None:
        one_of(PRECISIONS, self.forward, "sharding.comms.forward")
        one_of(PRECISIONS, self.backward, "sharding.comms.backward")

    @property
    def precisions(self) -> set[str]:
        """All that is rounded to."""
        return {self.forward, self.backward} - {"fp32"}


@dataclass
class ShardingConfig:
    """What TorchRec's planner may choose from, and the memory that it may plan with.

    ``configs/sharding/planner.yaml`` says what the keys mean.
    """

    types: list[str] = field(default_factory=lambda: ["table_wise", "row_wise"])
    kernels: list[str] = field(default_factory=lambda: ["fused"])
    cache_load_factor: float | None = None
    tables: list[TableRule] = field(default_factory=list)
    prefetch: bool = False
    group_size: int | None = None
    average_every_steps: int = 1
    hbm_cap_gib: float | None = None
    ddr_cap_gib: float | None = None
    reserved_fraction: float = 0.15
    intra_node_gb_per_s: float | None = None
    inter_node_gb_per_s: float | None = None
    comms: QuantizedComms = field(default_factory=QuantizedComms)

    def __post_init__(self) -> None:
        _names(self.types, SHARDING_TYPES, "sharding type", "sharding.types")
        _names(self.kernels, KERNELS, "kernel", "sharding.kernels")
        _share(self.cache_load_factor, "sharding.cache_load_factor")
        for key in ("hbm_cap_gib", "ddr_cap_gib", "intra_node_gb_per_s", "inter_node_gb_per_s"):
            value = getattr(self, key)
            if value is not None:
                positive(value, f"sharding.{key}")
        if self.group_size is not None:
            at_least(1, self.group_size, "sharding.group_size")
        every = self.average_every_steps
        at_least(1, every, "sharding.average_every_steps")
        needs_groups = every == 1 or self.group_size is not None
        check(needs_groups, "sharding.average_every_steps", every, "1 without sharding.group_size")
        fraction = self.reserved_fraction
        check(0 <= fraction < 1, "sharding.reserved_fraction", fraction, "at least 0 and below 1")

    @property
    def replicates_all(self) -> bool:
        """Whether every table is replicated on every rank, under torch's optimizers."""
        return all(types == ["data_parallel"] for types in (self.types, *(r.types for r in self.tables if r.types)))

    def types_of(self, table: str) -> list[str]:
        """The sharding types that the planner may choose from for a table: those of the last rule that gives any."""
        given = [rule.types for rule in self.tables if rule.types and fnmatchcase(table, rule.match)]
        return given[-1] if given else self.types

    @property
    def replicates_some(self) -> bool:
        """Whether the planner may replicate some table."""
        return any("data_parallel" in types for types in (self.types, *(r.types or [] for r in self.tables)))

    @property
    def all_kernels(self) -> set[str]:
        """Every kernel that some table may have."""
        return {*self.kernels, *(kernel for rule in self.tables for kernel in rule.kernels or [])}


def _names(values: list[str] | None, known: tuple[str, ...], what: str, key: str) -> None:
    if values is None:
        return
    check(bool(values), key, values, f"at least one {what}")
    for name in values:
        one_of(known, name, key)


def _share(value: float | None, key: str) -> None:
    check(value is None or 0 < value <= 1, key, value, "above 0 and up to 1")
