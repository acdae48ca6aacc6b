"""The feed-forward network of the deep heads, with the choices that Guo et al. 2017 compare (section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import nn

from trainer.errors import ConfigError
from trainer.model.activation import ACTIVATIONS
from trainer.model.batch_norm import GlobalBatchNorm
from trainer.model.dropout import LaneDropout
from trainer.model.step_context import StepContext

SHAPES = ("constant", "increasing", "decreasing", "diamond")
NORMS = ("none", "batch", "layer")
INITS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "he_uniform": nn.init.kaiming_uniform_,
    "he_normal": nn.init.kaiming_normal_,
}


@dataclass
class NetworkConfig:
    """A network's hidden layers: ``layers``, or a named ``shape`` of ``depth`` layers with ``neurons`` in all.

    Each layer is an affine map, its normalization, its activation and its dropout, in this order.
    """

    KEY: ClassVar[str] = "model.network."

    layers: list[int] = field(default_factory=lambda: [400, 400, 400])
    shape: str | None = None
    depth: int = 3
    neurons: int = 600
    activation: str = "relu"
    norm: str = "none"
    dropout: float = 0.0
    init: str = "xavier_uniform"

    def __post_init__(self) -> None:
        if self.shape is not None:
            self._one_of("shape", SHAPES)
            self._check("depth", self.depth >= 1, "at least 1")
            self._check("neurons", self.neurons >= self.depth**2, f"at least {self.depth**2} for depth {self.depth}")
            self.layers = shaped_layers(self.shape, depth=self.depth, neurons=self.neurons)
        ok = bool(self.layers) and all(neurons >= 1 for neurons in self.layers)
        self._check("layers", ok, "a list of at least one layer of at least 1 neuron")
        self._one_of("activation", tuple(ACTIVATIONS))
        self._one_of("norm", NORMS)
        self._check("dropout", 0 <= self.dropout < 1, "at least 0 and below 1")
        self._one_of("init", tuple(INITS))

    def defaults(self) -> dict[str, Any]:
        """The settings as the defaults of a head's own network; a shape has become layers."""
        return {key: value for key, value in asdict(self).items() if key not in ("shape", "depth", "neurons")}

    def _one_of(self, key: str, names: tuple[str, ...]) -> None:
        self._check(key, getattr(self, key) in names, f"one of {', '.join(names)}")

    def _check(self, key: str, ok: bool, rule: str) -> None:
        if not ok:
            raise ConfigError(f"{self.KEY}{key} is {getattr(self, key)!r}, but must be {rule}.")


def shaped_layers(shape: str, *, depth: int, neurons: int) -> list[int]:
    """Neurons of each layer for a shape by name: Guo et al. 2017, section 3.3.5.

    With three layers and 600 neurons: constant 200-200-200, increasing 100-200-300, decreasing
    300-200-100, diamond 150-300-150. Roundings are spread so that the total is kept.
    """
    rising = range(1, depth + 1)
    weights = {
        "constant": [1] * depth,
        "increasing": list(rising),
        "decreasing": list(reversed(rising)),
        "diamond": [min(i, depth + 1 - i) for i in rising],
    }[shape]
    cuts = [round(neurons * sum(weights[:i]) / sum(weights)) for i in range(depth + 1)]
    return [stop - start for start, stop in pairwise(cuts)]


class Network(nn.Module):
    """Hidden layers and one output unit.

    Args:
        config: The layers.
        width: Of the input.
        context: For dropout and batch normalization.
    """

    def __init__(self, config: NetworkConfig, width: int, context: StepContext) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for neurons in config.layers:
            layers += [_linear(width, neurons, config.init), *_norm(config.norm, neurons, context)]
            layers.append(ACTIVATIONS[config.activation](neurons, context))
            if config.dropout:
                layers.append(LaneDropout(config.dropout, context))
            width = neurons
        self.layers = nn.Sequential(*layers, _linear(width, 1, config.init))

    @property
    def first(self) -> nn.Linear:
        """The first affine map."""
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        return first

    def forward(self, input_BI: torch.Tensor) -> torch.Tensor:
        """Logits, float [B], of an input of float [B, width]."""
        return self.after_first(self.first(input_BI))

    def after_first(self, units_BH: torch.Tensor) -> torch.Tensor:
        """Logits, float [B], of what the first affine map gave, float [B, first layer's neurons]."""
        for layer in list(self.layers)[1:]:
            units_BH = layer(units_BH)
        return units_BH.squeeze(1)


def _linear(width: int, neurons: int, init: str) -> nn.Linear:
    linear = nn.Linear(width, neurons)
    INITS[init](linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _norm(name: str, neurons: int, context: StepContext) -> list[nn.Module]:
    if name == "batch":
        return [GlobalBatchNorm(neurons, context)]
    return [nn.LayerNorm(neurons)] if name == "layer" else []
