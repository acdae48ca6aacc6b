"""Keeps the copies of sharded tables in several sharding groups equal."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed.types import ShardingEnv2D

from trainer.table_kernels import table_kernels

_BUCKET_NUMBERS = 1 << 24
"""That are averaged in one collective: 64 MiB of float32."""


class TableReplicas:
    """Averages rows and optimizer states over the groups, every so many steps.

    Each group trains its copy on its own part of the global batch, with gradients that are weighted as if that part
    were the whole. So after one step the average of the copies is, up to rounding,

    - under SGD, exactly the step of the whole batch, because its steps add up;
    - under all others an approximation: a group's accumulator sees (count x its part of the gradient)^2, and their
      average is not the square of the whole gradient. A row that one group alone has seen grows its accumulator
      ``count`` times as fast as it would without groups.

    With more than one step in between, the groups have each their own tables for as long (local SGD).

    What it costs: an all-reduce of all that a rank holds of the tables and their states.

    Args:
        model: Sharded, in one group or several.
        every: Steps between two averages.

    Attributes:
        count: Copies of each sharded table.
    """

    def __init__(self, model: nn.Module, *, every: int) -> None:
        environment = getattr(model, "_env", None)
        self._group = environment.replica_pg if isinstance(environment, ShardingEnv2D) else None
        self.count = 1 if self._group is None else dist.get_world_size(self._group)
        self._kernels = table_kernels(model)
        self._every = every
        self._differ = False

    def are_due(self, done: int) -> bool:
        """Whether the copies are averaged after this many steps, saved and evaluated or not."""
        return self._group is None or done % self._every == 0

    def step_done(self, done: int) -> None:
        """Takes note of a step, and averages if it is time. All ranks must call this.

        Args:
            done: Steps completed.
        """
        self._differ = True
        if self.are_due(done):
            self.average()

    @torch.no_grad()
    def average(self) -> None:
        """Makes the copies equal, unless they are. All ranks must call this."""
        if self._group is None or not self._differ:
            return
        for bucket in _buckets(self._tensors()):
            total = torch.cat([part.to(averaged_in(self.count)) for part in bucket])
            dist.all_reduce(total, group=self._group)
            means = (total / self.count).split([len(part) for part in bucket])
            for part, mean in zip(bucket, means, strict=True):
                part.copy_(mean)
        self._differ = False

    def _tensors(self) -> Iterator[torch.Tensor]:
        """What this rank holds, in an order that is the same in all groups."""
        for kernel in self._kernels:
            yield from kernel.split_embedding_weights()
            for states in kernel.split_optimizer_states():
                yield from states


def averaged_in(count: int) -> torch.dtype:
    """What so many copies are summed up in, so that rows that nobody touched keep their bits.

    The sum of two equal float32 numbers is exact, that of three is rounded, and their mean would drift.
    """
    return torch.float32 if count <= 2 else torch.float64


def _buckets(tensors: Iterator[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Flat views of the tensors, together at most as large as a bucket."""
    bucket: list[torch.Tensor] = []
    room = _BUCKET_NUMBERS
    for tensor in tensors:
        flat = tensor.detach().view(-1)
        while len(flat):
            bucket.append(flat[:room])
            flat = flat[len(bucket[-1]) :]
            room -= len(bucket[-1])
            if not room:
                yield bucket
                bucket, room = [], _BUCKET_NUMBERS
    if bucket:
        yield bucket
