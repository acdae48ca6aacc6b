"""In which numbers the model is kept and computed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from trainer.config.rules import at_least, check, one_of
from trainer.errors import ConfigError

DENSE_PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")
TABLE_PRECISIONS = ("fp32", "fp16")
ROUNDINGS = ("auto", "nearest", "stochastic")


@dataclass
class LossScaleConfig:
    """The factor on the loss where gradients pass through float16.

    It starts with ``initial`` and doubles after ``growth_steps`` steps without an overflow.
    """

    initial: float = 65536.0
    growth_steps: int = 2000

    def __post_init__(self) -> None:
        at_least(1, self.growth_steps, "precision.loss_scale.growth_steps")
        power = 1 <= self.initial < math.inf and math.frexp(self.initial)[0] == 0.5
        check(power, "precision.loss_scale.initial", self.initial, "a power of 2, at least 1, like 65536")


@dataclass
class PrecisionConfig:
    """Of the heads' matrix products, and of the table rows.

    ``dense: auto`` is settled when a job starts (:func:`trainer.model.precision.settle_precision`).
    Weights of the dense part, its optimizer, normalization, sums, logits and the loss are in fp32 always: bf16 and
    fp16 are those of autocast. ``rounding`` is that of fp16 rows when they are stepped: stochastic (in the mean, no
    step is lost) or to the nearest; auto is stochastic where the device has it.
    """

    dense: str = "auto"
    tables: str = "fp32"
    rounding: str = "auto"
    loss_scale: LossScaleConfig = field(default_factory=LossScaleConfig)

    def __post_init__(self) -> None:
        one_of(DENSE_PRECISIONS, self.dense, "precision.dense")
        if self.tables == "bf16":
            raise ConfigError(
                "precision.tables is 'bf16', but FBGEMM's training kernels hold rows of float32 or float16 alone; "
                "use fp16 (on CUDA with stochastic rounding) or fp32."
            )
        one_of(TABLE_PRECISIONS, self.tables, "precision.tables")
        one_of(ROUNDINGS, self.rounding, "precision.rounding")
        if self.rounding != "auto" and self.tables == "fp32":
            raise ConfigError(
                f"precision.rounding is '{self.rounding}', but rows in fp32 are not rounded; use "
                "precision.tables=fp16, or rounding=auto."
            )
