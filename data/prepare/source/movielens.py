"""MovieLens: (user, item, tag) triples with labels, or the raw ratings.

Which of the two is told by the header:

- ``label,user_id,item_id,tag_id``: the form that CTR benchmarks use (MovielensLatest_x1);
- ``userId,movieId,rating,timestamp``: ``ratings.csv`` as GroupLens publishes it; a rating of ``positive_from``
  stars or more is a click.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from omegaconf import MISSING

from data.errors import DataError
from data.prepare.delimited import Layout
from data.prepare.source.base import Column
from data.prepare.text import TextSource

TRIPLES = {"label": pa.int8(), "user_id": pa.int64(), "item_id": pa.int64(), "tag_id": pa.int64()}
RATINGS = {"userId": pa.int64(), "movieId": pa.int64(), "rating": pa.float32(), "timestamp": pa.int64()}


@dataclass
class MovielensConfig:
    """``files``: one of the two forms; ``positive_from``: stars, for the raw ratings."""

    files: Any = MISSING
    positive_from: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.positive_from <= 5:
            raise DataError(f"positive_from is {self.positive_from:g}, but must be a number of stars above 0, up to 5.")


class Movielens(TextSource):
    """Reads either form."""

    Config = MovielensConfig

    def __init__(self, config: MovielensConfig) -> None:
        super().__init__(config.files, header=True)
        header = self.header(self.files[0])
        self._positive_from = config.positive_from
        self._raw = header.split(",") == list(RATINGS)
        if not self._raw and header.split(",") != list(TRIPLES):
            raise DataError(
                f"{self.files[0]}, line 1: the header is '{header}', but must be '{','.join(TRIPLES)}' or "
                f"'{','.join(RATINGS)}'; for other columns use source=csv."
            )

    @cached_property
    def layout(self) -> Layout:
        """Four fields, none of them empty."""
        if self._raw:
            return Layout(RATINGS, ",", required=tuple(RATINGS))
        return Layout(TRIPLES, ",", label="label", required=tuple(TRIPLES)[1:])

    def columns(self) -> list[Column]:
        """The label and the keys; of raw ratings the rating and the time, too, which are no features."""
        ids = [Column(name, "categorical") for name in ("user_id", "item_id")]
        if self._raw:
            return [Column("label", "label"), *ids, Column("rating", "extra"), Column("timestamp", "extra")]
        return [Column("label", "label"), *ids, Column("tag_id", "categorical")]

    def derive(self, table: pa.Table) -> pa.Table:
        """Turns ratings into labels."""
        if not self._raw:
            return table
        label = pc.greater_equal(table["rating"], np.float32(self._positive_from)).cast(pa.int8())
        columns = [label, table["userId"], table["movieId"], table["rating"], table["timestamp"]]
        return pa.table(columns, names=[column.name for column in self.columns()])
