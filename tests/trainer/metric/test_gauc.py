"""GAUC on real ranks, against the AUC of each group by itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.ranks import results_of, run_ranks
from tests.trainer.metric.samples import Array, drawn, exact_auc
from trainer.distributed import Worker
from trainer.metric.gauc import GroupedAUC

pytestmark = pytest.mark.distributed

Column = npt.NDArray[Any]

ROWS, NULL = 30_000, -(2**63)


def impressions() -> list[Column]:
    """Groups from huge to tiny, ties, padding, rows without a group, small and hashed keys."""
    logits, labels, weights = drawn(ROWS, lambda g: g.normal(-3, 1.5, ROWS).round(1), weighted=True)
    rng = np.random.default_rng(1)
    users = (rng.pareto(0.7, ROWS) * 3).clip(max=4000).astype(np.int64)
    users = np.where(users % 3 == 0, users * 2**55 + 7, users)
    users[rng.random(ROWS) < 0.05] = NULL
    weights[rng.random(ROWS) < 0.05] = 0.0
    return [users, logits, labels, weights]


def exact_gauc(users: npt.NDArray[np.int64], logits: Array, labels: Array, weights: Array) -> float:
    total = weighted = 0.0
    for user in np.unique(users[users != NULL]):
        rows = (users == user) & (weights > 0)
        if 0 < labels[rows].sum() < rows.sum():
            weight = weights[rows].sum()
            weighted += weight * exact_auc(logits[rows], labels[rows], weights[rows])
            total += weight
    return weighted / total


def measured(worker: Worker, columns: list[Column], held_rows: int) -> float:
    metric = GroupedAUC(len(columns[0]) // worker.world_size + 1, null_key=NULL, held_rows=held_rows)
    mine = [torch.from_numpy(column[worker.rank :: worker.world_size].copy()) for column in columns]
    for batch in zip(*(column.split(997) for column in mine), strict=True):
        metric.update(*batch)
    return metric.compute()


@pytest.mark.parametrize(("world_size", "held_rows"), [(1, ROWS * 2), (1, 4000), (2, ROWS * 2), (3, 1000), (4, 20_000)])
def test_it_is_the_mean_of_the_groups_on_any_number_of_ranks(world_size: int, held_rows: int) -> None:
    expected = exact_gauc(*impressions())
    for found in results_of(run_ranks(world_size, measured, impressions(), held_rows)):
        assert found == pytest.approx(expected, abs=1e-12)


def test_one_group_has_the_auc_of_all_and_groups_of_one_class_have_none() -> None:
    _, logits, labels, weights = impressions()
    cases = [(np.full(ROWS, 5), exact_auc(logits, labels, weights)), (labels.astype(np.int64), math.nan)]
    for users, expected in cases:
        (found,) = results_of(run_ranks(1, measured, [users, logits, labels, weights], ROWS * 2))
        assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_no_samples_have_no_figure() -> None:
    for found in results_of(run_ranks(2, measured, [column[:0] for column in impressions()], 10)):
        assert math.isnan(found)
