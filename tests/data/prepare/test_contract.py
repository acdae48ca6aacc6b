"""What holds for every source, found by discovery: a new one is tested the day it lands."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import configs
from data.errors import DataError
from data.files import resolve_files
from data.index import build_index
from data.prepare.config import PrepareConfig, ShardsConfig, SplitConfig
from data.prepare.pipeline import prepare
from data.prepare.source import known_sources
from data.reader import read_window
from data.schema import load_schema
from tests.data.prepare.samples import SAMPLES

ROWS = 700
SOURCES = sorted(known_sources())
TEXT_SOURCES = sorted(name for name in SOURCES if name in SAMPLES and not SAMPLES[name].made_up)


def options(out: Path, name: str, settings: dict[str, Any], **others: Any) -> PrepareConfig:
    shards = ShardsConfig(rows=200, row_group_rows=64)
    return PrepareConfig(out=str(out), source={"name": name} | settings, shards=shards, num_threads=2, **others)


def contents(out: Path) -> dict[str, bytes]:
    """Every file that a preparation makes for its user."""
    files = [path for path in out.rglob("*") if path.is_file() and ".prepare" not in str(path.relative_to(out))]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_source_has_a_sample_and_a_config() -> None:
    folder = Path(configs.__file__).parent / "source"
    assert set(SAMPLES) == set(SOURCES) == {path.stem for path in folder.glob("*.yaml")}


def test_prepared_files_fit_the_schema_written_with_them(source: str, tmp_path: Path) -> None:
    summary = prepare(options(tmp_path / "out", source, SAMPLES[source].write(tmp_path, repeat=ROWS)))
    schema = load_schema(tmp_path / "out" / "schema.yaml")
    for split in ("train", "test"):
        index = build_index(resolve_files(str(tmp_path / "out" / split), key=split), schema)
        assert index.num_rows == summary["splits"][split]["rows"]
        columns = read_window(index.row_groups, schema)
        assert columns.labels.sum() == summary["splits"][split]["positives"]
    assert summary["splits"]["train"]["rows"] + summary["splits"]["test"]["rows"] == ROWS
    assert summary["rows"] == {"read": ROWS, "bad": 0, "examples": []}


def test_dense_columns_reach_the_model_with_mean_0_and_deviation_1(source: str, tmp_path: Path) -> None:
    prepare(options(tmp_path / "out", source, SAMPLES[source].write(tmp_path, repeat=ROWS)))
    schema = load_schema(tmp_path / "out" / "schema.yaml")
    index = build_index(resolve_files(str(tmp_path / "out" / "train"), key="train"), schema)
    dense = read_window(index.row_groups, schema).dense
    assert dense.mean(axis=1) == pytest.approx([0.0] * len(schema.dense), abs=1e-3)
    constant = dense.max(axis=1) - dense.min(axis=1) < 1e-3
    assert dense.std(axis=1)[~constant] == pytest.approx([1.0] * int((~constant).sum()), abs=1e-3)


def test_shards_have_the_sizes_asked_for(source: str, tmp_path: Path) -> None:
    summary = prepare(
        options(tmp_path / "out", source, SAMPLES[source].write(tmp_path, repeat=ROWS), split=SplitConfig(test=0.0))
    )
    footers = [pq.read_metadata(path) for path in sorted((tmp_path / "out" / "train").glob("*.parquet"))]
    sizes = [[footer.row_group(g).num_rows for g in range(footer.num_row_groups)] for footer in footers]
    assert sizes == [[64, 64, 64, 8]] * 3 + [[64, 36]]
    assert {footers[0].row_group(0).column(c).compression for c in range(footers[0].num_columns)} == {"ZSTD"}
    assert summary["num_pieces"] == 4


def test_a_second_run_changes_nothing(source: str, tmp_path: Path) -> None:
    config = options(tmp_path / "out", source, SAMPLES[source].write(tmp_path, repeat=ROWS))
    summary = prepare(config)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*") if path.is_file()}
    assert prepare(config) == summary
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_neither_threads_nor_folder_change_a_byte(source: str, tmp_path: Path) -> None:
    settings = SAMPLES[source].write(tmp_path, repeat=ROWS)
    one = options(tmp_path / "one", source, settings)
    one.num_threads = 1
    prepare(one)
    prepare(options(tmp_path / "two", source, settings))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_rows_come_in_the_order_of_the_input_and_each_in_one_split(source: str, tmp_path: Path) -> None:
    settings = SAMPLES[source].write(tmp_path, repeat=ROWS)
    prepare(options(tmp_path / "whole", source, settings, split=SplitConfig(test=0.0)))
    prepare(options(tmp_path / "parts", source, settings, split=SplitConfig(test=0.3, valid=0.2, seed=3)))
    whole = pq.read_table(tmp_path / "whole" / "train").to_pylist()
    parts = {split: pq.read_table(tmp_path / "parts" / split).to_pylist() for split in ("train", "valid", "test")}
    assert sorted(map(str, whole)) == sorted(str(row) for rows in parts.values() for row in rows)
    for rows in parts.values():
        rest = iter(whole)
        assert all(row in rest for row in rows)  # a subsequence


@pytest.mark.parametrize("name", TEXT_SOURCES)
def test_skip_leaves_out_exactly_the_damaged_lines(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    prepare(options(tmp_path / "clean_out", name, sample.write(tmp_path, repeat=9), split=SplitConfig(test=0.0)))
    settings = sample.write(damaged, repeat=9, damaged=True)
    summary = prepare(options(tmp_path / "out", name, settings, split=SplitConfig(test=0.0), on_bad_line="skip"))
    clean = pq.read_table(tmp_path / "clean_out" / "train")
    assert pq.read_table(tmp_path / "out" / "train").equals(clean)
    assert summary["rows"]["bad"] == len(sample.damaged)
    first_line = 3 if sample.header else 2
    for position, (example, (_, reason)) in enumerate(zip(summary["rows"]["examples"], sample.damaged, strict=True)):
        assert example.startswith(f"{damaged / 'raw.txt'}, line {first_line + position}: ")
        assert reason in example
    assert f"{len(sample.damaged)} damaged" in (tmp_path / "out" / "summary.md").read_text()


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [(name, *damaged) for name in TEXT_SOURCES for damaged in SAMPLES[name].damaged],
)
def test_error_names_file_line_and_reason(name: str, line: bytes, reason: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    path = tmp_path / "raw.txt"
    path.write_bytes(sample.header + b"".join(sample.good) * 50 + line + sample.good[0])
    number = len(sample.good) * 50 + 1 + bool(sample.header)
    config = options(tmp_path / "out", name, sample.settings | {"files": str(path)})
    with pytest.raises(DataError) as error:
        prepare(config)
    assert str(error.value).startswith(f"{path}, line {number}: ")
    assert reason in str(error.value)
    assert "on_bad_line=skip" in str(error.value)


@pytest.mark.parametrize("name", TEXT_SOURCES)
def test_gzip_byte_order_mark_windows_line_ends_and_a_missing_last_newline_change_nothing(
    name: str, tmp_path: Path
) -> None:
    settings = SAMPLES[name].write(tmp_path, repeat=ROWS)
    prepare(options(tmp_path / "plain", name, settings))
    text = Path(settings["files"]).read_bytes()
    other = tmp_path / "other.bin"
    other.write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n").removesuffix(b"\r\n")))
    prepare(options(tmp_path / "packed", name, settings | {"files": str(other)}))
    plain, packed = contents(tmp_path / "plain"), contents(tmp_path / "packed")
    assert {path: data for path, data in plain.items() if path.endswith(("parquet", "yaml"))} == {
        path: data for path, data in packed.items() if path.endswith(("parquet", "yaml"))
    }
