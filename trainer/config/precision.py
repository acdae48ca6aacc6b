"""In which numbers the model is kept and computed."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config.rules import one_of

DENSE_PRECISIONS = ("fp32", "tf32", "bf16")
TABLE_PRECISIONS = ("fp32", "fp16")


@dataclass
class PrecisionConfig:
    """Of the heads' matrix products, and of the table rows.

    Weights of the dense part, its optimizer, normalization, sums and the loss are in fp32 always: bf16 is
    that of autocast.
    """

    dense: str = "fp32"
    tables: str = "fp32"

    def __post_init__(self) -> None:
        one_of(DENSE_PRECISIONS, self.dense, "precision.dense")
        one_of(TABLE_PRECISIONS, self.tables, "precision.tables")
