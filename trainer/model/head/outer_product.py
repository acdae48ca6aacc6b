"""OPNN: Qu et al. 2016, with g(v_i, v_j) = v_i v_j^T."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from trainer.model.fields import Fields
from trainer.model.head.base import Head, Shape
from trainer.model.network import Network, NetworkConfig
from trainer.model.product import outer_products
from trainer.model.step_context import StepContext


@dataclass
class OuterProductConfig(NetworkConfig):
    """The network."""

    KEY: ClassVar[str] = ""


class OuterProduct(Head):
    """A network over the field vectors and the sum of all their outer products."""

    Config = OuterProductConfig

    def __init__(self, config: OuterProductConfig, shape: Shape, context: StepContext) -> None:
        super().__init__(config, shape, context)
        width = shape.num_fields * shape.embedding_dim + shape.embedding_dim**2
        self.network = Network(config, width, context)

    def forward(self, fields: Fields) -> torch.Tensor:
        """See :meth:`Head.forward`."""
        vectors_BMD = fields.vectors_BMD
        return self.network(torch.cat([vectors_BMD.flatten(1), outer_products(vectors_BMD)], 1))
