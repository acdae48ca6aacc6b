"""What a source of click logs has to offer."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

TABLE_ROWS = 65_536
"""What a source parses or makes at a time: long enough for vectors, short enough for memory."""

Role = Literal["label", "dense", "categorical", "id", "extra"]


@dataclass(frozen=True)
class Column:
    """A column of the shards, and what it is to a model.

    Attributes:
        name: In the Parquet files.
        role: ``label``; ``dense``; ``categorical`` (hashed, or by vocabulary); ``id`` (a table row already);
            ``extra`` (kept in the files, no feature: times, keys).
        transform: Of a dense column, as in ``schema.yaml``.
        num_embeddings: Rows of the table of an ``id`` column; its row 0 is that of a null.
    """

    name: str
    role: Role
    transform: str = "none"
    num_embeddings: int = 0


def plain_name(column: str, position: int) -> str:
    """The column's name where it has only letters, digits, ``_`` and ``-``; else one that does, and is its own."""
    if re.fullmatch(r"[A-Za-z0-9_-]+", column):
        return column
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', column)}_{position}"


@dataclass(frozen=True)
class BadLine:
    """A line that cannot be taken: where it stands and what is wrong with it."""

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.reason}"


@dataclass(frozen=True)
class Rows:
    """Some rows of a source.

    Attributes:
        table: The columns that :meth:`Source.columns` names, in that order.
        numbers: Each row's number in the whole input, damaged lines counted, too: what a split is drawn from,
            so that it depends on neither shard sizes nor policies. int64 [rows].
        bad: The lines left out.
    """

    table: pa.Table
    numbers: npt.NDArray[np.int64]
    bad: list[BadLine] = field(default_factory=list)


@dataclass(frozen=True)
class Piece:
    """A stretch of the input that becomes one shard per split. A source adds what it needs to read it.

    Attributes:
        index: Number of the piece, from 0.
        first_row: Number of its first row in the whole input.
        num_rows: Rows in it, damaged lines counted, too.
        cost: Its share of :attr:`Source.total_cost`.
        end: Where the next piece starts, in the source's own terms.
    """

    index: int
    first_row: int
    num_rows: int
    cost: int
    end: dict[str, int]


class Source(ABC):
    """A click log that can be read piece by piece, several pieces at a time, and from any piece on.

    The name of a source is that of its file. A new one needs that file, ``configs/source/<name>.yaml`` and
    its raw sample in ``tests/data/prepare/samples.py``.
    """

    Config: ClassVar[type]
    cost_unit: ClassVar[str] = "B"

    @abstractmethod
    def __init__(self, config: Any) -> None:
        """Finds and looks at the input that an instance of ``Config`` names."""

    @abstractmethod
    def columns(self) -> list[Column]:
        """The columns of the shards, in order."""

    @abstractmethod
    def identity(self) -> Any:
        """What the rows depend on beside the config (files, sizes, times of change), as plain JSON values."""

    @property
    @abstractmethod
    def total_cost(self) -> int:
        """What the progress bar counts to, in :attr:`cost_unit`."""

    @abstractmethod
    def num_rows(self) -> int:
        """Rows of the whole input, damaged lines counted, too; may read all of it."""

    @abstractmethod
    def pieces(self, *, rows_per_piece: int, after: Piece | None = None) -> Iterator[Piece]:
        """The input, cut into pieces; the same cut for the same arguments.

        Args:
            rows_per_piece: At most.
            after: A piece of an earlier call, to go on behind it without reading what comes before.
        """

    @abstractmethod
    def read(self, piece: Piece) -> Iterator[Rows]:
        """The rows of a piece in order, :data:`TABLE_ROWS` at a time. Called on several threads at once."""

    def facts(self) -> dict[str, Any]:
        """What else the summary should tell about the data, as plain JSON values."""
        return {}
