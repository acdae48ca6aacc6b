from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from data.counters import FeatureCounts
from data.encode import BadValueError, encode_dense, encode_label, encode_weight
from data.features import DenseFeature


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
        ([1.0, 1e39], r"sample weight 1e\+39 is negative or not finite in float32"),
        ([math.nan], "sample weight nan is negative or not finite"),
        ([None], "1 values of the sample weight are null"),
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
    encoded, counts = encode_dense(values, feature)
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded, np.array(expected), rtol=1e-6)
    assert counts == FeatureCounts(values=6, nulls=2)


def test_dense_integers_are_taken_as_they_are() -> None:
    encoded, _ = encode_dense(pa.array([3, None, -2], pa.int16()), DenseFeature(name="x"))
    assert encoded.tolist() == [3.0, 0.0, -2.0]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int64(), pa.float32(), pa.bool_()])
def test_nulls_of_a_slice_are_filled_in_their_places(kind: pa.DataType) -> None:
    values = pa.array([1, None, 0, None, 1, None, 1, 1, None, 0, None, 1]).cast(kind)
    encoded, counts = encode_dense(values.slice(3, 8), DenseFeature(name="x", fill=7))
    assert encoded.tolist() == [7, 1, 7, 1, 1, 7, 0, 7]
    assert counts == FeatureCounts(values=8, nulls=4)


def test_large_dense_integers_are_standardized_before_they_are_rounded_to_float32() -> None:
    feature = DenseFeature(name="time", mean=1_600_000_000, std=10)
    encoded, _ = encode_dense(pa.array([1_600_000_001, 1_600_000_013]), feature)
    np.testing.assert_allclose(encoded, np.array([0.1, 1.3]), rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.int8(), [-128, -1, 0, 1, 127]),
        (pa.int32(), [-(2**31), -7, 0, 3, 2**24 + 1, 2**31 - 1]),
        (pa.int64(), [-(2**62), 0, 12345, 2**40 + 1, 2**63 - 1]),
        (pa.uint64(), [0, 1, 2**64 - 1]),
        (pa.float32(), [-1e30, -0.125, 1e-7, 0.5, 3e38]),
        (pa.float64(), [-1e300, 1e-12, 0.1, 1e300]),
    ],
)
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (3.0, 0.5), (40.0, 0.5)])
def test_log1p_of_every_type_is_right_to_float32(
    kind: pa.DataType, values: list[float], mean: float, std: float
) -> None:
    encoded, _ = encode_dense(pa.array(values, kind), DenseFeature(name="x", transform="log1p", mean=mean, std=std))
    logs = [math.copysign(math.log1p(abs(value)), value) for value in pa.array(values, kind).to_pylist()]
    for got, log in zip(encoded.tolist(), logs, strict=True):
        # Units of the last place of what is subtracted.
        assert got == pytest.approx((log - mean) / std, rel=3e-7, abs=2.4e-7 * max(abs(log), mean) / std)


def test_float32_columns_are_filled_where_null_or_not_a_number() -> None:
    values = pa.array([0.25, None, math.nan, -2.0], pa.float32())
    encoded, counts = encode_dense(values, DenseFeature(name="x", fill=0.5))
    assert encoded.tolist() == [0.25, 0.5, 0.5, -2.0]
    assert counts == FeatureCounts(values=4, nulls=2)


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.int64()])
def test_encoding_leaves_the_values_themselves_alone(kind: pa.DataType) -> None:
    values = pa.array([3, 1, 2]).cast(kind)
    encode_dense(values, DenseFeature(name="x", transform="log1p", clip=[0, 2], mean=1, std=2))
    assert values.to_pylist() == [3, 1, 2]


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e39])
def test_dense_values_that_float32_cannot_hold_are_refused_unless_clipped(value: float) -> None:
    with pytest.raises(BadValueError, match=r"feature 'x': value .* is not finite in float32; set clip"):
        encode_dense(pa.array([1.0, value]), DenseFeature(name="x"))
    encoded, _ = encode_dense(pa.array([1.0, value]), DenseFeature(name="x", clip=[-5, 5]))
    assert encoded.tolist() == [1.0, math.copysign(5.0, value)]


def test_dense_nulls_can_be_refused() -> None:
    with pytest.raises(BadValueError, match="feature 'x': 2 values are null, and on_null is error"):
        encode_dense(pa.array([1.0, None, math.nan]), DenseFeature(name="x", on_null="error"))
