"""The deep component: Guo et al. 2017, eq. 3 and 4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from trainer.model.fields import Fields, affine
from trainer.model.head.base import Head, Reads, Shape
from trainer.model.network import Network, NetworkConfig
from trainer.model.step_context import StepContext


@dataclass
class DNNConfig(NetworkConfig):
    """The network, and whether the first-order weights are among its inputs, as FNN has them."""

    KEY: ClassVar[str] = ""

    first_order: bool = False


class DNN(Head):
    """y = a feed-forward network over the concatenated field vectors (a_0 = [e_1, ..., e_M]).

    With ``first_order``, the input is that of FNN, z_i = (w_i, v_i): Zhang et al. 2016, eq. 5.
    """

    Config = DNNConfig

    def __init__(self, config: DNNConfig, shape: Shape, context: StepContext) -> None:
        super().__init__(config, shape, context)
        self._first_order = config.first_order
        width = shape.num_fields * (shape.embedding_dim + config.first_order)
        self.network = Network(config, width, context)

    @classmethod
    def reads(cls, config: DNNConfig) -> Reads:
        """Vectors, and on demand first-order weights."""
        return Reads(first_order=config.first_order)

    def forward(self, fields: Fields) -> torch.Tensor:
        """See :meth:`Head.forward`."""
        if self._first_order:
            return self.network(torch.cat([fields.first_order_BM, fields.vectors_BMD.flatten(1)], 1))
        first = self.network.first
        return self.network.after_first(affine(fields, first.weight, first.bias))
