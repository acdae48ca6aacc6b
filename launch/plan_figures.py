"""A plan in figures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.config import ClusterConfig
from trainer.dense_cost import DenseCost
from trainer.table_groups import TableGroups


@dataclass(frozen=True)
class TableEstimate:
    """One table in the plan.

    Attributes:
        name: The table.
        rows: Rows.
        sharding_type: TorchRec's name.
        kernel: TorchRec's name.
        ranks: That hold a shard, one for each shard.
        shard_bytes: Rows and optimizer states of each shard.
        values: That a sample has on average in all features of the table.
        ms: The planner's time for a step on the slowest of the ranks.
    """

    name: str
    rows: int
    sharding_type: str
    kernel: str
    ranks: list[int]
    shard_bytes: list[int]
    values: float
    ms: float


@dataclass(frozen=True)
class Estimate:
    """A plan in figures.

    Attributes:
        cluster: That it is for.
        batch_size: Rows of a step on a rank.
        groups: Sharding groups, all alike: what is told of ranks is of those of one group.
        tables: In the schema's order.
        memory: Bytes of a rank's own memory (the GPU's, or main memory on CPU) by use, [ranks of a group] each.
        host: Bytes of main memory of a GPU rank, [ranks of a group]: tables, and the copy that is saved.
        capacity: Bytes of (own, main) memory that a rank may use.
        reserved: Bytes of it that are left free.
        embedding_ms: Milliseconds of the tables' work by part, [ranks of a group] each.
        dense: Of the dense part on each rank.
        dense_tflops: Peak of its matrix products in their precision.
        dense_ms: Milliseconds of its matrix products.
        all_reduce_ms: Milliseconds for the sum of its gradients.
        average_ms: Milliseconds for the average of the tables over the groups.
    """

    cluster: ClusterConfig
    batch_size: int
    groups: TableGroups
    tables: list[TableEstimate]
    memory: dict[str, np.ndarray]
    host: np.ndarray
    capacity: tuple[int, int]
    reserved: int
    embedding_ms: dict[str, np.ndarray]
    dense: DenseCost
    dense_tflops: float
    dense_ms: float
    all_reduce_ms: float
    average_ms: float

    @property
    def memory_of_ranks(self) -> np.ndarray:
        """All uses together, [ranks of a group]."""
        return np.sum(list(self.memory.values()), axis=0)

    @property
    def fits(self) -> bool:
        """Whether every rank has the memory, with what is reserved."""
        own, main = self.capacity
        return bool((self.memory_of_ranks + self.reserved <= own).all() and (self.host <= main).all())

    @property
    def ms_of_ranks(self) -> np.ndarray:
        """The tables' milliseconds of each rank, [ranks of a group]."""
        return np.sum(list(self.embedding_ms.values()), axis=0)

    @property
    def parts(self) -> dict[str, float]:
        """Milliseconds of the slowest rank's step by part; one after the other, nothing overlapped."""
        slowest = int(self.ms_of_ranks.argmax())
        parts = {name: float(times[slowest]) for name, times in self.embedding_ms.items()}
        average = {"average": self.average_ms} if self.groups.count > 1 else {}
        return {**parts, "dense": self.dense_ms, "all_reduce": self.all_reduce_ms, **average}

    @property
    def step_ms(self) -> float:
        """Milliseconds of a step."""
        return sum(self.parts.values())

    @property
    def bottleneck(self) -> str:
        """The part that takes longest."""
        return max(self.parts, key=lambda name: self.parts[name])


def imbalance(values: np.ndarray) -> float:
    """The largest over the mean; 1 is even."""
    return float(values.max() / values.mean()) if values.any() else 1.0


def as_json(result: Estimate) -> dict[str, Any]:
    """All figures as plain values."""
    return {
        "cluster": dataclasses.asdict(result.cluster),
        "batch_size_of_rank": result.batch_size,
        "groups": dataclasses.asdict(result.groups),
        "fits": result.fits,
        "capacity_bytes": {"own": result.capacity[0], "main": result.capacity[1], "reserved": result.reserved},
        "memory_bytes_of_ranks": {use: values.tolist() for use, values in result.memory.items()},
        "main_memory_bytes_of_ranks": result.host.tolist(),
        "step_ms": result.step_ms,
        "step_ms_parts": result.parts,
        "bottleneck": result.bottleneck,
        "embedding_ms_of_ranks": result.ms_of_ranks.tolist(),
        "imbalance": {"memory": imbalance(result.memory_of_ranks), "time": imbalance(result.ms_of_ranks)},
        "dense": dataclasses.asdict(result.dense),
        "tables": [dataclasses.asdict(table) for table in result.tables],
    }
