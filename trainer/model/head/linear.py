"""First-order terms and the bias: Guo et al. 2017, eq. 2, first summand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from trainer.model.fields import Fields
from trainer.model.head.base import Head, Reads, Shape
from trainer.model.step_context import StepContext


@dataclass
class LinearConfig:
    """The linear head has no settings."""


class Linear(Head):
    """y = w_0 + sum over the fields of w_j * x_j."""

    Config = LinearConfig

    def __init__(self, config: LinearConfig, shape: Shape, context: StepContext) -> None:
        super().__init__(config, shape, context)
        self.bias = nn.Parameter(torch.zeros(()))

    @classmethod
    def reads(cls, config: LinearConfig) -> Reads:
        """First-order weights alone."""
        return Reads(first_order=True, vectors=False)

    def forward(self, fields: Fields) -> torch.Tensor:
        """See :meth:`Head.forward`."""
        terms_B = fields.weights_BF.sum(1) + self.bias
        if fields.dense_weights_N is None:
            return terms_B
        return terms_B + (fields.dense_BN * fields.dense_weights_N).sum(1)
