"""A look ahead: where the tables of a training run would go, and what its steps would take."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainer.config.cluster import ClusterConfig
from trainer.config.train import TrainConfig


@dataclass
class PlanConfig(TrainConfig):
    """The training run to plan, and for which cluster; ``configs/plan.yaml`` says what the other keys mean."""

    cluster: ClusterConfig = field(default_factory=lambda: ClusterConfig(name="default", device="cpu"))
    ladder: bool = False
    measure_lists: bool = False
    out: str | None = None
