"""Made-up clicks of :mod:`data.prepare.synthetic`, as a source like any other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.errors import DataError
from data.hashing import derive_seed, mix64
from data.prepare.source.base import TABLE_ROWS, Column, Piece, Rows, Source
from data.prepare.synthetic import ClickModel, best_scores

IDS = ("integer", "string")
SCORED_ROWS = 1_000_000
"""The best scores are those of so many of the first rows: more would change the fourth digit at most."""
_HEX_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


@dataclass
class SyntheticConfig:
    """How many rows, of which size; ``ids``: table rows, or the same as text of 8 hexadecimal digits."""

    rows: int = 1_000_000
    seed: int = 0
    ids: str = "integer"
    scale: float = 1.0
    max_cardinality: int | None = None

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise DataError(f"rows is {self.rows}, but must be at least 1.")
        if self.ids not in IDS:
            raise DataError(f"ids is '{self.ids}', but must be one of {', '.join(IDS)}.")
        if not 0 < self.scale < math.inf:
            raise DataError(f"scale is {self.scale:g}, but must be a positive number.")
        if self.max_cardinality is not None and self.max_cardinality < 2:
            raise DataError(f"max_cardinality is {self.max_cardinality}, but must be at least 2.")


class Synthetic(Source):
    """Makes rows instead of reading them."""

    Config = SyntheticConfig
    cost_unit: ClassVar[str] = "row"

    def __init__(self, config: SyntheticConfig) -> None:
        self._config = config
        self._model = ClickModel(seed=config.seed, scale=config.scale, max_cardinality=config.max_cardinality)
        self._text = config.ids == "string"

    def columns(self) -> list[Column]:
        """Criteo's columns; the categories as ids of known tables, or to be hashed."""
        categories = [
            Column(f"C{f}", "categorical") if self._text else Column(f"C{f}", "id", num_embeddings=size + 1)
            for f, size in enumerate(self._model.cardinalities, start=1)
        ]
        return [
            Column("label", "label"),
            *(Column(f"I{j}", "dense", transform="log1p") for j in range(1, 14)),
            *categories,
        ]

    def identity(self) -> Any:
        """Nothing beside the config."""
        return None

    @property
    def total_cost(self) -> int:
        """Rows."""
        return self._config.rows

    def num_rows(self) -> int:
        """As configured."""
        return self._config.rows

    def pieces(self, *, rows_per_piece: int, after: Piece | None = None) -> Iterator[Piece]:
        """Stretches of row numbers."""
        index, first = (after.index + 1, after.first_row + after.num_rows) if after else (0, 0)
        for i, row in enumerate(range(first, self._config.rows, rows_per_piece), index):
            count = min(rows_per_piece, self._config.rows - row)
            yield Piece(i, row, count, count, {})

    def read(self, piece: Piece) -> Iterator[Rows]:
        """Makes the rows of a piece."""
        for start in range(0, piece.num_rows, TABLE_ROWS):
            first, count = piece.first_row + start, min(TABLE_ROWS, piece.num_rows - start)
            yield Rows(self._table(first, count), np.arange(first, first + count))

    def facts(self) -> dict[str, Any]:
        """What a model that knows the truth would reach; no trained model is expected above it."""
        best = best_scores(np.concatenate(list(self._model.probabilities(min(self._config.rows, SCORED_ROWS)))))
        return {"bayes_auc": best.auc, "bayes_logloss": best.logloss, "expected_positive_rate": best.positive_rate}

    def _table(self, first: int, count: int) -> pa.Table:
        clicks = self._model.rows(first, count)
        arrays = [pa.array(clicks.labels)]
        arrays += [pa.array(v, mask=null) for v, null in zip(clicks.dense, clicks.dense_null, strict=True)]
        for f, ids in enumerate(clicks.ids):
            arrays.append(_hexadecimal(ids, f) if self._text else pa.array(ids, mask=ids == 0))
        return pa.table(arrays, names=[column.name for column in self.columns()])


def _hexadecimal(ids: npt.NDArray[np.int32], field: int) -> pa.Array:
    """8 hexadecimal digits of a hash of (field, id), null for id 0, without a Python string per value."""
    hashes = mix64(ids.astype(np.uint64) ^ np.uint64(derive_seed(field)))
    nibbles = (hashes[:, None] >> np.arange(60, 28, -4, dtype=np.uint64)) & np.uint64(15)
    digits = _HEX_DIGITS[nibbles]
    offsets = np.arange(0, 8 * len(ids) + 1, 8, dtype=np.int32)
    valid = np.packbits(ids != 0, bitorder="little")
    buffers = [pa.py_buffer(valid), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(digits))]
    return pa.Array.from_buffers(pa.string(), len(ids), buffers, null_count=int((ids == 0).sum()))
