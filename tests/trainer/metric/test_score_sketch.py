"""What a sketch of scores keeps, and that the order and the grouping of what it is told do not matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.metric.samples import Drawn, by_score, drawn
from trainer.metric.score_sketch import ScoreSketch, keys_of, scores_of

CAPACITY = 2048
EMPTY = ScoreSketch.empty(CAPACITY, torch.device("cpu"))


def told(sketch: ScoreSketch, values: Drawn | Sequence[npt.NDArray[np.floating[Any]]]) -> ScoreSketch:
    logits, labels, weights = (torch.from_numpy(array) for array in values)
    return sketch.with_samples(logits.float(), labels, weights)


def test_keys_rise_with_the_scores_and_tell_them() -> None:
    scores = torch.tensor([-torch.inf, -3e38, -1.5, -1e-45, 0.0, 1e-45, 2e-38, 7.0, 3e38, torch.inf])
    keys = keys_of(scores)
    assert keys.tolist() == sorted(set(keys.tolist()))
    assert torch.equal(scores_of(keys), scores)
    assert keys_of(torch.tensor([-0.0])) == keys_of(torch.tensor([0.0]))


def test_few_scores_are_kept_as_they_are() -> None:
    values = drawn(20_000, lambda g: g.normal(-3, 2, 20_000).round(2), weighted=True)
    ranking = told(EMPTY, values).ranking()
    scores, negatives, positives = by_score(*values)
    assert len(scores) <= CAPACITY
    np.testing.assert_array_equal(ranking.logits, scores)
    np.testing.assert_allclose(ranking.negatives, negatives)
    np.testing.assert_allclose(ranking.positives, positives)
    assert torch.equal(ranking.tied_positives, ranking.positives)
    assert torch.equal(ranking.tied, ranking.negatives + ranking.positives)


def test_places_hold_neighbours_and_no_more_than_they_must() -> None:
    logits, labels, weights = drawn(20_000, lambda g: g.normal(-3, 2, 20_000))
    sketch = told(EMPTY, (logits, labels, weights))
    bits = int(sketch.shared_bits)
    keys = np.unique(keys_of(torch.from_numpy(logits).float()).numpy())
    assert len(np.unique(keys >> bits)) <= CAPACITY < len(np.unique(keys >> (bits - 1)))
    ranking = sketch.ranking()
    assert len(ranking.logits) == len(np.unique(keys >> bits))
    assert float((ranking.negatives + ranking.positives).sum()) == 20_000


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 6000), max_size=4), spread=st.floats(1e-4, 100))
def test_a_sketch_depends_on_the_set_of_the_samples_alone(seed: int, cuts: list[int], spread: float) -> None:
    rng = np.random.default_rng(seed)
    values: list[npt.NDArray[Any]] = [
        rng.normal(-3, spread, 6000),
        (rng.random(6000) < 0.3) * 1.0,
        rng.integers(0, 3, 6000) * 1.0,
    ]
    whole = told(EMPTY, values)
    order = rng.permutation(6000)
    parts = [told(EMPTY, [array[rows] for array in values]) for rows in np.split(order, sorted(cuts))]
    merged = parts[0]
    for part in parts[1:]:
        merged = part.merged(merged)
    for name, expected in vars(whole).items():
        assert np.array_equal(getattr(merged, name), expected), name


def test_what_is_tied_is_told_where_scores_share_a_place() -> None:
    rng = np.random.default_rng(0)
    spread = rng.normal(-3, 2, 60_000)
    logits = np.concatenate([spread, np.full(9_000, -3.0)])
    labels = np.concatenate([rng.random(60_000) < 0.3, np.arange(9_000) < 4_000]) * 1.0
    sketch = told(EMPTY, (logits, labels, np.ones(69_000)))
    assert int(sketch.shared_bits) > 5
    ranking = sketch.ranking()
    heavy = int((ranking.negatives + ranking.positives).argmax())
    assert float(ranking.tied_positives[heavy]) == pytest.approx(4_000, rel=0.02)
    assert float(ranking.tied[heavy]) == pytest.approx(9_000, rel=0.02)
    # Elsewhere a positive is tied with itself alone; the estimate is right on average.
    others = torch.arange(len(ranking.logits)) != heavy
    positives = ranking.positives[others]
    assert float((positives * ranking.tied_positives[others]).sum() / positives.sum()) < 1.3
    assert float(positives.max()) > 15
