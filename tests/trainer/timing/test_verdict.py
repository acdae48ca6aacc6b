"""The verdict on made-up times of ranks, where it is plain to see what holds them up."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.timing.breakdown import Breakdown
from trainer.timing.stages import Stage
from trainer.timing.verdict import judge


def breakdown(*ranks: dict[Stage, float]) -> Breakdown:
    nothing = np.zeros(len(ranks))
    ms = np.array([[rank.get(stage, 0.0) for stage in Stage] for rank in ranks])
    return Breakdown(num_steps=1, ms=ms, host_peak_bytes=nothing, device_peak_bytes=nothing, cache_hit_rate=None)


BUSY = {Stage.DENSE_FORWARD: 8.0, Stage.DENSE_BACKWARD: 10.0}


@pytest.mark.parametrize(
    ("ranks", "kind", "text"),
    [
        (
            [{**BUSY, Stage.ALL_REDUCE: 42}] * 3 + [{**BUSY, Stage.DATA_WAIT: 41, Stage.ALL_REDUCE: 1}],
            "data",
            "data-bound: rank 3 waits 41 ms of 60 ms",
        ),
        (
            [{**BUSY, Stage.INPUT_DIST: 31}, {Stage.DENSE_FORWARD: 38, Stage.DENSE_BACKWARD: 10, Stage.INPUT_DIST: 1}],
            "straggler",
            "rank 1 is slow: the others wait 30 ms of 49 ms for its dense forward",
        ),
        (
            [{**BUSY, Stage.CHECKPOINT: 100, Stage.SYNC: 2}, {**BUSY, Stage.CHECKPOINT: 101, Stage.SYNC: 1}],
            "checkpoint",
            "checkpoint-bound: training stands still for saves 101 ms of 120 ms",
        ),
        (
            [{**BUSY, Stage.OUTPUT_DIST: 20, Stage.ALL_REDUCE: 12}] * 2,
            "network",
            "network-bound: exchanges take 32 ms of 50 ms, most of it output dist (20 ms)",
        ),
        ([{**BUSY, Stage.SYNC: 2}] * 2, "compute", "compute-bound: 18 ms of 20 ms, most of it dense backward (10 ms)"),
        ([{**BUSY, Stage.INPUT_DIST: 32}], "compute", "compute-bound: 50 ms of 50 ms, most of it input dist (32 ms)"),
        (
            [{**BUSY, Stage.LOGGING: 40, Stage.SYNC: 1}, {**BUSY, Stage.SYNC: 41}],
            "logging",
            "logging-bound: rank 0 writes figures 40 ms of 59 ms",
        ),
    ],
)
def test_the_verdict_names_what_the_slowest_rank_is_at(ranks: list[dict[Stage, float]], kind: str, text: str) -> None:
    verdict = judge(breakdown(*ranks))
    assert (verdict.kind, verdict.text) == (kind, text)


def test_an_evaluation_is_no_part_of_a_step() -> None:
    assert breakdown({**BUSY, Stage.EVALUATION: 1000.0}).step_ms == 18.0


def test_the_slowest_rank_is_the_one_that_the_others_wait_for() -> None:
    found = breakdown({Stage.SYNC: 9.0}, {Stage.SYNC: 1.0}, {Stage.SYNC: 5.0})
    assert found.slowest_rank == 1
    assert found.lag_ms == (9 + 5) / 2 - 1
    assert breakdown({Stage.SYNC: 9.0}).lag_ms == 0
