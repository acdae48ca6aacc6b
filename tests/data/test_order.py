"""The sample order: properties over random layouts, and its values pinned so that no change goes unnoticed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.order import SampleOrder

# 6 properties x 400 layouts.
randomly = settings(max_examples=400, deadline=None)

PINNED_WINDOWS = [((0, 3), (4, 2)), ((4, 0), (2, 3))]
PINNED_STEPS = [
    *([11, 3, 9, 8], [2, 1, 6, 12], [10, 7, 5, 4], [0, 13]),
    *([2, 0, 6, 11], [12, 13, 5, 4], [1, 3, 7, 8], [10, 9]),
]
PINNED_LARGE = [7149, 950, 4087, 910, 5408, 2998, 3009, 2298]

row_groups = st.one_of(st.just(0), st.integers(1, 3), st.integers(0, 200))


@dataclass(frozen=True)
class Layout:
    """Everything that the order is a function of."""

    row_counts: tuple[int, ...]
    lanes: int
    rows_per_lane_step: int
    window_rows: int
    shuffle: bool
    seed: int

    def order(self) -> SampleOrder:
        return SampleOrder(
            self.row_counts,
            global_batch_size=self.lanes * self.rows_per_lane_step,
            lanes=self.lanes,
            window_rows=self.window_rows,
            shuffle=self.shuffle,
            seed=self.seed,
        )

    @property
    def world_sizes(self) -> list[int]:
        return [w for w in range(1, self.lanes + 1) if self.lanes % w == 0]


layouts = st.builds(
    Layout,
    row_counts=st.lists(row_groups, min_size=1, max_size=12).filter(any).map(tuple),
    lanes=st.integers(1, 12),
    rows_per_lane_step=st.integers(1, 40),
    window_rows=st.integers(1, 300),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
)


def epoch_sequence(order: SampleOrder, epoch: int) -> list[int]:
    """All rows of an epoch by their numbers in file order: the windows one after the other."""
    row_counts = order.row_counts.tolist()
    rows_of = [range(sum(row_counts[:g]), sum(row_counts[: g + 1])) for g in range(len(row_counts))]
    plan = order.epoch_plan(epoch)
    sequence: list[int] = []
    for number, groups in enumerate(plan.windows):
        in_file_order = [row for group in groups for row in rows_of[group]]
        sequence += [in_file_order[place] for place in plan.rows(number)]
    return sequence


def expected_step(sequence: list[int], layout: Layout, step_in_epoch: int) -> list[int]:
    """The rows of a step by slicing: lanes of ceil(N / L) rows, of which each step takes the next few."""
    lane_rows = (len(sequence) + layout.lanes - 1) // layout.lanes
    rows: list[int] = []
    for lane in range(layout.lanes):
        lane_sequence = sequence[lane * lane_rows : (lane + 1) * lane_rows]
        at = step_in_epoch * layout.rows_per_lane_step
        rows += lane_sequence[at : at + layout.rows_per_lane_step]
    return rows


@randomly
@given(layouts, st.integers(0, 3))
def test_an_epoch_serves_every_row_exactly_once(layout: Layout, epoch: int) -> None:
    order = layout.order()
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    served = np.concatenate([order.row_numbers(step) for step in steps])
    assert sorted(served.tolist()) == list(range(sum(layout.row_counts)))


@randomly
@given(layouts, st.integers(0, 3), st.data())
def test_each_step_takes_the_next_rows_of_every_lane(layout: Layout, epoch: int, data: st.DataObject) -> None:
    order = layout.order()
    in_epoch = data.draw(st.integers(0, order.steps_per_epoch - 1))
    step = epoch * order.steps_per_epoch + in_epoch
    expected = expected_step(epoch_sequence(order, epoch), layout, in_epoch)
    assert order.locate(step) == (epoch, in_epoch)
    assert order.row_numbers(step).tolist() == expected
    assert order.num_rows_at(step) == len(expected)
    # Every step has work, and the epoch ends where the first lane does.
    lane_rows = -(-sum(layout.row_counts) // layout.lanes)
    assert order.steps_per_epoch == -(-lane_rows // layout.rows_per_lane_step)
    assert expected


@randomly
@given(layouts, st.integers(0, 400))
def test_a_global_batch_is_the_same_for_every_allowed_world_size(layout: Layout, step: int) -> None:
    order = layout.order()
    whole = order.row_numbers(step).tolist()
    for world_size in layout.world_sizes:
        parts = [order.row_numbers(step, order.lanes_of(rank, world_size)).tolist() for rank in range(world_size)]
        assert [row for part in parts for row in part] == whole
        assert max(map(len, parts)) <= order.global_batch_size // world_size


@randomly
@given(layouts, st.data())
def test_resuming_at_any_step_on_any_world_size_continues_with_the_next_rows(
    layout: Layout, data: st.DataObject
) -> None:
    order = layout.order()
    total_steps = 2 * order.steps_per_epoch
    stops = sorted(data.draw(st.lists(st.integers(0, total_steps), max_size=4)))
    served: list[int] = []
    for start, stop in zip([0, *stops], [*stops, total_steps], strict=True):
        resumed = layout.order()  # a new process: nothing is left of the one before
        world_size = data.draw(st.sampled_from(layout.world_sizes))
        for step in range(start, stop):
            for rank in range(world_size):
                served += resumed.row_numbers(step, resumed.lanes_of(rank, world_size)).tolist()
    never_stopped = [row for step in range(total_steps) for row in order.row_numbers(step).tolist()]
    assert served == never_stopped
    assert np.bincount(served).tolist() == [2] * sum(layout.row_counts)


@randomly
@given(layouts, st.integers(0, 2))
def test_the_windows_of_a_lane_are_those_that_its_spans_visit(layout: Layout, epoch: int) -> None:
    order = layout.order()
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    for lane in range(layout.lanes):
        visited = [span.window for step in steps for span in order.spans(lane, step)]
        assert list(dict.fromkeys(visited)) == list(order.lane_windows(lane, epoch))


@randomly
@given(layouts, st.integers(0, 2))
def test_windows_hold_every_row_group_once_and_are_no_larger_than_needed(layout: Layout, epoch: int) -> None:
    windows = layout.order().epoch_plan(epoch).windows
    filled = [group for group, rows in enumerate(layout.row_counts) if rows]
    in_order = [group for window in windows for group in window]
    assert sorted(in_order) == filled
    assert layout.shuffle or in_order == filled
    for window in windows:
        rows = [layout.row_counts[group] for group in window]
        assert sum(rows) >= layout.window_rows or window == windows[-1]
        assert sum(rows[:-1]) < layout.window_rows


def test_without_shuffle_the_rows_come_in_file_order_lane_by_lane() -> None:
    order = SampleOrder([3, 0, 4, 1], global_batch_size=4, lanes=2, window_rows=5, shuffle=False)
    assert [order.row_numbers(step).tolist() for step in range(2)] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert order.row_numbers(2).tolist() == order.row_numbers(0).tolist()


def test_every_seed_and_every_epoch_has_its_own_order() -> None:
    def sequence(seed: int, epoch: int) -> list[int]:
        order = SampleOrder([40] * 8, global_batch_size=8, lanes=2, window_rows=80, shuffle=True, seed=seed)
        return epoch_sequence(order, epoch)

    sequences = [sequence(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(rows) for rows in sequences}) == 9


def test_rows_of_a_window_are_mixed_across_its_row_groups() -> None:
    order = SampleOrder([500] * 4, global_batch_size=100, lanes=1, window_rows=2000, shuffle=True, seed=5)
    groups = order.row_numbers(0) // 500
    # Hypergeometric: 25 of each group expected, standard deviation 4.2.
    assert (np.bincount(groups, minlength=4) > 5).all()


def test_a_lane_without_rows_serves_padding_only() -> None:
    order = SampleOrder([3], global_batch_size=8, lanes=4, window_rows=10, shuffle=True, seed=0)
    assert [order.lane_windows(lane, 0) for lane in range(4)] == [range(1), range(1), range(1), range(0)]
    assert order.spans(3, 0) == []
    assert order.num_rows_at(0) == 3


def test_the_order_is_pinned() -> None:
    # A checkpoint's position means these rows: if this fails, no run of an earlier version can be resumed.
    order = SampleOrder([4, 0, 3, 5, 2], global_batch_size=4, lanes=2, window_rows=6, shuffle=True, seed=17)
    assert [order.epoch_plan(epoch).windows for epoch in range(2)] == PINNED_WINDOWS
    assert [order.row_numbers(step).tolist() for step in range(8)] == PINNED_STEPS


def test_the_order_of_a_large_epoch_is_pinned() -> None:
    order = SampleOrder([1000, 10, 777] * 5, global_batch_size=512, lanes=8, window_rows=3000, shuffle=True, seed=2**63)
    step = 2 * order.steps_per_epoch + 3
    assert order.row_numbers(step)[::64].tolist() == PINNED_LARGE


@pytest.mark.parametrize(
    ("global_batch_size", "lanes", "remedy"), [(10, 4, "try 8"), (0, 4, "try 4"), (6, 0, "try 6"), (-4, 2, "try 2")]
)
def test_a_global_batch_that_lanes_cannot_share_is_refused(global_batch_size: int, lanes: int, remedy: str) -> None:
    with pytest.raises(
        DataError, match=rf"global batch size \({global_batch_size}\).*data\.lanes \({lanes}\).*{remedy}"
    ):
        SampleOrder([8], global_batch_size=global_batch_size, lanes=lanes, window_rows=8, shuffle=True)


def test_a_world_size_that_does_not_divide_the_lanes_is_told_which_do() -> None:
    order = SampleOrder([8], global_batch_size=12, lanes=12, window_rows=8, shuffle=True)
    with pytest.raises(DataError, match=r"5 workers cannot share data\.lanes=12 .* start 1, 2, 3, 4, 6 or 12 workers"):
        order.lanes_of(0, 5)
    with pytest.raises(DataError, match=r"start 1 workers, or set data\.lanes to a multiple of 3"):
        SampleOrder([8], global_batch_size=1, lanes=1, window_rows=8, shuffle=True).lanes_of(0, 3)
