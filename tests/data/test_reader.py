from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.categorical import encode_sparse
from data.errors import DataError
from data.index import build_index
from data.reader import Columns, read_window
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
