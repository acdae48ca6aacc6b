"""What single sources do beyond the contract."""

from __future__ import annotations

import gzip
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from data.errors import DataError
from data.prepare.config import PrepareConfig, SplitConfig
from data.prepare.pipeline import prepare
from data.prepare.source import make_source
from tests.data.prepare.samples import AVAZU_END, AVAZU_HEADER, AVAZU_START, criteo_line

ALL_TRAIN = SplitConfig(test=0.0)


def prepared(tmp_path: Path, text: bytes | str, name: str, **settings: Any) -> tuple[list[dict[str, Any]], Any]:
    """The rows and the schema of a source over one file."""
    path = tmp_path / "raw"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    source = {"name": name, "files": str(path)} | settings
    prepare(PrepareConfig(out=str(tmp_path / "out"), source=source, split=ALL_TRAIN))
    schema = yaml.safe_load((tmp_path / "out" / "schema.yaml").read_text())
    return pq.read_table(tmp_path / "out" / "train").to_pylist(), schema


def test_criteo_takes_several_days_plain_and_packed(tmp_path: Path) -> None:
    for day, pack in ((0, gzip.compress), (2, bytes), (10, gzip.compress)):
        (tmp_path / f"day_{day}.x").write_bytes(pack(criteo_line(counts=[str(day)] * 13) * 3))
    source = {"name": "criteo", "files": str(tmp_path / "day_*.x")}
    summary = prepare(PrepareConfig(out=str(tmp_path / "out"), source=source, split=ALL_TRAIN))
    rows = pq.read_table(tmp_path / "out" / "train").to_pylist()
    assert [row["I1"] for row in rows] == [0] * 3 + [2] * 3 + [10] * 3
    assert summary["num_pieces"] == 3


def test_criteo_keeps_negatives_nulls_and_leading_zeros(tmp_path: Path) -> None:
    line = criteo_line(label="1", counts=["-3", "", *["0"] * 11], categories=["00000001", "", *["68fd1e64"] * 24])
    (row,), schema = prepared(tmp_path, line, "criteo")
    assert (row["label"], row["I1"], row["I2"], row["I3"]) == (1, -3, None, 0)
    assert (row["C1"], row["C2"], row["C3"]) == ("00000001", None, "68fd1e64")
    assert [feature["transform"] for feature in schema["dense"]] == ["log1p"] * 13
    assert [feature["kind"] for feature in schema["sparse"]] == ["hash"] * 26


def test_the_line_number_counts_within_the_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(criteo_line() * 5)
    (tmp_path / "b").write_bytes(criteo_line() * 7 + b"broken\n")
    source = {"name": "criteo", "files": [str(tmp_path / "a"), str(tmp_path / "b")]}
    with pytest.raises(DataError, match=rf"{tmp_path}/b, line 8: has 1 field, but 40 are expected"):
        prepare(PrepareConfig(out=str(tmp_path / "out"), source=source))


def test_avazu_hours_become_hour_and_weekday(tmp_path: Path) -> None:
    hours = [b"14102100", b"14102323", b"14103000", b"14109900"]
    text = AVAZU_HEADER + b"".join(AVAZU_START.replace(b"14102100", hour) + AVAZU_END for hour in hours)
    rows, schema = prepared(tmp_path, text, "avazu")
    expected = [datetime(2014, 10, 21, 0), datetime(2014, 10, 23, 23), datetime(2014, 10, 30, 0)]
    found = [(row["hour_of_day"], row["day_of_week"]) for row in rows]
    assert found == [*((time.hour, time.weekday()) for time in expected), (None, None)]
    assert rows[0]["hour"] == 14102100
    names = [feature["name"] for feature in schema["sparse"]]
    assert "hour" not in names
    assert {"site_id", "C14", "hour_of_day", "day_of_week"} < set(names)


def test_avazu_splits_by_time(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    hours = [b"14102100", b"14102923", b"14103000", b"14103023"]
    path.write_bytes(AVAZU_HEADER + b"".join(AVAZU_START.replace(b"14102100", hour) + AVAZU_END for hour in hours))
    split = SplitConfig(by="time", column="hour", valid_from=14102900, test_from=14103000)
    prepare(PrepareConfig(out=str(tmp_path / "out"), source={"name": "avazu", "files": str(path)}, split=split))
    splits = {name: pq.read_table(tmp_path / "out" / name)["hour"].to_pylist() for name in ("train", "valid", "test")}
    assert splits == {"train": [14102100], "valid": [14102923], "test": [14103000, 14103023]}


def test_avazu_without_clicks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"raw, line 1: column 'click' is missing in the header; give Avazu's labelled"):
        prepared(tmp_path, AVAZU_HEADER.replace(b"click,", b""), "avazu")


def test_files_with_different_headers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(AVAZU_HEADER)
    (tmp_path / "b").write_bytes(b"id,other\n")
    with pytest.raises(DataError, match=r"b: its first line is 'id,other', but that of .* all files need the same"):
        make_source({"name": "avazu", "files": str(tmp_path)})


def test_an_empty_file_where_a_header_is_needed_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="raw: is empty, but a header line is expected"):
        prepared(tmp_path, "", "avazu")


def test_a_header_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"raw, line 1: the header is not UTF-8"):
        prepared(tmp_path, b"\xff\n", "avazu")


def test_movielens_ratings_become_labels(tmp_path: Path) -> None:
    text = "userId,movieId,rating,timestamp\n1,2,4.0,1147880044\n1,3,3.5,1147868817\n2,3,5.0,1147868828\n"
    rows, schema = prepared(tmp_path, text, "movielens")
    assert [(row["label"], row["user_id"], row["item_id"]) for row in rows] == [(1, 1, 2), (0, 1, 3), (1, 2, 3)]
    assert [row["timestamp"] for row in rows] == [1147880044, 1147868817, 1147868828]
    assert [feature["name"] for feature in schema["sparse"]] == ["user_id", "item_id"]


def test_movielens_threshold_may_be_moved(tmp_path: Path) -> None:
    text = "userId,movieId,rating,timestamp\n1,2,4.0,9\n1,3,3.5,9\n1,4,3.0,9\n"
    rows, _ = prepared(tmp_path, text, "movielens", positive_from=3.5)
    assert [row["label"] for row in rows] == [1, 1, 0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1,2,,9", "column 'rating' is empty"),
        ("1,2,good,9", "column 'rating' has to be a number"),
        ("1,2,4.0", "has 3 fields"),
    ],
)
def test_movielens_damaged_ratings_are_told(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(DataError, match=f"raw, line 2: {reason}"):
        prepared(tmp_path, f"userId,movieId,rating,timestamp\n{line}\n", "movielens")


def test_movielens_of_another_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the header is 'userId,movieId,tag,timestamp', but must be .* source=csv"):
        prepared(tmp_path, "userId,movieId,tag,timestamp\n", "movielens")


def test_movielens_impossible_threshold_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="positive_from is 6, but must be"):
        prepared(tmp_path, "userId,movieId,rating,timestamp\n1,2,3,4\n", "movielens", positive_from=6.0)


CSV = "clicked|age|spent|city|zip|user_id\n" + "".join(
    f"{n % 2}|{20 + n % 50}|{n * 1.5}|{'Köln' if n % 3 else ''}|{n % 9:05d}|{n * 1000}\n" for n in range(200)
)


def test_csv_guesses_delimiter_label_types_and_roles(tmp_path: Path) -> None:
    rows, schema = prepared(tmp_path, CSV, "csv")
    assert rows[4] == {"clicked": 0, "age": 24, "spent": 6.0, "city": "Köln", "zip": 4, "user_id": 4000}
    assert rows[0]["city"] is None
    assert schema["label"] == "clicked"
    assert [(feature["name"], feature.get("transform", "none")) for feature in schema["dense"]] == [
        ("age", "none"),
        ("spent", "log1p"),
    ]
    assert [feature["name"] for feature in schema["sparse"]] == ["city", "zip", "user_id"]


def test_csv_takes_declarations_over_guesses(tmp_path: Path) -> None:
    rows, schema = prepared(tmp_path, CSV, "csv", types={"zip": "text", "age": "text"}, ignore=["user_id"])
    assert (rows[4]["zip"], rows[4]["age"]) == ("00004", "24")
    assert "user_id" not in rows[0]
    assert [feature["name"] for feature in schema["sparse"]] == ["age", "city", "zip"]


def test_csv_without_header_takes_names(tmp_path: Path) -> None:
    rows, _ = prepared(tmp_path, "1\t5\ta\n0\t6\tb\n", "csv", header=False, names=["y", "n", "s"])
    assert rows == [{"y": 1, "n": 5, "s": "a"}, {"y": 0, "n": 6, "s": "b"}]


def test_csv_names_that_no_table_may_have_get_one_that_may(tmp_path: Path) -> None:
    _, schema = prepared(tmp_path, "click;a b;a.b\n1;x;y\n0;x;z\n", "csv")
    assert [(feature["name"], feature["table"]) for feature in schema["sparse"]] == [("a b", "a_b_1"), ("a.b", "a_b_2")]


def test_csv_word_after_the_sample_is_told_with_its_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.prepare.source.csv.SAMPLE_LINES", 10)
    text = "click,n,s\n" + "1,5,a\n" * 20 + "1,many,a\n"
    with pytest.raises(DataError, match="line 22: column 'n' has to be an integer, but is 'many'"):
        prepared(tmp_path, text, "csv")


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("a,b\n1,2\n", {}, "source.label: none of label, click, .* name the column .* Known names: a, b"),
        ("a,b\n1,2\n", {"label": "aa"}, "source.label: 'aa' is no column of .* Did you mean 'a'"),
        ("y,b\n1,2\n", {"types": {"c": "text"}}, "source.types: 'c' is no column"),
        ("y,b\n1,2\n", {"types": {"b": "txt"}}, "types: 'txt' for column 'b' is unknown. Did you mean 'text'"),
        ("y,b\n1,2\n", {"ignore": ["c"]}, "source.ignore: 'c' is no column"),
        ("y,b\n1,2\n", {"delimiter": "::"}, "delimiter is '::', but must be one character"),
        ("y,b\n1,2\n", {"header": False}, "names has to be given"),
        ("y,b\n1,2\n", {"names": ["y", "b"]}, "names has to be given"),
        ("y\n1\n", {}, "source.delimiter: the first lines hold none of"),
        ("y,b,b\n1,2,3\n", {}, "column name 'b' is there twice"),
        ("y,,b\n1,2,3\n", {}, "column name '' is empty"),
        ("1,2\n", {"header": False, "names": ["y", ""]}, r"names is \['y', ''\], but must be a list of different"),
        ("1,2\n", {"header": False, "names": ["y", "y"]}, r"names is \['y', 'y'\], but must be a list of different"),
        ("1,2\n", {"header": False, "names": []}, r"names is \[\], but must be a list of different names"),
        (
            "1,2,3\n",
            {"header": False, "names": ["y", "b"]},
            "line 1: has 3 fields, .* or source.names",
        ),
        ("y,b\n1,2,3\n0,2,3\n", {}, "line 2: has 3 fields, .* of the first 2 lines not one .* or the header"),
        ("y,b\n1,2\n", {"ignore": ["y"]}, "source.ignore: 'y' is the label, which cannot be left out"),
        ("y,b\n1,2\n", {"types": {"y": "text"}}, "source.types: 'y' is the label, which is 0 or 1"),
        ("y,b\n1,2\n", {"files": []}, r"source.files is \[\], but must be a file, a glob"),
        ("y,b\n1,2\n", {"files": None}, "source.files is None, but must be a file, a glob"),
        ("y,b\n", {}, "holds no rows"),
        ("y,b\n1,2.5\n", {}, "not one column of 'csv' is a category, .* features.dense_buckets=10, or declare"),
    ],
)
def test_csv_tells_what_it_cannot_guess(tmp_path: Path, text: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        prepared(tmp_path, text, "csv", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"y,b\ntrue,a\nfalse,b\n", "line 2: column 'y' has to be an integer, but is 'true'"),
        (b"y,b\n,a\n,b\n", "line 2: column 'y' is empty"),
        (b"y,b\n1,\xe9\n0,\xe9\n", "line 2: is not UTF-8 text: byte 0xe9"),
        (b'y,b\n1,"a\nb"\n0,"a\nb"\n', "line 2: has a quote that is not closed"),
    ],
    ids=["a label of words", "no label", "Latin-1", "line breaks within quotes"],
)
def test_csv_whose_lines_are_all_damaged_tells_the_first(tmp_path: Path, text: bytes, said: str) -> None:
    with pytest.raises(DataError, match=f"raw, {said}"):
        prepared(tmp_path, text, "csv")
