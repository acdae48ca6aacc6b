from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.categorical import encode_sparse
from data.columns import Columns
from data.counters import FeatureCounts
from data.errors import DataError
from data.index import build_index
from data.reader import WindowReader, read_window
from data.schema import Schema, SparseFeature, parse_schema


def write(path: Path, row_group_size: int = 3, **columns: Any) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return str(path)


def read(schema: Schema, *files: str) -> Columns:
    return read_window(build_index(files, schema).row_groups, schema)


def schema_of(*sparse: dict[str, Any], **others: Any) -> Schema:
    return parse_schema({"label": "y", "sparse": list(sparse), **others}, where="test")


ID = {"name": "i", "kind": "id", "num_embeddings": 100, "default": 99}


def test_row_groups_of_several_files_follow_one_another(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a.parquet", y=[0, 1, 0, 1], i=pa.array([1, None, 3, 4], pa.int32()), x=[0.5, None, 2.5, 3.5]),
        write(tmp_path / "b.parquet", y=[1.0, 1.0], i=pa.array([5, 6], pa.int64()), x=pa.array([7, 8], pa.int8())),
    ]
    columns = read(schema_of(ID, dense=[{"name": "x", "fill": -1}]), *files)
    assert columns.labels.tolist() == [0, 1, 0, 1, 1, 1]
    assert columns.one_hot[0].tolist() == [1, 99, 3, 4, 5, 6]
    assert np.asarray(columns.dense).reshape(-1).tolist() == [0.5, -1.0, 2.5, 3.5, 7.0, 8.0]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
@pytest.mark.parametrize("use_dictionary", [True, False])
def test_strings_hash_alike_in_every_storage(tmp_path: Path, kind: pa.DataType, use_dictionary: bool) -> None:
    texts = [*(f"value {n % 7}" for n in range(50)), None, ""]
    table = pa.table({"y": [0] * 52, "s": pa.array(texts).cast(kind)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=20, use_dictionary=use_dictionary)
    declared = {"name": "s", "kind": "hash", "num_embeddings": 1000}
    expected, _ = encode_sparse([pa.array(texts)], SparseFeature(name="s", kind="hash", num_embeddings=1000))
    columns = read(schema_of(declared), str(tmp_path / "a.parquet"))
    assert columns.one_hot[0].tolist() == expected.tolist()


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.list_(pa.large_string()),
        pa.large_list(pa.string()),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
        pa.large_list(pa.dictionary(pa.int8(), pa.string())),
    ],
)
@pytest.mark.parametrize("use_dictionary", [True, False])
def test_lists_of_strings_hash_alike_in_every_storage(tmp_path: Path, kind: pa.DataType, use_dictionary: bool) -> None:
    lists = [[f"value {(n + k) % 7}" for k in range(n % 4)] if n % 5 else None for n in range(40)] + [["", None, "a"]]
    table = pa.table({"y": [0] * 41, "t": pa.array(lists, kind)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=15, use_dictionary=use_dictionary)
    tags = {"name": "t", "kind": "hash", "num_embeddings": 1000, "max_length": 2}
    bags = read(schema_of(tags), str(tmp_path / "a.parquet")).multi_hot[0]
    flat = [value for values in lists for value in (values or [])[:2]]
    expected, _ = encode_sparse([pa.array(flat)], SparseFeature(name="t", kind="hash", num_embeddings=1000))
    assert bags.values.tolist() == expected.tolist()
    assert np.diff(bags.offsets).tolist() == [min(len(values or []), 2) for values in lists]


@pytest.mark.parametrize("kind", [pa.large_list(pa.int64()), pa.list_(pa.int32()), pa.list_(pa.int64(), 2)])
def test_lists_of_ids_are_alike_in_every_storage(tmp_path: Path, kind: pa.DataType) -> None:
    file = write(tmp_path / "a.parquet", y=[0] * 4, t=pa.array([[1, 2], [3, 4], [5, 6], [7, 8]], kind))
    bags = read(schema_of({"name": "t", "kind": "id", "num_embeddings": 9, "max_length": 2}), file).multi_hot[0]
    assert bags.values.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert bags.offsets.tolist() == [0, 2, 4, 6, 8]


def test_lists_keep_their_values_in_order_and_null_lists_are_empty(tmp_path: Path) -> None:
    lists = [[1, 2], [], None, [3], [4, 5, 6, 7], [8]]
    file = write(tmp_path / "a.parquet", row_group_size=4, y=[0] * 6, tags=lists, i=[0] * 6)
    tags = {"name": "tags", "kind": "id", "num_embeddings": 10, "max_length": 3}
    columns = read(schema_of(ID, tags), file)
    bags = columns.multi_hot[0]
    assert np.diff(bags.offsets).tolist() == [2, 0, 0, 1, 3, 1]
    assert bags.values.tolist() == [1, 2, 3, 4, 5, 6, 8]  # the list of four is cut to max_length


def test_null_elements_of_a_list_take_the_row_of_nulls(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", y=[0, 1], tags=[["a", None], ["b"]])
    columns = read(schema_of({"name": "tags", "kind": "hash", "num_embeddings": 1000, "max_length": 3}), file)
    assert columns.multi_hot[0].values.tolist() == [883, 0, 447]


def test_one_column_feeds_several_features(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", y=[0, 1], age=[20, 40])
    bucket = {"name": "bucket", "column": "age", "kind": "bucketize", "borders": [30]}
    columns = read(schema_of(bucket, dense=[{"name": "age"}]), file)
    assert columns.one_hot[0].tolist() == [1, 2]
    assert np.asarray(columns.dense).reshape(-1).tolist() == [20.0, 40.0]


def test_weights_are_read_where_declared(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", y=[0, 1], i=[1, 2], w=[0.5, 2.0])
    weights = read(schema_of(ID, weight="w"), file).weights
    assert weights is not None
    assert weights.tolist() == [0.5, 2.0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"y": [0, 1, 0, 3], "i": [1] * 4}, "row group 1, column 'y': label 3 is neither 0 nor 1"),
        ({"y": [0, 1, 0, 1], "i": [1, 1, 1, 100]}, "row group 1, column 'i': feature 'i': id 100 is outside"),
        ({"y": [0, None, 0, 1], "i": [1] * 4}, "row group 0, column 'y': 1 labels are null"),
    ],
)
def test_a_bad_value_is_told_with_file_row_group_and_column(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    file = write(tmp_path / "bad.parquet", **columns)
    with pytest.raises(DataError, match=f"bad.parquet, {message}"):
        read(schema_of(ID), file)


def test_a_file_replaced_under_the_job_is_noticed(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", y=[0, 1], i=[1, 2])
    groups = build_index([file], schema_of(ID)).row_groups
    write(tmp_path / "a.parquet", y=[0, 1, 1], i=[1, 2, 3])
    with pytest.raises(DataError, match=r"a\.parquet, row group 0"):
        read_window(groups, schema_of(ID))


def test_weights_of_lists_stay_with_their_values(tmp_path: Path) -> None:
    lists, weights = [[1, 2], None, [3, 4, 5]], [[0.5, 2.0], None, [1.0, 0.0, 9.0]]
    file = write(tmp_path / "a.parquet", row_group_size=2, y=[0] * 3, t=lists, w=weights)
    tags = {"name": "t", "kind": "id", "num_embeddings": 10, "max_length": 2, "weights": "w"}
    schema = schema_of(tags)
    order = np.array([2, 0, 1])
    bags = read_window(build_index([file], schema).row_groups, schema, order).multi_hot[0]
    assert bags.values.tolist() == [3, 4, 1, 2]
    assert bags.weights is not None
    assert bags.weights.tolist() == [1.0, 0.0, 0.5, 2.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[0.5], None, [1.0]], "column.* 't', 'w': feature 't': row 0 has 2 values, but 1 weights in column 'w'"),
        ([[0.5, -1.0], None, [1.0]], "weight in column 'w' -1 is negative or not finite"),
        ([[0.5, None], None, [1.0]], "1 values of the weight in column 'w' are null"),
    ],
)
def test_weights_that_do_not_fit_their_list_are_refused(tmp_path: Path, weights: list[Any], message: str) -> None:
    file = write(tmp_path / "a.parquet", y=[0] * 3, t=[[1, 2], None, [3]], w=pa.array(weights, pa.list_(pa.float64())))
    tags = {"name": "t", "kind": "id", "num_embeddings": 10, "max_length": 2, "weights": "w"}
    with pytest.raises(DataError, match=message):
        read(schema_of(tags), file)


def test_what_was_met_is_counted_by_feature(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.parquet",
        y=[0] * 5,
        i=[1, None, 200, 4, None],
        t=[["a", None], ["a"] * 4, None, [], ["b", "c", "d"]],
        x=[0.5, None, float("nan"), 1, 2],
    )
    tags = {"name": "t", "kind": "hash", "num_embeddings": 10, "max_length": 3}
    schema = schema_of({**ID, "on_invalid": "clip"}, tags, dense=[{"name": "x"}])
    assert read(schema, file).counts == {
        "x": FeatureCounts(values=5, nulls=2),
        "i": FeatureCounts(values=5, nulls=2, out_of_range=1),
        "t": FeatureCounts(values=8, nulls=1, truncated_lists=1),
    }


@pytest.mark.parametrize("task_bytes", [1, 8 * 23 * 2, 1 << 21])
@pytest.mark.parametrize("row_group_size", [2, 5, 100])
def test_the_cut_into_tasks_and_their_order_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task_bytes: int, row_group_size: int
) -> None:
    rows = range(23)
    file = write(
        tmp_path / "a.parquet",
        row_group_size=row_group_size,
        y=[n % 2 for n in rows],
        i=list(rows),
        s=[f"s{n % 3}" for n in rows],
        t=[[n] * (n % 3) for n in rows],
        x=[n / 2 for n in rows],
    )
    schema = schema_of(
        ID,
        {"name": "c", "kind": "cross", "columns": ["s", "i"], "num_embeddings": 1000},
        {"name": "t", "kind": "id", "num_embeddings": 50, "max_length": 2},
        dense=[{"name": "x"}, {"name": "i2", "column": "i"}],
    )
    plain = read(schema, file)
    monkeypatch.setattr("data.reader.TASK_BYTES", task_bytes)
    order = np.random.default_rng(1).permutation(23)
    reader = WindowReader(build_index([file], schema).row_groups, schema, order)
    for task in reversed(reader.tasks()):
        task()
    served = reader.columns
    assert served.one_hot.tolist() == plain.one_hot[:, order].tolist()
    assert served.dense.tolist() == plain.dense[:, order].tolist()
    assert served.labels.tolist() == plain.labels[order].tolist()
    expected = [[n] * (n % 3) for n in order.tolist()]
    bags = served.multi_hot[0]
    assert [bags.span(n, n + 1).values.tolist() for n in range(23)] == expected
    assert served.counts == plain.counts


def test_a_vocabulary_of_words_does_not_fit_a_column_of_integers(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("10\nred\n", encoding="utf-8")
    declared = {"label": "y", "sparse": [{"name": "i", "kind": "vocabulary", "vocabulary": "words.txt"}]}
    schema = parse_schema(declared, where="test", folder=tmp_path)
    file = write(tmp_path / "a.parquet", y=[0, 1], i=[10, 11])
    with pytest.raises(DataError, match=r"words\.txt: the column holds integers, but the vocabulary something else"):
        read(schema, file)


def test_a_vocabulary_of_integers_serves_a_column_of_integers(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("30\n10\n-20\n", encoding="utf-8")
    declared = {"label": "y", "sparse": [{"name": "i", "kind": "vocabulary", "vocabulary": "ids.txt"}]}
    schema = parse_schema(declared, where="test", folder=tmp_path)
    file = write(tmp_path / "a.parquet", y=[0] * 5, i=[10, 11, None, -20, 30])
    assert read(schema, file).one_hot[0].tolist() == [3, 1, 0, 4, 2]
