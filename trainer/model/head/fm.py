"""Second-order interactions of a factorization machine: Guo et al. 2017, eq. 2; Rendle 2010, eq. 1 and 3."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.model.head.base import Head, Shape
from trainer.model.step_context import StepContext


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

    def forward(self, first_order_BM: torch.Tensor, vectors_BMD: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.forward`."""
        square_of_sum_BD = vectors_BMD.sum(1).square()
        sum_of_squares_BD = vectors_BMD.square().sum(1)
        return 0.5 * (square_of_sum_BD - sum_of_squares_BD).sum(1)
