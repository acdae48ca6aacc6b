"""Lists of table rows, one list (bag) for each row of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.categorical import IdArray, encode_sparse
from data.counters import FeatureCounts
from data.encode import BadValueError, Float32Array, encode_weight
from data.features import SparseFeature
from data.vocabulary import Vocabulary


@dataclass(frozen=True)
class Bags:
    """A multi-hot feature of some rows.

    Attributes:
        values: Table rows of all bags, one bag after the other, int32 or int64 [values].
        offsets: Where each bag starts, and the total at the end, int64 [rows + 1].
        weights: Of each value, float32 [values]; None if the feature has none.
    """

    values: IdArray
    offsets: npt.NDArray[np.int64]
    weights: Float32Array | None = None

    @property
    def num_bytes(self) -> int:
        """Host memory held, in bytes."""
        weights = 0 if self.weights is None else self.weights.nbytes
        return self.values.nbytes + self.offsets.nbytes + weights

    def take(self, rows: npt.NDArray[np.int64]) -> Bags:
        """The bags of the given rows, in this order."""
        lengths = np.take(np.diff(self.offsets), rows, mode="clip")
        offsets = _offsets(lengths)
        full = np.flatnonzero(lengths)
        heads, sources = offsets[full], self.offsets[rows[full]]
        # How far each value lies behind the one before it: one place, but for the first value of a bag.
        places = np.ones(offsets[-1], np.int64)
        places[heads] = sources
        places[heads[1:]] -= (sources + lengths[full] - 1)[:-1]
        np.cumsum(places, out=places)
        weights = None if self.weights is None else np.take(self.weights, places, mode="clip")
        return Bags(np.take(self.values, places, mode="clip"), offsets, weights)

    def span(self, start: int, stop: int) -> Bags:
        """The bags of the rows start .. stop - 1, without a copy of the values."""
        first, last = self.offsets[start], self.offsets[stop]
        weights = None if self.weights is None else self.weights[first:last]
        return Bags(self.values[first:last], self.offsets[start : stop + 1] - first, weights)


def encode_bags(
    lists: pa.Array, weights: pa.Array | None, feature: SparseFeature, vocabulary: Vocabulary | None
) -> tuple[Bags, FeatureCounts]:
    """The bags of a list column; a null list is an empty one, a longer one is cut to ``max_length``.

    Args:
        lists: Values, a list per row.
        weights: Weights, a list per row, of the same lengths; None for a feature without.
        feature: What they mean.
        vocabulary: Of a feature of kind vocabulary.

    Raises:
        BadValueError: A value, null or weight that the feature cannot take, or lists of unequal lengths.
    """
    lengths = _lengths(lists)
    if weights is not None and (unequal := np.flatnonzero(_lengths(weights) != lengths)).size:
        row = int(unequal[0])
        raise BadValueError(
            f"feature '{feature.name}': row {row} has {lengths[row]} values, but {_lengths(weights)[row]} weights "
            f"in column '{feature.weights}'; the lists must be of equal length."
        )
    truncated = int(np.count_nonzero(lengths > feature.max_length))
    if truncated:
        lists = pc.list_slice(lists, 0, feature.max_length)
        weights = None if weights is None else pc.list_slice(weights, 0, feature.max_length)
        lengths = np.minimum(lengths, feature.max_length)
    rows, counts = encode_sparse([pc.list_flatten(lists)], feature, vocabulary)
    flat_weights = None
    if weights is not None:
        flat_weights = encode_weight(pc.list_flatten(weights), f"weight in column '{feature.weights}'")
    return Bags(rows, _offsets(lengths), flat_weights), counts + FeatureCounts(truncated_lists=truncated)


def concatenate(parts: Sequence[Bags], dtype: type[np.int32] | type[np.int64]) -> Bags:
    """The bags of several pieces of a data set, one piece after the other; table rows as ``dtype``."""
    bases = np.cumsum([0, *(len(part.values) for part in parts)])
    offsets = [part.offsets[:-1] + base for part, base in zip(parts, bases[:-1], strict=True)]
    weights = [part.weights for part in parts if part.weights is not None]
    return Bags(
        np.concatenate([part.values.astype(dtype, copy=False) for part in parts]),
        np.concatenate([*offsets, bases[-1:]]),
        np.concatenate(weights) if weights else None,
    )


def _lengths(lists: pa.Array) -> npt.NDArray[np.int64]:
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _offsets(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)])
