from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data.categorical import encode_sparse
from data.counters import FeatureCounts
from data.encode import BadValueError
from data.features import SparseFeature
from data.vocabulary import Vocabulary


def rows_of(values: pa.Array, feature: SparseFeature) -> Any:
    return encode_sparse([values], feature)[0]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64()])
def test_ids_of_any_integer_type_are_table_rows(kind: pa.DataType) -> None:
    feature = SparseFeature(name="f", kind="id", num_embeddings=100)
    assert rows_of(pa.array([0, 99, 7], kind), feature).tolist() == [0, 99, 7]


def test_a_null_id_takes_the_default_row() -> None:
    feature = SparseFeature(name="f", kind="id", num_embeddings=10, default=9)
    assert rows_of(pa.array([1, None, 3]), feature).tolist() == [1, 9, 3]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([3, 10]), "feature 'f': id 10 is outside the table of 10 rows"),
        (pa.array([-1, 3]), "feature 'f': id -1 is outside the table of 10 rows"),
        (pa.array([2**64 - 1], pa.uint64()), "feature 'f': id 18446744073709551615 is outside the table of 10 rows"),
        (pa.array([1, None]), "feature 'f': 1 values are null"),
    ],
)
def test_ids_outside_the_table_are_refused(values: pa.Array, message: str) -> None:
    with pytest.raises(BadValueError, match=message):
        rows_of(values, SparseFeature(name="f", kind="id", num_embeddings=10))


def test_hashed_rows_are_stable_across_versions() -> None:
    feature = SparseFeature(name="f", kind="hash", num_embeddings=1000)
    assert rows_of(pa.array(["a", "b", None, "foobar", ""]), feature).tolist() == [883, 447, 0, 228, 549]
    assert rows_of(pa.array([0, 1, -1, None, 2**40]), feature).tolist() == [271, 818, 297, 0, 116]


def test_another_seed_hashes_to_other_rows() -> None:
    feature = SparseFeature(name="f", kind="hash", num_embeddings=1000, seed=3)
    assert rows_of(pa.array(["a", "b", None, "foobar", ""]), feature).tolist() == [565, 888, 0, 67, 368]
    assert rows_of(pa.array([0, 1, -1, None, 2**40]), feature).tolist() == [312, 499, 557, 0, 134]


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
    assert rows_of(values, feature).tolist() == [447, 0, 883, 447]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.uint32()])
def test_an_integer_hashes_to_the_same_row_whatever_its_width(kind: pa.DataType) -> None:
    feature = SparseFeature(name="f", kind="hash", num_embeddings=1000)
    assert rows_of(pa.array([0, 1, None], kind), feature).tolist() == [271, 818, 0]


def test_hashes_spread_over_all_rows_but_the_one_of_nulls() -> None:
    feature = SparseFeature(name="f", kind="hash", num_embeddings=11)
    counts = np.bincount(rows_of(pa.array(range(10_000)), feature), minlength=11)
    assert counts[0] == 0
    # 1000 expected in each; the standard deviation is 30.
    assert counts[1:].min() > 850
    assert counts[1:].max() < 1150


def test_a_number_takes_the_row_of_its_bucket() -> None:
    feature = SparseFeature(name="f", kind="bucketize", borders=[1.0, 2.5])
    values = [0.0, 1.0, 2.4, 2.5, 1e300, -math.inf, None, math.nan]
    assert feature.num_embeddings == 4
    assert rows_of(pa.array(values, pa.float64()), feature).tolist() == [1, 2, 2, 3, 3, 1, 0, 0]
    assert rows_of(pa.array([3, 1, None], pa.int8()), feature).tolist() == [3, 2, 0]


OUTSIDE = pa.array([3, -1, 10, None, 9, 2**40])


@pytest.mark.parametrize(("policy", "expected"), [("clip", [3, 0, 9, 7, 9, 9]), ("default", [3, 7, 7, 7, 9, 7])])
def test_ids_outside_the_table_follow_the_policy_and_are_counted(policy: str, expected: list[int]) -> None:
    feature = SparseFeature(name="f", kind="id", num_embeddings=10, default=7, on_invalid=policy)
    rows, counts = encode_sparse([OUTSIDE], feature)
    assert rows.tolist() == expected
    assert counts == FeatureCounts(values=6, nulls=1, out_of_range=3)


def test_ids_outside_the_table_can_be_hashed_into_it() -> None:
    feature = SparseFeature(name="f", kind="id", num_embeddings=10, on_invalid="hash")
    rows, counts = encode_sparse([pa.array([3, *range(10, 1010)])], feature)
    assert rows[0] == 3
    assert counts.out_of_range == 1000
    # 100 expected in each row; the standard deviation is 9.5.
    assert np.bincount(rows[1:], minlength=10).min() > 60
    assert rows.max() == 9


def test_nulls_can_be_refused_in_every_kind() -> None:
    feature = SparseFeature(name="f", kind="hash", num_embeddings=10, on_null="error")
    with pytest.raises(BadValueError, match="feature 'f': 1 values are null; let on_null be default"):
        encode_sparse([pa.array(["a", None])], feature)


def test_log_square_follows_the_rule_of_criteo() -> None:
    feature = SparseFeature(name="f", kind="log_square")
    numbers = [None, -7, -1, 0, 1, 2, 3, 4, 20, 1000, 2**62]
    squares = [5 + math.floor(math.log(x) ** 2) for x in (3, 4, 20, 1000, 2**62)]
    rows, counts = encode_sparse([pa.array(numbers)], feature)
    assert rows.tolist() == [0, 1, 1, 2, 3, 4, *squares]
    assert counts == FeatureCounts(values=11, nulls=1)


def test_log_square_beyond_the_table_takes_its_last_row_or_is_refused() -> None:
    feature = SparseFeature(name="f", kind="log_square", num_embeddings=20)
    rows, counts = encode_sparse([pa.array([1000, 1.5, math.inf, math.nan])], feature)
    assert rows.tolist() == [19, 3, 19, 0]
    assert counts == FeatureCounts(values=4, nulls=1, out_of_range=2)
    strict = SparseFeature(name="f", kind="log_square", num_embeddings=20, on_invalid="error")
    with pytest.raises(BadValueError, match="feature 'f': value 1000 needs row 52 of a table of 20 rows"):
        encode_sparse([pa.array([1, 1000])], strict)


VOCABULARY = Vocabulary("words.txt", pa.array(["red", "10", "", "blue"], pa.large_string()))


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["blue", "green", None, "red", "", "re"]),
        pa.array(["blue", "green", None, "red", "", "re"], pa.large_string()),
        pa.array(["blue", "green", None, "red", "", "re"]).dictionary_encode(),
    ],
)
def test_a_vocabulary_gives_its_values_rows_of_their_own(values: pa.Array) -> None:
    feature = SparseFeature(name="f", kind="vocabulary", vocabulary="words.txt", num_embeddings=6)
    rows, counts = encode_sparse([values], feature, VOCABULARY)
    assert rows.tolist() == [5, 1, 0, 2, 4, 1]
    assert counts == FeatureCounts(values=6, nulls=1, out_of_vocabulary=2)


@pytest.mark.parametrize(
    ("lines", "ids", "kind", "expected"),
    [
        (["7", "18446744073709551615"], [2**64 - 1, 7, 2**63], pa.uint64(), [3, 2, 1]),
        (["7", "18446744073709551615"], [-1, 7], pa.int64(), [1, 2]),
        (["7", "-1"], [2**64 - 1, 7, None], pa.uint64(), [1, 2, 0]),
        (["7", "-1"], [-1, 7, None], pa.int8(), [3, 2, 0]),
    ],
)
def test_a_vocabulary_tells_large_integers_from_negative_ones(
    lines: list[str], ids: list[int], kind: pa.DataType, expected: list[int]
) -> None:
    feature = SparseFeature(name="f", kind="vocabulary", vocabulary="ids.txt", num_embeddings=4)
    vocabulary = Vocabulary("ids.txt", pa.array(lines, pa.large_string()))
    assert encode_sparse([pa.array(ids, kind)], feature, vocabulary)[0].tolist() == expected


def test_a_vocabulary_can_refuse_what_it_does_not_hold() -> None:
    feature = SparseFeature(name="f", kind="vocabulary", vocabulary="words.txt", num_embeddings=6, on_invalid="error")
    with pytest.raises(BadValueError, match=r"feature 'f': value 'green' is not in the vocabulary words\.txt"):
        encode_sparse([pa.array(["blue", "green"])], feature, VOCABULARY)


def cross(*names: str, seed: int = 0) -> SparseFeature:
    return SparseFeature(name="f", kind="cross", columns=list(names), num_embeddings=1 << 20, seed=seed)


def test_a_cross_tells_pairs_apart_and_their_order_too() -> None:
    left, right = pa.array(["a", "a", "b", "b", "a"]), pa.array([1, 2, 1, 2, 1])
    rows = encode_sparse([left, right], cross("l", "r"))[0].tolist()
    assert rows[0] == rows[4]
    assert len(set(rows)) == 4
    assert encode_sparse([right, left], cross("r", "l"))[0].tolist() != rows
    assert encode_sparse([left, right], cross("l", "r", seed=1))[0].tolist() != rows
    assert encode_sparse([left.dictionary_encode(), right], cross("l", "r"))[0].tolist() == rows


def test_a_cross_with_a_null_is_null() -> None:
    rows, counts = encode_sparse([pa.array(["a", None, "b"]), pa.array([1, 2, None])], cross("l", "r"))
    assert (rows == 0).tolist() == [False, True, True]
    assert counts == FeatureCounts(values=3, nulls=2)


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.uint32(), pa.uint64()])
def test_ids_outside_the_table_are_found_in_every_type(kind: pa.DataType) -> None:
    for num_embeddings in (100, 2**31, 2**33):
        feature = SparseFeature(name="i", kind="id", num_embeddings=num_embeddings, on_invalid="clip")
        candidates = [0, 99, 100, 127, -1, -128, 2**31 - 1, 2**31, 2**33 - 1, 2**33, 2**63 - 1, 2**63, 2**64 - 1]
        ids = [value for value in candidates if _fits(value, kind)]
        rows, counts = encode_sparse([pa.array(ids, kind)], feature)
        assert rows.tolist() == [min(max(value, 0), num_embeddings - 1) for value in ids]
        assert counts.out_of_range == sum(not 0 <= value < num_embeddings for value in ids)


def _fits(value: int, kind: pa.DataType) -> bool:
    try:
        pa.scalar(value, kind)
    except (pa.ArrowInvalid, OverflowError):
        return False
    return True
