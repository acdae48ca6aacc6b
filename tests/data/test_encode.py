from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from data.encode import BadValueError, encode_dense, encode_label, encode_sparse, encode_weight
from data.schema import DenseFeature, SparseFeature


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.float32(), pa.bool_()])
def test_labels_of_any_numeric_type_become_zeros_and_ones(kind: pa.DataType) -> None:
    labels = encode_label(pa.array([1, 0, 1]).cast(kind))
    assert labels.dtype == np.float32
    assert labels.tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [([0, 2], "label 2 is neither 0 nor 1"), ([0.5, 1], "label 0.5 is neither"), ([0, None], "1 labels are null")],
)
def test_other_labels_are_refused(values: list[float | None], message: str) -> None:
    with pytest.raises(BadValueError, match=message):
        encode_label(pa.array(values))


def test_weights_keep_their_values() -> None:
    assert encode_weight(pa.array([0, 1, 3], pa.int32())).tolist() == [0.0, 1.0, 3.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, -0.5], "sample weight -0.5 is negative or not finite"),
        ([math.inf], "sample weight inf is negative or not finite"),
        ([math.nan], "sample weight nan is negative or not finite"),
        ([None], "1 sample weights are null"),
    ],
)
def test_other_weights_are_refused(values: list[float | None], message: str) -> None:
    with pytest.raises(BadValueError, match=message):
        encode_weight(pa.array(values, pa.float64()))


def test_dense_values_are_filled_clipped_transformed_and_standardized_in_this_order() -> None:
    feature = DenseFeature(name="x", fill=5.0, clip=[-10.0, 100.0], transform="log1p", mean=0.5, std=2.0)
    values = pa.array([0.0, None, math.nan, 1e9, -50.0, 7.0])
    clipped = [0.0, 5.0, 5.0, 100.0, -10.0, 7.0]
    expected = [(math.copysign(math.log(1 + abs(x)), x) - 0.5) / 2.0 for x in clipped]
    encoded = encode_dense(values, feature)
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded, expected, rtol=1e-6)


def test_dense_integers_are_taken_as_they_are() -> None:
    assert encode_dense(pa.array([3, None, -2], pa.int16()), DenseFeature(name="x")).tolist() == [3.0, 0.0, -2.0]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64()])
def test_ids_of_any_integer_type_are_table_rows(kind: pa.DataType) -> None:
    feature = SparseFeature(name="f", kind="id", num_embeddings=100)
    assert encode_sparse(pa.array([0, 99, 7], kind), feature).tolist() == [0, 99, 7]


def test_a_null_id_takes_the_default_row() -> None:
    feature = SparseFeature(name="f", kind="id", num_embeddings=10, default=9)
    assert encode_sparse(pa.array([1, None, 3]), feature).tolist() == [1, 9, 3]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([3, 10]), "feature 'f': id 10 is outside the table of 10 rows"),
        (pa.array([-1, 3]), "feature 'f': id -1 is outside the table of 10 rows"),
        (pa.array([2**64 - 1], pa.uint64()), "feature 'f': id .* is outside the table of 10 rows"),
        (pa.array([1, None]), "feature 'f': 1 values are null"),
    ],
)
def test_ids_outside_the_table_are_refused(values: pa.Array, message: str) -> None:
    with pytest.raises(BadValueError, match=message):
        encode_sparse(values, SparseFeature(name="f", kind="id", num_embeddings=10))


def test_hashed_rows_are_stable_across_versions() -> None:
    feature = SparseFeature(name="f", kind="hash", num_embeddings=1000)
    assert encode_sparse(pa.array(["a", "b", None, "foobar", ""]), feature).tolist() == [883, 447, 0, 228, 549]
    assert encode_sparse(pa.array([0, 1, -1, None, 2**40]), feature).tolist() == [271, 818, 297, 0, 116]


def test_another_seed_hashes_to_other_rows() -> None:
    feature = SparseFeature(name="f", kind="hash", num_embeddings=1000, seed=3)
    assert encode_sparse(pa.array(["a", "b", None, "foobar", ""]), feature).tolist() == [565, 888, 0, 67, 368]
    assert encode_sparse(pa.array([0, 1, -1, None, 2**40]), feature).tolist() == [312, 499, 557, 0, 134]


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["b", None, "a", "b"], pa.large_string()),
        pa.array(["b", None, "a", "b"]).dictionary_encode(),
        pa.array(["x", "b", None, "a", "b"]).slice(1),
        pa.DictionaryArray.from_arrays(pa.array([1, 2, 0, 1]), pa.array(["a", "b", None])),
    ],
    ids=["large_string", "dictionary", "slice", "null in the dictionary"],
)
def test_a_string_hashes_to_the_same_row_in_every_arrow_form(values: pa.Array) -> None:
    feature = SparseFeature(name="f", kind="hash", num_embeddings=1000)
    assert encode_sparse(values, feature).tolist() == [447, 0, 883, 447]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.uint32()])
def test_an_integer_hashes_to_the_same_row_whatever_its_width(kind: pa.DataType) -> None:
    feature = SparseFeature(name="f", kind="hash", num_embeddings=1000)
    assert encode_sparse(pa.array([0, 1, None], kind), feature).tolist() == [271, 818, 0]


def test_hashes_spread_over_all_rows_but_the_one_of_nulls() -> None:
    feature = SparseFeature(name="f", kind="hash", num_embeddings=11)
    counts = np.bincount(encode_sparse(pa.array(range(10_000)), feature), minlength=11)
    assert counts[0] == 0
    # 1000 expected in each; the standard deviation is 30.
    assert counts[1:].min() > 850
    assert counts[1:].max() < 1150


def test_a_number_takes_the_row_of_its_bucket() -> None:
    feature = SparseFeature(name="f", kind="bucketize", borders=[1.0, 2.5])
    values = [0.0, 1.0, 2.4, 2.5, 1e300, -math.inf, None, math.nan]
    assert feature.num_embeddings == 4
    assert encode_sparse(pa.array(values, pa.float64()), feature).tolist() == [1, 2, 2, 3, 3, 1, 0, 0]
    assert encode_sparse(pa.array([3, 1, None], pa.int8()), feature).tolist() == [3, 2, 0]
