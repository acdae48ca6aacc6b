"""The choices of the network: shapes, activations, norms, initializations."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.errors import ConfigError
from trainer.model.activation import ACTIVATIONS
from trainer.model.network import INITS, NORMS, SHAPES, Network, NetworkConfig, shaped_layers
from trainer.model.step_context import StepContext


def make_network(width: int = 6, **settings: object) -> tuple[Network, StepContext]:
    torch.manual_seed(0)
    context = StepContext(0, [0])
    context.see_rows(torch.ones(4, dtype=torch.float64))
    return Network(NetworkConfig(**settings), width, context).double(), context  # type: ignore[arg-type]


def test_shapes_are_those_of_the_paper() -> None:
    layers = [shaped_layers(shape, depth=3, neurons=600) for shape in SHAPES]
    assert layers == [[200, 200, 200], [100, 200, 300], [300, 200, 100], [150, 300, 150]]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("depth", "neurons"), [(1, 7), (2, 101), (4, 1000), (7, 401)])
def test_a_shape_keeps_the_total(shape: str, depth: int, neurons: int) -> None:
    layers = shaped_layers(shape, depth=depth, neurons=neurons)
    assert (len(layers), sum(layers)) == (depth, neurons)
    assert min(layers) >= 1


def test_a_shape_by_name_becomes_layers() -> None:
    assert NetworkConfig(shape="diamond", depth=5, neurons=900).layers == [100, 200, 300, 200, 100]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": "round"}, "model.network.shape is 'round', but must be one of constant, increasing"),
        ({"shape": "constant", "neurons": 5}, "model.network.neurons is 5, but must be at least 9 for depth 3"),
        ({"norm": "group"}, "model.network.norm is 'group', but must be one of none, batch, layer"),
        ({"init": "zeros"}, "model.network.init is 'zeros', but must be one of xavier_uniform"),
    ],
)
def test_impossible_choices_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NetworkConfig(**settings)  # type: ignore[arg-type]


REFERENCE = {
    "relu": lambda x: max(0.0, x),
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "prelu": lambda x: x if x > 0 else 0.25 * x,
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
}


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_activations_are_what_their_names_say(name: str) -> None:
    units = torch.linspace(-2, 2, 12, dtype=torch.float64).view(4, 3)
    layer = ACTIVATIONS[name](3, StepContext(0, [0])).double()
    expected = [[REFERENCE[name](x) for x in row] for row in units.tolist()]
    torch.testing.assert_close(layer(units), torch.tensor(expected, dtype=torch.float64))


def test_dice_rectifies_by_the_distribution_of_the_batch() -> None:
    context = StepContext(0, [0])
    context.see_rows(torch.ones(4, dtype=torch.float64))
    layer = ACTIVATIONS["dice"](3, context).double()
    torch.nn.init.constant_(layer.get_parameter("alpha"), 0.3)
    units = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.empty_like(units)
    for h in range(3):
        column = units[:, h].tolist()
        mean = sum(column) / 4
        variance = sum((x - mean) ** 2 for x in column) / 4
        for b, x in enumerate(column):
            p = 1 / (1 + math.exp(-(x - mean) / math.sqrt(variance + 1e-8)))
            expected[b, h] = p * x + (1 - p) * 0.3 * x
    torch.testing.assert_close(layer(units), expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_choice_has_the_gradient_of_its_value(activation: str, norm: str) -> None:
    network, _ = make_network(layers=[5, 3], activation=activation, norm=norm)
    units = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    assert torch.autograd.gradcheck(network, units)


@pytest.mark.parametrize("init", sorted(INITS))
def test_initial_weights_spread_as_their_scheme_says(init: str) -> None:
    network, _ = make_network(width=300, layers=[200], init=init)
    weight = network.get_parameter("layers.0.weight")
    # Glorot & Bengio 2010, eq. 16; He et al. 2015, eq. 10.
    variance = 2 / (300 + 200) if init.startswith("xavier") else 2 / 300
    assert weight.var().item() == pytest.approx(variance, rel=0.02)
    assert (weight.abs().max().item() < 1.75 * math.sqrt(variance)) == init.endswith("uniform")
    assert not network.get_parameter("layers.0.bias").any()
