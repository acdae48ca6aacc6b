from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data.batch import Batch
from data.columns import held_bytes_per_row
from data.counters import FeatureCounts
from data.errors import DataError
from data.index import DatasetIndex, build_index
from data.loader import BatchLoader, LoaderOptions
from data.order import SampleOrder
from data.reader import read_window
from data.schema import Schema, parse_schema
from data.windows import windows_per_lane

SCHEMA: dict[str, Any] = {
    "label": "y",
    "dense": [{"name": "x"}, {"name": "z"}],
    "sparse": [
        {"name": "i", "kind": "id", "num_embeddings": 1000},
        {"name": "tags", "kind": "id", "num_embeddings": 1000, "max_length": 4},
        {"name": "j", "kind": "id", "num_embeddings": 2000},
    ],
}


def schema(**changes: Any) -> Schema:
    return parse_schema({**SCHEMA, **changes}, where="test")


def write(folder: Path, num_rows: int = 30, **changes: Any) -> str:
    """Row n holds i = n, j = 1000 + n, x = n, z = -n, y = n odd, tags = n % 4 times n."""
    rows = range(num_rows)
    columns: dict[str, Any] = {
        "y": [n % 2 for n in rows],
        "x": [float(n) for n in rows],
        "z": [float(-n) for n in rows],
        "i": list(rows),
        "j": [1000 + n for n in rows],
        "tags": pa.array([[n] * (n % 4) for n in rows], pa.list_(pa.int64())),
    }
    path = folder / "rows.parquet"
    pq.write_table(pa.table({**columns, **changes}), path, row_group_size=7)
    return str(path)


def loader(
    file: str, *, batch: int, lanes: int, declared: Schema | None = None, shuffle: bool = True, rank: int = 0,
    world_size: int = 1, options: LoaderOptions | None = None,
) -> BatchLoader:  # fmt: skip
    declared = declared or schema()
    index: DatasetIndex = build_index([file], declared)
    order = SampleOrder(index.row_counts, global_batch_size=batch, lanes=lanes, window_rows=12, shuffle=shuffle, seed=5)
    return BatchLoader(index, order, declared, rank=rank, world_size=world_size, options=options)


def take(source: BatchLoader, start: int, stop: int) -> list[Batch]:
    with source.batches(start, stop) as stream:
        return list(stream)


def bags_of(batch: Batch, key: str) -> list[list[int]]:
    jagged = batch.sparse[key]
    return [bag.tolist() for bag in jagged.to_dense()]


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_batch_holds_the_rows_of_the_sample_order(tmp_path: Path, lanes: int, shuffle: bool) -> None:
    source = loader(write(tmp_path), batch=6, lanes=lanes, shuffle=shuffle)
    steps = 2 * source.order.steps_per_epoch
    for step, batch in enumerate(take(source, 0, steps)):
        numbers = source.order.row_numbers(step).tolist()
        real = batch.weights > 0
        assert batch.dense[real].tolist() == [[n, -n] for n in numbers]
        assert batch.labels[real].tolist() == [n % 2 for n in numbers]
        assert batch.sparse.keys() == ["i", "j", "tags"]
        assert [bag for bag in bags_of(batch, "i") if bag] == [[n] for n in numbers]
        assert [bag for bag in bags_of(batch, "j") if bag] == [[1000 + n] for n in numbers]
        tags = [bag for bag, is_real in zip(bags_of(batch, "tags"), real.tolist(), strict=True) if is_real]
        assert tags == [[n] * (n % 4) for n in numbers]


def test_what_is_missing_at_the_end_is_empty_bags_of_weight_zero(tmp_path: Path) -> None:
    source = loader(write(tmp_path), batch=8, lanes=2, shuffle=False)
    assert source.order.steps_per_epoch == 4  # two lanes of 15 rows, 4 a step
    last = take(source, 3, 4)[0]
    assert last.weights.tolist() == [1, 1, 1, 0, 1, 1, 1, 0]
    assert bags_of(last, "i") == [[12], [13], [14], [], [27], [28], [29], []]
    assert bags_of(last, "tags")[3] == bags_of(last, "tags")[7] == []
    assert last.dense[3].tolist() == [0.0, 0.0]
    assert last.global_weight.tolist() == [6.0]
    assert last.fill.tolist() == [0.75]
    assert last.sparse.stride() == 8


def test_ranks_share_the_global_batch(tmp_path: Path) -> None:
    file = write(tmp_path)
    whole = take(loader(file, batch=8, lanes=4), 0, 4)
    parts = [take(loader(file, batch=8, lanes=4, rank=r, world_size=2), 0, 4) for r in range(2)]
    for step, batch in enumerate(whole):
        assert torch.cat([part[step].dense for part in parts]).equal(batch.dense)
        assert [bag for part in parts for bag in bags_of(part[step], "i")] == bags_of(batch, "i")
        assert all(part[step].global_weight.equal(batch.global_weight) for part in parts)


def test_a_world_size_that_does_not_divide_the_lanes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a world of 3 workers cannot share data\.lanes=4"):
        loader(write(tmp_path), batch=8, lanes=4, world_size=3)


def test_starting_at_a_step_gives_what_would_have_followed(tmp_path: Path) -> None:
    source = loader(write(tmp_path), batch=4, lanes=2)
    whole = take(source, 0, 20)
    for start in (1, 7, 19):
        for later, batch in zip(whole[start:], take(source, start, 20), strict=True):
            assert later.dense.equal(batch.dense)
            assert later.sparse.values().equal(batch.sparse.values())
            assert later.sparse.lengths().equal(batch.sparse.lengths())


@pytest.mark.parametrize("num_threads", [1, 4])
@pytest.mark.parametrize("prefetch_batches", [1, 9])
def test_threads_and_prefetch_change_no_batch(tmp_path: Path, num_threads: int, prefetch_batches: int) -> None:
    file = write(tmp_path)
    options = LoaderOptions(num_threads=num_threads, prefetch_batches=prefetch_batches)
    plain, other = loader(file, batch=6, lanes=3), loader(file, batch=6, lanes=3, options=options)
    for one, two in zip(take(plain, 0, 10), take(other, 0, 10), strict=True):
        assert one.dense.equal(two.dense)
        assert one.sparse.values().equal(two.sparse.values())


def test_sample_weights_come_with_the_rows_and_leave_the_global_weight_open(tmp_path: Path) -> None:
    file = write(tmp_path, w=[n / 4 for n in range(30)])
    source = loader(file, batch=6, lanes=3, declared=schema(weight="w"))
    for step, batch in enumerate(take(source, 0, 5)):
        numbers = source.order.row_numbers(step)
        np.testing.assert_array_equal(batch.weights.numpy(), numbers / 4)
        assert batch.global_weight.tolist() == [0.0]


def test_a_schema_of_lists_alone_or_without_dense_columns_works(tmp_path: Path) -> None:
    file = write(tmp_path)
    lists = loader(file, batch=6, lanes=1, declared=schema(dense=[], sparse=[SCHEMA["sparse"][1]]), shuffle=False)
    assert bags_of(take(lists, 0, 1)[0], "tags") == [[], [1], [2, 2], [3, 3, 3], [], [5]]
    assert take(lists, 0, 1)[0].dense.shape == (6, 0)


def test_every_value_carries_a_weight_where_some_list_has_weights(tmp_path: Path) -> None:
    weights = pa.array([[n / 2] * (n % 4) for n in range(30)], pa.list_(pa.float32()))
    file = write(tmp_path, w=weights)
    weighted = [SCHEMA["sparse"][0], {**SCHEMA["sparse"][1], "weights": "w"}]
    batch = take(loader(file, batch=8, lanes=2, declared=schema(sparse=weighted), shuffle=False), 3, 4)[0]
    assert batch.sparse["i"].weights().tolist() == [1.0] * 6
    numbers = [12, 13, 14, 27, 28, 29]
    assert batch.sparse["tags"].weights().tolist() == [n / 2 for n in numbers for _ in range(n % 4)]
    assert batch.sparse["tags"].values().tolist() == [n for n in numbers for _ in range(n % 4)]


def test_beside_weighted_lists_the_weights_of_a_mean_divide_by_the_length(tmp_path: Path) -> None:
    weights = pa.array([[n / 2] * (n % 4) for n in range(30)], pa.list_(pa.float32()))
    tags = SCHEMA["sparse"][1]
    both = [{**tags, "weights": "w"}, {**tags, "name": "mean", "column": "tags", "pooling": "mean"}]
    declared = schema(sparse=both)
    batch = take(loader(write(tmp_path, w=weights), batch=8, lanes=1, declared=declared, shuffle=False), 0, 1)[0]
    lengths = [1, 2, 3, 1, 2, 3]
    np.testing.assert_allclose(batch.sparse["mean"].weights(), [1 / n for n in lengths for _ in range(n)])


def test_ids_and_lengths_are_int32_and_complete_one_hot_batches_share_their_lengths(tmp_path: Path) -> None:
    one_hot = schema(sparse=[SCHEMA["sparse"][0], SCHEMA["sparse"][2]])
    first, second, last = take(loader(write(tmp_path), batch=8, lanes=1, declared=one_hot), 1, 4)
    assert first.sparse.values().dtype == first.sparse.lengths().dtype == torch.int32
    assert first.sparse.lengths().data_ptr() == second.sparse.lengths().data_ptr()
    assert last.sparse.lengths().tolist() == [1] * 6 + [0] * 2 + [1] * 6 + [0] * 2
    large = schema(sparse=[{"name": "i", "kind": "id", "num_embeddings": 2**32}])
    wide = take(loader(write(tmp_path), batch=8, lanes=1, declared=large), 0, 1)[0]
    assert wide.sparse.values().dtype == wide.sparse.lengths().dtype == torch.int64


def test_the_lengths_per_key_that_come_along_are_those_of_the_lengths(tmp_path: Path) -> None:
    for batch in take(loader(write(tmp_path), batch=8, lanes=2), 0, 4):
        counted = batch.sparse.lengths().view(3, 8).sum(1).tolist()
        assert batch.sparse.length_per_key() == counted


def test_counters_tell_what_was_met_in_the_windows_of_the_batches(tmp_path: Path) -> None:
    ids = [5000 if n in (3, 29) else n for n in range(30)]
    declared = schema(sparse=[{"name": "i", "kind": "id", "num_embeddings": 1000, "on_invalid": "clip"}], dense=[])
    file = write(tmp_path, i=ids)
    options = LoaderOptions(prefetch_batches=1)
    source = loader(file, batch=7, lanes=1, declared=declared, shuffle=False, options=options)
    with source.batches(0, 5) as stream:
        next(stream)
        # Windows of 14, 14 and 2 rows; at most two batches are made ahead, of the first two windows.
        assert stream.counters()["i"].out_of_range == 1
        list(stream)
        assert stream.counters() == {"i": FeatureCounts(values=30, out_of_range=2)}


@pytest.mark.parametrize("row_group_size", [1000, 40_000])
def test_windows_and_tasks_hold_no_more_than_the_formula_says(tmp_path: Path, row_group_size: int) -> None:
    num_rows, num_ids = 40_000, 20
    columns: dict[str, Any] = {f"i{k}": np.arange(num_rows) % 1000 for k in range(num_ids)}
    path = tmp_path / "large.parquet"
    labels, lists = np.zeros(num_rows), pa.array([[1, 2, 3]] * num_rows)
    pq.write_table(pa.table({"y": labels, "t": lists, **columns}), path, row_group_size=row_group_size)
    declared = parse_schema(
        {
            "label": "y",
            "sparse": [{"name": f"i{k}", "kind": "id", "num_embeddings": 1000} for k in range(num_ids)]
            + [{"name": "t", "kind": "id", "num_embeddings": 1000, "max_length": 3}],
        },
        where="test",
    )
    groups = build_index([str(path)], declared).row_groups
    rows = np.random.default_rng(0).permutation(num_rows)
    before = pa.total_allocated_bytes()
    columns_of_window = read_window(groups, declared, rows)
    assert pa.total_allocated_bytes() == before  # no Arrow memory outlives its task
    assert columns_of_window.num_bytes <= num_rows * held_bytes_per_row(declared)


@pytest.mark.parametrize(("batch", "lanes"), [(3, 1), (5, 1), (8, 2), (10, 1), (28, 1), (40, 2)])
def test_no_more_windows_are_held_than_the_formula_counts(tmp_path: Path, batch: int, lanes: int) -> None:
    # Row groups of 7 rows, windows of 14 and a last one of 8: few batches end where a window does.
    source = loader(write(tmp_path, 50), batch=batch, lanes=lanes)
    steps = 2 * source.order.steps_per_epoch
    with ThreadPoolExecutor(1) as pool:
        windows = source.windows(steps, pool)
        held = []
        for step in range(steps):
            windows.take(step)
            held.append(windows.num_held)
    assert max(held) <= windows_per_lane(source.order) * lanes
    assert windows_per_lane(source.order) == 2 or batch // lanes > 6


def test_windows_that_come_are_decoded_into_the_memory_of_those_that_are_done(tmp_path: Path) -> None:
    source = loader(write(tmp_path, 50), batch=5, lanes=1)
    steps = 3 * source.order.steps_per_epoch  # of four windows each
    with ThreadPoolExecutor(1) as pool:
        windows = source.windows(steps, pool)
        taken = [piece.columns.one_hot for step in range(steps) for piece in windows.take(step).lanes[0]]
    assert 1 < len({columns.ctypes.data for columns in taken}) <= windows_per_lane(source.order)


def threads_alive() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith(("batch-loader", "decode"))}


@pytest.fixture(autouse=True)
def no_thread_survives() -> Iterator[None]:
    yield
    assert not threads_alive()


def test_leaving_in_mid_stream_ends_the_threads(tmp_path: Path) -> None:
    source = loader(write(tmp_path), batch=4, lanes=2, options=LoaderOptions(prefetch_batches=1))
    with source.batches(0, 10_000) as stream:
        next(stream)
        assert threads_alive()
    assert not threads_alive()
    with pytest.raises(StopIteration):
        next(stream)


def test_closing_twice_or_unread_does_no_harm(tmp_path: Path) -> None:
    stream = loader(write(tmp_path), batch=4, lanes=2).batches(0, 10_000)
    stream.close()
    stream.close()
    assert not threads_alive()
    with pytest.raises(StopIteration):
        next(stream)


def test_the_end_is_told_again_and_again(tmp_path: Path) -> None:
    with loader(write(tmp_path), batch=4, lanes=2).batches(3, 3) as stream:
        for _ in range(3):
            with pytest.raises(StopIteration):
                next(stream)


def test_an_error_comes_in_place_of_the_first_batch_that_it_hits(tmp_path: Path) -> None:
    file = write(tmp_path, y=[2 if n == 29 else 0 for n in range(30)])
    with loader(file, batch=5, lanes=1, shuffle=False).batches(0, 6) as stream:
        # Windows of 14 rows: the last one starts at row 28, so five whole batches come before it.
        served = [next(stream) for _ in range(5)]
        with pytest.raises(DataError, match=r"rows\.parquet, row group 4, column 'y': label 2 is neither 0 nor 1"):
            next(stream)
        with pytest.raises(StopIteration):
            next(stream)
    assert served[-1].dense[:, 0].tolist() == [20, 21, 22, 23, 24]


def test_to_a_device_copies_every_part(tmp_path: Path) -> None:
    batch = take(loader(write(tmp_path), batch=6, lanes=3), 0, 1)[0]
    copy = batch.to(torch.device("meta"))
    assert copy.sparse.keys() == batch.sparse.keys()
    for name in ("dense", "labels", "weights", "global_weight", "fill"):
        assert getattr(copy, name).device.type == "meta"
        assert getattr(copy, name).shape == getattr(batch, name).shape
    same = batch.to(torch.device("cpu"))
    assert same.dense.equal(batch.dense)
    assert same.sparse.values().equal(batch.sparse.values())
