"""What the dense part of a model costs in a step: memory and arithmetic, found without either, on fake tensors.

B: rows of a step on one rank, M: fields, D: factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakTensorKeyDictionary

from data.schema import Schema
from trainer.config import TrainConfig
from trainer.model.ctr import CTRModel, HeadSum, row_layout
from trainer.model.fields import Fields
from trainer.model.step_context import StepContext

_OPTIMIZER_STATES = {"sgd": 0, "adagrad": 1, "adam": 2, "adamw": 2}
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class DenseCost:
    """Bytes and operations of the dense part on one rank.

    Attributes:
        parameter_bytes: Weights.
        gradient_bytes: Gradients; they lie in the buckets in which DDP sums them up.
        optimizer_bytes: The optimizer's states.
        activation_bytes: What the forward pass keeps for the backward pass, the looked-up rows included.
        flops: Of the matrix products, forward and backward.
    """

    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    flops: int

    @property
    def resident_bytes(self) -> int:
        """What is held all the time."""
        return self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes

    @property
    def total_bytes(self) -> int:
        """What is held at the peak."""
        return self.resident_bytes + self.activation_bytes


def dense_cost(schema: Schema, config: TrainConfig, *, batch_size: int, world_size: int) -> DenseCost:
    """Counts what the dense part would take; nothing is allocated or computed.

    Args:
        schema: The features.
        config: Model, precision (settled) and optimizer.
        batch_size: B.
        world_size: Ranks; several sum up their gradients.
    """
    num_parts = config.optimizer.accumulate_steps
    ahead = num_parts > 1 or config.precision.dense == "fp16"
    layout, context = row_layout(config.model), StepContext(0, (0,))
    with FakeTensorMode():
        ctr = CTRModel(schema, config.model, config.precision, context=context, world_size=world_size, seed=0)
        # Masks and batch statistics need generators and other ranks; without them the shapes are the same.
        ctr.eval()
        parameters = [p for name, p in ctr.named_parameters() if not name.startswith("embeddings.")]
        rows = -(-batch_size // num_parts)
        rows_BFR = torch.empty(rows, len(schema.sparse), layout.width, requires_grad=True)
        fields = ctr.fields((rows_BFR, None), torch.empty(rows, len(schema.dense)))
        kept_bytes, flops = _run(ctr.head_sum, parameters, fields)
    weights = _FLOAT_BYTES * sum(p.numel() for p in parameters)
    return DenseCost(
        parameter_bytes=weights,
        # What is found ahead is handed over to those of DDP in the backward pass.
        gradient_bytes=weights * (1 + ahead),
        optimizer_bytes=weights * _OPTIMIZER_STATES[config.optimizer.dense.name],
        # The rows as they come from the lookup, and their gradient on the way back.
        activation_bytes=kept_bytes + (2 + ahead) * _FLOAT_BYTES * batch_size * len(schema.sparse) * layout.width,
        flops=flops * batch_size // rows,
    )


def _run(heads: HeadSum, parameters: list[nn.Parameter], fields: Fields) -> tuple[int, int]:
    """Bytes that a forward pass keeps, and the operations of it and of the backward pass."""
    saved: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor if tensor._base is None else tensor._base
        saved[base] = base.numel() * base.element_size()
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        logits = heads(fields, torch.empty(len(fields.dense_BN)))
        known = {id(p) for p in parameters}
        kept_bytes = sum(size for tensor, size in saved.items() if id(tensor) not in known)
        logits.sum().backward()
    return kept_bytes, counter.get_total_flops()
