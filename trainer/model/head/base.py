"""What a head is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from trainer.model.fields import Fields
from trainer.model.step_context import StepContext


@dataclass(frozen=True)
class Shape:
    """What a head can know of its input when it is built.

    Attributes:
        num_fields: M, the sparse features and the dense columns together.
        embedding_dim: D.
    """

    num_fields: int
    embedding_dim: int

    @property
    def num_pairs(self) -> int:
        """Pairs of different fields."""
        return self.num_fields * (self.num_fields - 1) // 2


@dataclass(frozen=True)
class Reads:
    """Which parts of the embeddings a head looks at; what no head reads is not made.

    Attributes:
        first_order: The first-order weights.
        vectors: The factors.
    """

    first_order: bool = False
    vectors: bool = True


class Head(nn.Module, ABC):
    """Turns the fields of a batch into logits. B: batch, M: fields, D: embedding dimension."""

    Config: ClassVar[type[Any]]

    @abstractmethod
    def __init__(self, config: Any, shape: Shape, context: StepContext) -> None:
        """Builds the head; ``context`` is what its dropout and batch normalization need."""
        super().__init__()

    @classmethod
    def reads(cls, config: Any) -> Reads:
        """What :meth:`forward` looks at."""
        return Reads()

    @abstractmethod
    def forward(self, fields: Fields) -> torch.Tensor:
        """Logits of this head, float [B]."""
