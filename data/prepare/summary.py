"""The summary of a prepared data set: ``summary.json`` for programs, ``summary.md`` to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb

from data.prepare.pieces import NUM_EXAMPLES
from data.prepare.source.base import Column, Source
from data.prepare.split import SPLITS
from data.prepare.state import RAW, PieceRecord, State, files_of, write_json, write_text
from data.prepare.statistics import Statistics, rows_of_shards


def write_summary(
    source: Source, state: State, records: Sequence[PieceRecord], statistics: Statistics | None
) -> dict[str, Any]:
    """Writes both files, ``summary.json`` last: it stands for a finished preparation.

    Args:
        source: Its columns and further facts.
        state: The output folder.
        records: All pieces.
        statistics: The columns' figures; None where only raw text was written.

    Returns:
        What ``summary.json`` holds.
    """
    columns = source.columns()
    summary = {
        "num_pieces": len(records),
        "rows": {
            "read": sum(record.piece.num_rows for record in records),
            "bad": sum(record.num_bad for record in records),
            "examples": [example for record in records for example in record.examples][:NUM_EXAMPLES],
        },
        "splits": {
            split: _split(state, records, split, columns) for split in (*SPLITS, RAW) if files_of(records, split)
        },
        "columns": statistics or {},
        "facts": source.facts(),
    }
    write_text(state.out / "summary.md", summary_text(summary, columns))
    write_json(state.out / "summary.json", summary)
    return summary


def _split(state: State, records: Sequence[PieceRecord], split: str, columns: Sequence[Column]) -> dict[str, Any]:
    shards = [shard for record in records for shard in record.shards if shard.path.startswith(f"{split}/")]
    figures: dict[str, Any] = {
        "rows": sum(shard.rows for shard in shards),
        "files": len(shards),
        "bytes": sum(shard.bytes for shard in shards),
    }
    if split != RAW:
        (label,) = [position for position, column in enumerate(columns) if column.role == "label"]
        query = f"SELECT sum(c{label})::BIGINT FROM {rows_of_shards(len(columns))}"
        with duckdb.connect() as connection:
            row = connection.execute(query, [[str(state.out / shard.path) for shard in shards]]).fetchone()
        assert row is not None
        figures |= {"positives": row[0], "positive_rate": row[0] / figures["rows"]}
    return figures


def summary_text(summary: dict[str, Any], columns: Sequence[Column]) -> str:
    """The summary in Markdown."""
    read, bad = summary["rows"]["read"], summary["rows"]["bad"]
    parts = [f"# Summary\n\n{read:,} rows read, {bad:,} damaged ones left out."]
    parts += ["\n".join(f"- {_cell(example)}" for example in summary["rows"]["examples"])] if bad else []
    parts.append(_table(["split", "rows", "positive rate", "files", "MB"], _split_rows(summary["splits"])))
    statistics, num_rows = summary["columns"], summary["splits"].get("train", {}).get("rows", 0)
    if statistics:
        dense = [_dense_row(c.name, statistics[c.name], num_rows) for c in columns if c.role == "dense"]
        values = [_value_row(c.name, statistics[c.name], num_rows) for c in columns if c.role != "dense"]
        parts.append("## Columns of the training rows")
        if dense:
            heads = ["dense", "nulls", "min", "1 %", "median", "99 %", "max", "mean", "std"]
            parts.append(_table(heads, dense) + "\n\nMean and standard deviation after the transform, nulls as 0.")
        parts.append(_table(["column", "nulls", "distinct", "most frequent"], values))
    if summary["facts"]:
        parts.append("## Facts\n\n" + "\n".join(f"- {key}: {_cell(value)}" for key, value in summary["facts"].items()))
    return "\n\n".join(parts) + "\n"


def _split_rows(splits: dict[str, Any]) -> list[list[str]]:
    return [
        [
            name,
            f"{split['rows']:,}",
            f"{split['positive_rate']:.4f}" if "positive_rate" in split else "",
            str(split["files"]),
            f"{split['bytes'] / 1e6:,.1f}",
        ]
        for name, split in splits.items()
    ]


def _dense_row(name: str, figures: dict[str, Any], num_rows: int) -> list[str]:
    cuts = figures["quantiles"]
    numbers = [figures["min"], cuts.get("0.01"), cuts.get("0.5"), cuts.get("0.99"), figures["max"]]
    moments = [figures["mean"], figures["std"]]
    shown = ["" if number is None else f"{number:g}" for number in (*numbers, *moments)]
    return [_cell(name), f"{figures['nulls'] / num_rows:.1%}", *shown]


def _value_row(name: str, figures: dict[str, Any], num_rows: int) -> list[str]:
    top = ", ".join(f"{value} ({count / num_rows:.1%})" for value, count in figures["top"][:5])
    return [_cell(name), f"{figures['nulls'] / num_rows:.1%}", f"{figures['cardinality']:,}", _cell(top)]


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
