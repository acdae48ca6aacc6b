"""Writes ``schema.yaml`` from the columns' roles and figures: a start, for the user to edit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from data.prepare.config import FeaturesConfig, PrepareConfig
from data.prepare.source.base import Column, plain_name
from data.prepare.state import write_text
from data.prepare.statistics import Statistics
from data.schema import parse_schema

HEADER = """\
# Written by launch/prepare.py source={source}. Edit it as you like: a further run leaves it as it is.
# Means and standard deviations are those of the training rows, after the transform, with nulls as 0.
"""


def write_schema(config: PrepareConfig, columns: Sequence[Column], out: Path, statistics: Statistics) -> None:
    """Writes ``schema.yaml`` unless there is one.

    Raises:
        DataError: The columns make no schema (not a single category).
    """
    path = out / "schema.yaml"
    if path.exists():
        return
    text = schema_text(config, columns, statistics)
    parse_schema(yaml.safe_load(text), where=str(path), folder=out)
    write_text(path, text)


def schema_text(config: PrepareConfig, columns: Sequence[Column], statistics: Statistics) -> str:
    """The schema as YAML, one line per feature."""
    (label,) = [column.name for column in columns if column.role == "label"]
    dense = [_dense(column, statistics[column.name]) for column in columns if column.role == "dense"]
    sparse = [
        _sparse(column, statistics[column.name], config.features, position)
        for position, column in enumerate(columns)
        if column.role in ("categorical", "id")
    ]
    for position, column in enumerate(columns):
        made = _from_dense(column, statistics[column.name], config.features)
        sparse.extend(feature | _table(feature["name"], position) for feature in made)
    lines = [HEADER.format(source=config.source["name"]) + f"label: {_flow(label)}"]
    for section, features in (("dense", dense), ("sparse", sparse)):
        if features:
            lines += [f"{section}:", *(f"  - {_flow(feature)}" for feature in features)]
    return "\n".join(lines) + "\n"


def _dense(column: Column, figures: dict[str, Any]) -> dict[str, Any]:
    feature: dict[str, Any] = {"name": column.name}
    if column.transform != "none":
        feature["transform"] = column.transform
    # A constant column stays at 0 whatever it is divided by.
    return feature | {"mean": figures["mean"], "std": figures["std"] or 1.0}


def _sparse(column: Column, figures: dict[str, Any], config: FeaturesConfig, position: int) -> dict[str, Any]:
    feature: dict[str, Any] = {"name": column.name}
    if column.role == "id":
        feature |= {"kind": "id", "num_embeddings": column.num_embeddings, "default": 0}
    elif "vocabulary" in figures:
        feature |= {"kind": "vocabulary", "vocabulary": figures["vocabulary"]}
    else:
        # Row 0 is that of a null; the smallest table still tells a few unseen values apart.
        wanted = 1 + max(math.ceil(figures["cardinality"] * config.rows_per_value), 8)
        feature |= {"kind": "hash", "num_embeddings": min(wanted, config.max_embeddings)}
    return feature | _table(column.name, position)


def _from_dense(column: Column, figures: dict[str, Any], config: FeaturesConfig) -> Iterator[dict[str, Any]]:
    """The categories that a dense column gives beside itself."""
    source = {"column": column.name}
    if figures.get("borders"):
        yield {"name": f"{column.name}_bucket", **source, "kind": "bucketize", "borders": figures["borders"]}
    if config.log_square and column.role == "dense" and column.transform == "log1p":
        # Up to the largest training value; what is larger shares its row.
        rows = 6 + math.floor(math.log(max(figures["max"] or 0, 2)) ** 2)
        yield {"name": f"{column.name}_log_square", **source, "kind": "log_square", "num_embeddings": rows}


def _table(name: str, position: int) -> dict[str, str]:
    """A table name of its own where the feature's name has characters that a table's may not have."""
    plain = plain_name(name, position)
    return {} if plain == name else {"table": plain}


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return text.removesuffix("\n...\n").rstrip("\n")
