"""What a head is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from trainer.model.dropout import DropoutStream


@dataclass(frozen=True)
class Shape:
    """What a head can know of its input when it is built.

    Attributes:
        num_fields: M, the sparse features and the dense columns together.
        embedding_dim: D.
    """

    num_fields: int
    embedding_dim: int


class Head(nn.Module, ABC):
    """Turns the fields of a batch into logits. B: batch, M: fields, D: embedding dimension."""

    Config: ClassVar[type[Any]]

    @abstractmethod
    def __init__(self, config: Any, shape: Shape, dropout: DropoutStream) -> None:
        """Builds the head; ``dropout`` is where its random masks come from."""
        super().__init__()

    @abstractmethod
    def forward(self, first_order_BM: torch.Tensor, vectors_BMD: torch.Tensor) -> torch.Tensor:
        """Logits of this head.

        Args:
            first_order_BM: w_j * x_j for each field j, float [B, M].
            vectors_BMD: v_j * x_j for each field j, float [B, M, D].

        Returns:
            float [B].
        """
