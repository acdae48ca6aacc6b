"""From looked-up rows to the loss: at once, or in parts and with gradients that are there before the backward pass.

B: rows of the local batch, F: sparse features, R: row width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from data.batch import Batch
from trainer.errors import ConfigError
from trainer.model.batch_norm import GlobalBatchNorm
from trainer.model.loss_scale import LossScale
from trainer.model.step_context import StepContext

Found = tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]
"""Loss float [], logits float [B], and the gradients of the looked-up rows and of each parameter."""


class DenseStep(nn.Module):
    """Fields, heads and loss of a batch.

    Usually a plain forward pass. With several parts or a loss scale, it runs forward and backward through the
    heads, part after part, and keeps the gradients for the backward pass, which hands them over as they are. So

    - the activations of one part at a time are held, while lookup, exchange and update of the tables see the whole
      batch: a step is the same, up to the rounding of sums, however many parts it has, with fused tables, too;
    - gradients of a scaled loss are brought back to their size before a table, DDP or the optimizer sees them, and an
      overflow is known before the tables' backward pass, which would be too late to undo.

    Args:
        fields: Of the model, which holds it; so the next two.
        heads: Fields and weights to logits.
        loss: Of the logits.
        context: Is told the part.
        num_parts: That the rows of a batch are cut into.
        loss_scale: Of gradients through float16; None for none.

    Raises:
        ConfigError: Some layer takes statistics over the batch, which a part does not know.
    """

    def __init__(
        self,
        fields: nn.Module,
        heads: nn.Module,
        loss: Any,
        context: StepContext,
        *,
        num_parts: int,
        loss_scale: LossScale | None,
    ) -> None:
        super().__init__()
        # In a tuple, where nn.Module does not see them: their parameters are the model's, under their names there.
        self._of_model = (fields, heads, loss)
        self._context = context
        self._num_parts = num_parts
        self._loss_scale = loss_scale
        if num_parts > 1 and any(isinstance(module, GlobalBatchNorm) for module in heads.modules()):
            raise ConfigError(
                f"optimizer.accumulate_steps is {num_parts}, but batch normalization (norm=batch, activation=dice) "
                "needs the statistics of the whole batch at once; use norm=layer and another activation, or "
                "optimizer.accumulate_steps=1."
            )

    def forward(
        self, looked_up: tuple[torch.Tensor, torch.Tensor | None], batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss to differentiate, float [], and logits, float [B].

        In training with batch normalization or sample weights, all ranks must call this.

        Args:
            looked_up: Rows, float [B, F, R], and the places of the features in them (see :attr:`Fields.places`).
            batch: Of these rows.
        """
        fields, heads, loss = self._of_model
        rows_BFR, places = looked_up
        if self.training and (self._num_parts > 1 or self._loss_scale is not None):
            parameters = [*fields.parameters(), *heads.parameters()]
            return _GradientsAhead.apply(
                lambda: self._in_parts(rows_BFR.detach(), places, batch, parameters), rows_BFR, *parameters
            )
        logits_B = heads(fields(looked_up, batch.dense), batch.weights)
        normalizer = loss.normalizer(batch.weights, batch.global_weight)
        return loss(logits_B, batch.labels, batch.weights, normalizer, batch.fill), logits_B

    def _in_parts(
        self, rows_BFR: torch.Tensor, places: torch.Tensor | None, batch: Batch, parameters: list[nn.Parameter]
    ) -> Found:
        fields, heads, loss = self._of_model
        scale = 1.0 if self._loss_scale is None else self._loss_scale.value
        normalizer = loss.normalizer(batch.weights, batch.global_weight)
        losses: list[torch.Tensor] = []
        logits: list[torch.Tensor] = []
        of_rows: list[torch.Tensor] = []
        of_parameters: list[torch.Tensor] = []
        for part in self._context.parts(len(rows_BFR), self._num_parts):
            rows = rows_BFR[part].requires_grad_()
            logits_B = heads(fields((rows, places), batch.dense[part]), batch.weights[part])
            loss_of_part = loss(logits_B, batch.labels[part], batch.weights[part], normalizer, batch.fill)
            of_part = torch.autograd.grad(loss_of_part * scale, [rows, *parameters])
            losses.append(loss_of_part.detach())
            logits.append(logits_B.detach())
            of_rows.append(of_part[0])
            of_parameters = list(torch._foreach_add(of_parameters, of_part[1:]) if of_parameters else of_part[1:])
        gradients = [torch.cat(of_rows), *of_parameters]
        if self._loss_scale is not None:
            self._loss_scale.see(_unscale(gradients, scale))
        return torch.stack(losses).sum(), torch.cat(logits), gradients


def _unscale(gradients: list[torch.Tensor], scale: float) -> torch.Tensor:
    """Divides float32 gradients in place; whether some number of them is not finite, float [1]."""
    device = gradients[0].device
    overflow = torch.zeros(1, device=device)
    torch._amp_foreach_non_finite_check_and_unscale_(gradients, overflow, torch.full((1,), 1 / scale, device=device))
    return overflow


class _GradientsAhead(torch.autograd.Function):
    """Runs what finds loss and gradients in the forward pass, and hands the gradients over in the backward pass."""

    @staticmethod
    def forward(ctx: Any, find: Callable[[], Found], *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            loss, logits_B, gradients = find()
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(logits_B)
        return loss, logits_B

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, *(gradient * grad_loss for gradient in ctx.saved_tensors)
