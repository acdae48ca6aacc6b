"""A whole preparation: shards, statistics, schema, summary."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from data.errors import DataError
from data.prepare.config import PrepareConfig
from data.prepare.pieces import PieceWriter
from data.prepare.schema_file import write_schema
from data.prepare.source import criteo, make_source
from data.prepare.source.base import Column, Source
from data.prepare.split import make_splitter
from data.prepare.state import PieceRecord, State, files_of, open_state
from data.prepare.statistics import look_at
from data.prepare.summary import write_summary

logger = logging.getLogger(__name__)

LAYOUT_VERSION = 1
"""Raised when the same options give other files than before: older folders are then not continued."""
WITHOUT_EFFECT = ("out", "num_threads", "memory_gib", "overwrite")
"""Options that change no file."""


def prepare(config: PrepareConfig) -> dict[str, Any]:
    """Prepares a data set, goes on with one that was interrupted, or finds that there is nothing to do.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        DataError: The input, the options or the output folder are not as they have to be.
    """
    source = make_source(config.source)
    _check_format(config, source)
    _check_categories(config, source)
    with open_state(config.out, _identity(config, source), overwrite=config.overwrite) as state:
        done, summary = state.pieces(), state.summary()
        if summary is not None and len(done) == summary["num_pieces"]:
            logger.info("%s is complete: nothing to do", config.out)
            return summary
        records = _write_shards(config, source, state, done)
        statistics = None
        if config.format == "parquet":
            started = time.monotonic()
            statistics = look_at(config, source.columns(), state, files_of(records, "train"))
            logger.info("statistics of %d columns in %.1f s", len(statistics), time.monotonic() - started)
            write_schema(config, source.columns(), state.out, statistics)
        return write_summary(source, state, records, statistics)


def _check_format(config: PrepareConfig, source: Source) -> None:
    names = [column.name for column in source.columns()]
    if config.format == "criteo_tsv" and names != [column.name for column in criteo.COLUMNS]:
        raise DataError(
            f"format: criteo_tsv needs the columns of Criteo's logs, but source '{config.source['name']}' has "
            f"{', '.join(names)}; use format=parquet."
        )


def _check_categories(config: PrepareConfig, source: Source) -> None:
    """Before a shard is written: that a model can be made of the columns at all."""

    def gives_one(column: Column) -> bool:
        made = config.features.dense_buckets or (config.features.log_square and column.transform == "log1p")
        return column.role in ("categorical", "id") or (column.role == "dense" and bool(made))

    if not any(map(gives_one, source.columns())):
        raise DataError(
            f"source: not one column of '{config.source['name']}' is a category, and a model needs one at least; make "
            "categories of the dense columns with features.dense_buckets=10, or declare a column as text."
        )


def _identity(config: PrepareConfig, source: Source) -> dict[str, Any]:
    options = {key: value for key, value in dataclasses.asdict(config).items() if key not in WITHOUT_EFFECT}
    return {"layout_version": LAYOUT_VERSION, "options": options, "input": source.identity()}


def _write_shards(
    config: PrepareConfig, source: Source, state: State, done: Mapping[int, PieceRecord]
) -> list[PieceRecord]:
    writer = PieceWriter(config, source, make_splitter(config.split, source), state)
    started, records = time.monotonic(), list[PieceRecord]()
    logger.info("%s to %s: %d pieces are there already", config.source["name"], config.out, len(done))
    with tqdm(total=source.total_cost, unit=source.cost_unit, unit_scale=True, desc="shards", disable=None) as bar:
        for record in writer.write_missing(done):
            records.append(record)
            bar.update(record.piece.cost)
    num_new = sum(record.piece.num_rows for record in records if record.piece.index not in done)
    seconds = time.monotonic() - started
    logger.info("%d new rows in %.1f s (%.0f rows/s)", num_new, seconds, num_new / seconds)
    if not records:
        raise DataError("source: the input holds no rows.")
    if not any(record.shards for record in records):
        raise DataError(
            f"source: not a single line could be taken: {records[0].examples[0]}; is this the right source?"
        )
    return records
