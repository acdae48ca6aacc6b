"""Reading footers and row groups: which columns come, from the file and from its directories, and in what type."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.files import DataFile, local_file, resolve_files
from data.footer_cache import FooterCache, cache_key
from data.index import DatasetIndex, build_index
from data.parquet import RowGroup, pack_footer, read_footer, read_row_group, unpack_footer
from data.schema import Schema, parse_schema
from tests.data.shards import numbered_schema, numbered_table, write_shards

SCHEMA = numbered_schema(100)


def only_file(root: Path) -> DataFile:
    (found,) = resolve_files(str(root), key="data.train")
    return found


def hive_schema(*sparse: dict[str, object]) -> Schema:
    rows = {"name": "row", "kind": "id", "num_embeddings": 100}
    return parse_schema({"label": "click", "sparse": [rows, *sparse]}, where="the test's schema")


def column(index: DatasetIndex, name: str) -> list[object]:
    """A column over all row groups."""
    tables = [read_row_group(group, columns=["row", name], dictionaries=[]) for group in index.row_groups]
    return [value for table in tables for value in table.column(name).to_pylist()]


def test_the_columns_asked_for_are_read_and_no_others(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, [[3, 4]])
    table = read_row_group(RowGroup(local_file(path), 1, 4), columns=["row", "price"], dictionaries=[])
    assert table.to_pydict() == {"row": [3, 4, 5, 6], "price": [1.5, 2.0, 2.5, 3.0]}


def test_columns_may_be_asked_for_as_dictionaries(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, [[3]])
    table = read_row_group(RowGroup(local_file(path), 0, 3), columns=["site"], dictionaries=["site"])
    assert pa.types.is_dictionary(table.schema.field("site").type)
    assert table.column("site").to_pylist() == ["site-0", "site-1", "site-2"]


def test_a_footer_survives_packing(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, [[3, 0, 4]])
    footer = read_footer(local_file(path))
    assert unpack_footer(pack_footer(footer)).equals(footer)


def test_a_packed_footer_is_used_instead_of_the_file_s(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, [[3, 4]])
    packed = pack_footer(read_footer(local_file(path)))
    with open(path, "r+b") as file:  # the row groups are whole, the footer is not
        file.seek(-100, os.SEEK_END)
        file.write(b"\0" * 100)
    file_with_footer = dataclasses.replace(local_file(path), footer=packed)
    table = read_row_group(RowGroup(file_with_footer, 0, 3), columns=["row"], dictionaries=[])
    assert table.column("row").to_pylist() == [0, 1, 2]


def test_hive_partitions_are_columns_if_the_schema_names_them(tmp_path: Path) -> None:
    for day, hour in (("2026-11-20", "7"), ("2026-11-21", "08")):
        write_shards(tmp_path / f"day={day}" / f"hour={hour}", [[2]])
    schema = hive_schema(
        {"name": "day", "kind": "hash", "num_embeddings": 20},
        {"name": "hour", "kind": "bucketize", "borders": [6, 12, 18]},
    )
    index = build_index(resolve_files(str(tmp_path), key="data.train"), schema)
    assert column(index, "day") == ["2026-11-20"] * 2 + ["2026-11-21"] * 2
    assert column(index, "hour") == [7, 7, 8, 8]


def test_hive_partitions_that_the_schema_does_not_name_are_ignored(tmp_path: Path) -> None:
    write_shards(tmp_path / "day=x", [[2]])
    index = build_index(resolve_files(str(tmp_path), key="data.train"), SCHEMA)
    assert index.row_groups[0].file.partitions == {}


def test_a_hashed_partition_is_text_even_if_it_looks_like_a_number(tmp_path: Path) -> None:
    write_shards(tmp_path / "hour=07", [[2]])
    schema = hive_schema({"name": "hour", "kind": "hash", "num_embeddings": 20})
    index = build_index(resolve_files(str(tmp_path), key="data.train"), schema)
    assert column(index, "hour") == ["07", "07"]


def test_partition_values_are_unquoted_and_may_be_null(tmp_path: Path) -> None:
    write_shards(tmp_path / "at=a%3Ab%2Fc", [[1]])
    write_shards(tmp_path / "at=__HIVE_DEFAULT_PARTITION__", [[1]])
    schema = hive_schema({"name": "at", "kind": "hash", "num_embeddings": 20})
    index = build_index(resolve_files(str(tmp_path), key="data.train"), schema)
    assert column(index, "at") == [None, "a:b/c"]


def test_a_column_of_the_file_wins_over_a_directory_of_its_name(tmp_path: Path) -> None:
    write_shards(tmp_path / "row=77", [[3]])
    index = build_index(resolve_files(str(tmp_path), key="data.train"), SCHEMA)
    assert column(index, "price") == [0.0, 0.5, 1.0]
    table = read_row_group(index.row_groups[0], columns=["row"], dictionaries=[])
    assert table.column("row").to_pylist() == [0, 1, 2]


def test_a_partition_that_is_no_number_where_one_is_needed_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path / "hour=late", [[2]])
    schema = hive_schema({"name": "hour", "kind": "bucketize", "borders": [6]})
    with pytest.raises(
        DataError, match=r"part-000\.parquet: a directory's value is no number \(.*late.*schema needs one"
    ):
        build_index(resolve_files(str(tmp_path), key="data.train"), schema)


def test_cached_footers_are_used_until_a_file_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = write_shards(tmp_path / "data", [[3], [2]])
    cache = FooterCache(tmp_path / "cache" / "train.arrow")
    fresh = build_index(files, SCHEMA, cache=cache)
    assert set(cache.load()) == {cache_key(local_file(path)) for path in files}

    # Only a cache can know the footer of a file that is unreadable behind an unchanged size and time.
    times = os.stat(files[0])
    with open(files[0], "r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"\0" * 100)
    os.utime(files[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert build_index(files, SCHEMA, cache=cache) == fresh

    pq.write_table(numbered_table(0, 7), files[0])
    assert build_index(files, SCHEMA, cache=cache).row_counts.tolist() == [7, 2]
    assert len(cache.load()) == 2


def test_a_damaged_cache_is_told_and_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = write_shards(tmp_path / "data", [[3]])
    path = tmp_path / "train.arrow"
    path.write_bytes(b"ARROW1 and then nothing of use")
    with caplog.at_level(logging.WARNING):
        index = build_index(files, SCHEMA, cache=FooterCache(path))
    assert index.row_counts.tolist() == [3]
    assert "train.arrow: the cached footers cannot be read" in caplog.text
    assert len(FooterCache(path).load()) == 1


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    files = write_shards(tmp_path / "data", [[3]])
    (tmp_path / "taken").write_text("a file where a folder should be")
    with pytest.raises(DataError, match=r"taken/train\.arrow: the footers cannot be cached there .*data\.index_cache"):
        build_index(files, SCHEMA, cache=FooterCache(tmp_path / "taken" / "train.arrow"))


def test_a_row_group_with_other_rows_than_the_index_says_was_replaced(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, [[3]])
    for group in (RowGroup(local_file(path), 0, 4), RowGroup(local_file(path), 1, 3)):
        with pytest.raises(DataError, match=rf"part-000\.parquet, row group {group.index}: was replaced while"):
            read_row_group(group, columns=["row"], dictionaries=[])


def test_a_path_without_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.parquet: there is no such file"):
        build_index([str(tmp_path / "nowhere.parquet")], SCHEMA)


def test_a_relative_glob_and_a_relative_folder_are_found_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path / "data", [[3]])
    monkeypatch.chdir(tmp_path)
    for source in ("data", "data/*.parquet", "*/part-000.parquet", "**/part-*.parquet", "./data/"):
        (found,) = resolve_files(source, key="data.train")
        assert os.path.samefile(found.path, tmp_path / "data" / "part-000.parquet"), source
    assert only_file(tmp_path / "data").size == os.path.getsize("data/part-000.parquet")
