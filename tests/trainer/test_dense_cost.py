"""The dense part's memory and arithmetic, counted without allocating it, for every model that there is."""

from __future__ import annotations

import pytest
from torch import nn

from data.schema import load_schema
from tests.trainer.test_config import CONFIGS, composed
from trainer.config import TrainConfig
from trainer.dense_cost import DenseCost, dense_cost
from trainer.model.ctr import CTRModel, row_layout
from trainer.model.step_context import StepContext

SCHEMA = load_schema(CONFIGS.parent / "data/samples/adult/schema.yaml")


def cost_of(config: TrainConfig, *, batch_size: int = 64) -> DenseCost:
    return dense_cost(SCHEMA, config, batch_size=batch_size, world_size=2)


@pytest.mark.parametrize("model", sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml")))
def test_weights_and_products_are_those_of_the_model(model: str) -> None:
    config = composed(f"model={model}", "precision=fp32")
    built = CTRModel(SCHEMA, config.model, config.precision, context=StepContext(0, (0,)), world_size=1, seed=0)
    weights = sum(p.numel() for name, p in built.named_parameters() if not name.startswith("embeddings."))
    cost = cost_of(config)
    assert cost.parameter_bytes == cost.gradient_bytes == 4 * weights
    assert cost.optimizer_bytes == 8 * weights
    # Each layer multiplies forward and for two gradients; a product is two operations.
    layers = sum(layer.weight.numel() for layer in built.modules() if isinstance(layer, nn.Linear))
    expected = 6 * 64 * layers
    heads = built.head_sum.heads
    if "dnn" in heads and not config.model.heads["dnn"].get("first_order"):
        # A dense column takes one number of a sample into the first layer, not a vector, and needs no gradient.
        neurons = config.model.network.layers[0] * len(SCHEMA.dense)
        expected += 64 * neurons * (4 - 6 * config.model.embedding_dim)
    assert cost.flops >= expected
    twice, thrice = cost_of(config, batch_size=128), cost_of(config, batch_size=192)
    assert thrice.flops - twice.flops == twice.flops - cost.flops
    assert cost_of(config, batch_size=128).activation_bytes > 1.5 * cost.activation_bytes


@pytest.mark.parametrize(
    "overrides",
    [
        ["precision=fp32", "model.network.norm=batch"],
        ["precision=fp32", "model.network.activation=dice"],
        ["precision=bf16"],
    ],
)
def test_layers_that_talk_between_ranks_and_other_precisions_are_counted_in_one_process(overrides: list[str]) -> None:
    plain, other = cost_of(composed("model.network.dropout=0.5", "precision=fp32")), cost_of(composed(*overrides))
    assert other.flops == plain.flops
    assert other.activation_bytes != plain.activation_bytes


def test_parts_take_less_for_activations_and_more_for_gradients() -> None:
    config = composed("model.network.dropout=0", "precision=fp32")
    in_parts = composed("model.network.dropout=0", "precision=fp32", "optimizer.accumulate_steps=8")
    whole, parts = cost_of(config, batch_size=4096), cost_of(in_parts, batch_size=4096)
    assert parts.flops == pytest.approx(whole.flops, rel=0.01)
    assert parts.gradient_bytes == 2 * whole.gradient_bytes
    row = 4 * len(SCHEMA.sparse) * row_layout(config.model).width
    alone = cost_of(config, batch_size=512)
    assert parts.activation_bytes - 3 * 4096 * row == alone.activation_bytes - 2 * 512 * row
    assert parts.activation_bytes < whole.activation_bytes / 2
