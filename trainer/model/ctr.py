"""The model that is trained: embeddings, heads, summed logits, loss."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from data.batch import Batch
from data.schema import Schema
from trainer.config import ModelConfig, PrecisionConfig
from trainer.model.dense_step import DenseStep
from trainer.model.embeddings import FieldVectors, LookedUpRows, RowLayout, embedding_tables
from trainer.model.fields import Fields
from trainer.model.head import head_configs, known_heads
from trainer.model.head.base import Shape
from trainer.model.loss_scale import LossScale
from trainer.model.step_context import StepContext

_HALVES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""(logits, labels, weights), float32 [B] each, detached."""


class HeadSum(nn.Module):
    """Adds up the logits of the heads: Guo et al. 2017, eq. 1, before the sigmoid.

    With ``half``, the heads' matrix products run in that type, by autocast; their logits add up in float32.
    """

    def __init__(
        self, config: ModelConfig, shape: Shape, context: StepContext, *, half: torch.dtype | None = None
    ) -> None:
        super().__init__()
        known = known_heads()
        configs = head_configs(config.heads)
        self.heads = nn.ModuleDict({name: known[name](c, shape, context) for name, c in configs.items()})
        self._context = context
        self._half = half
        reading = [name for name, c in configs.items() if known[name].reads(c).vectors]
        dim, places = shape.embedding_dim, enumerate(reading if config.separate_embeddings else [])
        self._factors = {name: slice(place * dim, (place + 1) * dim) for place, name in places}

    def forward(self, fields: Fields, weights_B: torch.Tensor) -> torch.Tensor:
        """Logits, float [B]; the fields hold D factors for each head if they are separate."""
        self._context.see_rows(weights_B)
        with torch.autocast(weights_B.device.type, self._half, enabled=self._half is not None):
            seen = {name: fields.share(factors) for name, factors in self._factors.items()}
            logits = [head(seen.get(name, fields)) for name, head in self.heads.items()]
        return torch.stack([part.float() for part in logits]).sum(0)


def row_layout(config: ModelConfig) -> RowLayout:
    """What the heads of a model need in a table row."""
    reads = [known_heads()[name].reads(c) for name, c in head_configs(config.heads).items()]
    num_readers = sum(r.vectors for r in reads)
    shares = num_readers if config.separate_embeddings else min(1, num_readers)
    return RowLayout(config.embedding_dim * shares, any(r.first_order for r in reads))


class WeightedLogLoss(nn.Module):
    """Binary cross entropy, weighted, normalized by the sum of the weights over the global batch.

    The mean of a batch that is only partly filled (the last of an epoch) counts by its fill: every row
    then weighs the same in an epoch, and a handful of rows cannot take a full step, with which Adagrad
    throws rare rows far off.

    The local loss is multiplied by the world size, because both the dense gradients (DDP) and the
    tables' (TorchRec) are averaged over the ranks: so the step is the same on every world size, with
    whatever rows fall to which rank.

    Args:
        world_size: Ranks whose gradients are averaged.
        sum_weights: Whether the ranks must sum up the weights in each step, because the batch does not
            know their sum: there are sample weights, or damaged rows may be skipped.
    """

    def __init__(self, *, world_size: int, sum_weights: bool) -> None:
        super().__init__()
        self._world_size = world_size
        self._sum_weights = sum_weights

    def normalizer(self, weights_B: torch.Tensor, global_weight: torch.Tensor) -> torch.Tensor:
        """What the sum of a global batch is divided by, float [1].

        With ``sum_weights``, all ranks must call this.

        Args:
            weights_B: Of the local batch, float [B].
            global_weight: Their sum over the ranks, float [1], where the batch knows it.
        """
        if self._sum_weights:
            global_weight = weights_B.sum().reshape(1)
            dist.all_reduce(global_weight)
        # A global batch of weight 0 has loss 0 and moves nothing.
        return torch.where(global_weight > 0, global_weight, 1.0)

    def forward(
        self,
        logits_B: torch.Tensor,
        labels_B: torch.Tensor,
        weights_B: torch.Tensor,
        normalizer: torch.Tensor,
        fill: torch.Tensor,
    ) -> torch.Tensor:
        """The loss, float [], of the local batch; that of its parts adds up to it.

        Args:
            logits_B: float [B].
            labels_B: float [B], 0 or 1.
            weights_B: float [B].
            normalizer: Of the global batch, float [1].
            fill: Of the global batch, float [1].
        """
        losses_B = F.binary_cross_entropy_with_logits(logits_B, labels_B, reduction="none")
        return ((losses_B * weights_B).sum() * self._world_size * fill / normalizer).squeeze(0)


class CTRModel(nn.Module):
    """A click-through-rate model: a list of heads over shared embeddings.

    The embedding tables are on the meta device until ``DistributedModelParallel`` shards them. The
    forward pass stays free of branches, because the train pipeline traces it; the parts may hold any
    Python.

    Args:
        schema: The features.
        config: Dimension, initialization and heads.
        precision: Of matrix products (settled, not ``auto``) and tables.
        context: What dropout and batch normalization need to know of a step.
        world_size: Ranks of the job.
        seed: Of the dense weights; the tables are initialized once they are sharded.
        sum_weights: Whether :attr:`Batch.global_weight` is unknown even without sample weights.
        max_gradients: Of looked-up rows, by table (see :class:`trainer.model.embeddings.LookedUpRows`); None for none.
        num_parts: In which the rows pass through the heads (see :class:`trainer.model.dense_step.DenseStep`).
        loss_scale: Of gradients through float16; None for none.

    Raises:
        ConfigError: A head or one of its settings is unknown or out of range.
    """

    def __init__(
        self,
        schema: Schema,
        config: ModelConfig,
        precision: PrecisionConfig,
        *,
        context: StepContext,
        world_size: int,
        seed: int,
        sum_weights: bool = False,
        max_gradients: dict[str, float] | None = None,
        num_parts: int = 1,
        loss_scale: LossScale | None = None,
    ) -> None:
        super().__init__()
        shape = Shape(len(schema.sparse) + len(schema.dense), config.embedding_dim)
        layout = row_layout(config)
        # Every rank draws the same dense weights, and leaves the global generator as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.fields = FieldVectors(num_dense=len(schema.dense), layout=layout, std=config.init_std)
            self.head_sum = HeadSum(config, shape, context, half=_HALVES[precision.dense])
        limits = max_gradients or {}
        self.rows = LookedUpRows(
            schema.sparse_keys,
            max_gradients=[limits.get(feature.table, math.inf) for feature in schema.sparse],
            world_size=world_size,
        )
        self.loss = WeightedLogLoss(world_size=world_size, sum_weights=sum_weights or schema.weight is not None)
        self.dense_step = DenseStep(
            self.fields, self.head_sum, self.loss, context, num_parts=num_parts, loss_scale=loss_scale
        )
        self.embeddings = embedding_tables(schema, layout, half=precision.tables == "fp16")

    def forward(self, batch: Batch) -> tuple[torch.Tensor, Outputs]:
        """The loss to differentiate, float [], and the :data:`Outputs` for the metrics."""
        loss, logits_B = self.dense_step(self.rows(self.embeddings(batch.sparse)), batch)
        # A copy, because metrics keep it for some steps: a CUDA graph writes its own to the same place in each.
        return loss, (logits_B.detach().clone(), batch.labels, batch.weights)
