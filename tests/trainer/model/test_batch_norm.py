"""Batch normalization sees the global batch, whatever the ranks, and no padding."""

from __future__ import annotations

import pytest
import torch

from tests.ranks import results_of, run_ranks
from trainer.distributed import Worker
from trainer.model.batch_norm import GlobalBatchNorm
from trainer.model.step_context import StepContext

H, ROWS, REAL = 3, 12, 10
Outcome = tuple[torch.Tensor, ...]


def batches() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Units, weights (the last rows are padding) and the gradient that comes back, for three steps."""
    generator = torch.Generator().manual_seed(4)
    weights = (torch.arange(ROWS) < REAL).double() * 0.5
    made = []
    for _ in range(3):
        units = 50 + 3 * torch.randn(ROWS, H, dtype=torch.float64, generator=generator)
        gradient = torch.randn(ROWS, H, dtype=torch.float64, generator=generator) * (weights > 0).unsqueeze(1)
        made.append((units, weights, gradient))
    return made


def outcome(layer: torch.nn.Module, units: torch.Tensor, normalized: torch.Tensor) -> Outcome:
    """Output, gradients of input, weight and bias, and the running statistics."""
    gradients = [tensor.grad for tensor in (units, layer.get_parameter("weight"), layer.get_parameter("bias"))]
    running = [layer.get_buffer(name).clone() for name in ("running_mean", "running_var")]
    return (normalized.detach(), *(g.clone() for g in gradients if g is not None), *running)


def ours(worker: Worker) -> list[Outcome]:
    context = StepContext(0, [0])
    layer = GlobalBatchNorm(H, context).double()
    outcomes = []
    for units, weights, gradient in batches():
        mine = slice(worker.rank * ROWS // worker.world_size, (worker.rank + 1) * ROWS // worker.world_size)
        local = units[mine].clone().requires_grad_()
        context.see_rows(weights[mine])
        layer.zero_grad()
        normalized = layer(local)
        normalized.backward(gradient[mine])
        outcomes.append(outcome(layer, local, normalized))
    outcomes.append((layer.eval()(units).detach(),))
    return outcomes


def torchs() -> list[Outcome]:
    """torch's own layer over the real rows in one process."""
    layer = torch.nn.BatchNorm1d(H).double()
    outcomes = []
    for units, _, gradient in batches():
        local = units[:REAL].clone().requires_grad_()
        layer.zero_grad()
        normalized = layer(local)
        normalized.backward(gradient[:REAL])
        outcomes.append(outcome(layer, local, normalized))
    outcomes.append((layer.eval()(units).detach(),))
    return outcomes


@pytest.mark.distributed
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_number_of_ranks_normalizes_as_one_process_does_without_the_padding(world_size: int) -> None:
    ranks = results_of(run_ranks(world_size, ours))
    for step, expected in enumerate(torchs()):
        parts = [rank[step] for rank in ranks]
        outputs = torch.cat([part[0] for part in parts]) if len(expected) > 1 else parts[0][0]
        torch.testing.assert_close(outputs[: len(expected[0])], expected[0])
        if len(expected) > 1:
            torch.testing.assert_close(torch.cat([part[1] for part in parts])[:REAL], expected[1])
            assert not torch.cat([part[1] for part in parts])[REAL:].any()
            for place in (2, 3):
                torch.testing.assert_close(sum(part[place] for part in parts), expected[place])
            for place, part in ((place, part) for place in (4, 5) for part in parts):
                torch.testing.assert_close(part[place], expected[place])


def test_a_batch_of_padding_alone_is_not_remembered() -> None:
    context = StepContext(0, [0])
    layer = GlobalBatchNorm(H, context)
    context.see_rows(torch.zeros(4))
    assert layer(torch.full((4, H), 9.0)).isfinite().all()
    assert layer.running_mean.tolist() == [0.0] * H
    assert layer.running_var.tolist() == [1.0] * H


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_statistics_of_half_precision_units_are_those_of_float32(half: torch.dtype) -> None:
    # Their squares sum up to more than float16 holds, and bfloat16 has three digits.
    units = (4 + torch.randn(4096, H, generator=torch.Generator().manual_seed(5))).to(half)
    context = StepContext(0, [0])
    context.see_rows(torch.ones(len(units)))
    layer = GlobalBatchNorm(H, context, momentum=1.0)
    with torch.autocast("cpu", half):
        normalized = layer(units)
    torch.testing.assert_close(layer.running_mean, units.float().mean(0), rtol=1e-3, atol=0)
    torch.testing.assert_close(layer.running_var, units.float().var(0), rtol=1e-3, atol=0)
    torch.testing.assert_close(normalized.var(0), torch.ones(H), rtol=1e-3, atol=0)
