"""DeepFM as an expert would tune it by hand in PyTorch alone: one table, sparse gradients, row-wise Adagrad, bfloat16.

A baseline of speed: all categories lie in one table, vectors and first-order weights side by side, so that a step looks
up once; its gradient is summed up by row, and one step size a row is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import nn


class DeepFM(nn.Module):
    """Guo et al. 2017, with dense columns as fields; the rows come looked up."""

    def __init__(self, num_sparse: int, num_dense: int, dim: int, layers: Sequence[int]) -> None:
        super().__init__()
        self.dense_rows = nn.Parameter(0.01 * torch.randn(num_dense, dim + 1))
        self.bias = nn.Parameter(torch.zeros(()))
        modules: list[nn.Module] = []
        width = (num_sparse + num_dense) * dim
        for neurons in layers:
            modules += [nn.Linear(width, neurons), nn.ReLU(inplace=True)]
            width = neurons
        self.network = nn.Sequential(*modules, nn.Linear(width, 1))

    def forward(self, rows: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """Logits, float [B], of rows float [B, F, D + 1] and dense float [B, N]."""
        fields = torch.cat([rows, dense.unsqueeze(2) * self.dense_rows], 1)
        vectors, weights = fields[:, :, :-1], fields[:, :, -1]
        second_order = 0.5 * (vectors.sum(1).square() - vectors.square().sum(1)).sum(1)
        return self.bias + weights.sum(1) + second_order + self.network(vectors.flatten(1)).squeeze(1).float()


class Training:
    """The training loop around it.

    Args:
        cardinalities: Rows of each feature's part of the table.
        num_dense: N.
        dim: D.
        layers: Of the network.
        bf16: Whether matrix products are in bfloat16.
    """

    def __init__(
        self, cardinalities: Sequence[int], num_dense: int, dim: int, layers: Sequence[int], *, bf16: bool
    ) -> None:
        self._table = 0.01 * torch.randn(sum(cardinalities), dim + 1)
        self._squares = torch.zeros(len(self._table))
        self._starts = torch.tensor([0, *accumulate(cardinalities)][:-1])
        self._model = DeepFM(len(cardinalities), num_dense, dim, layers)
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=1e-3, fused=True)
        self._bf16 = bf16

    def step(self, dense: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor) -> float:
        """One step; returns the loss."""
        places = (ids + self._starts).flatten()
        rows = F.embedding(places, self._table).unflatten(0, ids.shape).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            logits = self._model(rows, dense)
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        assert rows.grad is not None
        self._update(places, rows.grad.flatten(0, 1))
        return loss.item()

    def _update(self, places: torch.Tensor, gradients: torch.Tensor, lr: float = 0.05) -> None:
        distinct, inverse = torch.unique(places, return_inverse=True)
        summed = gradients.new_zeros(len(distinct), gradients.shape[1]).index_add_(0, inverse, gradients)
        squares = self._squares[distinct] + summed.square().mean(1)
        self._squares[distinct] = squares
        self._table.index_add_(0, distinct, summed / (squares.sqrt() + 1e-8).unsqueeze(1), alpha=-lr)
