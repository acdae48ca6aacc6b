"""Labels, sample weights and dense features: Arrow numbers to float32. Pure functions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.counters import FeatureCounts
from data.features import DenseFeature

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


class BadValueError(ValueError):
    """A value that its feature cannot take; the reader adds file and row group."""


def encode_label(values: pa.Array) -> Float32Array:
    """Labels as float32 [rows].

    Raises:
        BadValueError: A null, or a value other than 0 and 1.
    """
    if values.null_count:
        raise BadValueError(f"{values.null_count} labels are null; every row needs a label of 0 or 1.")
    labels = numbers(values)
    wrong = labels[(labels != 0) & (labels != 1)]
    if wrong.size:
        raise BadValueError(f"label {wrong[0]:g} is neither 0 nor 1.")
    return labels.astype(np.float32)


def encode_weight(values: pa.Array, what: str = "sample weight") -> Float32Array:
    """Weights as float32 [values].

    Args:
        values: Numbers.
        what: Their name in messages.

    Raises:
        BadValueError: A null, or a value that is negative or not finite.
    """
    if values.null_count:
        raise BadValueError(f"{values.null_count} values of the {what} are null; every one must be a number.")
    weights = numbers(values)
    wrong = weights[~(np.isfinite(weights) & (weights >= 0))]
    if wrong.size:
        raise BadValueError(f"{what} {wrong[0]:g} is negative or not finite.")
    return weights.astype(np.float32)


def encode_dense(values: pa.Array, feature: DenseFeature) -> tuple[Float32Array, FeatureCounts]:
    """A dense feature as float32 [rows]: nulls and NaN filled, clipped, transformed, standardized.

    Raises:
        BadValueError: A null where ``on_null`` is error, or a value that ends as infinite.
    """
    filled, nulls = _filled(values, feature.fill)
    if nulls and feature.on_null == "error":
        raise BadValueError(f"feature '{feature.name}': {nulls} values are null, and on_null is error.")
    x = filled if feature.clip is None else np.clip(filled, feature.clip[0], feature.clip[1])
    if feature.transform == "log1p":
        x = _signed_log1p(x)
    if (feature.mean, feature.std) != (0.0, 1.0):
        x = (x - feature.mean) / feature.std
    with np.errstate(over="ignore"):  # found and told below
        encoded = x.astype(np.float32)
    if not np.isfinite(encoded).all():
        wrong = filled[~np.isfinite(encoded)]
        raise BadValueError(f"feature '{feature.name}': value {wrong[0]:g} is not finite in float32; set clip.")
    return encoded, FeatureCounts(values=len(encoded), nulls=nulls)


def _filled(values: pa.Array, fill: float) -> tuple[Float64Array, int]:
    """Numbers as float64 with nulls and NaN replaced, and how many those were."""
    nulls = values.null_count
    if nulls and pa.types.is_integer(values.type):
        return _filled_integers(values, fill), nulls
    x = numbers(values)
    nans = np.isnan(x)
    nulls = int(np.count_nonzero(nans))
    return (np.where(nans, fill, x) if nulls else x), nulls


def _filled_integers(values: pa.Array, fill: float) -> Float64Array:
    """Integers as float64 with nulls replaced, in a third of the time that Arrow's own functions take."""
    validity, memory = values.buffers()
    stop = values.offset + len(values)
    valid = np.unpackbits(np.frombuffer(validity, np.uint8), count=stop, bitorder="little")[values.offset :]
    integers = np.frombuffer(memory, values.type.to_pandas_dtype(), stop)[values.offset :]
    # What lies in the place of a null is some integer.
    x = np.multiply(integers, valid, dtype=np.float64)
    if fill:
        x[valid == 0] = fill
    return x


def _signed_log1p(x: Float64Array) -> Float64Array:
    if x.size and x.min() >= 0:
        return np.log1p(x)
    logs = np.abs(x)
    return np.copysign(np.log1p(logs, out=logs), x, out=logs)


def numbers(values: pa.Array) -> Float64Array:
    """Arrow numbers or booleans as float64 [values], nulls as NaN."""
    return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
