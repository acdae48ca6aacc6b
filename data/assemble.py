"""Pieces of decoded windows to batches: copies of consecutive rows, since they lie in serving order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.bags import Bags
from data.batch import Batch
from data.categorical import IdArray
from data.columns import Columns
from data.encode import Float32Array
from data.schema import Schema


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a decoded window.

    Attributes:
        columns: Of the window.
        start: The first row.
        stop: One past the last row.
    """

    columns: Columns
    start: int
    stop: int


class Assembler:
    """Makes the batches of one worker.

    Args:
        schema: What the columns mean.
        num_lanes: Lanes that the worker serves.
        rows_per_lane: Rows of a step in each lane; what a lane does not have is padding.
    """

    def __init__(self, schema: Schema, *, num_lanes: int, rows_per_lane: int) -> None:
        self._schema = schema
        self._rows_per_lane = rows_per_lane
        self._size = num_lanes * rows_per_lane
        # What all complete batches have in common, they share.
        self._ones = torch.ones(len(schema.one_hot) * self._size, dtype=_torch_dtype(schema))
        self._equal_weights = torch.ones(self._size)
        self._scalar = lru_cache(maxsize=8)(lambda value: torch.tensor([value]))

    def assemble(self, lanes: Sequence[Sequence[Piece]], *, global_weight: float, fill: float) -> Batch:
        """The batch of a step.

        Args:
            lanes: The pieces of each lane, ``rows_per_lane`` rows together or less.
            global_weight: See :class:`Batch`.
            fill: See :class:`Batch`.
        """
        placed = list(self._placed(lanes))
        complete = sum(to.stop - to.start for _, to in placed) == self._size
        allocate = np.empty if complete else np.zeros
        dense = allocate((len(self._schema.dense), self._size), np.float32)
        labels = allocate(self._size, np.float32)
        for piece, to in placed:
            columns, rows = piece.columns, slice(piece.start, piece.stop)
            dense[:, to] = columns.dense[:, rows]
            labels[to] = columns.labels[rows]
        return Batch(
            dense=torch.from_numpy(dense).T,
            sparse=self._sparse(placed, complete=complete),
            labels=torch.from_numpy(labels),
            weights=self._weights(placed, complete=complete),
            global_weight=self._scalar(global_weight),
            fill=self._scalar(fill),
            carried=self._carried(placed) if self._schema.carried else None,
        )

    def _carried(self, placed: list[tuple[Piece, slice]]) -> torch.Tensor:
        carried = np.zeros((len(self._schema.carried), self._size), np.int64)
        for piece, to in placed:
            carried[:, to] = piece.columns.carried[:, piece.start : piece.stop]
        return torch.from_numpy(carried)

    def _weights(self, placed: list[tuple[Piece, slice]], *, complete: bool) -> torch.Tensor:
        if complete and not self._schema.weight:
            return self._equal_weights
        weights = np.zeros(self._size, np.float32)
        for piece, to in placed:
            weights[to] = 1.0 if piece.columns.weights is None else piece.columns.weights[piece.start : piece.stop]
        return torch.from_numpy(weights)

    def _placed(self, lanes: Sequence[Sequence[Piece]]) -> list[tuple[Piece, slice]]:
        """Each piece and the rows of the batch that it fills."""
        placed = []
        for lane, pieces in enumerate(lanes):
            start = lane * self._rows_per_lane
            for piece in pieces:
                stop = start + piece.stop - piece.start
                placed.append((piece, slice(start, stop)))
                start = stop
        return placed

    def _sparse(self, placed: list[tuple[Piece, slice]], *, complete: bool) -> KeyedJaggedTensor:
        schema, num_one_hot = self._schema, len(self._schema.one_hot)
        real: npt.NDArray[np.bool_] | None = None
        if not complete:
            real = np.zeros(self._size, bool)
            for _, to in placed:
                real[to] = True
        per_key = [self._size if real is None else int(np.count_nonzero(real))] * num_one_hot
        bags = [[p.columns.multi_hot[m].span(p.start, p.stop) for p, _ in placed] for m in range(len(schema.multi_hot))]
        per_key += [sum(len(part.values) for part in parts) for parts in bags]

        values = np.empty(sum(per_key), schema.id_dtype)
        num_flat = sum(per_key[:num_one_hot])
        self._fill_one_hot(values[:num_flat], placed, real)
        np.concatenate([values[:0], *(part.values for parts in bags for part in parts)], out=values[num_flat:])
        return KeyedJaggedTensor(
            keys=schema.sparse_keys,
            values=torch.from_numpy(values),
            weights=self._value_weights(bags, num_flat) if schema.weighted_bags else None,
            lengths=self._lengths(placed, bags, real),
            stride=self._size,
            # Known here, and a device would have to be asked for it.
            length_per_key=per_key,
        )

    def _fill_one_hot(
        self, flat: IdArray, placed: list[tuple[Piece, slice]], real: npt.NDArray[np.bool_] | None
    ) -> None:
        # Padding rows are empty bags: they touch no table row, whatever the optimizer does with a zero gradient.
        shape = (len(self._schema.one_hot), self._size)
        rows = flat.reshape(shape) if real is None else np.empty(shape, flat.dtype)
        for piece, to in placed:
            rows[:, to] = piece.columns.one_hot[:, piece.start : piece.stop]
        if real is not None:
            flat[:] = rows[:, real].reshape(-1)

    def _lengths(
        self, placed: list[tuple[Piece, slice]], bags: list[list[Bags]], real: npt.NDArray[np.bool_] | None
    ) -> torch.Tensor:
        ones = self._ones
        if real is not None:
            ones = torch.from_numpy(real).to(ones.dtype).repeat(len(self._schema.one_hot))
        if not bags:
            return ones
        lengths = np.zeros((len(bags), self._size), self._schema.id_dtype)
        for m, parts in enumerate(bags):
            for part, (_, to) in zip(parts, placed, strict=True):
                np.subtract(part.offsets[1:], part.offsets[:-1], out=lengths[m, to], casting="same_kind")
        return torch.cat([ones, torch.from_numpy(lengths).reshape(-1)])

    def _value_weights(self, bags: list[list[Bags]], num_flat: int) -> torch.Tensor:
        """Weights of all values, float32 [values]."""
        weights = [np.ones(num_flat, np.float32)]
        for feature, parts in zip(self._schema.multi_hot, bags, strict=True):
            weights += [_bag_weights(part, feature.pooling) for part in parts]
        return torch.from_numpy(np.concatenate(weights))


def _bag_weights(bags: Bags, pooling: str) -> Float32Array:
    """The weights of a feature's values in a batch where all values have one, float32 [values].

    Of a mean they divide by the length: weights and mean pooling in one kernel give FBGEMM another
    gradient for each sharding type, so that the tables sum up wherever there are weights.
    """
    if bags.weights is not None:
        return bags.weights
    if pooling == "sum":
        return np.ones(len(bags.values), np.float32)
    lengths = np.diff(bags.offsets)
    return (1.0 / np.repeat(lengths, lengths)).astype(np.float32)


def batch_bytes_per_row(schema: Schema) -> int:
    """Host memory of a batch for each row, in bytes; lists counted with ``max_length``."""
    values = sum(feature.max_length for feature in schema.sparse)
    per_value = np.dtype(schema.id_dtype).itemsize + (4 if schema.weighted_bags else 0)
    lengths = len(schema.sparse) * np.dtype(schema.id_dtype).itemsize
    return values * per_value + lengths + 4 * (len(schema.dense) + 2) + 8 * len(schema.carried)


def _torch_dtype(schema: Schema) -> torch.dtype:
    return torch.int32 if schema.id_dtype is np.int32 else torch.int64
