"""How the tables are spread over the ranks."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainer.config.rules import check, one_of, positive

SHARDING_TYPES = (
    "table_wise",
    "row_wise",
    "table_row_wise",
    "column_wise",
    "table_column_wise",
    "grid_shard",
    "data_parallel",
)


@dataclass
class ShardingConfig:
    """What TorchRec's planner may choose from, and the memory that it may plan with."""

    types: list[str] = field(default_factory=lambda: ["table_wise", "row_wise"])
    hbm_cap_gib: float | None = None
    ddr_cap_gib: float = 8.0
    reserved_fraction: float = 0.15

    def __post_init__(self) -> None:
        check(bool(self.types), "sharding.types", self.types, "at least one sharding type")
        for name in self.types:
            one_of(SHARDING_TYPES, name, "sharding.types")
        if self.hbm_cap_gib is not None:
            positive(self.hbm_cap_gib, "sharding.hbm_cap_gib")
        positive(self.ddr_cap_gib, "sharding.ddr_cap_gib")
        check(
            0 <= self.reserved_fraction < 1,
            "sharding.reserved_fraction",
            self.reserved_fraction,
            "at least 0 and below 1",
        )

    @property
    def replicates_all(self) -> bool:
        """Whether every table is replicated on every rank, under torch's optimizers."""
        return self.types == ["data_parallel"]
