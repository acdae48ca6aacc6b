"""The optimizers of the tables and of the rest, and the schedule that drives both."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

from trainer.config.rules import at_least, check, one_of, positive

SPARSE_OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad", "adam")
DENSE_OPTIMIZERS = ("sgd", "adagrad", "adam", "adamw")
SCHEDULES = ("constant", "linear", "cosine", "polynomial", "step", "inverse_sqrt")


@dataclass
class SparseOptimizerConfig:
    """The optimizer of the embedding tables: FBGEMM's in their backward pass, torch's where they are replicated.

    ``weight_decay`` is L2 (its product with the weight is added to the gradient) over whole tables and
    the vectors of dense columns, as loss + weight_decay / 2 * |E|^2 has it.
    """

    name: str = "adagrad"
    lr: float = 0.05
    eps: float = 1.0e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        one_of(SPARSE_OPTIMIZERS, self.name, "optimizer.sparse.name")
        positive(self.lr, "optimizer.sparse.lr")
        positive(self.eps, "optimizer.sparse.eps")
        _decay(self.weight_decay, "optimizer.sparse.weight_decay")


@dataclass
class DenseOptimizerConfig:
    """The optimizer of everything that is not an embedding table.

    ``max_grad_norm`` limits the norm of all gradients that torch's optimizers see: those of the dense
    part, and of replicated tables.
    """

    name: str = "adam"
    lr: float = 1.0e-3
    weight_decay: float = 0.0
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        one_of(DENSE_OPTIMIZERS, self.name, "optimizer.dense.name")
        positive(self.lr, "optimizer.dense.lr")
        _decay(self.weight_decay, "optimizer.dense.weight_decay")
        if self.max_grad_norm is not None:
            positive(self.max_grad_norm, "optimizer.dense.max_grad_norm")


@dataclass
class ScheduleConfig:
    """The factor on both learning rates: linear warm-up, then a shape; :mod:`trainer.lr_schedule` has the formulas.

    ``power`` is that of ``polynomial``; ``milestones`` (steps of the run) and ``gamma`` are those of ``step``.
    """

    name: str = "constant"
    warmup_steps: int = 0
    final: float = 0.0
    power: float = 2.0
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        one_of(SCHEDULES, self.name, "optimizer.schedule.name")
        at_least(0, self.warmup_steps, "optimizer.schedule.warmup_steps")
        check(0 <= self.final <= 1, "optimizer.schedule.final", self.final, "between 0 and 1")
        positive(self.power, "optimizer.schedule.power")
        check(0 < self.gamma <= 1, "optimizer.schedule.gamma", self.gamma, "above 0 and up to 1")
        places = self.milestones
        rising = all(a < b for a, b in pairwise([self.warmup_steps, *places]))
        rule = "rising steps beyond the warm-up, for the schedule step and for no other"
        check(rising and bool(places) == (self.name == "step"), "optimizer.schedule.milestones", places, rule)


@dataclass
class OptimizerConfig:
    """Sparse (tables) and dense (the rest), driven by one schedule."""

    sparse: SparseOptimizerConfig = field(default_factory=SparseOptimizerConfig)
    dense: DenseOptimizerConfig = field(default_factory=DenseOptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


def _decay(value: float, key: str) -> None:
    check(0 <= value < math.inf, key, value, "0 or a positive number")
