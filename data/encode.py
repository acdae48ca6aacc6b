"""Column values to model inputs: numbers, hashes, buckets. Pure functions on Arrow arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.hashing import UInt64Array, derive_seed, fnv1a_64, mix64
from data.schema import DenseFeature, SparseFeature

Float32Array = npt.NDArray[np.float32]
IdArray = npt.NDArray[np.int64]

NULL_ROW = 0
"""The table row of a null, for the kinds hash and bucketize."""


class BadValueError(ValueError):
    """A value that its feature cannot take; the reader adds file and row group."""


def encode_label(values: pa.Array) -> Float32Array:
    """Labels as float32 [rows].

    Raises:
        BadValueError: A null, or a value other than 0 and 1.
    """
    if values.null_count:
        raise BadValueError(f"{values.null_count} labels are null; every row needs a label of 0 or 1.")
    labels = _numbers(values)
    wrong = labels[(labels != 0) & (labels != 1)]
    if wrong.size:
        raise BadValueError(f"label {wrong[0]:g} is neither 0 nor 1.")
    return labels.astype(np.float32)


def encode_weight(values: pa.Array) -> Float32Array:
    """Sample weights as float32 [rows].

    Raises:
        BadValueError: A null, or a value that is negative or not finite.
    """
    if values.null_count:
        raise BadValueError(f"{values.null_count} sample weights are null; every row needs one.")
    weights = _numbers(values)
    wrong = weights[~(np.isfinite(weights) & (weights >= 0))]
    if wrong.size:
        raise BadValueError(f"sample weight {wrong[0]:g} is negative or not finite.")
    return weights.astype(np.float32)


def encode_dense(values: pa.Array, feature: DenseFeature) -> Float32Array:
    """A dense feature as float32 [rows]: nulls and NaN filled, clipped, transformed, standardized."""
    numbers = _numbers(pc.fill_null(values.cast(pa.float64(), safe=False), float("nan")))
    numbers = np.where(np.isnan(numbers), feature.fill, numbers)
    if feature.clip is not None:
        numbers = np.clip(numbers, feature.clip[0], feature.clip[1])
    if feature.transform == "log1p":
        numbers = np.sign(numbers) * np.log1p(np.abs(numbers))
    return ((numbers - feature.mean) / feature.std).astype(np.float32)


def encode_sparse(values: pa.Array, feature: SparseFeature) -> IdArray:
    """Table rows of a sparse feature's values (for a list column: of its elements), int64 [values].

    Raises:
        BadValueError: An id outside the table, or a null without a default row.
    """
    if feature.kind == "hash":
        return _hash_rows(values, feature)
    if feature.kind == "bucketize":
        return _bucket_rows(values, feature)
    return _id_rows(values, feature)


def _id_rows(values: pa.Array, feature: SparseFeature) -> IdArray:
    if values.null_count:
        if feature.default is None:
            raise BadValueError(
                f"feature '{feature.name}': {values.null_count} values are null; name the row for them with `default`."
            )
        values = pc.fill_null(values, pa.scalar(feature.default, values.type))
    ids = values.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    if ids.size:
        # uint64 ids of 2**63 and above turn negative here and are caught like any other.
        lowest, highest = int(ids.min()), int(ids.max())
        if lowest < 0 or highest >= feature.num_embeddings:
            raise BadValueError(
                f"feature '{feature.name}': id {lowest if lowest < 0 else highest} is outside the table of "
                f"{feature.num_embeddings} rows; raise num_embeddings, or declare kind hash."
            )
    return ids


def _hash_rows(values: pa.Array, feature: SparseFeature) -> IdArray:
    if pa.types.is_dictionary(values.type):
        dictionary, codes = values.dictionary, values.indices
    elif pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
        rows = _spread(_integer_keys(values), feature)
        rows[values.is_null().to_numpy(zero_copy_only=False)] = NULL_ROW
        return rows
    else:
        encoded = values.dictionary_encode()
        dictionary, codes = encoded.dictionary, encoded.indices
    # Each distinct value is hashed once; the last entry stands for null.
    numeric = pa.types.is_integer(dictionary.type) or pa.types.is_boolean(dictionary.type)
    keys = _integer_keys(dictionary) if numeric else fnv1a_64(dictionary)
    row_of_code = np.append(_spread(keys, feature), NULL_ROW)
    if dictionary.null_count:
        row_of_code[:-1][dictionary.is_null().to_numpy(zero_copy_only=False)] = NULL_ROW
    filled = pc.fill_null(codes.cast(pa.int64()), len(dictionary)) if codes.null_count else codes
    return row_of_code[filled.to_numpy(zero_copy_only=False)]


def _integer_keys(values: pa.Array) -> UInt64Array:
    filled = pc.fill_null(values, pa.scalar(0).cast(values.type)) if values.null_count else values
    return filled.to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64)


def _spread(keys: UInt64Array, feature: SparseFeature) -> IdArray:
    hashes = mix64(keys ^ np.uint64(derive_seed(feature.seed)))
    return (hashes % np.uint64(feature.num_embeddings - 1)).astype(np.int64) + 1


def _bucket_rows(values: pa.Array, feature: SparseFeature) -> IdArray:
    assert feature.borders is not None
    numbers = _numbers(pc.fill_null(values.cast(pa.float64(), safe=False), float("nan")))
    rows = 1 + np.searchsorted(np.array(feature.borders), numbers, side="right")
    rows[np.isnan(numbers)] = NULL_ROW
    return rows.astype(np.int64, copy=False)


def _numbers(values: pa.Array) -> npt.NDArray[np.float64]:
    return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
