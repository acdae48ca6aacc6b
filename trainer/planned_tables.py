"""Where the tables of a job are, as records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import BaseEmbeddingConfig

from trainer.model.embeddings import TABLE_PREFIX


@dataclass(frozen=True)
class PlannedTable:
    """How one table lies over the ranks.

    Attributes:
        name: The table.
        sharding_type: TorchRec's name of the way.
        kernel: TorchRec's name of the kernel.
        ranks: The ranks that hold a shard.
        rows: Rows of the table.
        width: Floats of a row.
        values: That a sample has on average in all features of the table, as the plan takes it.
    """

    name: str
    sharding_type: str
    kernel: str
    ranks: tuple[int, ...]
    rows: int
    width: int
    values: float


def planned_tables(
    plan: ShardingPlan, tables: Iterable[BaseEmbeddingConfig], values: Mapping[str, float]
) -> list[PlannedTable]:
    """The plan as records, in the order of the tables' names.

    Args:
        plan: TorchRec's.
        tables: As the model has them.
        values: Of a row on average, by feature.
    """
    shardings = {name: sharding for module_plan in plan.plan.values() for name, sharding in module_plan.items()}
    return sorted(
        (
            PlannedTable(
                name=table.name.removeprefix(TABLE_PREFIX),
                sharding_type=shardings[table.name].sharding_type,
                kernel=shardings[table.name].compute_kernel,
                ranks=tuple(sorted(set(shardings[table.name].ranks))),
                rows=table.num_embeddings,
                width=table.embedding_dim,
                values=sum(values[name] for name in table.feature_names),
            )
            for table in tables
        ),
        key=lambda record: record.name,
    )


def plan_markdown(tables: list[PlannedTable]) -> str:
    """The plan as a Markdown table, for TensorBoard."""
    lines = ["| table | sharding | kernel | ranks | rows | row width | values |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {t.name} | {t.sharding_type} | {t.kernel} | {', '.join(map(str, t.ranks))} | {t.rows:,} | {t.width} "
        f"| {t.values:.4g} |"
        for t in tables
    ]
    return "\n".join(lines)
