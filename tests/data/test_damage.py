"""Each kind of damage, with both policies: what is said, what is counted, and that the ranks stay in step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.batch import Batch
from data.damage import Damage, DamageError, DamageLog, DamagePolicy
from data.errors import DataError, StorageError
from data.files import resolve_files
from data.index import DatasetIndex, build_index
from data.loader import BatchLoader, LoaderOptions
from data.order import SampleOrder
from tests.data.shards import numbered_schema, numbered_table, served_rows, write_shards

# Files of rows 0-39, 40-69 and 70-99; row groups of 20, 20, 30, 10 and 20 rows.
SHARDS = [[20, 20], [30], [10, 20]]
NUM_ROWS = 100
SCHEMA = numbered_schema(NUM_ROWS)
SKIP = DamagePolicy(skip=True, max_skipped_rows=50)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return write_shards(tmp_path, SHARDS)


def index_of(files: list[str], policy: DamagePolicy | None = None) -> DatasetIndex:
    return build_index(files, SCHEMA, policy=policy)


class Job:
    """The loaders of all ranks, and what they gave."""

    def __init__(self, index: DatasetIndex, world_size: int, policy: DamagePolicy | None) -> None:
        self.order = SampleOrder(index.row_counts, global_batch_size=12, lanes=4, window_rows=45, shuffle=True)
        options = LoaderOptions(damage=policy or DamagePolicy())
        self.loaders = [
            BatchLoader(index, self.order, SCHEMA, rank=rank, world_size=world_size, options=options)
            for rank in range(world_size)
        ]
        self.batches: list[list[Batch]] = []
        self.skipped_rows = 0
        for loader in self.loaders:
            with loader.batches(0, self.order.steps_per_epoch) as stream:
                self.batches.append(list(stream))
                self.skipped_rows += stream.skipped_rows

    @property
    def rows(self) -> list[int]:
        return sorted(row for batches in self.batches for batch in batches for row in served_rows(batch))


def cut_in_half(path: str) -> None:
    os.truncate(path, os.path.getsize(path) // 2)


def spoil_footer(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(-60, os.SEEK_END)
        file.write(b"\xff" * 40)


def spoil_page(path: str, *, row_group: int, column: str) -> None:
    """Overwrites the middle of a column's bytes in place: neither size nor modification time tell."""
    chunks = pq.read_metadata(path).row_group(row_group)
    chunk = next(
        chunks.column(i) for i in range(chunks.num_columns) if chunks.column(i).path_in_schema.startswith(column)
    )
    times = os.stat(path)
    with open(path, "r+b") as file:
        file.seek((chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size // 2)
        file.write(b"\xa5\x5a" * 4)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replace(path: str) -> None:
    """As large and of as many rows as before, but written anew."""
    shutil.copyfile(path, f"{path}.new")
    os.utime(f"{path}.new", ns=(10**18, 10**18))
    os.rename(f"{path}.new", path)


def replace_by_a_longer_one(path: str) -> None:
    pq.write_table(numbered_table(0, 64), f"{path}.new")
    os.rename(f"{path}.new", path)


def rewrite_without_prices(path: str) -> None:
    pq.write_table(pq.read_table(path).drop_columns(["price"]), path)


def rewrite_with_textual_rows(path: str) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index("row"), "row", table["row"].cast(pa.string())), path)


def rewrite_with_numeric_tags(path: str) -> None:
    table = pq.read_table(path)
    pq.write_table(
        table.set_column(
            table.column_names.index("tags"), "tags", pa.array([[1]] * table.num_rows, pa.list_(pa.int64()))
        ),
        path,
    )


BEFORE_THE_JOB = [
    (cut_in_half, "its Parquet footer cannot be read"),
    (spoil_footer, "its Parquet footer cannot be read"),
    (rewrite_without_prices, r"column 'price' \(dense feature 'price'\) is missing"),
    (rewrite_with_textual_rows, "column 'row' has type string"),
    (rewrite_with_numeric_tags, "column 'tags' holds numbers, but text in .*part-000"),
]
DURING_THE_JOB = [
    (os.remove, "was deleted while the job runs"),
    (replace, "was replaced while the job runs"),
    (replace_by_a_longer_one, "was replaced while the job runs"),
    (cut_in_half, "was replaced while the job runs"),
    (rewrite_without_prices, "was replaced while the job runs"),
]


@pytest.mark.parametrize(("damage", "message"), BEFORE_THE_JOB)
def test_a_file_damaged_before_the_job_ends_it(files: list[str], damage: Callable[[str], None], message: str) -> None:
    damage(files[1])
    with pytest.raises(DataError, match=rf"part-001\.parquet: {message}"):
        index_of(files)


@pytest.mark.parametrize(("damage", "message"), BEFORE_THE_JOB)
def test_a_file_damaged_before_the_job_is_left_out_if_it_may_be_skipped(
    files: list[str], damage: Callable[[str], None], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(files[1])
    index = index_of(files, SKIP)
    (left_out,) = index.left_out
    assert (left_out.file, left_out.row_group) == (files[1], None)
    assert left_out.num_rows == pytest.approx(30, abs=20)  # of an unreadable footer an estimate by size
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    job = Job(index, 2, SKIP)
    assert job.rows == [*range(40), *range(70, 100)]
    assert job.loaders[0].damage == (left_out,)


def test_a_file_lost_between_jobs_is_told_and_makes_another_data_set(
    files: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    # The old order cannot be told without its rows: a checkpoint is refused rather than continued at another place.
    before = index_of(files, SKIP)
    spoil_footer(files[1])
    after = index_of(files, SKIP)
    assert f"{files[1]}: its Parquet footer cannot be read" in caplog.text
    assert (before.num_rows, after.num_rows) == (100, 70)
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize(("damage", "message"), DURING_THE_JOB)
def test_a_file_damaged_in_mid_run_ends_the_job(files: list[str], damage: Callable[[str], None], message: str) -> None:
    index = index_of(files)
    Job(index, 1, None)  # every file was looked at by now
    damage(files[1])
    with pytest.raises(DamageError, match=rf"part-001\.parquet, row group 0: {message}.*data\.on_damage=skip"):
        Job(index, 1, None)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(("damage", "message"), DURING_THE_JOB)
def test_rows_damaged_in_mid_run_become_padding_if_they_may_be_skipped(
    files: list[str], damage: Callable[[str], None], message: str, world_size: int
) -> None:
    index = index_of(files, SKIP)
    Job(index, 1, SKIP)
    damage(files[1])
    job = Job(index, world_size, SKIP)
    assert job.rows == [*range(40), *range(70, 100)]
    assert job.skipped_rows == 30
    assert {(d.file, d.row_group, d.num_rows) for loader in job.loaders for d in loader.damage} == {(files[1], 0, 30)}


def test_a_corrupt_page_ends_the_job_and_is_named_with_its_column(files: list[str]) -> None:
    index = index_of(files)
    spoil_page(files[0], row_group=1, column="row")
    message = r"part-000\.parquet, row group 1: column 'row' cannot be decoded \(.*CRC.*\); write the file anew"
    with pytest.raises(DamageError, match=message):
        Job(index, 1, None)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_of_a_corrupt_page_its_row_group_is_skipped_and_the_ranks_stay_in_step(
    files: list[str], world_size: int
) -> None:
    index = index_of(files, SKIP)
    spoil_page(files[0], row_group=1, column="tags")
    job = Job(index, world_size, SKIP)
    assert job.rows == [*range(20), *range(40, 100)]
    assert job.skipped_rows == 20
    assert {len(batches) for batches in job.batches} == {job.order.steps_per_epoch}
    for batch in (batch for batches in job.batches for batch in batches):
        padding = batch.weights == 0
        assert len(batch.weights) == 12 // world_size
        assert batch.sparse["row"].lengths().tolist() == (~padding).long().tolist()
        assert batch.sparse["tags"].lengths()[padding].sum() == 0
        assert float(batch.global_weight) == 0  # only the ranks together know it


def test_global_batches_with_skipped_rows_are_the_same_for_every_world_size(files: list[str]) -> None:
    index = index_of(files, SKIP)
    spoil_page(files[2], row_group=1, column="price")
    steps = []
    for world_size in (1, 2, 4):
        by_step = zip(*Job(index, world_size, SKIP).batches, strict=True)
        steps.append([[row for batch in batches for row in served_rows(batch)] for batches in by_step])
    assert steps == [steps[0]] * 3
    expected = Job(index_of(files[:2]), 1, None)  # not the same order, but it counts all of the other rows
    assert len(expected.rows) == 70


def test_labels_dense_values_and_lists_stay_with_their_row_around_skipped_ones(files: list[str]) -> None:
    index = index_of(files, SKIP)
    spoil_page(files[0], row_group=0, column="price")
    for batch in Job(index, 1, SKIP).batches[0]:
        rows, real = served_rows(batch), batch.weights > 0
        assert batch.labels[real].tolist() == [float(row % 3 == 0) for row in rows]
        assert batch.dense[real, 0].tolist() == [row / 2 for row in rows]
        assert batch.sparse["tags"].lengths()[real].tolist() == [row % 4 for row in rows]


def test_a_window_of_nothing_but_damage_is_skipped(tmp_path: Path) -> None:
    files = write_shards(tmp_path, [[50], [50]])
    index = index_of(files, SKIP)
    os.remove(files[0])
    job = Job(index, 2, SKIP)
    assert (job.rows, job.skipped_rows) == (list(range(50, 100)), 50)


def test_values_that_the_schema_forbids_are_no_damage(files: list[str]) -> None:
    table = numbered_table(40, 30)
    labels = pa.array([2] * 30, pa.int8())
    pq.write_table(table.set_column(0, "click", labels), files[1])
    with pytest.raises(DataError, match=r"part-001\.parquet, row group 0, column 'click': label 2 is neither"):
        Job(index_of(files, SKIP), 1, SKIP)


def test_more_damage_than_the_budget_ends_the_job_before_it_starts(files: list[str]) -> None:
    rewrite_without_prices(files[1])
    message = (
        r"30 of 100 rows cannot be read, more than data\.max_skipped_rows allows \(29\); mend the files or raise it\. "
        r"1 places are damaged, the first: .*part-001\.parquet: column 'price'"
    )
    with pytest.raises(DataError, match=message):
        index_of(files, DamagePolicy(skip=True, max_skipped_rows=29))


def test_more_damage_than_the_budget_ends_the_job_in_mid_run(files: list[str]) -> None:
    policy = DamagePolicy(skip=True, max_skipped_rows=49)
    rewrite_without_prices(files[1])
    index = index_of(files, policy)
    spoil_page(files[0], row_group=1, column="row")
    with pytest.raises(DataError, match=r"50 of 100 rows cannot be read.*\(49\).*2 places are damaged"):
        Job(index, 1, policy)


def test_without_a_budget_one_row_in_a_hundred_may_be_lost() -> None:
    policy = DamagePolicy(skip=True)
    policy.check([Damage("a", 0, 10, "gone")], num_rows=1000)
    with pytest.raises(DataError, match=r"11 of 1,000 rows"):
        policy.check([Damage("a", 0, 10, "gone"), Damage("a", 1, 1, "gone")], num_rows=1000)


def test_the_same_damage_counts_once() -> None:
    log = DamageLog(DamagePolicy(skip=True, max_skipped_rows=10), num_rows=100)
    for _ in range(3):
        log.skip(DamageError(Damage("a", 4, 10, "gone")))
    assert log.found == (Damage("a", 4, 10, "gone"),)
    with pytest.raises(DataError, match="11 of 100 rows"):
        log.skip(DamageError(Damage("a", 5, 1, "gone")))


def test_when_all_files_are_damaged_the_first_cause_is_told(files: list[str]) -> None:
    for path in files:
        spoil_footer(path)
    with pytest.raises(DataError, match=r"there is not a single row in them\. Left out: .*part-000.*footer"):
        index_of(files, SKIP)


@pytest.mark.parametrize("policy", [None, SKIP])
def test_a_folder_that_is_gone_in_mid_run_ends_the_job_under_either_policy(
    files: list[str], policy: DamagePolicy | None
) -> None:
    index = index_of(files)
    shutil.rmtree(os.path.dirname(files[0]))
    with pytest.raises(StorageError, match=r"part-00\d\.parquet: is gone, and so is '.*' that it lay in"):
        Job(index, 1, policy)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_no_damage(files: list[str]) -> None:
    os.chmod(files[1], 0)
    with pytest.raises(StorageError, match=r"part-001\.parquet: access is refused"):
        index_of(files, SKIP)


WIDENED = [
    ("row", pa.int32()),
    ("row", pa.uint16()),
    ("price", pa.float64()),
    ("price", pa.int32()),
    ("click", pa.bool_()),
    ("tags", pa.large_list(pa.large_string())),
    ("site", pa.large_string()),
    ("site", pa.dictionary(pa.int32(), pa.string())),
]


@pytest.mark.parametrize(("column", "kind"), WIDENED, ids=str)
def test_wider_and_narrower_types_are_the_same_values(tmp_path: Path, column: str, kind: pa.DataType) -> None:
    files = write_shards(tmp_path / "plain", SHARDS)
    other = write_shards(tmp_path / "other", SHARDS)
    table = pq.read_table(other[1])
    whole = table.set_column(1, "price", (table["row"].cast(pa.float32()))) if column == "price" else table
    for path in (files[1], other[1]):
        pq.write_table(whole, path)
    place = whole.column_names.index(column)
    pq.write_table(whole.set_column(place, column, whole[column].cast(kind)), other[1])
    plain, widened = (Job(index_of(paths), 1, None).batches[0] for paths in (files, other))
    for before, after in zip(plain, widened, strict=True):
        assert after.labels.tolist() == before.labels.tolist()
        assert after.dense.tolist() == before.dense.tolist()
        assert after.sparse.values().tolist() == before.sparse.values().tolist()


@pytest.mark.parametrize(("column", "kind"), [("row", pa.float64()), ("price", pa.string()), ("click", pa.string())])
def test_types_that_lose_what_a_column_means_are_refused(files: list[str], column: str, kind: pa.DataType) -> None:
    table = pq.read_table(files[1])
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, table[column].cast(kind)), files[1])
    with pytest.raises(DataError, match=rf"part-001\.parquet: column '{column}' has type {kind}"):
        index_of(files)


def test_a_file_written_while_the_files_are_resolved_does_not_matter(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "_temporary").mkdir()
    shutil.copy(files[0], tmp_path / "_temporary" / "part-009.parquet")
    shutil.copy(files[0], tmp_path / ".part-010.parquet")
    assert [file.name for file in resolve_files(str(tmp_path), key="data.train")] == files
