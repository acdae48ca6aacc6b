"""The cross network of DCN v2: Wang et al. 2021, eq. 1 and 2."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from trainer.errors import ConfigError
from trainer.model.fields import Fields
from trainer.model.head.base import Head, Shape
from trainer.model.step_context import StepContext


@dataclass
class CrossConfig:
    """Cross layers, and the rank of their matrices (None: full)."""

    depth: int = 3
    rank: int | None = None

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ConfigError(f"depth is {self.depth}, but must be at least 1.")
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"rank is {self.rank}, but must be at least 1, or null for full matrices.")


class Cross(Head):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, element by element, from x_0 = [v_1, ..., v_M]; y = <w, x_L> + b.

    With a rank, W_l = U_l V_l^T. Beside a ``dnn`` head this is DCN v2 in its parallel form, whose last
    layer over both outputs is the sum of the heads' logits.
    """

    Config = CrossConfig

    def __init__(self, config: CrossConfig, shape: Shape, context: StepContext) -> None:
        super().__init__(config, shape, context)
        width = shape.num_fields * shape.embedding_dim
        self.layers = nn.ModuleList(_matrix(width, config.rank) for _ in range(config.depth))
        self.output = nn.Linear(width, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, fields: Fields) -> torch.Tensor:
        """See :meth:`Head.forward`."""
        input_BX = crossed_BX = fields.vectors_BMD.flatten(1)
        for layer in self.layers:
            crossed_BX = torch.addcmul(crossed_BX, input_BX, layer(crossed_BX))
        return self.output(crossed_BX).squeeze(1)


def _matrix(width: int, rank: int | None) -> nn.Module:
    if rank is None:
        return nn.Linear(width, width)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
