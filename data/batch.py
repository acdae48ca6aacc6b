"""One worker's share of a global batch, ready for the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable


@dataclass
class Batch(Pipelineable):
    """A local batch. B: rows of the batch, N: dense features, F: sparse features.

    Attributes:
        dense: float32 [B, N], column after column in memory, as it was decoded.
        sparse: Table rows as a KeyedJaggedTensor with F keys and stride B; padding rows are empty bags.
        labels: 0 or 1, float32 [B].
        weights: Sample weights, 0 for padding, float32 [B].
        global_weight: Sum of the weights over the global batch, float32 [1]; 0 if only the ranks
            together can know it (a schema with a weight column, or damaged rows that are skipped).
        fill: Share of the global batch's rows that are not padding, float32 [1]; below 1 only at the end
            of an epoch.
        carried: The schema's carried columns, int64 [carried, B], 0 in padding; None if there are none. They
            stay on the CPU, where the metrics that are asked for by them are.
    """

    dense: torch.Tensor
    sparse: KeyedJaggedTensor
    labels: torch.Tensor
    weights: torch.Tensor
    global_weight: torch.Tensor
    fill: torch.Tensor
    carried: torch.Tensor | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """A copy on the device."""
        return Batch(
            dense=self.dense.to(device=device, non_blocking=non_blocking),
            sparse=self.sparse.to(device=device, non_blocking=non_blocking),
            labels=self.labels.to(device=device, non_blocking=non_blocking),
            weights=self.weights.to(device=device, non_blocking=non_blocking),
            global_weight=self.global_weight.to(device=device, non_blocking=non_blocking),
            fill=self.fill.to(device=device, non_blocking=non_blocking),
            carried=self.carried,
        )

    def record_stream(self, stream: torch.Stream) -> None:
        """Keeps the memory alive until the stream is done with it (CUDA)."""
        for tensor in (self.dense, self.sparse, self.labels, self.weights, self.global_weight, self.fill):
            tensor.record_stream(stream)

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, for asynchronous copies to the device."""
        return Batch(
            dense=self.dense.pin_memory(),
            sparse=self.sparse.pin_memory(),
            labels=self.labels.pin_memory(),
            weights=self.weights.pin_memory(),
            global_weight=self.global_weight.pin_memory(),
            fill=self.fill.pin_memory(),
            carried=self.carried,
        )
