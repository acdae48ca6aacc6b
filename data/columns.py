"""The decoded rows of a window, and the memory that they lie in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.bags import Bags
from data.categorical import IdArray
from data.counters import FeatureCounts
from data.encode import Float32Array
from data.schema import Schema


@dataclass
class Columns:
    """Decoded and encoded rows of a window, feature-major, in the order in which they are served.

    Attributes:
        one_hot: Table rows, int32 or int64 [one-hot features, rows].
        multi_hot: One :class:`Bags` for each multi-hot feature.
        dense: float32 [dense features, rows].
        labels: 0 or 1, float32 [rows].
        weights: float32 [rows]; None if the schema has no sample weights.
        carried: The schema's carried columns, int64 [carried, rows].
        counts: By feature, what was met while decoding.
    """

    one_hot: IdArray
    multi_hot: list[Bags]
    dense: Float32Array
    labels: Float32Array
    weights: Float32Array | None
    carried: npt.NDArray[np.int64]
    counts: dict[str, FeatureCounts]

    @property
    def num_bytes(self) -> int:
        """Host memory held, in bytes."""
        fixed = self.one_hot.nbytes + self.dense.nbytes + self.labels.nbytes
        weights = 0 if self.weights is None else self.weights.nbytes
        return fixed + weights + self.carried.nbytes + sum(bags.num_bytes for bags in self.multi_hot)


class ColumnMemory:
    """Memory for the columns of a window that have one value per row; a window that is done leaves it to the next.

    New memory for each window would be cleared by the system first, which costs as much as encoding.

    Args:
        schema: What the columns mean.
        rows: Of the largest window.
    """

    def __init__(self, schema: Schema, rows: int) -> None:
        self._schema = schema
        self._one_hot = np.empty(len(schema.one_hot) * rows, schema.id_dtype)
        self._num_numbers = len(schema.dense) + 1 + (schema.weight is not None)
        self._numbers = np.empty(self._num_numbers * rows, np.float32)
        self._carried = np.empty(len(schema.carried) * rows, np.int64)

    def columns(self, num_rows: int) -> Columns:
        """Columns of ``num_rows`` rows in it, not yet filled; those that it gave before are void."""
        schema = self._schema
        nothing = Bags(np.zeros(0, schema.id_dtype), np.zeros(num_rows + 1, np.int64))
        num_one_hot, num_dense = len(schema.one_hot), len(schema.dense)
        numbers = self._numbers[: self._num_numbers * num_rows].reshape(self._num_numbers, num_rows)
        return Columns(
            one_hot=self._one_hot[: num_one_hot * num_rows].reshape(num_one_hot, num_rows),
            multi_hot=[nothing for _ in schema.multi_hot],
            dense=numbers[:num_dense],
            labels=numbers[num_dense],
            weights=numbers[num_dense + 1] if schema.weight else None,
            carried=self._carried[: len(schema.carried) * num_rows].reshape(len(schema.carried), num_rows),
            counts={name: FeatureCounts() for name in schema.feature_names},
        )


def held_bytes_per_row(schema: Schema) -> int:
    """Host memory that a decoded window takes for each row, in bytes; lists counted with ``max_length``."""
    id_bytes = np.dtype(schema.id_dtype).itemsize
    one_hot = id_bytes * len(schema.one_hot)
    numbers = 4 * (len(schema.dense) + 1 + (schema.weight is not None))
    offset_bytes, order_bytes = 8, 8  # where each list starts, and which row comes in each place
    bags = sum(offset_bytes + f.max_length * (id_bytes + (4 if f.weights else 0)) for f in schema.multi_hot)
    return one_hot + numbers + bags + order_bytes + 8 * len(schema.carried)
