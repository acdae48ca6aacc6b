"""Products of field vectors, the quadratic signals of PNN: Qu et al. 2016, section 3.

B: batch, M: fields, D: embedding dimension.
"""

from __future__ import annotations

import torch


def inner_products(vectors_BMD: torch.Tensor) -> torch.Tensor:
    """<v_i, v_j> for each pair i < j, float [B, M (M - 1) / 2], row by row: Qu et al. 2016, section 3.1."""
    num_fields = vectors_BMD.shape[1]
    rows, columns = torch.triu_indices(num_fields, num_fields, offset=1, device=vectors_BMD.device)
    return torch.bmm(vectors_BMD, vectors_BMD.transpose(1, 2))[:, rows, columns]


def outer_products(vectors_BMD: torch.Tensor) -> torch.Tensor:
    """The sum over all i and j of v_i v_j^T, float [B, D * D]: Qu et al. 2016, eq. 13 (superposition)."""
    sum_BD = vectors_BMD.sum(1)
    return torch.einsum("bd,be->bde", sum_BD, sum_BD).flatten(1)
