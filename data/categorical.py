"""Values of sparse features to table rows, one function per kind. Pure functions on Arrow arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.counters import FeatureCounts
from data.encode import BadValueError, numbers
from data.features import SparseFeature
from data.hashing import UInt64Array, derive_seed, fnv1a_64, mix64
from data.vocabulary import OOV_ROW, Vocabulary

IdArray = npt.NDArray[np.int32 | np.int64]
K = TypeVar("K", np.uint64, np.int64)
BoolArray = npt.NDArray[np.bool_]

NULL_ROW = 0
"""The table row of a null, for all kinds but id."""

_FIRST_SQUARE_ROW = 5
_NAMED_VALUES = 3


def encode_sparse(
    values: Sequence[pa.Array], feature: SparseFeature, vocabulary: Vocabulary | None = None
) -> tuple[IdArray, FeatureCounts]:
    """Table rows of a sparse feature's values (for a list column: of its elements).

    Args:
        values: One array, or one for each column of a cross, all of equal length.
        feature: What they mean.
        vocabulary: Of a feature of kind vocabulary.

    Returns:
        Rows of the table, int32 or int64 [values], perhaps a view of Arrow memory; and what was counted.

    Raises:
        BadValueError: A null or a value without a row, where the feature's policy is error.
    """
    nulls = _nulls(values, feature)
    if nulls and feature.on_null == "error":
        raise BadValueError(
            f"feature '{feature.name}': {nulls} values are null; let on_null be default"
            + (", and name a row for them with `default`." if feature.kind == "id" else ".")
        )
    if feature.kind == "vocabulary":
        assert vocabulary is not None
        return _vocabulary_rows(values[0], feature, vocabulary, nulls)
    rows, out_of_range = _ENCODERS[feature.kind](values, feature)
    return rows, FeatureCounts(values=len(rows), nulls=nulls, out_of_range=out_of_range)


def _nulls(values: Sequence[pa.Array], feature: SparseFeature) -> int:
    if feature.kind in ("bucketize", "log_square"):
        return int(np.count_nonzero(np.isnan(numbers(values[0])))) if _may_be_nan(values[0]) else 0
    if len(values) > 1:
        return int(np.count_nonzero(np.logical_or.reduce([_null_mask(v) for v in values])))
    return _null_count(values[0])


def _may_be_nan(values: pa.Array) -> bool:
    return bool(values.null_count) or pa.types.is_floating(values.type)


def _null_count(values: pa.Array) -> int:
    if pa.types.is_dictionary(values.type) and values.dictionary.null_count:
        return int(np.count_nonzero(_null_mask(values)))
    return int(values.null_count)


def _null_mask(values: pa.Array) -> BoolArray:
    if pa.types.is_dictionary(values.type) and values.dictionary.null_count:
        values = values.dictionary_decode()
    return values.is_null().to_numpy(zero_copy_only=False)


def _id_rows(values: Sequence[pa.Array], feature: SparseFeature) -> tuple[IdArray, int]:
    ids = values[0]
    is_unsigned = pa.types.is_uint64(ids.type)
    if ids.null_count:
        ids = pc.fill_null(ids.cast(pa.int64(), safe=False), feature.default)
    rows = ids.to_numpy(zero_copy_only=False)
    if rows.dtype not in (np.int32, np.int64):
        # uint64 ids of 2**63 and above turn negative here and are out of range like any other.
        rows = rows.astype(np.int64)
    return _mend(rows, feature, is_unsigned=is_unsigned) if _some_outside(rows, feature.num_embeddings) else (rows, 0)


def _some_outside(rows: IdArray, num_embeddings: int) -> bool:
    """Whether an id is negative or beyond the table, found in one pass: as unsigned, negative ones are large."""
    bits = 8 * rows.itemsize
    return bool(rows.size) and int(rows.view(f"u{rows.itemsize}").max()) >= min(num_embeddings, 1 << (bits - 1))


def _mend(rows: IdArray, feature: SparseFeature, *, is_unsigned: bool) -> tuple[IdArray, int]:
    """Ids with those outside the table replaced by the feature's policy, and how many those were."""
    wrong = (rows < 0) | (rows >= feature.num_embeddings)
    mended = rows.astype(np.int64)
    ids = mended.view(np.uint64) if is_unsigned else mended
    if feature.on_invalid == "error":
        raise BadValueError(
            f"feature '{feature.name}': id {ids[wrong][0]} is outside the table of "
            f"{feature.num_embeddings} rows; raise num_embeddings, set on_invalid, or declare kind hash."
        )
    if feature.on_invalid == "clip":
        mended = np.clip(ids, 0, feature.num_embeddings - 1).astype(np.int64, copy=False)
    elif feature.on_invalid == "hash":
        hashes = mix64(mended[wrong].view(np.uint64) ^ np.uint64(derive_seed(feature.seed)))
        mended[wrong] = (hashes % np.uint64(feature.num_embeddings)).astype(np.int64)
    else:
        mended[wrong] = feature.default or 0
    return mended, int(np.count_nonzero(wrong))


def _hash_rows(values: Sequence[pa.Array], feature: SparseFeature) -> tuple[IdArray, int]:
    distinct, codes = _distinct(values[0])
    rows = _spread(_keys(distinct), feature)
    if distinct.null_count:
        rows[_null_mask(distinct)] = NULL_ROW
    return _of_codes(rows, codes), 0


def _vocabulary_rows(
    values: pa.Array, feature: SparseFeature, vocabulary: Vocabulary, nulls: int
) -> tuple[IdArray, FeatureCounts]:
    distinct, codes = _distinct(values)
    known = vocabulary.rows_of(distinct)
    if distinct.null_count:
        known[_null_mask(distinct)] = NULL_ROW
    rows = _of_codes(known, codes)
    unknown = int(np.count_nonzero(rows == OOV_ROW))
    if unknown and feature.on_invalid == "error":
        value = values.filter(pa.array(rows == OOV_ROW))[0]
        raise BadValueError(
            f"feature '{feature.name}': value {value.as_py()!r} is not in the vocabulary {vocabulary.path}; "
            "prepare it anew, or let on_invalid be default."
        )
    return rows, FeatureCounts(values=len(rows), nulls=nulls, out_of_vocabulary=unknown)


def _cross_rows(values: Sequence[pa.Array], feature: SparseFeature) -> tuple[IdArray, int]:
    state = np.zeros(len(values[0]), np.uint64)
    for column in values:
        distinct, codes = _distinct(column)
        keys = mix64(_keys(distinct))
        # Mixed between the columns: (a, b) and (b, a) are different crosses.
        state = mix64(state ^ _of_codes(keys, codes))
    rows = _spread(state, feature)
    rows[np.logical_or.reduce([_null_mask(column) for column in values])] = NULL_ROW
    return rows, 0


def _bucket_rows(values: Sequence[pa.Array], feature: SparseFeature) -> tuple[IdArray, int]:
    x = numbers(values[0])
    rows = 1 + np.searchsorted(np.array(feature.borders), x, side="right")
    rows[np.isnan(x)] = NULL_ROW
    return rows.astype(np.int64, copy=False), 0


def _log_square_rows(values: Sequence[pa.Array], feature: SparseFeature) -> tuple[IdArray, int]:
    x = numbers(values[0])
    known = np.where(np.isnan(x), 0.0, x)
    squares = np.floor(np.log(np.clip(known, 2.0, np.finfo(np.float64).max)) ** 2)
    small = np.clip(np.floor(known), -1, _NAMED_VALUES - 1) + 2
    rows = np.where(known > 2, _FIRST_SQUARE_ROW + squares, small).astype(np.int64)
    rows[np.isnan(x)] = NULL_ROW
    beyond = rows >= feature.num_embeddings
    out_of_range = int(np.count_nonzero(beyond))
    if out_of_range and feature.on_invalid == "error":
        raise BadValueError(
            f"feature '{feature.name}': value {x[beyond][0]:g} needs row {rows[beyond][0]} of a table of "
            f"{feature.num_embeddings} rows; raise num_embeddings, or let on_invalid be clip."
        )
    return np.minimum(rows, feature.num_embeddings - 1), out_of_range


def value_keys(values: pa.Array, *, null_key: int) -> npt.NDArray[np.int64]:
    """A 64-bit key of each string, integer or boolean, int64 [values]: integers themselves, strings hashed."""
    distinct, codes = _distinct(values)
    keys = _of_codes(_keys(distinct).view(np.int64), codes)
    if not _null_count(values):
        return keys
    return np.where(_null_mask(values), np.int64(null_key), keys)


def _distinct(values: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    """Distinct values and the code of each value, or the values themselves and None.

    Work is done once per distinct value where Arrow knows them already. Finding them costs more than
    hashing all values.
    """
    if pa.types.is_dictionary(values.type):
        return values.dictionary, values.indices
    return values, None


def _of_codes(of_distinct: npt.NDArray[K], codes: pa.Array | None) -> npt.NDArray[K]:
    """What was found for distinct values, for every value; 0 for nulls."""
    if codes is None:
        return of_distinct
    if codes.null_count:
        of_distinct = np.append(of_distinct, np.zeros(1, of_distinct.dtype))
        codes = pc.fill_null(codes.cast(pa.int32()), len(of_distinct) - 1)
    return np.take(of_distinct, codes.to_numpy(zero_copy_only=False), mode="clip")


def _keys(values: pa.Array) -> UInt64Array:
    """A 64-bit key of each string or integer; nulls take any."""
    if not (pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)):
        return fnv1a_64(values)
    filled = pc.fill_null(values, pa.scalar(0).cast(values.type)) if values.null_count else values
    return filled.to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64)


def _spread(keys: UInt64Array, feature: SparseFeature) -> npt.NDArray[np.int64]:
    hashes = mix64(keys ^ np.uint64(derive_seed(feature.seed)))
    return (hashes % np.uint64(feature.num_embeddings - 1)).astype(np.int64) + 1


_ENCODERS: dict[str, Callable[[Sequence[pa.Array], SparseFeature], tuple[IdArray, int]]] = {
    "id": _id_rows,
    "hash": _hash_rows,
    "bucketize": _bucket_rows,
    "log_square": _log_square_rows,
    "cross": _cross_rows,
}
