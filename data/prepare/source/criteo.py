"""Criteo's display advertising logs: Kaggle (2014) and the terabyte of 24 days (2015).

One line per impression, tab-separated, no header: the label, 13 counts (I1 .. I13, may be empty or negative)
and 26 categories of 32 bits in hexadecimal (C1 .. C26, may be empty). Kaggle's ``test.txt`` has no labels
and cannot be used; split ``train.txt`` instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
from omegaconf import MISSING

from data.prepare.delimited import Layout
from data.prepare.source.base import Column
from data.prepare.text import TextSource

DENSE = tuple(f"I{n}" for n in range(1, 14))
CATEGORICAL = tuple(f"C{n}" for n in range(1, 27))
COLUMNS = [
    Column("label", "label"),
    *(Column(name, "dense", transform="log1p") for name in DENSE),
    *(Column(name, "categorical") for name in CATEGORICAL),
]


@dataclass
class CriteoConfig:
    """``files``: ``train.txt``, ``day_*.gz`` or a list of such, plain or gzip."""

    files: Any = MISSING


class Criteo(TextSource):
    """Reads Criteo's lines."""

    Config = CriteoConfig

    def __init__(self, config: CriteoConfig) -> None:
        super().__init__(config.files, header=False)

    @cached_property
    def layout(self) -> Layout:
        """40 fields, in the order of the columns."""
        types = {"label": pa.int8()} | dict.fromkeys(DENSE, pa.int32()) | dict.fromkeys(CATEGORICAL, pa.string())
        return Layout(types, "\t", label="label")

    def columns(self) -> list[Column]:
        """The label, counts as dense columns by ``log1p``, categories."""
        return COLUMNS
