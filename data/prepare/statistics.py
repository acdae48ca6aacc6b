"""What the columns of the training rows hold: found by DuckDB, which uses all cores and spills to disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
from tqdm import tqdm

from data.errors import DataError
from data.prepare.config import PrepareConfig
from data.prepare.source.base import Column, plain_name
from data.prepare.state import State

logger = logging.getLogger(__name__)

Statistics = dict[str, dict[str, Any]]
"""Each column's figures by name."""

SAMPLE_ROWS = 1_000_000
"""Quantiles come from every k-th row of each shard, k such that about so many are left: exact below that."""
TOP_VALUES = 10
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


def look_at(config: PrepareConfig, columns: Sequence[Column], state: State, files: Sequence[str]) -> Statistics:
    """Counts, moments and quantiles of every column of the training shards; writes the vocabularies.

    Each column's figures are noted as soon as they are there, so that an interrupted run keeps them.

    Args:
        config: Threads, memory, buckets and the minimum count.
        columns: Of the source.
        state: Where figures are noted.
        files: The training shards, below the output folder.

    Raises:
        DataError: There is no training row, or the memory does not suffice.
    """
    if not files:
        raise DataError("split: not a single row is left for training; change the split.")
    paths = [str(state.out / file) for file in files]
    with (
        _connect(config, state.out) as connection,
        tqdm(total=len(columns), unit="column", desc="statistics", disable=None) as bar,
    ):
        try:
            look = partial(_dense, connection, paths, columns, config.features.dense_buckets)
            statistics = _noted(state, "dense", look)
            bar.update(sum(column.role == "dense" for column in columns))
            for position, column in enumerate(columns):
                if column.role != "dense":
                    look = partial(_values, connection, paths, columns, position, config.features.min_count, state.out)
                    statistics[column.name] = _noted(state, str(position), look)
                    bar.update(1)
        except duckdb.OutOfMemoryException as cause:
            raise DataError(
                f"memory_gib is {config.memory_gib:g}, which does not suffice for the statistics; raise it."
            ) from cause
    return statistics


def rows_of_shards(num_columns: int) -> str:
    """What a query names after FROM, its one parameter being the paths of shards; their columns are c0, c1, ...

    By position, because DuckDB takes names that differ only in their case for the same one. And of the files
    alone: it would take the values of a folder ``site=abc`` above them for a column.
    """
    names = ", ".join(f"c{position}" for position in range(num_columns))
    return f"read_parquet(?, hive_partitioning = false) AS shards({names})"


def _noted(state: State, key: str, look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    figures = state.column(key)
    if figures is None:
        figures = look()
        state.add_column(key, figures)
    return figures


def _connect(config: PrepareConfig, out: Path) -> duckdb.DuckDBPyConnection:
    settings: dict[str, Any] = {
        "threads": config.threads,
        "memory_limit": f"{config.memory_gib}GiB",
        "temp_directory": str(out / ".prepare" / "spill"),
        "preserve_insertion_order": False,
    }
    return duckdb.connect(config=settings)


def _dense(
    connection: duckdb.DuckDBPyConnection, paths: list[str], columns: Sequence[Column], num_buckets: int
) -> Statistics:
    """Moments as the model sees the values, nulls filled with 0: of ``transform(fill(x))``."""
    dense = {position: column for position, column in enumerate(columns) if column.role == "dense"}
    if not dense:
        return {}
    rows = rows_of_shards(len(columns))
    levels = [*QUANTILES, *(k / num_buckets for k in range(1, num_buckets))]
    moments, quantiles = [], []
    for position, column in dense.items():
        # NaN is a null to the reader, too.
        value = f"nullif(CAST(c{position} AS DOUBLE), 'nan'::DOUBLE)"
        seen = f"coalesce({value}, 0)"
        if column.transform == "log1p":
            seen = f"sign({seen}) * ln(1 + abs({seen}))"
        moments += [f"count({value})", f"min({value})", f"max({value})", f"avg({seen})", f"stddev_pop({seen})"]
        quantiles.append(f"quantile_disc({value}, {levels})")
    row = _one(connection, f"SELECT count(*), {', '.join(moments)} FROM {rows}", [paths])
    every = max(1, row[0] // SAMPLE_ROWS)
    sample = f"SELECT {', '.join(quantiles)} FROM {rows} WHERE file_row_number % {every} = 0"
    cuts = _one(connection, sample, [paths])
    statistics: Statistics = {}
    for n, column in enumerate(dense.values()):
        count, lowest, highest, mean, std = row[1 + 5 * n : 6 + 5 * n]
        found = cuts[n] or []
        statistics[column.name] = {
            "nulls": row[0] - count,
            "min": lowest,
            "max": highest,
            "mean": _rounded(mean),
            "std": _rounded(std),
            "quantiles": dict(zip(map(str, QUANTILES), found, strict=False)),
            "borders": _borders(found[len(QUANTILES) :], lowest),
        }
    return statistics


def _borders(quantiles: list[float], lowest: float | None) -> list[float]:
    """Rising borders; none at the lowest value, below which there is nothing."""
    return [border for border in sorted(set(quantiles)) if lowest is not None and border > lowest]


def _values(
    connection: duckdb.DuckDBPyConnection,
    paths: list[str],
    columns: Sequence[Column],
    position: int,
    min_count: int | None,
    out: Path,
) -> dict[str, Any]:
    """Distinct values, the most frequent of them, and on request the vocabulary, from one count per value."""
    column = columns[position]
    counted = f"SELECT c{position} AS value, count(*) AS n FROM {rows_of_shards(len(columns))} GROUP BY 1"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE counts AS {counted}", [paths])
    cardinality, nulls, low, high = _one(
        connection,
        "SELECT count(value), coalesce(sum(n) FILTER (value IS NULL), 0)::BIGINT, min(value), max(value) FROM counts",
    )
    by_count = f"SELECT value, n FROM counts WHERE value IS NOT NULL ORDER BY n DESC, value LIMIT {TOP_VALUES}"
    top = [list(row) for row in connection.execute(by_count).fetchall()]
    figures = {"nulls": nulls, "cardinality": cardinality, "top": top}
    if column.role in ("id", "extra"):
        figures |= {"min": low, "max": high}
    if column.role == "categorical" and min_count is not None:
        path = f"vocabulary/{plain_name(column.name, position)}.txt"
        figures |= _write_vocabulary(connection, min_count, out, path)
    return figures


def _write_vocabulary(connection: duckdb.DuckDBPyConnection, min_count: int, out: Path, path: str) -> dict[str, Any]:
    """One value per line, the most frequent first: line i is table row i + 2, after those of null and unknown."""
    query = f"SELECT value::VARCHAR FROM counts WHERE value IS NOT NULL AND n >= {min_count} ORDER BY n DESC, value"
    unfinished = out / (path + ".tmp")
    unfinished.parent.mkdir(exist_ok=True)
    kept = 0
    cursor = connection.execute(query)
    with unfinished.open("w", encoding="utf-8", newline="\n") as file:
        while rows := cursor.fetchmany(100_000):
            file.writelines(f"{value}\n" for (value,) in rows)
            kept += len(rows)
    os.replace(unfinished, out / path)
    return {"vocabulary": path, "kept": kept}


def _one(connection: duckdb.DuckDBPyConnection, query: str, parameters: list[Any] | None = None) -> tuple[Any, ...]:
    row = connection.execute(query, parameters).fetchone()
    assert row is not None
    return row


def _rounded(value: float | None) -> float:
    """Six digits: sums over several threads differ in the last ones from run to run."""
    return float(f"{value or 0.0:.6g}")
