"""The deep component: Guo et al. 2017, eq. 3 and 4."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from trainer.errors import ConfigError
from trainer.model.dropout import DropoutStream
from trainer.model.head.base import Head, Shape

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


@dataclass
class DNNConfig:
    """Neurons of each hidden layer, their activation, and the share of them dropped in training."""

    layers: list[int] = field(default_factory=lambda: [400, 400, 400])
    activation: str = "relu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.layers or any(neurons < 1 for neurons in self.layers):
            raise ConfigError(f"layers is {self.layers}, but must list at least one layer of at least 1 neuron.")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"activation is '{self.activation}', but must be one of {', '.join(ACTIVATIONS)}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}, but must be at least 0 and below 1.")


class DNN(Head):
    """y = a feed-forward network over the concatenated field vectors (a_0 = [e_1, ..., e_M])."""

    Config = DNNConfig

    def __init__(self, config: DNNConfig, shape: Shape, dropout: DropoutStream) -> None:
        super().__init__(config, shape, dropout)
        layers: list[nn.Module] = []
        width = shape.num_fields * shape.embedding_dim
        for number, neurons in enumerate(config.layers):
            linear = nn.Linear(width, neurons)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
            layers += [linear, ACTIVATIONS[config.activation]()]
            if config.dropout:
                layers.append(dropout.layer(config.dropout, number=number))
            width = neurons
        output = nn.Linear(width, 1)
        nn.init.xavier_uniform_(output.weight)
        nn.init.zeros_(output.bias)
        self.layers = nn.Sequential(*layers, output)

    def forward(self, first_order_BM: torch.Tensor, vectors_BMD: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.forward`."""
        return self.layers(vectors_BMD.flatten(1)).squeeze(1)
