"""PNN*: Qu et al. 2016, section 4, with inner and outer products side by side in one network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from trainer.model.fields import Fields
from trainer.model.head.base import Head, Shape
from trainer.model.network import Network, NetworkConfig
from trainer.model.product import inner_products, outer_products
from trainer.model.step_context import StepContext


@dataclass
class ProductsConfig(NetworkConfig):
    """The network."""

    KEY: ClassVar[str] = ""


class Products(Head):
    """A network over the field vectors, the inner products of all pairs and the sum of all outer products."""

    Config = ProductsConfig

    def __init__(self, config: ProductsConfig, shape: Shape, context: StepContext) -> None:
        super().__init__(config, shape, context)
        width = shape.num_fields * shape.embedding_dim + shape.num_pairs + shape.embedding_dim**2
        self.network = Network(config, width, context)

    def forward(self, fields: Fields) -> torch.Tensor:
        """See :meth:`Head.forward`."""
        vectors_BMD = fields.vectors_BMD
        return self.network(
            torch.cat([vectors_BMD.flatten(1), inner_products(vectors_BMD), outer_products(vectors_BMD)], 1)
        )
