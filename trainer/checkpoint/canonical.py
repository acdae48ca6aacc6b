"""The state of a run under names that do not tell how it was sharded.

::

    tables/<table>/weight         [rows, width]
    tables/<table>/sum            of Adagrad, [rows, width]; of row-wise Adagrad, [rows]
    tables/<table>/exp_avg        of Adam and LAMB, [rows, width]; so exp_avg_sq; and step, []
    tables/<table>/exp_avg_sq     of their partially row-wise kinds, [rows]
    dense/<parameter>             everything that is not a table
    dense/<parameter>/<moment>    of its optimizer, under torch's own names
    metric_sums                   see :meth:`trainer.metric.training.TrainingMetrics.state`

A table is the same whether FBGEMM's kernels hold shards of it or torch holds replicas. Of equal copies in several
sharding groups, one is written, and all are read.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import nn
from torchrec.distributed.types import ShardedTensor

from trainer.checkpoint.parts import Part, Stored, Tensors, spread_writers, unwritten, whole
from trainer.model.embeddings import local_parts, table_of_parameter
from trainer.optimizer import Optimizers
from trainer.row_caches import forget_cached_rows
from trainer.table_groups import group_place
from trainer.table_kernels import table_kernels
from trainer.table_optimizer import Settings

TABLE_MOMENTS: dict[str, tuple[str, ...]] = {
    "sgd": (),
    "adagrad": ("sum",),
    "rowwise_adagrad": ("sum",),
    "adam": ("exp_avg", "exp_avg_sq", "step"),
    "partial_rowwise_adam": ("exp_avg", "exp_avg_sq", "step"),
    "lamb": ("exp_avg", "exp_avg_sq", "step"),
    "partial_rowwise_lamb": ("exp_avg", "exp_avg_sq", "step"),
}
"""Of each optimizer of tables, those of FBGEMM's states in FBGEMM's order.

The ``step`` that torch's Adagrad counts, too, would only matter to a decay of its rate, which it is not given.
"""

ROW_WISE_MOMENTS = {
    ("rowwise_adagrad", "sum"),
    ("partial_rowwise_adam", "exp_avg_sq"),
    ("partial_rowwise_lamb", "exp_avg_sq"),
}
"""(optimizer, moment): one number for each row."""

_BLOCK_ROWS = 1 << 22


@dataclass(frozen=True)
class State:
    """The tensors of a run; references, so that loading into them restores it, with :meth:`finish_load`.

    Attributes:
        tensors: By canonical keys.
        copies: (source, target): what is stored once, but held by several shards.
        step: Of Adam in fused kernels, [] or None.
        kernels: That count it, and may cache rows.
    """

    tensors: Tensors
    copies: tuple[tuple[torch.Tensor, torch.Tensor], ...] = ()
    step: torch.Tensor | None = None
    kernels: tuple[SplitTableBatchedEmbeddingBagsCodegen, ...] = ()

    def finish_load(self) -> None:
        """Hands on what is not loaded in place; must come after loading."""
        for source, target in self.copies:
            target.detach().copy_(source)
        forget_cached_rows(self.kernels)
        if self.step is not None:
            for kernel in self.kernels:
                kernel.set_optimizer_step(int(self.step))


def is_weight(key: str) -> bool:
    """Whether predictions need it: a table or a dense parameter, not a moment or a sum."""
    return (key.startswith("tables/") and key.endswith("/weight")) or (key.startswith("dense/") and key.count("/") == 1)


def model_state(model: nn.Module) -> State:
    """The part of a state that predictions need."""
    sharded: Tensors = {}
    replicated: Tensors = {}
    for name, value in model.state_dict().items():
        key = table_key(name) or f"dense/{name}"
        if isinstance(value, ShardedTensor):
            sharded[key] = _stored(value, local_parts(value))
        else:
            replicated[key] = whole(value)
    return State({**_share_out(sharded, model), **_spread(replicated)}, kernels=tuple(table_kernels(model)))


def training_state(model: nn.Module, optimizers: Optimizers, metric_sums: torch.Tensor) -> State:
    """All tensors of a training run. All ranks must call this.

    Optimizer states only: learning rates are a function of the step and never read back.
    """
    replicated: Tensors = {"metric_sums": whole(metric_sums)}
    for name, moments in optimizers.dense.state_dict()["state"].items():
        tensors = {moment: value for moment, value in moments.items() if isinstance(value, torch.Tensor)}
        replicated |= {f"dense/{name}/{moment}": whole(value) for moment, value in tensors.items()}
    if optimizers.replicated is not None:
        replicated |= _replicated_moments(optimizers.replicated.state_dict()["state"], optimizers.settings)
    fused = _FusedMoments(model, optimizers)
    stored: Tensors = {**model_state(model).tensors, **_spread(replicated), **_share_out(fused.tensors, model)}
    return State(stored, tuple(fused.copies), fused.step, fused.kernels)


def table_key(name: str) -> str | None:
    """The key of a table's weight, for its name in the model; None for what is no table."""
    table = table_of_parameter(name)
    return None if table is None else f"tables/{table}/weight"


def _replicated_moments(state: dict[str, dict[str, torch.Tensor]], settings: Settings) -> Tensors:
    moments: Tensors = {}
    for name, values in state.items():
        table = table_of_parameter(name)
        assert table is not None
        optimizer = settings[table].name
        for moment in TABLE_MOMENTS[optimizer]:
            value = values[moment]
            # torch's row-wise sums are a column.
            row_wise = (optimizer, moment) in ROW_WISE_MOMENTS
            moments[f"tables/{table}/{moment}"] = whole(value.view(-1) if row_wise else value)
    return moments


class _FusedMoments:
    """The optimizer states of the sharded tables, which lie in FBGEMM's kernels. All ranks must create it."""

    def __init__(self, model: nn.Module, optimizers: Optimizers) -> None:
        self.tensors: Tensors = {}
        self.copies: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.step: torch.Tensor | None = None
        self.kernels = tuple(table_kernels(model))
        self._process_group = group_place(model).process_group
        states: dict[str, dict[str, ShardedTensor]] = optimizers.fused.state_dict()["state"]
        for name, weight in model.state_dict().items():
            table = table_of_parameter(name)
            if table is None or not isinstance(weight, ShardedTensor):
                continue
            optimizer = optimizers.settings[table].name
            moments = TABLE_MOMENTS[optimizer]
            # A rank without a shard of the table has no state of it, but has the keys.
            held = list(states.get(name, {}).values())
            assert not weight.local_shards() or len(held) >= len([m for m in moments if m != "step"])
            for number, moment in enumerate(moments):
                local = held[number] if moment != "step" and held else None
                self.tensors[f"tables/{table}/{moment}"] = self._moment(
                    moment, weight, local, row_wise=(optimizer, moment) in ROW_WISE_MOMENTS
                )

    def _moment(self, moment: str, weight: ShardedTensor, local: ShardedTensor | None, *, row_wise: bool) -> Stored:
        if moment == "step":
            return self._step(weight)
        if row_wise:
            return self._row_wise(weight, local)
        return _stored(weight, local_parts(local) if local is not None else [])

    def _step(self, weight: ShardedTensor) -> Stored:
        """The steps taken, which all kernels count alike."""
        if self.step is None:
            counts = [float(kernel.iter) for kernel in self.kernels]
            self.step = torch.tensor(max(counts, default=0.0))
        owner = any(not any(shard.metadata.shard_offsets) for shard in weight.local_shards())
        return Stored((), torch.float32, (Part((), self.step, written=owner),))

    def _row_wise(self, weight: ShardedTensor, local: ShardedTensor | None) -> Stored:
        """One sum for each row: where shards of columns have each their own, the mean weighted by width.

        Row-wise Adagrad sums up the mean of a row's squared gradient over its columns, so that the mean of
        the shards' sums is what the whole row's sum would be; so do the moving averages of the partially row-wise
        kinds. TorchRec lays the shards' sums one behind the
        other: [columns' shards x rows].
        """
        num_rows, width = weight.size()
        starts = sorted({shard.shard_offsets[1] for shard in weight.metadata().shards_metadata})
        widths = [end - start for start, end in itertools.pairwise([*starts, width])]
        held = [
            (tensor, *divmod(offsets[0], num_rows))
            for tensor, offsets in (local_parts(local) if local is not None else [])
            if tensor.numel()
        ]
        if len(starts) == 1:
            parts = tuple(Part((first,), tensor) for tensor, _, first in held)
            return Stored((num_rows,), torch.float32, parts)
        sums = self._mean([(tensor, widths[column] / width, first) for tensor, column, first in held], weight)
        parts_by_row: dict[int, Part] = {}
        for tensor, column, first in held:
            part = parts_by_row.setdefault(first, Part((first,), sums[first : first + len(tensor)], written=False))
            if column == 0:
                parts_by_row[first] = Part(part.offsets, part.tensor)
            self.copies.append((part.tensor, tensor))
        return Stored((num_rows,), torch.float32, tuple(parts_by_row.values()))

    def _mean(self, held: list[tuple[torch.Tensor, float, int]], weight: ShardedTensor) -> torch.Tensor:
        """Float32 [rows] of (sums, share, first row) over all ranks of the sharding group.

        In float64, so that equal sums stay what they are; in blocks, to need little memory.
        """
        num_rows = weight.size(0)
        # Of this rank, and of the kind that the ranks with shards have: a sum over ranks is over one backend.
        kind = weight.metadata().shards_metadata[0].placement.device().type
        device = torch.device("cuda", torch.cuda.current_device()) if kind == "cuda" else torch.device("cpu")
        mean = torch.zeros(num_rows, device=device)
        for begin in range(0, num_rows, _BLOCK_ROWS):
            end = min(begin + _BLOCK_ROWS, num_rows)
            block = torch.zeros(end - begin, dtype=torch.float64, device=device)
            for tensor, share, first in held:
                start, stop = max(begin, first), min(end, first + len(tensor))
                if start < stop:
                    block[start - begin : stop - begin] += share * tensor.detach()[start - first : stop - first].to(
                        device, torch.float64
                    )
            dist.all_reduce(block, group=self._process_group)
            mean[begin:end] = block.float()
        return mean


def _stored(table: ShardedTensor, held: list[tuple[torch.Tensor, tuple[int, int]]]) -> Stored:
    parts = tuple(Part(tuple(offsets), tensor) for tensor, offsets in held if tensor.numel())
    return Stored(tuple(table.size()), _dtype(table, held), parts)


def _dtype(table: ShardedTensor, held: list[tuple[Any, Any]]) -> torch.dtype:
    dtype: torch.dtype = held[0][0].dtype if held else table.metadata().tensor_properties.dtype
    return dtype


def _share_out(tensors: Tensors, model: nn.Module) -> Tensors:
    """The tables, each to be written by one of the sharding groups that hold it, and read by all."""
    group = group_place(model)
    return {key: stored if group.writes(key) else unwritten(stored) for key, stored in tensors.items()}


def _spread(replicas: Tensors) -> Tensors:
    return spread_writers(replicas, rank=dist.get_rank(), world_size=dist.get_world_size())
