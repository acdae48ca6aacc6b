"""Which files a source names, and what the index knows of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.files import DataFile, resolve_files
from data.index import build_index
from tests.data.shards import numbered_schema, numbered_table, write_shards

SCHEMA = numbered_schema(100)


def names(files: list[DataFile], folder: Path) -> list[str]:
    return [os.path.relpath(file.name, folder) for file in files]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a/part-000, a/part-001, b/deep/part-000, and a file that is not Parquet."""
    write_shards(tmp_path / "a", [[2], [3]])
    write_shards(tmp_path / "b" / "deep", [[4]])
    (tmp_path / "a" / "README.txt").write_text("not data")
    return tmp_path


def test_a_file_names_itself_whatever_its_ending(folder: Path) -> None:
    odd = folder / "a" / "shard.pq"
    shutil.copy(folder / "a" / "part-000.parquet", odd)
    assert [file.name for file in resolve_files(str(odd), key="data.train")] == [str(odd)]


def test_a_directory_names_the_parquet_files_at_any_depth_below_it(folder: Path) -> None:
    expected = ["a/part-000.parquet", "a/part-001.parquet", "b/deep/part-000.parquet"]
    assert names(resolve_files(str(folder), key="data.train"), folder) == expected


def test_a_directory_with_glob_characters_in_its_name_is_a_directory(folder: Path) -> None:
    odd = folder / "run[1]*"
    shutil.copytree(folder / "a", odd)
    assert names(resolve_files(str(odd), key="data.train"), odd) == ["part-000.parquet", "part-001.parquet"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a/part-*.parquet", ["a/part-000.parquet", "a/part-001.parquet"]),
        ("*/part-000.parquet", ["a/part-000.parquet"]),
        ("**/part-000.parquet", ["a/part-000.parquet", "b/deep/part-000.parquet"]),
        ("a/part-00[1-9].parquet", ["a/part-001.parquet"]),
        ("a/part-00?.parquet", ["a/part-000.parquet", "a/part-001.parquet"]),
    ],
)
def test_a_glob_names_what_it_matches(folder: Path, pattern: str, expected: list[str]) -> None:
    assert names(resolve_files(str(folder / pattern), key="data.train"), folder) == expected


def test_a_list_names_every_file_once_sorted(folder: Path) -> None:
    source = [str(folder / "b"), str(folder / "a" / "*.parquet"), str(folder / "a" / "part-001.parquet")]
    expected = ["a/part-000.parquet", "a/part-001.parquet", "b/deep/part-000.parquet"]
    assert names(resolve_files(source, key="data.train"), folder) == expected


@pytest.mark.parametrize("part", ["c", "c/*.parquet", "a/part-009.parquet"])
def test_a_part_of_the_source_that_matches_nothing_is_named(folder: Path, part: str) -> None:
    missing = str(folder / part)
    with pytest.raises(DataError) as error:
        resolve_files([str(folder / "a"), missing], key="data.test")
    assert str(error.value).startswith(f"data.test: '{missing}' matches no Parquet file")


def test_the_index_lists_row_groups_in_file_order_with_empty_ones(tmp_path: Path) -> None:
    files = write_shards(tmp_path, [[3, 0, 2], [], [0], [1]])
    index = build_index(files, SCHEMA)
    assert [(os.path.basename(g.path), g.index, g.num_rows) for g in index.row_groups] == [
        ("part-000.parquet", 0, 3),
        ("part-000.parquet", 1, 0),
        ("part-000.parquet", 2, 2),
        ("part-002.parquet", 0, 0),
        ("part-003.parquet", 0, 1),
    ]
    assert index.row_counts.tolist() == [3, 0, 2, 0, 1]
    assert (index.num_rows, index.num_files) == (6, 3)


def test_files_without_a_single_row_are_refused(tmp_path: Path) -> None:
    files = write_shards(tmp_path, [[], [0]])
    with pytest.raises(DataError, match=r"part-000\.parquet .*\(2 files\): there is not a single row"):
        build_index(files, SCHEMA)


def test_the_fingerprint_does_not_depend_on_where_the_files_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = write_shards(tmp_path / "here", [[3], [2]])
    shutil.copytree(tmp_path / "here", tmp_path / "elsewhere" / "deep")
    there = [str(tmp_path / "elsewhere" / "deep" / os.path.basename(path)) for path in here]
    fingerprint = build_index(here, SCHEMA).fingerprint
    assert build_index(there, SCHEMA).fingerprint == fingerprint
    monkeypatch.chdir(tmp_path)
    assert build_index([os.path.relpath(path) for path in here], SCHEMA).fingerprint == fingerprint


def test_the_fingerprint_changes_with_names_sizes_and_row_groups(tmp_path: Path) -> None:
    shapes: dict[str, list[list[int]]] = {
        "original": [[3], [2]],
        "another size": [[4], [2]],
        "cut otherwise": [[1, 2], [2]],
        "one more": [[3], [2], [1]],
    }
    prints = {build_index(write_shards(tmp_path / name, shape), SCHEMA).fingerprint for name, shape in shapes.items()}
    renamed = write_shards(tmp_path / "renamed", shapes["original"])
    os.rename(renamed[1], tmp_path / "renamed" / "part-009.parquet")
    files = resolve_files(str(tmp_path / "renamed"), key="data.train")
    assert len(prints | {build_index(files, SCHEMA).fingerprint}) == len(shapes) + 1


def test_every_file_is_checked_against_the_schema(tmp_path: Path) -> None:
    files = write_shards(tmp_path, [[3], [2]])
    pq.write_table(numbered_table(3, 2).rename_columns(["click", "price", "rows", "number", "site", "tags"]), files[1])
    with pytest.raises(DataError, match=r"part-001\.parquet: column 'row' .* is missing\. Did you mean 'rows'"):
        build_index(files, SCHEMA)


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    files = write_shards(tmp_path, [[3], [2]])
    Path(files[1]).write_text("label,price\n1,2\n")
    with pytest.raises(DataError, match=r"part-001\.parquet: its Parquet footer cannot be read"):
        build_index(files, SCHEMA)


def test_columns_beyond_the_schema_are_ignored(tmp_path: Path) -> None:
    files = write_shards(tmp_path, [[3]])
    wider = numbered_table(3, 2).append_column("extra", pa.array([None, None], pa.null()))
    pq.write_table(wider, tmp_path / "wider.parquet")
    assert build_index([*files, str(tmp_path / "wider.parquet")], SCHEMA).num_rows == 5
