"""Rows counted by their numbers in real batches: every rank of a job built in one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.batch import Batch
from data.index import build_index
from data.loader import BatchLoader
from data.order import SampleOrder
from tests.data.shards import numbered_schema, served_rows, write_shards

# Uneven, with one shard of fewer rows than ranks, an empty row group, and two shards without rows.
SHARDS = [[37, 5], [], [2], [64, 0, 1], [0], [19]]
NUM_ROWS = 128
LANES = 4
WORLD_SIZES = [1, 2, 4]


class Job:
    """Loaders of all ranks over the same files; a new one stands for a restarted job."""

    def __init__(self, files: list[str], world_size: int) -> None:
        schema = numbered_schema(NUM_ROWS)
        index = build_index(files, schema)
        self.order = SampleOrder(
            index.row_counts, global_batch_size=12, lanes=LANES, window_rows=30, shuffle=True, seed=3
        )
        self.loaders = [
            BatchLoader(index, self.order, schema, rank=rank, world_size=world_size) for rank in range(world_size)
        ]

    def global_batches(self, start: int, stop: int) -> list[list[Batch]]:
        """For each step the batches of all ranks."""
        per_rank: list[list[Batch]] = []
        for loader in self.loaders:
            with loader.batches(start, stop) as stream:
                per_rank.append(list(stream))
        return [list(batches) for batches in zip(*per_rank, strict=True)]

    def rows(self, start: int, stop: int) -> list[list[int]]:
        """For each step the row numbers of its global batch."""
        return [[r for batch in batches for r in served_rows(batch)] for batches in self.global_batches(start, stop)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_shards(tmp_path_factory.mktemp("shards"), SHARDS)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_two_epochs_serve_every_row_twice_in_as_many_steps_on_every_rank(files: list[str], world_size: int) -> None:
    job = Job(files, world_size)
    steps = job.rows(0, 2 * job.order.steps_per_epoch)
    assert len(steps) == 2 * 11  # ceil(ceil(128 / 4) / 3) steps of 3 rows a lane
    epochs = [[row for step in steps[e * 11 : (e + 1) * 11] for row in step] for e in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(NUM_ROWS))] * 2
    assert epochs[0] != epochs[1]


def test_every_world_size_serves_the_same_global_batches(files: list[str]) -> None:
    served = [Job(files, world_size).rows(0, 22) for world_size in WORLD_SIZES]
    assert served == [served[0]] * len(WORLD_SIZES)
    order = Job(files, 1).order
    assert served[0] == [order.row_numbers(step).tolist() for step in range(22)]


@pytest.mark.parametrize(
    "life",
    [
        [(5, 1), (6, 2), (22, 4)],
        [(1, 4), (10, 4), (11, 1), (12, 2), (22, 1)],
        [(0, 2), (21, 1), (22, 4)],
    ],
    ids=str,
)
def test_a_job_stopped_and_resumed_on_other_world_sizes_misses_and_repeats_no_row(
    files: list[str], life: list[tuple[int, int]]
) -> None:
    served: list[list[int]] = []
    for stop, world_size in life:
        served += Job(files, world_size).rows(len(served), stop)
    assert served == Job(files, 1).rows(0, 22)


def test_a_stream_dropped_with_batches_in_flight_loses_nothing(files: list[str]) -> None:
    loader = Job(files, 1).loaders[0]
    rows: list[list[int]] = []
    while len(rows) < 22:
        with loader.batches(len(rows), 22) as stream:  # a prefetch queue of four batches is dropped each time
            rows += [served_rows(next(stream)) for _ in range(min(3, 22 - len(rows)))]
    assert rows == Job(files, 1).rows(0, 22)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_batches_are_padded_to_one_size_with_rows_of_weight_0(files: list[str], world_size: int) -> None:
    for step, batches in enumerate(Job(files, world_size).global_batches(0, 11)):
        assert {len(batch.labels) for batch in batches} == {12 // world_size}
        weight = sum(float(batch.weights.sum()) for batch in batches)
        assert weight == (12 if step < 10 else 8)  # 128 = 10 * 12 + 8
        assert [float(batch.global_weight) for batch in batches] == [weight] * world_size
        for batch in batches:
            padding = batch.weights == 0
            assert batch.sparse["row"].lengths().tolist() == (~padding).long().tolist()
            assert batch.sparse["tags"].lengths()[padding].sum() == 0
            assert batch.labels[padding].sum() == batch.dense[padding].sum() == 0


def test_labels_dense_values_and_lists_stay_with_their_row(files: list[str]) -> None:
    for batches in Job(files, 2).global_batches(0, 11):
        for batch in batches:
            rows = served_rows(batch)
            real = batch.weights > 0
            assert batch.labels[real].tolist() == [float(row % 3 == 0) for row in rows]
            assert batch.dense[real, 0].tolist() == [row / 2 for row in rows]
            assert batch.sparse["tags"].lengths()[real].tolist() == [row % 4 for row in rows]


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("step", [0, 3, 10, 13])
def test_resuming_decodes_no_more_than_the_windows_that_the_lanes_stand_in(
    files: list[str], world_size: int, step: int
) -> None:
    for loader in Job(files, world_size).loaders:
        with loader.batches(step, step + 1) as stream:
            next(stream)
            decoded = stream.counters()["row"].values
        epoch = loader.order.locate(step)[0]
        starts = loader.order.epoch_plan(epoch).starts
        visited = {span.window for lane in loader.lanes for span in loader.order.spans(lane, step)}
        assert decoded == sum(int(starts[window + 1] - starts[window]) for window in visited)


def test_more_ranks_than_rows_still_take_the_same_steps(tmp_path: Path) -> None:
    schema = numbered_schema(3)
    index = build_index(write_shards(tmp_path, [[3]]), schema)
    order = SampleOrder(index.row_counts, global_batch_size=8, lanes=8, window_rows=4, shuffle=True)
    loaders = [BatchLoader(index, order, schema, rank=rank, world_size=8) for rank in range(8)]
    rows: list[int] = []
    for loader in loaders:
        with loader.batches(0, order.steps_per_epoch) as stream:
            batches = list(stream)
        assert len(batches) == 1
        rows += served_rows(batches[0])
    assert sorted(rows) == [0, 1, 2]
