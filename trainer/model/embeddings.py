"""The shared embeddings: one table row holds a feature's factors and its first-order weight.

B: batch, F: sparse features, N: dense features, M = F + N fields, D: factors, R: row width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torchrec.distributed.types import LazyAwaitable, ShardedTensor
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedTensor

from data.hashing import derive_seed
from data.schema import Schema
from trainer.model.fields import Fields, split_rows

TABLE_PREFIX = "t_"
"""Before a table's name in TorchRec's modules, where names like ``values`` or ``type`` are taken."""

_INIT_BLOCK_ROWS = 65536


@dataclass(frozen=True)
class RowLayout:
    """What a table row holds: the factors, then the first-order weight, then padding.

    Attributes:
        num_factors: D, or D for each head if they have separate embeddings, or 0 if no head reads them.
        first_order: Whether some head reads the first-order weight.
    """

    num_factors: int
    first_order: bool

    @property
    def num_values(self) -> int:
        """Numbers of a row that are learned."""
        return self.num_factors + self.first_order

    @property
    def width(self) -> int:
        """R: the learned numbers, padded to the multiple of 4 that FBGEMM demands."""
        return -(-self.num_values // 4) * 4


def embedding_tables(schema: Schema, layout: RowLayout, *, half: bool = False) -> EmbeddingBagCollection:
    """The tables of a schema on the meta device: shapes without memory, until they are sharded.

    Where the values carry weights, the weights make the mean (see ``data.assemble``).
    """
    return EmbeddingBagCollection(
        device=torch.device("meta"),
        is_weighted=schema.weighted_bags,
        tables=[
            EmbeddingBagConfig(
                name=f"{TABLE_PREFIX}{table.name}",
                num_embeddings=table.num_embeddings,
                embedding_dim=layout.width,
                feature_names=list(table.features),
                data_type=DataType.FP16 if half else DataType.FP32,
                pooling=PoolingType.MEAN if table.pooling == "mean" and not schema.weighted_bags else PoolingType.SUM,
            )
            for table in schema.tables()
        ],
    )


def initialize_tables(
    state_dict: dict[str, object], schema: Schema, layout: RowLayout, *, std: float, seed: int
) -> None:
    """Fills this rank's shards: factors from N(0, std^2), first-order weights and padding with 0.

    A value depends on the seed, the table and its row and column alone, not on rank, world size or
    sharding type (drawing every shard with one seed would make row-wise shards copies of each other).
    It depends on the type of device that draws it.

    Args:
        state_dict: Of the sharded model.
        schema: Names the tables; a table's place in it is part of its seed.
        layout: Of the rows.
        std: Standard deviation of the factors.
        seed: Of the run.
    """
    numbers = {f"{TABLE_PREFIX}{table.name}": number for number, table in enumerate(schema.tables())}
    for key, value in state_dict.items():
        table = numbers.get(key.split(".")[-2]) if ".embedding_bags." in key else None
        if table is None or not isinstance(value, torch.Tensor):
            continue
        for tensor, (row_offset, column_offset) in local_parts(value):
            columns = slice(column_offset, column_offset + tensor.shape[1])
            rows = range(row_offset, row_offset + tensor.shape[0])
            for block in range(rows.start // _INIT_BLOCK_ROWS, -(-rows.stop // _INIT_BLOCK_ROWS)):
                first = block * _INIT_BLOCK_ROWS
                generator = torch.Generator(tensor.device)
                generator.manual_seed(derive_seed(seed, table, block) >> 1)
                size = (min(_INIT_BLOCK_ROWS, value.size(0) - first), value.size(1))
                values = torch.empty(size, device=tensor.device).normal_(0, std, generator=generator)
                values[:, layout.num_factors :] = 0
                start, stop = max(first, rows.start), min(first + size[0], rows.stop)
                target = tensor.detach()[start - rows.start : stop - rows.start]
                target.copy_(values[start - first : stop - first, columns])


def table_of_parameter(name: str) -> str | None:
    """The table whose weight has a name in the model, or in its optimizer; None for what is no table."""
    return name.split(".")[-2].removeprefix(TABLE_PREFIX) if ".embedding_bags." in name else None


def local_parts(table: torch.Tensor) -> list[tuple[torch.Tensor, tuple[int, int]]]:
    """What this rank holds of a table: tensors with the (row, column) in the table where each begins."""
    if isinstance(table, ShardedTensor):
        return [(shard.tensor, tuple(shard.metadata.shard_offsets)) for shard in table.local_shards()]
    return [(table, (0, 0))]


class LookedUpRows(nn.Module):
    """What the lookup gave; on the way back, gradients within their limits.

    Limits hold for each number of the gradient of one sample's looked-up row (of a list: its sum or mean), before
    the gradients of a table row are summed up over the samples: so they are the same on every sharding, kernel
    and world size.

    Args:
        keys: The sparse features in the order of the schema.
        max_gradients: Of each of them; infinity for none.
        world_size: Ranks that the loss is multiplied by, and its gradients averaged over.
    """

    _limits: torch.Tensor | None

    def __init__(self, keys: list[str], *, max_gradients: list[float], world_size: int) -> None:
        super().__init__()
        self._keys = keys
        limited = any(map(math.isfinite, max_gradients))
        limits_F1 = world_size * torch.tensor(max_gradients).unsqueeze(1) if limited else None
        self.register_buffer("_limits", limits_F1, persistent=False)
        self._found: tuple[list[str], torch.Tensor | None] | None = None

    def forward(self, embedded: KeyedTensor | LazyAwaitable[KeyedTensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Rows in the order in which the sharding plan brings them, float [B, F, R], and :attr:`Fields.places`."""
        if isinstance(embedded, LazyAwaitable):
            embedded = embedded.wait()
        rows_BFR = embedded.values().unflatten(1, (len(self._keys), -1))
        places = self._places(embedded.keys(), rows_BFR.device)
        if self._limits is not None and rows_BFR.requires_grad:
            limits_F1 = self._limits if places is None else self._limits[torch.argsort(places)]
            rows_BFR.register_hook(lambda gradient_BFR: torch.clamp(gradient_BFR, -limits_F1, limits_F1))
        return rows_BFR, places

    def _places(self, keys: list[str], device: torch.device) -> torch.Tensor | None:
        if self._found is None or self._found[0] != keys:
            places = [keys.index(key) for key in self._keys]
            identity = places == list(range(len(places)))
            self._found = (keys, None if identity else torch.tensor(places, device=device))
        return self._found[1]


class FieldVectors(nn.Module):
    """Joins what the lookup gave with the dense columns, which are fields, too.

    Args:
        num_dense: N.
        layout: Of the table rows.
        std: Standard deviation of the dense fields' initial factors.
    """

    def __init__(self, *, num_dense: int, layout: RowLayout, std: float) -> None:
        super().__init__()
        # A parameter that the loss does not depend on would keep the gradients' all-reduce waiting.
        vectors_ND = torch.empty(num_dense, layout.num_factors).normal_(0, std)
        self.dense_vectors = nn.Parameter(vectors_ND) if vectors_ND.numel() else None
        self.dense_weights = nn.Parameter(torch.zeros(num_dense)) if num_dense and layout.first_order else None
        self._layout = layout

    def forward(self, looked_up: tuple[torch.Tensor, torch.Tensor | None], dense_BN: torch.Tensor) -> Fields:
        """The fields of a batch; what the layout leaves out is empty."""
        rows_BFR, places = looked_up
        weights_BF, vectors_BFD = split_rows(rows_BFR, self._layout.num_factors, int(self._layout.first_order))
        return Fields(weights_BF, vectors_BFD, dense_BN, self.dense_weights, self.dense_vectors, places)
