"""The optimizers of the tables and of the rest, and the schedule that drives both."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from omegaconf import MISSING

from trainer.config.rules import at_least, check, one_of, positive
from trainer.errors import ConfigError

SPARSE_OPTIMIZERS = (
    "sgd",
    "adagrad",
    "rowwise_adagrad",
    "adam",
    "partial_rowwise_adam",
    "lamb",
    "partial_rowwise_lamb",
)
DENSE_OPTIMIZERS = ("sgd", "adagrad", "adam", "adamw")
SCHEDULES = ("constant", "linear", "cosine", "polynomial", "step", "inverse_sqrt")
DECAY_MODES = ("l2", "decoupled")
DECAY_ROWS = ("all", "touched")


@dataclass
class SparseOptimizerConfig:
    """The optimizer of the embedding tables: FBGEMM's in their backward pass, torch's where they are replicated.

    Attributes:
        name: Of :data:`SPARSE_OPTIMIZERS`.
        lr: The base rate, which the schedule scales.
        eps: Beside the root of the (second) moment; sgd has none.
        beta1: Decay of the first moment, of the Adam and LAMB kinds.
        beta2: Decay of their second moment.
        weight_decay: How much; 0 for none.
        weight_decay_mode: ``l2``: its product with the weight is added to the gradient, as
            loss + weight_decay / 2 * |E|^2 has it; ``decoupled``: lr * weight_decay * weight is taken off the weight.
        weight_decay_rows: ``all`` rows of a table in each step, and the vectors of dense columns; or the ``touched``
            ones, those that a step looks up.
        max_grad_value: Limit of each number of the gradient of a sample's looked-up row; None for none.
    """

    name: str = "adagrad"
    lr: float = 0.05
    eps: float = 1.0e-8
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    weight_decay_mode: str = "l2"
    weight_decay_rows: str = "all"
    max_grad_value: float | None = None

    def __post_init__(self) -> None:
        _check_table_settings(vars(self), "optimizer.sparse")


@dataclass
class TableOptimizerRule:
    """What is different for the tables that a pattern matches; the last rule that gives a key decides it.

    Attributes:
        match: Shell pattern over the tables' names, as ``C*``.
        name: As the other keys, that of :class:`SparseOptimizerConfig`; what is not given is taken from there.
    """

    match: str = MISSING
    name: str | None = None
    lr: float | None = None
    eps: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    weight_decay: float | None = None
    weight_decay_mode: str | None = None
    weight_decay_rows: str | None = None
    max_grad_value: float | None = None

    def __post_init__(self) -> None:
        _check_table_settings(self.given(), "optimizer.tables")

    def given(self) -> dict[str, Any]:
        """The keys that it sets."""
        return {key: value for key, value in vars(self).items() if key != "match" and value is not None}


@dataclass
class DenseOptimizerConfig:
    """The optimizer of everything that is not an embedding table.

    ``max_grad_norm`` limits the norm of all gradients that torch's optimizers see, those of the dense
    part and of replicated tables, and ``max_grad_value`` each number of them; one of the two.
    """

    name: str = "adam"
    lr: float = 1.0e-3
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    max_grad_value: float | None = None

    def __post_init__(self) -> None:
        one_of(DENSE_OPTIMIZERS, self.name, "optimizer.dense.name")
        positive(self.lr, "optimizer.dense.lr")
        _decay(self.weight_decay, "optimizer.dense.weight_decay")
        for key in ("max_grad_norm", "max_grad_value"):
            if (limit := getattr(self, key)) is not None:
                positive(limit, f"optimizer.dense.{key}")
        if self.max_grad_norm is not None and self.max_grad_value is not None:
            raise ConfigError(
                f"optimizer.dense.max_grad_norm is {self.max_grad_norm:g} and max_grad_value {self.max_grad_value:g}, "
                "but gradients are clipped by one of them; set the other to null."
            )


@dataclass
class ScheduleConfig:
    """The factor on all learning rates: linear warm-up, then a shape; :mod:`trainer.lr_schedule` has the formulas.

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
    """Sparse (tables, with rules for some of them) and dense (the rest), driven by one schedule.

    ``accumulate_steps`` is the number of parts in which the rows of a step pass through the heads, one after the
    other; the step is the same, the memory for activations is a part of it.
    """

    sparse: SparseOptimizerConfig = field(default_factory=SparseOptimizerConfig)
    tables: list[TableOptimizerRule] = field(default_factory=list)
    dense: DenseOptimizerConfig = field(default_factory=DenseOptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    accumulate_steps: int = 1

    def __post_init__(self) -> None:
        at_least(1, self.accumulate_steps, "optimizer.accumulate_steps")


def _check_table_settings(values: dict[str, Any], where: str) -> None:
    """Ranges of the settings that are given."""
    for key, known in _NAMES.items():
        if key in values:
            one_of(known, values[key], f"{where}.{key}")
    for key in ("lr", "eps", "max_grad_value"):
        if values.get(key) is not None:
            positive(values[key], f"{where}.{key}")
    for key in ("beta1", "beta2"):
        if key in values:
            check(0 <= values[key] < 1, f"{where}.{key}", values[key], "at least 0 and below 1")
    if "weight_decay" in values:
        _decay(values["weight_decay"], f"{where}.weight_decay")


_NAMES = {"name": SPARSE_OPTIMIZERS, "weight_decay_mode": DECAY_MODES, "weight_decay_rows": DECAY_ROWS}


def _decay(value: float, key: str) -> None:
    check(0 <= value < math.inf, key, value, "0 or a positive number")
