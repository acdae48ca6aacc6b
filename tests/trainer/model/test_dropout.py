"""Dropout masks belong to lanes and steps, not to processes."""

from __future__ import annotations

import torch

from trainer.model.dropout import LaneDropout
from trainer.model.step_context import StepContext


def dropped(lanes: list[int], step: int, *, number: int = 0, rows_per_lane: int = 50) -> torch.Tensor:
    context = StepContext(3, lanes)
    context.advance(step)
    layers = [LaneDropout(0.25, context) for _ in range(number + 1)]
    return layers[number](torch.ones(rows_per_lane * len(lanes), 40))


def test_lanes_get_the_same_masks_on_any_rank() -> None:
    together = dropped([0, 1, 2, 3], step=9)
    apart = torch.cat([dropped([0, 1], step=9), dropped([2, 3], step=9)])
    assert torch.equal(together, apart)


def test_masks_differ_by_step_layer_and_lane() -> None:
    masks = [dropped([0], 1), dropped([0], 2), dropped([0], 1, number=1), dropped([1], 1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])


def test_kept_units_are_scaled_so_that_the_mean_stays() -> None:
    units = dropped([0, 1], step=4, rows_per_lane=500)
    assert set(units.unique().tolist()) == {0.0, units.max().item()}
    assert abs(units.max().item() - 4 / 3) < 1e-6
    assert abs(units.mean().item() - 1) < 0.02


def test_nothing_is_dropped_outside_of_training() -> None:
    layer = LaneDropout(0.5, StepContext(0, [0])).eval()
    units = torch.randn(7, 3)
    assert torch.equal(layer(units), units)
