"""Batch normalization over the global batch (Ioffe & Szegedy 2015), padding left out.

torch's BatchNorm takes the statistics of the local rows, so that a model would depend on the number of
ranks; its SyncBatchNorm needs CUDA and counts padding. B: local batch, H: units.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from trainer.model.step_context import StepContext


class GlobalBatchNorm(nn.Module):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, unit by unit.

    In training, mean and variance (biased) are those of the real rows of the global batch; outside of it
    the running ones, which every rank keeps alike. In training, all ranks must call it.

    Args:
        num_units: H.
        context: Tells which rows are real.
        affine: Whether there are weight and bias.
        eps: Added to the variance.
        momentum: The share of the newest batch in the running statistics.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(
        self,
        num_units: int,
        context: StepContext,
        *,
        affine: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_units)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_units)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_units))
        self.register_buffer("running_var", torch.ones(num_units))
        self._context = context
        self._eps = eps
        self._momentum = momentum

    def forward(self, units_BH: torch.Tensor) -> torch.Tensor:
        """Normalized units, float [B, H]."""
        if not self.training:
            return F.batch_norm(
                units_BH, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self._eps
            )
        return self._by_batch(units_BH)

    @torch.compiler.disable
    def _by_batch(self, units_BH: torch.Tensor) -> torch.Tensor:
        """Normalized by the statistics of the global batch, which the ranks exchange."""
        weight = torch.ones_like(self.running_mean) if self.weight is None else self.weight
        bias = torch.zeros_like(self.running_mean) if self.bias is None else self.bias
        # Sums need the digits and the range, which autocast would take from them, as products of matrices; the
        # reference in the tests is in float64.
        units_BH = units_BH.float() if units_BH.dtype.itemsize < torch.float32.itemsize else units_BH
        rows_B = self._context.real_rows().to(units_BH.dtype)
        # A copy: the running mean moves before the backward pass.
        shift_H = self.running_mean.clone()
        with torch.autocast(units_BH.device.type, enabled=False):
            normalized_BH, mean_H, variance_H, num_rows = _Normalize.apply(
                units_BH, rows_B, shift_H, weight, bias, self._eps
            )
        self._remember(mean_H, variance_H, num_rows)
        return normalized_BH

    @torch.no_grad()
    def _remember(self, mean_H: torch.Tensor, variance_H: torch.Tensor, num_rows: torch.Tensor) -> None:
        # A global batch without a real row says nothing.
        share = self._momentum * (num_rows > 0)
        unbiased_H = variance_H * num_rows / (num_rows - 1).clamp(min=1)
        self.running_mean.lerp_(mean_H.to(self.running_mean.dtype), share.to(self.running_mean.dtype))
        self.running_var.lerp_(unbiased_H.to(self.running_var.dtype), share.to(self.running_var.dtype))


class _Normalize(torch.autograd.Function):
    """The training pass, with its gradient in few sweeps over [B, H] and one all-reduce each way.

    Sums are taken about a shift near the mean (the running one), so that the difference of the mean
    square and the squared mean does not cancel.
    """

    @staticmethod
    def forward(
        ctx: Any,
        units_BH: torch.Tensor,
        rows_B: torch.Tensor,
        shift_H: torch.Tensor,
        weight_H: torch.Tensor,
        bias_H: torch.Tensor,
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        shifted_BH = units_BH - shift_H
        sums = torch.cat([rows_B.sum().reshape(1), rows_B @ shifted_BH, rows_B @ shifted_BH.square()])
        _sum_over_ranks(sums)
        num_rows = sums[0]
        n = num_rows.clamp(min=1)
        offset_H, square_H = (sums[1:] / n).chunk(2)
        variance_H = (square_H - offset_H.square()).clamp(min=0)
        scale_H = torch.rsqrt(variance_H + eps)
        centered_BH = shifted_BH.sub_(offset_H)
        ctx.save_for_backward(centered_BH, rows_B, scale_H, weight_H, n)
        outputs = (torch.addcmul(bias_H, centered_BH, scale_H * weight_H), shift_H + offset_H, variance_H, num_rows)
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    def backward(ctx: Any, grad_BH: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        centered_BH, rows_B, scale_H, weight_H, n = ctx.saved_tensors
        grad_bias_H = grad_BH.sum(0)
        grad_weight_H = torch.einsum("bh,bh->h", grad_BH, centered_BH) * scale_H
        # The statistics depend on all ranks' rows, and all ranks' losses on the statistics.
        sums = torch.cat([grad_bias_H, grad_weight_H])
        _sum_over_ranks(sums)
        mean_bias_H, mean_weight_H = (sums / n).chunk(2)
        through_statistics_BH = torch.addcmul(mean_bias_H, centered_BH, scale_H * mean_weight_H)
        grad_units_BH = torch.addcmul(grad_BH, through_statistics_BH, rows_B.unsqueeze(1), value=-1)
        return grad_units_BH.mul_(scale_H * weight_H), None, None, grad_weight_H, grad_bias_H, None


def _sum_over_ranks(sums: torch.Tensor) -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(sums)
