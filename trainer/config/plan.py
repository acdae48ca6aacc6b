"""A look ahead: where the tables of a training run would go, and what its steps would take."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainer.config.cluster import ClusterConfig
from trainer.config.rules import one_of
from trainer.config.train import TrainConfig

ROW_DTYPES = ("fp32", "fp16")


@dataclass
class PlanConfig(TrainConfig):
    """The training run to plan, and for which cluster; ``configs/plan.yaml`` says what the other keys mean."""

    cluster: ClusterConfig = field(default_factory=lambda: ClusterConfig(name="default", device="cpu"))
    row_dtype: str = "fp32"
    ladder: bool = False
    out: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(ROW_DTYPES, self.row_dtype, "row_dtype")
