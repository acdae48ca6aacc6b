from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.prepare.config import ShardsConfig
from data.prepare.shards import ParquetShard, TsvShard
from data.prepare.state import Shard


@pytest.mark.parametrize(
    ("tables", "groups"),
    [
        ([50, 50, 50], [64, 64, 22]),
        ([64, 64], [64, 64]),
        ([200, 1], [64, 64, 64, 9]),
        ([0, 10, 0, 300], [64, 64, 64, 64, 54]),
        ([1] * 70, [64, 6]),
    ],
)
def test_row_groups_are_full_however_the_rows_arrive(tmp_path: Path, tables: list[int], groups: list[int]) -> None:
    shard = ParquetShard(tmp_path, "train", 7, ShardsConfig(row_group_rows=64))
    start = 0
    for count in tables:
        shard.add(pa.table({"x": pa.array(range(start, start + count), pa.int64())}))
        start += count
    finished = shard.close()
    path = tmp_path / "train" / "part-00007.parquet"
    footer = pq.read_metadata(path)
    assert [footer.row_group(g).num_rows for g in range(footer.num_row_groups)] == groups
    assert pq.read_table(path)["x"].to_pylist() == list(range(start))
    assert finished == Shard("train/part-00007.parquet", start, path.stat().st_size)


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    shard = ParquetShard(tmp_path, "train", 0, ShardsConfig(row_group_rows=2))
    shard.add(pa.table({"x": [1, 2, 3]}))
    assert list((tmp_path / "train").glob("*.parquet")) == []
    shard.close()
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["part-00000.parquet"]


def test_a_split_without_rows_makes_no_file(tmp_path: Path) -> None:
    shard = ParquetShard(tmp_path, "valid", 0, ShardsConfig())
    shard.add(pa.table({"x": pa.array([], pa.int64())}))
    assert shard.close() is None
    assert not (tmp_path / "valid").exists()


def test_tsv_has_no_header_and_empty_fields_for_nulls(tmp_path: Path) -> None:
    shard = TsvShard(tmp_path, "raw", 0, ShardsConfig())
    shard.add(pa.table({"label": [1, 0], "n": [None, -3], "s": ["ab", None]}))
    shard.close()
    assert (tmp_path / "raw" / "part-00000.tsv").read_bytes() == b"1\t\tab\n0\t-3\t\n"
