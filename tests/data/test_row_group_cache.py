"""Later epochs come from memory, and are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import row_group_cache
from data.batch import Batch
from data.errors import DataError
from data.index import build_index
from data.loader import BatchLoader, LoaderOptions
from data.order import SampleOrder
from data.parquet import read_row_group
from data.schema import parse_schema

SCHEMA = parse_schema(
    {
        "label": "y",
        "dense": [{"name": "x"}],
        "sparse": [
            {"name": "i", "kind": "id", "num_embeddings": 100},
            {"name": "site", "kind": "hash", "num_embeddings": 50},
            {"name": "tags", "kind": "id", "num_embeddings": 100, "max_length": 4},
        ],
    },
    where="test",
)
ROWS = 60


def loader(folder: Path, cache_bytes: int) -> BatchLoader:
    path = folder / "rows.parquet"
    if not path.exists():
        columns: dict[str, Any] = {
            "y": [n % 2 for n in range(ROWS)],
            "x": [float(n) for n in range(ROWS)],
            "i": list(range(ROWS)),
            "site": [f"site-{n % 7}" for n in range(ROWS)],
            "tags": pa.array([[n] * (n % 4) for n in range(ROWS)], pa.list_(pa.int64())),
        }
        pq.write_table(pa.table(columns), path, row_group_size=10)
    index = build_index([str(path)], SCHEMA)
    order = SampleOrder(index.row_counts, global_batch_size=6, lanes=2, window_rows=20, shuffle=True, seed=3)
    options = LoaderOptions(cache_bytes=cache_bytes)
    return BatchLoader(index, order, SCHEMA, rank=0, world_size=1, options=options)


def epochs(source: BatchLoader, number: int) -> list[Batch]:
    with source.batches(0, number * source.order.steps_per_epoch) as stream:
        return list(stream)


def values_of(batch: Batch) -> list[Any]:
    return [part.tolist() for part in (batch.dense, batch.labels, batch.sparse.values(), batch.sparse.lengths())]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """The columns that are read from the file, each with its row group."""
    read: list[tuple[int, str]] = []
    decode = read_row_group

    def counted(group: Any, *, columns: list[str], dictionaries: list[str]) -> pa.Table:
        read.extend((group.index, name) for name in columns)
        return decode(group, columns=columns, dictionaries=dictionaries)

    monkeypatch.setattr(row_group_cache, "read_row_group", counted)
    return read


def test_each_column_is_read_once_and_the_batches_are_the_same(tmp_path: Path, reads: list[tuple[int, str]]) -> None:
    cached, plain = loader(tmp_path, 1 << 20), loader(tmp_path, 0)
    for ours, theirs in zip(epochs(cached, 4), epochs(plain, 4), strict=True):
        assert values_of(ours) == values_of(theirs)
    assert sorted(reads) == [(group, name) for group in range(6) for name in ("i", "site", "tags", "x", "y")]
    # A stream that starts later, as after an evaluation or in another epoch, reads nothing either.
    epochs(cached, 1)
    assert len(reads) == 30


def test_it_takes_no_more_than_its_room_and_keeps_what_came_first(tmp_path: Path, reads: list[tuple[int, str]]) -> None:
    limit = 1000
    source = loader(tmp_path, limit)
    once = [values_of(batch) for batch in epochs(source, 1)]
    held = source._cache
    assert held is not None
    assert 0 < held.num_bytes <= limit
    kept = set(held._columns)
    assert [values_of(batch) for batch in epochs(source, 1)] == once
    assert set(held._columns) == kept
    assert len(reads) == 2 * 30 - len(kept)
    assert source.memory_bytes() - loader(tmp_path, 0).memory_bytes() == limit


def test_a_file_that_is_replaced_is_noticed_where_it_is_read(tmp_path: Path) -> None:
    source = loader(tmp_path, 1000)
    epochs(source, 1)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 something else")
    with pytest.raises(DataError, match=r"rows\.parquet"):
        epochs(source, 1)
