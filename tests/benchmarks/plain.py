"""DeepFM as one writes it in plain PyTorch: an nn.Embedding per feature, Adam, a DataLoader. A baseline of speed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Dense float [B, N], ids int64 [B, F], labels float [B]."""


class DeepFM(nn.Module):
    """Guo et al. 2017, with dense columns as fields."""

    def __init__(self, cardinalities: Sequence[int], num_dense: int, dim: int, layers: Sequence[int]) -> None:
        super().__init__()
        self.vectors = nn.ModuleList(nn.Embedding(n, dim) for n in cardinalities)
        self.weights = nn.ModuleList(nn.Embedding(n, 1) for n in cardinalities)
        self.dense_vectors = nn.Parameter(0.01 * torch.randn(num_dense, dim))
        self.dense_weights = nn.Linear(num_dense, 1)
        modules: list[nn.Module] = []
        width = (len(cardinalities) + num_dense) * dim
        for neurons in layers:
            modules += [nn.Linear(width, neurons), nn.ReLU()]
            width = neurons
        self.network = nn.Sequential(*modules, nn.Linear(width, 1))

    def forward(self, dense: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Logits, float [B]."""
        vectors = [table(column) for table, column in zip(self.vectors, ids.T, strict=True)]
        stacked = torch.cat([torch.stack(vectors, 1), dense.unsqueeze(2) * self.dense_vectors], 1)
        first_order = sum(table(column) for table, column in zip(self.weights, ids.T, strict=True))
        second_order = 0.5 * (stacked.sum(1).square() - stacked.square().sum(1)).sum(1, keepdim=True)
        logits = first_order + self.dense_weights(dense) + second_order + self.network(stacked.flatten(1))
        return logits.squeeze(1)


class RowGroups(IterableDataset[Rows]):
    """Batches of a Parquet file, its row groups one after the other and their rows shuffled."""

    def __init__(self, file: Path, dense: list[str], sparse: list[str], label: str, batch_size: int) -> None:
        self._file = file
        self._columns = (dense, sparse, label)
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[Rows]:
        dense, sparse, label = self._columns
        parquet = pq.ParquetFile(self._file)
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group)
            order = np.random.default_rng(group).permutation(table.num_rows)
            numbers = np.stack([table[name].to_numpy() for name in dense], 1)
            x = torch.from_numpy(np.log1p(np.nan_to_num(numbers)).astype(np.float32))[order]
            ids = torch.from_numpy(np.stack([table[name].to_numpy() for name in sparse], 1))[order]
            labels = torch.from_numpy(table[label].to_numpy().astype(np.float32))[order]
            for start in range(0, len(order) - self._batch_size + 1, self._batch_size):
                rows = slice(start, start + self._batch_size)
                yield x[rows], ids[rows], labels[rows]


class Training:
    """The training loop around it.

    Args:
        cardinalities: Rows of each table.
        num_dense: N.
        dim: D.
        layers: Of the network.
    """

    def __init__(self, cardinalities: Sequence[int], num_dense: int, dim: int, layers: Sequence[int]) -> None:
        self._model = DeepFM(cardinalities, num_dense, dim, layers)
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=1e-3)

    def step(self, dense: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor) -> float:
        """One step of Adam; returns the loss."""
        loss = F.binary_cross_entropy_with_logits(self._model(dense, ids), labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.item()


def batches(file: Path, dense: list[str], sparse: list[str], label: str, batch_size: int) -> Iterator[Rows]:
    """Batches of a file over and over, read by a worker process."""
    rows = RowGroups(file, dense, sparse, label, batch_size)
    loader = DataLoader(
        rows,
        batch_size=None,
        num_workers=1,
        prefetch_factor=4,
        multiprocessing_context="spawn",
        persistent_workers=True,
    )
    while True:
        yield from loader
