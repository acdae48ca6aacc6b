"""A comparison of models on one data set."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from trainer.config.rules import at_least, check


@dataclass
class CompareConfig:
    """Which models are trained, how often, and what is varied; ``configs/compare.yaml`` says what the keys mean."""

    out: str = MISSING
    overrides: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    sweeps: list[str] = field(default_factory=list)
    sweep_models: list[str] = field(default_factory=list)
    pretrain: dict[str, str] = field(default_factory=dict)
    nproc_per_node: int = 1

    def __post_init__(self) -> None:
        check(bool(self.models) or bool(self.sweeps), "models", self.models, "at least one model, or sweeps given")
        check(bool(self.seeds) and min(self.seeds) >= 0, "seeds", self.seeds, "at least one number, none below 0")
        check(not self.sweeps or bool(self.sweep_models), "sweep_models", self.sweep_models, "given, if sweeps are")
        at_least(1, self.nproc_per_node, "nproc_per_node")
