"""Second-order interactions of a factorization machine: Guo et al. 2017, eq. 2; Rendle 2010, eq. 1 and 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trainer.model.fields import Fields
from trainer.model.head.base import Head, Shape
from trainer.model.step_context import StepContext

_ROWS_IN_CACHE = 1024
"""Whose squares a CPU has at hand when it sums them up; those of a whole batch would go to memory and back."""


@dataclass
class FMConfig:
    """The FM head has no settings."""


class FM(Head):
    """y = sum over pairs i < j of <v_i, v_j> * x_i * x_j.

    Computed in O(M * D) as half of (square of the sum - sum of the squares), Rendle 2010, lemma 3.1.
    The order of the fields does not matter.
    """

    Config = FMConfig

    def __init__(self, config: FMConfig, shape: Shape, context: StepContext) -> None:
        super().__init__(config, shape, context)

    def forward(self, fields: Fields) -> torch.Tensor:
        """See :meth:`Head.forward`."""
        sum_BD, squares_B = _SumAndSquares.apply(fields.vectors_BFD)
        if fields.dense_vectors_ND is not None:
            with torch.autocast(sum_BD.device.type, enabled=False):  # the difference below needs the digits
                sum_BD = sum_BD + fields.dense_BN @ fields.dense_vectors_ND
                squares_B = squares_B + fields.dense_BN.square() @ fields.dense_vectors_ND.square().sum(1)
        return 0.5 * (sum_BD.square().sum(1) - squares_B)


class _SumAndSquares(torch.autograd.Function):
    """The sum of a row's vectors, [B, D], and the sum of their squares, [B]; its gradient is one sweep over them."""

    @staticmethod
    def forward(ctx: Any, vectors_BFD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(vectors_BFD)
        on_cpu = vectors_BFD.device.type == "cpu"
        parts = vectors_BFD.split(_ROWS_IN_CACHE) if on_cpu else [vectors_BFD]
        return vectors_BFD.sum(1), torch.cat([part.square().sum((1, 2)) for part in parts])

    @staticmethod
    def backward(ctx: Any, sum_BD: torch.Tensor, squares_B: torch.Tensor) -> torch.Tensor:
        (vectors_BFD,) = ctx.saved_tensors
        return torch.addcmul(sum_BD.unsqueeze(1), vectors_BFD, 2 * squares_B[:, None, None])
