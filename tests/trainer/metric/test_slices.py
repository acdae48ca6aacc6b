"""The metrics of slices, against the exact figures of the samples of each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.ranks import results_of, run_ranks
from tests.trainer.metric.samples import EXACT, Array, drawn
from trainer.config import MetricsConfig
from trainer.distributed import Worker
from trainer.metric import Figures
from trainer.metric.slices import SlicedMetrics, SliceFigures, Slicing

ROWS, NULL = 40_000, -(2**63)
BY_VALUE = Slicing.by_values("site", ["nine", "two", "minus"], [9, 2, -4], null_key=NULL)
BY_BORDERS = Slicing.by_borders("hour", [6, 12.5])


def as_carried(numbers: list[float]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64).view(torch.int64)


def test_values_others_and_nulls_have_slices() -> None:
    keys = torch.tensor([2, 9, 3, NULL, -4, 2**62])
    assert [BY_VALUE.labels[i] for i in BY_VALUE.slices_of(keys)] == [
        *("two", "nine", "(others)", "(null)", "minus", "(others)")
    ]
    nothing = Slicing.by_values("site", [], [], null_key=NULL)
    assert [nothing.labels[i] for i in nothing.slices_of(torch.tensor([1, NULL]))] == ["(others)", "(null)"]


def test_a_border_belongs_to_the_bucket_above_it() -> None:
    carried = as_carried([-1, 5.9, 6, 12.4, 12.5, float("nan"), float("inf")])
    assert [BY_BORDERS.labels[i] for i in BY_BORDERS.slices_of(carried)] == [
        *("< 6", "< 6", "[6, 12.5)", "[6, 12.5)", ">= 12.5", "(null)", ">= 12.5")
    ]


def samples() -> list[Array]:
    logits, labels, weights = drawn(ROWS, lambda g: g.normal(-2, 1.5, ROWS).round(3), weighted=True)
    rng = np.random.default_rng(2)
    sites = rng.choice([9, 2, 5, NULL], ROWS, p=[0.5, 0.2, 0.299, 0.001])
    hours = np.where(rng.random(ROWS) < 0.01, np.nan, rng.integers(0, 24, ROWS))
    weights[::50] = 0.0
    return [sites, hours, logits, labels, weights]


def measured(worker: Worker) -> list[SliceFigures]:
    sites, hours, *outputs = (torch.from_numpy(column[worker.rank :: worker.world_size].copy()) for column in samples())
    metrics = SlicedMetrics(Figures(MetricsConfig()), [BY_VALUE, BY_BORDERS])
    batches = torch.stack([sites, hours.view(torch.int64)]).split(1000, dim=1)
    for carried, *batch in zip(batches, *(values.float().split(1000) for values in outputs), strict=True):
        metrics.update(carried, *batch)
    return metrics.compute()


@pytest.mark.distributed
@pytest.mark.parametrize("world_size", [1, 3])
def test_each_slice_has_the_metrics_of_its_samples(world_size: int) -> None:
    sites, hours, *outputs = samples()
    rows = {
        ("site", "nine"): sites == 9,
        ("site", "two"): sites == 2,
        ("site", "(others)"): sites == 5,
        ("site", "(null)"): sites == NULL,
        ("hour", "< 6"): hours < 6,
        ("hour", "[6, 12.5)"): (hours >= 6) & (hours < 12.5),
        ("hour", ">= 12.5"): hours >= 12.5,
        ("hour", "(null)"): np.isnan(hours),
    }
    for found in results_of(run_ranks(world_size, measured)):
        assert [(part.column, part.value) for part in found] == list(rows), "'minus' has no samples"
        for part in found:
            values = [column[rows[part.column, part.value]] for column in outputs]
            assert part.weight == pytest.approx(values[2].sum(), rel=1e-5)
            for name, exact in EXACT.items():
                assert part.metrics[name] == pytest.approx(exact(*values), abs=1e-5, rel=1e-5), (part, name)
