"""The compressed interaction network of xDeepFM: Lian et al. 2018, eq. 6 to 9."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import nn

from trainer.errors import ConfigError
from trainer.model.fields import Fields
from trainer.model.head.base import Head, Shape
from trainer.model.step_context import StepContext


@dataclass
class CINConfig:
    """Feature maps of each layer."""

    maps: list[int] = field(default_factory=lambda: [64, 64])

    def __post_init__(self) -> None:
        if not self.maps or any(number < 1 for number in self.maps):
            raise ConfigError(f"maps is {self.maps}, but must list at least one layer of at least 1 feature map.")


class CIN(Head):
    """X^k_h = sum over i, j of W^k_hij (X^{k-1}_i * X^0_j), element by element over D, from X^0 = the field vectors.

    The maps of all layers, each summed over D, are one linear unit's input. Without activation between
    the layers, as the paper found best. Memory: B * M * D * (maps of the layer before) floats a layer.
    """

    Config = CINConfig

    def __init__(self, config: CINConfig, shape: Shape, context: StepContext) -> None:
        super().__init__(config, shape, context)
        widths = [shape.num_fields, *config.maps]
        self.weights_HIM = nn.ParameterList(
            nn.init.xavier_uniform_(torch.empty(maps, before * shape.num_fields)).view(maps, before, -1)
            for before, maps in pairwise(widths)
        )
        self.output = nn.Linear(sum(config.maps), 1)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, fields: Fields) -> torch.Tensor:
        """See :meth:`Head.forward`."""
        maps_BID = vectors_BMD = fields.vectors_BMD
        pooled = []
        for weight_HIM in self.weights_HIM:
            products_BPD = torch.einsum("bid,bmd->bimd", maps_BID, vectors_BMD).flatten(1, 2)
            maps_BID = torch.matmul(weight_HIM.flatten(1), products_BPD)
            pooled.append(maps_BID.sum(2))
        return self.output(torch.cat(pooled, 1)).squeeze(1)
