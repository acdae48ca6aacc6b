"""The mean length of lists, from a few row groups."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.files import resolve_files
from data.index import build_index
from data.list_lengths import SAMPLED_ROW_GROUPS, mean_list_lengths
from data.parquet import RowGroup
from data.schema import Schema, parse_schema


def schema_of(**lists: int) -> Schema:
    sparse: list[dict[str, Any]] = [{"name": "id", "kind": "id", "num_embeddings": 10}]
    sparse += [
        {"name": name, "column": "list", "kind": "id", "num_embeddings": 10, "max_length": length}
        for name, length in lists.items()
    ]
    return parse_schema({"label": "label", "sparse": sparse}, where="test")


def row_groups(path: Path, lists: list[list[int] | None], schema: Schema, *, size: int) -> tuple[RowGroup, ...]:
    numbers = list(range(len(lists)))
    columns = {
        "label": [0] * len(lists),
        "id": [n % 10 for n in numbers],
        "list": pa.array(lists, pa.list_(pa.int64())),
    }
    pq.write_table(pa.table(columns), path, row_group_size=size)
    return tuple(build_index(resolve_files(str(path), key="data.train"), schema).row_groups)


def test_lists_count_as_far_as_max_length_lets_them(tmp_path: Path) -> None:
    schema = schema_of(all=9, two=2)
    groups = row_groups(tmp_path / "a.parquet", [[1, 2, 3], [], None, [4]], schema, size=2)
    # Lengths 3, 0, 0, 1, and with two at most 2, 0, 0, 1.
    assert mean_list_lengths(groups, schema) == {"all": 1.0, "two": 0.75}


def test_a_few_row_groups_from_all_over_the_data_are_read(tmp_path: Path) -> None:
    schema = schema_of(all=99)
    lists: list[list[int] | None] = [[0] * (n // 10) for n in range(160)]
    groups = row_groups(tmp_path / "a.parquet", lists, schema, size=10)
    sampled = range(0, 16, 16 // SAMPLED_ROW_GROUPS)
    # Row group n holds lists of length n.
    assert mean_list_lengths(groups, schema) == {"all": sum(sampled) / len(sampled)}


def test_without_lists_nothing_is_read(tmp_path: Path) -> None:
    schema = schema_of()
    groups = row_groups(tmp_path / "a.parquet", [[1]], schema, size=1)
    (tmp_path / "a.parquet").unlink()
    assert mean_list_lengths(groups, schema) == {}


def test_a_damaged_row_group_is_told_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    schema = schema_of(all=9)
    path = tmp_path / "a.parquet"
    groups = row_groups(path, [[1, 2], [3, 4], [5], [6]], schema, size=2)
    start = pq.read_metadata(path).row_group(1).column(2).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert mean_list_lengths(groups, schema) == {"all": 2.0}
    assert "left out of the lists' mean length" in caplog.text
