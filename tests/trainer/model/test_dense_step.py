"""In parts, or with a scaled loss, the dense part gives the loss and the gradients that it gives at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.weak import WeakTensorKeyDictionary
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.batch import Batch
from data.schema import parse_schema
from tests.conftest import SCHEMA
from trainer.config import LossScaleConfig, PrecisionConfig, TrainConfig
from trainer.errors import ConfigError
from trainer.model.ctr import CTRModel
from trainer.model.loss_scale import LossScale
from trainer.model.step_context import StepContext

Make = Callable[..., TrainConfig]

LANES = (0, 1, 2)
SCHEMA_OF_CLICKS = parse_schema(SCHEMA, where="test")
TYPES = {"fp32": torch.float32, "fp16": torch.float16}


def batch_of_rows(num_rows: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    weights_B = torch.ones(num_rows)
    weights_B[-4:] = 0  # padding
    return Batch(
        dense=torch.randn(num_rows, 1, generator=generator),
        sparse=KeyedJaggedTensor.empty(),
        labels=torch.randint(0, 2, (num_rows,), generator=generator).float(),
        weights=weights_B,
        global_weight=weights_B.sum().reshape(1),
        fill=torch.tensor([0.75]),
    )


def found(
    make_config: Make,
    *,
    num_parts: int = 1,
    dense: str = "fp32",
    scale: float | None = None,
    dropout: float = 0.25,
    rows_per_lane: int = 5,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], LossScale | None]:
    """Loss, logits, gradients (of rows and parameters) of one batch of three lanes."""
    heads: dict[str, Any] = {"linear": {}, "fm": {}, "dnn": {"layers": [12, 8], "dropout": dropout, "norm": "layer"}}
    config = make_config(model={"heads": heads})
    context = StepContext(7, LANES)
    loss_scale = None if scale is None else LossScale(LossScaleConfig(scale))
    model = CTRModel(
        SCHEMA_OF_CLICKS,
        config.model,
        PrecisionConfig(dense=dense),
        context=context,
        world_size=2,
        seed=3,
        num_parts=num_parts,
        loss_scale=loss_scale,
    )
    context.advance(11)
    num_rows = len(LANES) * rows_per_lane
    rows_BFR = torch.randn(num_rows, 4, 8, generator=torch.Generator().manual_seed(2)).requires_grad_()
    loss, logits_B = model.dense_step((rows_BFR, None), batch_of_rows(num_rows))
    loss.backward()
    parameters = [p for name, p in model.named_parameters() if not name.startswith("embeddings.")]
    return loss.detach(), logits_B.detach(), [t.grad for t in (rows_BFR, *parameters) if t.grad is not None], loss_scale


# Parts that begin and end inside of lanes, at their borders, and more parts than rows.
@pytest.mark.parametrize("num_parts", [2, 3, 4, 40])
def test_parts_add_up_to_the_whole(num_parts: int, make_config: Make) -> None:
    loss, logits_B, gradients, _ = found(make_config)
    loss_of_parts, logits_of_parts_B, gradients_of_parts, _ = found(make_config, num_parts=num_parts)
    assert len(gradients) == len(gradients_of_parts) == 14
    torch.testing.assert_close(loss_of_parts, loss, atol=5e-6, rtol=0)
    torch.testing.assert_close(logits_of_parts_B, logits_B, atol=5e-6, rtol=0)
    for ours, expected in zip(gradients_of_parts, gradients, strict=True):
        torch.testing.assert_close(ours, expected, atol=5e-6, rtol=0)
    assert gradients[0][:-4].abs().min() > 0
    assert not gradients_of_parts[0][-4:].any(), "padding moves nothing"


@pytest.mark.parametrize("dense", ["fp32", "fp16"])
def test_the_scale_of_the_loss_is_gone_from_the_gradients(dense: str, make_config: Make) -> None:
    loss, _, gradients, _ = found(make_config, dropout=0)
    scaled_loss, logits_B, scaled_gradients, scale = found(make_config, dense=dense, scale=2.0**14, dropout=0)
    # In float32 a power of 2 rounds nothing; float16 has 11 bits.
    tolerance = 0.0 if dense == "fp32" else 5e-3
    torch.testing.assert_close(scaled_loss, loss, atol=tolerance, rtol=0)
    for ours, expected in zip(scaled_gradients, gradients, strict=True):
        assert ours.dtype is torch.float32
        torch.testing.assert_close(ours, expected, atol=tolerance, rtol=0)
    assert scaled_loss.dtype is logits_B.dtype is torch.float32
    assert (dense == "fp16") == any(not torch.equal(a, b) for a, b in zip(scaled_gradients, gradients, strict=True))
    assert scale is not None
    assert scale.overflow.tolist() == [0.0]


def test_gradients_that_overflow_are_seen_in_the_forward_pass(make_config: Make) -> None:
    loss, _, _, scale = found(make_config, dense="fp16", scale=2.0**40, num_parts=2)
    assert torch.isfinite(loss)
    assert scale is not None
    assert scale.overflow.tolist() == [1.0]


def test_the_scale_is_halved_by_an_overflow_and_doubled_after_many_good_steps() -> None:
    scale = LossScale(LossScaleConfig(initial=8.0, growth_steps=3))
    values = []
    for overflowed in (False, False, True, False, False, False, False, True, True):
        scale.step_done(overflowed=overflowed)
        values.append(scale.value)
    assert values == [8, 8, 4, 4, 4, 8, 8, 4, 2]
    assert scale.num_overflows == 3
    scale.step_done(overflowed=False)
    copy = LossScale(LossScaleConfig(initial=64.0, growth_steps=3))
    copy.restore(scale.state())
    for each in (scale, copy):
        each.step_done(overflowed=False)
        each.step_done(overflowed=False)
    assert (copy.value, copy.num_overflows) == (scale.value, scale.num_overflows) == (4, 3)


@pytest.mark.parametrize("network", [{"norm": "batch"}, {"activation": "dice"}])
def test_statistics_over_a_part_of_the_batch_are_refused(network: dict[str, str], make_config: Make) -> None:
    config = make_config(model={"heads": {"dnn": {"layers": [4], **network}}})
    with pytest.raises(
        ConfigError, match=r"optimizer.accumulate_steps is 2, but batch normalization .* use norm=layer"
    ):
        CTRModel(
            SCHEMA_OF_CLICKS,
            config.model,
            PrecisionConfig(dense="fp32"),
            context=StepContext(0, LANES),
            world_size=1,
            seed=0,
            num_parts=2,
        )


def peak_bytes(make_config: Make, num_parts: int) -> int:
    """The most that the graphs of a forward and backward pass hold at a time."""
    held: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
    peak = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal peak
        base = tensor if tensor._base is None else tensor._base
        held[base] = base.numel() * base.element_size()
        peak = max(peak, sum(held.values()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found(make_config, num_parts=num_parts, rows_per_lane=200)
    return peak


def test_activations_of_one_part_at_a_time_are_held(make_config: Make) -> None:
    # Weights, the looked-up rows and their gradients are there in any case.
    assert peak_bytes(make_config, 10) < 0.5 * peak_bytes(make_config, 1)
