from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

import data.schema
from data.errors import DataError
from data.features import KINDS
from data.schema import Schema, load_schema, parse_schema


def schema(**changes: Any) -> Schema:
    values = {
        "label": "click",
        "dense": [{"name": "price"}],
        "sparse": [{"name": "site", "kind": "hash", "num_embeddings": 10}],
    }
    return parse_schema({**values, **changes}, where="here")


def sparse(**settings: Any) -> Schema:
    return schema(sparse=[{"name": "site", **settings}])


def test_keys_put_one_hot_features_before_multi_hot_ones() -> None:
    parsed = schema(
        sparse=[
            {"name": "tags", "kind": "hash", "num_embeddings": 10, "max_length": 3},
            {"name": "site", "kind": "hash", "num_embeddings": 10},
        ]
    )
    assert parsed.sparse_keys == ["site", "tags"]


def test_every_column_is_read_once() -> None:
    parsed = schema(
        weight="importance",
        sparse=[
            {"name": "a", "column": "price", "kind": "bucketize", "borders": [1]},
            {"name": "b", "kind": "hash", "num_embeddings": 10},
        ],
    )
    assert parsed.columns == ["click", "importance", "price", "b"]


def test_features_share_a_table() -> None:
    settings = {"kind": "hash", "num_embeddings": 10, "table": "site"}
    tables = schema(sparse=[{"name": "seen", **settings}, {"name": "clicked", **settings}]).tables()
    assert [(t.name, t.num_embeddings, t.features) for t in tables] == [("site", 10, ("seen", "clicked"))]


def test_the_fingerprint_follows_every_declaration() -> None:
    variants = [
        schema(),
        schema(label="other"),
        schema(weight="w"),
        schema(dense=[]),
        sparse(kind="id", num_embeddings=9),
    ]
    assert len({variant.fingerprint for variant in variants}) == len(variants)
    assert schema().fingerprint == schema().fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparse": []}, "here: sparse: the list is empty"),
        ({"label": None}, "here: 'label'"),
        ({"labels": "x"}, "here: unknown key 'labels'. Did you mean 'label'?"),
        ({"dense": [{"name": "price", "std": 0}]}, r"here: dense\[0\]: feature 'price': std is 0.0, but must be"),
        ({"dense": [{"name": "price", "clip": [2, 1]}]}, r"feature 'price': clip is \[2.0, 1.0\]"),
        ({"dense": [{"name": "price", "transform": "log"}]}, "feature 'price': transform is 'log', but must be one of"),
        ({"dense": [{"name": "price", "tranform": "log1p"}]}, r"dense\[0\]: unknown key 'tranform'. Did you mean"),
        ({"dense": [{"name": "site"}]}, "feature 'site' is declared 2 times"),
        ({"sparse": [{"kind": "id", "num_embeddings": 3}]}, r"sparse\[0\]: 'name' has no value"),
        ({"sparse": "site"}, "here: 'sparse': must be a list"),
    ],
)
def test_an_impossible_schema_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        schema(**changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "hsh", "num_embeddings": 3}, "kind is 'hsh', but must be one of"),
        ({"kind": "hash", "num_embeddings": 1}, "num_embeddings is 1, but must be 2 or more"),
        ({"kind": "id"}, "num_embeddings is 0, but must be 1 or more"),
        ({"kind": "hash", "num_embeddings": 2**63}, "num_embeddings is 9223372036854775808, but must be 922.* or less"),
        ({"kind": "id", "num_embeddings": 3, "default": 3}, "default is 3, but must be a row of the table"),
        ({"kind": "hash", "num_embeddings": 3, "default": 1}, "default is 1, but must be"),
        ({"kind": "hash", "num_embeddings": 3, "pooling": "max"}, "pooling is 'max', but must be one of"),
        ({"kind": "hash", "num_embeddings": 3, "max_length": 0}, "max_length is 0, but must be 1"),
        ({"kind": "bucketize"}, "borders is None, but must be"),
        ({"kind": "bucketize", "borders": [2, 1]}, r"borders is \[2.0, 1.0\], but must be a rising list"),
        ({"kind": "bucketize", "borders": [1], "num_embeddings": 9}, "num_embeddings is 9, but must be left out or 3"),
        (
            {"kind": "hash", "num_embeddings": 3, "borders": [1]},
            r"borders is \[1.0\], but must be given for kind bucketize",
        ),
        ({"kind": "hash", "num_embeddings": 3, "table": "a.b"}, "table is 'a.b', but must be letters"),
    ],
)
def test_an_impossible_sparse_feature_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"here: sparse\\[0\\]: feature 'site': {message}"):
        sparse(**settings)


def test_features_that_share_a_table_must_agree() -> None:
    with pytest.raises(DataError, match="feature 'b': table 't' has 10 rows and pooling sum for 'a', but 20 and sum"):
        schema(
            sparse=[
                {"name": "a", "kind": "hash", "num_embeddings": 10, "table": "t"},
                {"name": "b", "kind": "hash", "num_embeddings": 20, "table": "t"},
            ]
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "id", "num_embeddings": 3, "on_invalid": "skip"}, "on_invalid is 'skip', but must be one of"),
        ({"kind": "id", "num_embeddings": 3, "on_invalid": "default"}, "on_invalid is 'default', but must be one of"),
        ({"kind": "id", "num_embeddings": 3, "on_null": "default"}, "on_null is 'default', but must be error, or"),
        ({"kind": "hash", "num_embeddings": 3, "on_null": "fill"}, "on_null is 'fill', but must be one of"),
        ({"kind": "hash", "num_embeddings": 3, "on_invalid": "clip"}, "on_invalid is 'clip', but must be given for"),
        ({"kind": "vocabulary"}, "vocabulary is None, but must be given for kind vocabulary"),
        ({"kind": "id", "num_embeddings": 3, "vocabulary": "v.txt"}, "vocabulary is 'v.txt', but must be given for"),
        ({"kind": "log_square", "num_embeddings": 5}, "num_embeddings is 5, but must be 6 or more"),
        ({"kind": "cross", "num_embeddings": 9}, "columns is None, but must be given for kind cross"),
        ({"kind": "cross", "num_embeddings": 9, "columns": ["a"]}, "columns is .* two or more different columns"),
        ({"kind": "cross", "num_embeddings": 9, "columns": ["a", "a"]}, "columns is .* two or more different columns"),
        ({"kind": "cross", "num_embeddings": 9, "columns": ["a", "b"], "column": "c"}, "column is 'c', but must be"),
        (
            {"kind": "cross", "num_embeddings": 9, "columns": ["a", "b"], "max_length": 2},
            "max_length is 2, but must be 1",
        ),
        ({"kind": "id", "num_embeddings": 3, "weights": "w"}, "weights is 'w', but must be left out, unless"),
        (
            {"kind": "id", "num_embeddings": 3, "weights": "w", "max_length": 2, "pooling": "mean"},
            "weights is 'w', but must be left out, unless max_length is above 1 and pooling is sum",
        ),
    ],
)
def test_an_impossible_policy_or_combination_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"here: sparse\\[0\\]: feature 'site': {message}"):
        sparse(**settings)


def vocabulary_schema(folder: Path, values: str, **settings: Any) -> Schema:
    (folder / "words.txt").write_bytes(values.encode())
    text = {"label": "y", "sparse": [{"name": "w", "kind": "vocabulary", "vocabulary": "words.txt", **settings}]}
    (folder / "schema.yaml").write_text(yaml.safe_dump(text), encoding="utf-8")
    return load_schema(folder / "schema.yaml")


def test_a_vocabulary_sizes_its_table(tmp_path: Path) -> None:
    assert vocabulary_schema(tmp_path, "red\nblue\n").sparse[0].num_embeddings == 4
    assert vocabulary_schema(tmp_path, "red\nblue\n", num_embeddings=10).sparse[0].num_embeddings == 10
    assert vocabulary_schema(tmp_path, "").sparse[0].num_embeddings == 2


def test_a_vocabulary_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    texts = ["red\nblue\n", "blue\nred\n", "red\n\nblue\n", "red\nblue"]
    prints = [vocabulary_schema(tmp_path, text).fingerprint for text in texts]
    assert len(set(prints[:3])) == 3
    assert prints[3] == prints[0]


def test_a_vocabulary_written_on_windows_holds_the_same_values(tmp_path: Path) -> None:
    expected = vocabulary_schema(tmp_path, "red\n\nblue\n").vocabularies["w"]
    for text in ("red\r\n\r\nblue\r\n", "red\r\n\r\nblue", "\ufeffred\n\nblue\n", "\ufeffred\r\n\r\nblue\r\n"):
        assert vocabulary_schema(tmp_path, text).vocabularies["w"].values == expected.values
    with pytest.raises(DataError, match=r"words\.txt: some lines end in a carriage return, others do not"):
        vocabulary_schema(tmp_path, "red\r\ngreen\nblue\r\n")


def test_an_impossible_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"schema\.yaml: .*words\.txt: 'red' stands in the vocabulary twice"):
        vocabulary_schema(tmp_path, "red\nblue\nred\n")
    with pytest.raises(DataError, match=r"feature 'w': num_embeddings is 3, but its vocabulary .*words\.txt needs 4"):
        vocabulary_schema(tmp_path, "red\nblue\n", num_embeddings=3)
    with pytest.raises(DataError, match=r"nowhere\.txt: cannot read the vocabulary"):
        vocabulary_schema(tmp_path, "red\n", vocabulary="nowhere.txt")


def test_ids_are_int32_while_all_tables_together_allow_it() -> None:
    def id_dtype(*sizes: int) -> type:
        return schema(
            sparse=[{"name": f"f{i}", "kind": "id", "num_embeddings": n} for i, n in enumerate(sizes)]
        ).id_dtype

    assert id_dtype(2**30, 2**30 - 1) is np.int32
    assert id_dtype(2**30, 2**30) is np.int64


def test_the_example_of_the_docstring_is_a_schema(tmp_path: Path) -> None:
    assert data.schema.__doc__ is not None
    example = textwrap.dedent(data.schema.__doc__.split("::\n")[1].split(":mod:")[0])
    (tmp_path / "country.txt").write_text("DE\nFR\n", encoding="utf-8")
    parsed = parse_schema(yaml.safe_load(example), where="docstring", folder=tmp_path)
    assert {feature.kind for feature in parsed.sparse} == set(KINDS)
    assert parsed.weighted_bags


GOOD_FILE = {"click": pa.int8(), "price": pa.float64(), "site": pa.string()}


def check(file: dict[str, pa.DataType], **changes: Any) -> None:
    schema(**changes).check_file(pa.schema(list(file.items())), "some.parquet")


def test_a_file_may_have_more_columns_than_declared() -> None:
    check({**GOOD_FILE, "extra": pa.date32()})


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.int32(), pa.bool_()]
)
def test_hash_takes_strings_integers_and_booleans(kind: pa.DataType) -> None:
    check({**GOOD_FILE, "site": kind})


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"click": pa.int8(), "site": pa.string()}, r"column 'price' \(dense feature 'price'\) is missing"),
        (
            {**GOOD_FILE, "click": pa.string()},
            "column 'click' has type string, but the label needs a number or a boolean",
        ),
        ({**GOOD_FILE, "price": pa.string()}, "'price' has type string, but dense feature 'price' needs a number"),
        ({**GOOD_FILE, "price": pa.list_(pa.int8())}, "'price' has type list<.*>, but dense feature"),
        ({**GOOD_FILE, "site": pa.float32()}, "'site' has type float, but sparse feature 'site' of kind hash needs"),
        ({**GOOD_FILE, "site": pa.list_(pa.string())}, "'site' has type list<.*max_length 1; set max_length above 1"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(file: dict[str, pa.DataType], message: str) -> None:
    with pytest.raises(DataError, match=f"some.parquet: .*{message}"):
        check(file)


def test_a_declared_column_that_is_there_twice_is_refused() -> None:
    fields = list(GOOD_FILE.items())
    with pytest.raises(DataError, match=r"some.parquet: column 'price' \(dense feature 'price'\) is there 2 times"):
        schema().check_file(pa.schema([*fields, ("price", pa.int8())]), "some.parquet")
    schema().check_file(pa.schema([*fields, ("extra", pa.int8()), ("extra", pa.int8())]), "some.parquet")


def test_a_missing_column_is_answered_with_a_close_name() -> None:
    with pytest.raises(DataError, match=r"column 'site' .* is missing\. Did you mean 'sites'\?"):
        check({"click": pa.int8(), "price": pa.int64(), "sites": pa.string()})


def test_a_list_feature_needs_a_list_column() -> None:
    with pytest.raises(DataError, match="declares max_length 3; set max_length to 1"):
        check(GOOD_FILE, sparse=[{"name": "site", "kind": "hash", "num_embeddings": 10, "max_length": 3}])


def test_a_cross_and_a_weighted_list_need_their_columns() -> None:
    cross = [{"name": "x", "kind": "cross", "columns": ["site", "price"], "num_embeddings": 10}]
    check({**GOOD_FILE, "price": pa.int32()}, dense=[], sparse=cross)
    with pytest.raises(DataError, match="column 'price' has type double, but sparse feature 'x' of kind cross needs"):
        check(GOOD_FILE, dense=[], sparse=cross)
    with pytest.raises(DataError, match=r"column 'site' has type list<.*a cross takes no lists"):
        check({**GOOD_FILE, "site": pa.list_(pa.string())}, dense=[], sparse=cross)
    weighted = [{"name": "t", "kind": "hash", "num_embeddings": 10, "max_length": 2, "weights": "w"}]
    lists = {"click": pa.int8(), "t": pa.list_(pa.string())}
    check({**lists, "w": pa.list_(pa.float32())}, dense=[], sparse=weighted)
    with pytest.raises(DataError, match="column 'w' has type float, but the weights of sparse feature 't'"):
        check({**lists, "w": pa.float32()}, dense=[], sparse=weighted)
    with pytest.raises(DataError, match=r"column 'w' \(sparse feature 't'\) is missing"):
        check(lists, dense=[], sparse=weighted)


def test_the_shipped_schema_loads() -> None:
    path = Path(__file__).parents[2] / "data" / "samples" / "adult" / "schema.yaml"
    assert load_schema(path).label == "label"


def test_an_unreadable_schema_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.yaml: cannot read the schema .*set data\.schema"):
        load_schema(tmp_path / "missing.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("label: [", encoding="utf-8")
    with pytest.raises(DataError, match=r"broken\.yaml: not valid YAML"):
        load_schema(broken)
    broken.write_text("- label", encoding="utf-8")
    with pytest.raises(DataError, match=r"broken\.yaml: holds \['label'\], but must map"):
        load_schema(broken)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label: y\nsparse:\n- {name: a}\nsparse:\n- {name: b}\n", "line 4: key 'sparse' is there already, on line 2"),
        ("label: y\nsparse:\n- {name: a, kind: id, name: b}\n", "line 3: key 'name' is there already, on line 3"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "schema.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"schema\.yaml: not valid YAML: {said}; put both together"):
        load_schema(tmp_path / "schema.yaml")
