"""Made-up clicks in the shape of Criteo's logs, with a planted signal and so with a known best AUC.

Every value is a function of (seed, row number, column) alone: a row is the same however many rows are made,
and wherever one starts.

    logit = bias + sum_f w_f[id_f] + sum_(f < g) <v_f[id_f], v_g[id_g]> + non-linear terms of dense columns
    label = 1 with probability sigmoid(logit)

So there is something for each part of DeepFM: a first order, a second order as factorization machines have it,
and what takes a network.

Only the most frequent ids of a column carry signal: of the others too few rows are seen to learn anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.hashing import UInt64Array, derive_seed, mix64

FloatArray = npt.NDArray[np.float64]

CARDINALITIES = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
"""Distinct values of C1 .. C26 in Criteo's Kaggle data."""
CATEGORICAL_NULLS = dict.fromkeys((2, 3, 11, 15, 20, 23), 0.034) | dict.fromkeys((18, 19, 24, 25), 0.44) | {21: 0.76}
"""Share of empty fields of the columns that have some, by position; roughly Criteo's."""
DENSE_NULLS = (0.45, 0.0, 0.21, 0.22, 0.03, 0.22, 0.04, 0.001, 0.04, 0.45, 0.04, 0.77, 0.22)
"""Share of empty fields of I1 .. I13; roughly Criteo's."""
DENSE_LOWEST = (0, -2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
"""The lowest values: I2 has negative ones, as in Criteo's data."""
DENSE_CENTRE = (0.8, 2.0, 1.8, 1.7, 7.5, 3.5, 1.6, 2.2, 3.8, 0.3, 0.9, 0.4, 1.7)
"""The median of log(1 + count)."""
DENSE_SPREAD = 0.7
"""Scale of the logistic distribution of log(1 + count)."""
ZIPF_EXPONENT = 1.1

NUM_SIGNAL_IDS = 256
NUM_PAIR_IDS = 32
PAIR_DIMENSION = 3
FIRST_ORDER_STD = 0.25
PAIR_STD = 0.08
BIAS = -1.25

_ROWS_AT_A_TIME = 65_536
# The draws of a row, beside those of the 13 + 26 columns, and of the planted weights.
_LABEL_DRAW, _FIRST_ORDER_DRAW, _PAIR_DRAW = 1000, 2000, 3000


@dataclass(frozen=True)
class Clicks:
    """Some rows. R: rows.

    Attributes:
        dense: Counts, int32 [13, R]; anything where null.
        dense_null: bool [13, R].
        ids: 1 .. cardinality, 0 for null, int32 [26, R].
        probabilities: Of a click, float64 [R].
        labels: int8 [R].
    """

    dense: npt.NDArray[np.int32]
    dense_null: npt.NDArray[np.bool_]
    ids: npt.NDArray[np.int32]
    probabilities: FloatArray
    labels: npt.NDArray[np.int8]


class ClickModel:
    """The planted weights, and the rows that follow from them.

    Args:
        seed: Of everything.
        scale: Factor on the cardinalities of Criteo's Kaggle data.
        max_cardinality: A limit to each; None for none.
    """

    def __init__(self, *, seed: int, scale: float = 1.0, max_cardinality: int | None = None) -> None:
        limit = max_cardinality or max(CARDINALITIES)
        self.cardinalities = [min(max(round(size * scale), 2), max(limit, 2)) for size in CARDINALITIES]
        self._seed = seed
        fields = range(len(CARDINALITIES))
        # One entry beyond the signal ids, 0: all rarer ids share it. Entry 0, that of null, has a weight, too.
        self._first_order = [self._weights(_FIRST_ORDER_DRAW + f, NUM_SIGNAL_IDS, FIRST_ORDER_STD) for f in fields]
        self._vectors = [self._vectors_of(f) for f in fields]

    def rows(self, start: int, count: int) -> Clicks:
        """The rows start .. start + count - 1."""
        numbers = np.arange(start, start + count, dtype=np.uint64)
        dense = np.empty((len(DENSE_NULLS), count), np.int32)
        dense_null = np.empty(dense.shape, np.bool_)
        for j in range(len(DENSE_NULLS)):
            dense[j], dense_null[j] = self._counts(numbers, j)
        ids = np.empty((len(CARDINALITIES), count), np.int32)
        for f in range(len(CARDINALITIES)):
            ids[f] = self._ids(numbers, f)
        logits = BIAS + self._linear_and_pairs(ids) + self._bent(dense, dense_null, ids)
        probabilities = 1.0 / (1.0 + np.exp(-logits))
        labels = (self._uniform(numbers, _LABEL_DRAW) < probabilities).astype(np.int8)
        return Clicks(dense, dense_null, ids, probabilities, labels)

    def probabilities(self, num_rows: int) -> Iterator[FloatArray]:
        """The click probabilities of the first rows, some at a time."""
        for start in range(0, num_rows, _ROWS_AT_A_TIME):
            yield self.rows(start, min(_ROWS_AT_A_TIME, num_rows - start)).probabilities

    def _uniform(self, numbers: UInt64Array, draw: int) -> FloatArray:
        """One number in (0, 1) for each row: the upper 53 bits of a hash, in the middle of their interval."""
        hashes = mix64(numbers ^ np.uint64(derive_seed(self._seed, draw)))
        return ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53

    def _counts(self, numbers: UInt64Array, j: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """A heavy-tailed count: log-logistic, by the inverse of its distribution."""
        draws = self._uniform(numbers, j)
        null = draws < DENSE_NULLS[j]
        u = np.where(null, 0.5, (draws - DENSE_NULLS[j]) / (1 - DENSE_NULLS[j]))
        logarithm = DENSE_CENTRE[j] + DENSE_SPREAD * np.log(u / (1 - u))
        counts = np.floor(np.exp(np.clip(logarithm, -20, 20))) + DENSE_LOWEST[j]
        return counts.astype(np.int32), null

    def _ids(self, numbers: UInt64Array, f: int) -> npt.NDArray[np.int32]:
        """Zipf's law, continuous and rounded down: the inverse of its distribution on 1 .. cardinality + 1."""
        draws, share = self._uniform(numbers, len(DENSE_NULLS) + f), CATEGORICAL_NULLS.get(f, 0.0)
        size, power = self.cardinalities[f], 1.0 - ZIPF_EXPONENT
        u = np.maximum((draws - share) / (1 - share), 0.0)
        ranks = np.exp(np.log1p(((size + 1.0) ** power - 1.0) * u) / power)
        ids = np.clip(ranks.astype(np.int32), 1, size)
        return np.where(draws < share, 0, ids).astype(np.int32) if share else ids

    def _linear_and_pairs(self, ids: npt.NDArray[np.int32]) -> FloatArray:
        logits = np.zeros(ids.shape[1])
        total = np.zeros((ids.shape[1], PAIR_DIMENSION))
        # The sum over pairs is half of the square of the sum less the sum of squares.
        for f, (weights, vectors) in enumerate(zip(self._first_order, self._vectors, strict=True)):
            looked_up = vectors[np.minimum(ids[f], NUM_PAIR_IDS)]
            logits += weights[np.minimum(ids[f], NUM_SIGNAL_IDS)] - 0.5 * np.square(looked_up).sum(axis=1)
            total += looked_up
        return logits + 0.5 * np.square(total).sum(axis=1)

    def _bent(
        self, dense: npt.NDArray[np.int32], null: npt.NDArray[np.bool_], ids: npt.NDArray[np.int32]
    ) -> FloatArray:
        """A wave, a product, a threshold and a sign that depends on a category: of what is seen, nulls as 0."""
        counts = np.where(null[:5], 0, np.maximum(dense[:5], 0))
        centre = np.array(DENSE_CENTRE[:5])[:, None]
        a, b, c, d, e = np.clip((np.log1p(counts) - centre) / DENSE_SPREAD, -3, 3)
        sign = np.where(ids[5] % 2 == 0, 1.0, -1.0)
        return 0.6 * np.sin(1.5 * a) + 0.15 * b * c + 0.6 * (np.abs(d) > 1) + 0.3 * sign * e

    def _weights(self, draw: int, size: int, std: float) -> FloatArray:
        """About normal: the sum of four uniform numbers; then the 0 of the ids without signal."""
        entries = np.arange(4 * size, dtype=np.uint64)
        sums = self._uniform(entries, draw).reshape(size, 4).sum(axis=1)
        return np.append((sums - 2.0) * std * np.sqrt(3.0), 0.0)

    def _vectors_of(self, f: int) -> FloatArray:
        """The factors of a field's ids, [pair ids + 1, PAIR_DIMENSION]; PAIR_STD is that of two fields' product."""
        std = np.sqrt(PAIR_STD / np.sqrt(PAIR_DIMENSION))
        draws = range(_PAIR_DRAW + 64 * f, _PAIR_DRAW + 64 * f + PAIR_DIMENSION)
        return np.stack([self._weights(draw, NUM_PAIR_IDS, std) for draw in draws], axis=1)


@dataclass(frozen=True)
class BestScores:
    """What a model that knows the true probabilities would reach, in expectation over the labels.

    Attributes:
        auc: The share of (click, no click) pairs that the true probabilities rank rightly.
        logloss: The mean entropy, in nats.
        positive_rate: The mean probability.
    """

    auc: float
    logloss: float
    positive_rate: float


def best_scores(probabilities: FloatArray) -> BestScores:
    """Computes the best possible scores from the true probabilities p, float64 [R].

    Rows i and j are a right pair with probability p_i (1 - p_j) if p_i > p_j:
    AUC = sum_(i, j: p_i > p_j) p_i (1 - p_j) / sum_(i != j) p_i (1 - p_j), ties counted half.
    """
    p = np.sort(probabilities)
    q = 1.0 - p
    # Each group of equal probabilities at once: right against all below, half against its own kind.
    starts = np.flatnonzero(np.r_[True, p[1:] != p[:-1]])
    clicks, others = np.add.reduceat(p, starts), np.add.reduceat(q, starts)
    own = np.add.reduceat(p * q, starts)
    below = np.cumsum(others) - others
    right = (clicks * below).sum() + 0.5 * (clicks * others - own).sum()
    entropy = -(p * np.log(p) + q * np.log(q)).mean()
    return BestScores(right / (p.sum() * q.sum() - (p * q).sum()), float(entropy), float(p.mean()))
