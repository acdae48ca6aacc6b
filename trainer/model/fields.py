"""The fields of a batch, as the heads see them.

B: batch, F: sparse features, N: dense columns, M = F + N fields, D: factors, R: width of a table row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch


@dataclass(frozen=True)
class Fields:
    """Looked-up rows, and dense columns with their own weights and vectors.

    Guo et al. 2017, section 2: a continuous field j is its value x_j itself, so that its vector is x_j * v_j
    and its first-order term x_j * w_j; a categorical field has x = 1. The two factors are kept apart: a
    head that is linear in the vectors needs N numbers a row of them, where x_j * v_j would be N * D.

    Attributes:
        weights_BF: First-order weights of the sparse features, float [B, F]; [B, 0] if no head reads them.
        vectors_BFD: Their vectors, float [B, F, D]; D is 0 if no head reads them.
        dense_BN: x, float [B, N].
        dense_weights_N: w of the dense columns; None if no head reads it, or there are none.
        dense_vectors_ND: v of the dense columns; None likewise.
        places: Where each sparse feature stands in the second dimension of the first two; None if they
            stand in the order of the schema. The sharding plan decides it.
    """

    weights_BF: torch.Tensor
    vectors_BFD: torch.Tensor
    dense_BN: torch.Tensor
    dense_weights_N: torch.Tensor | None = None
    dense_vectors_ND: torch.Tensor | None = None
    places: torch.Tensor | None = None

    @cached_property
    def first_order_BM(self) -> torch.Tensor:
        """w_j * x_j of all fields in the order of the schema, sparse ones first, float [B, M]."""
        weights_BF = self._in_order(self.weights_BF)
        if self.dense_weights_N is None:
            return weights_BF
        return torch.cat([weights_BF, self.dense_BN * self.dense_weights_N], 1)

    @cached_property
    def vectors_BMD(self) -> torch.Tensor:
        """v_j * x_j of all fields in the same order, float [B, M, D]."""
        vectors_BFD = self._in_order(self.vectors_BFD)
        if self.dense_vectors_ND is None:
            return vectors_BFD
        return torch.cat([vectors_BFD, self.dense_BN.unsqueeze(2) * self.dense_vectors_ND], 1)

    def share(self, factors: slice) -> Fields:
        """The fields with some of the factors alone, for a head with embeddings of its own."""
        dense_vectors_ND = None if self.dense_vectors_ND is None else self.dense_vectors_ND[:, factors]
        return replace(self, vectors_BFD=self.vectors_BFD[:, :, factors], dense_vectors_ND=dense_vectors_ND)

    def _in_order(self, of_features: torch.Tensor) -> torch.Tensor:
        return of_features if self.places is None else of_features.index_select(1, self.places)


def affine(fields: Fields, weight_HX: torch.Tensor, bias_H: torch.Tensor) -> torch.Tensor:
    """An affine map of all field vectors side by side, X = M * D, without building those of the dense columns.

    W [v_1 x_1, ..., v_M x_M] = sum over sparse j of W_j v_j + sum over dense j of x_j (W_j v_j): a dense column
    takes one column of a matrix instead of D. Where the sharding plan has the features in another order, the
    weights are brought into that order, which are fewer numbers than a batch's vectors.

    Args:
        fields: Of B rows.
        weight_HX: In the order of the schema, float [H, M * D].
        bias_H: Float [H].

    Returns:
        Float [B, H]; computed as autocast says.
    """
    num_features, dim = fields.vectors_BFD.shape[1:]
    weight_HMD = weight_HX.unflatten(1, (-1, dim))
    weight_HFD = weight_HMD[:, :num_features]
    if fields.places is not None:
        weight_HFD = weight_HFD.index_select(1, torch.argsort(fields.places))
    kind = fields.vectors_BFD.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else fields.vectors_BFD.dtype
    vectors_BX = fields.vectors_BFD.to(dtype).flatten(1)  # to the type before the slice is copied, not after it
    if fields.dense_vectors_ND is None:
        return torch.nn.functional.linear(vectors_BX, weight_HFD.flatten(1), bias_H)
    # Not a product of matrices: they are too small for one, and digits would be lost to autocast.
    columns_HN = (weight_HMD[:, num_features:] * fields.dense_vectors_ND).sum(2)
    # One product, and as wide as tensor cores want it.
    padding = -(vectors_BX.shape[1] + columns_HN.shape[1]) % 8
    inputs_BK = torch.cat([vectors_BX, torch.nn.functional.pad(fields.dense_BN, (0, padding)).to(dtype)], 1)
    weight_HK = torch.cat([weight_HFD.flatten(1), torch.nn.functional.pad(columns_HN, (0, padding))], 1)
    return torch.nn.functional.linear(inputs_BK, weight_HK, bias_H)


def split_rows(rows_BFR: torch.Tensor, num_factors: int, num_weights: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First-order weights [B, F] (or [B, 0]) and vectors [B, F, D] of looked-up rows, as views of them.

    The gradient is written once; that of two slices would be two tensors, mostly zeros, and their sum.

    Args:
        rows_BFR: Factors, first-order weight, padding.
        num_factors: D.
        num_weights: 1, or 0 if there is no first-order weight.
    """
    weights_BFW, vectors_BFD = _Split.apply(rows_BFR, num_factors, num_weights)
    return weights_BFW.flatten(1), vectors_BFD


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows_BFR: torch.Tensor, num_factors: int, num_weights: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.width = rows_BFR.shape[2]
        return rows_BFR[:, :, num_factors : num_factors + num_weights], rows_BFR[:, :, :num_factors]

    @staticmethod
    def backward(ctx: Any, weights_BFW: torch.Tensor, vectors_BFD: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        num_factors, num_weights = vectors_BFD.shape[2], weights_BFW.shape[2]
        rows_BFR = vectors_BFD.new_empty((*vectors_BFD.shape[:2], ctx.width))
        rows_BFR[:, :, :num_factors] = vectors_BFD
        rows_BFR[:, :, num_factors : num_factors + num_weights] = weights_BFW
        rows_BFR[:, :, num_factors + num_weights :] = 0
        return rows_BFR, None, None
