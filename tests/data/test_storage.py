"""Paths and URIs; a real S3 server that is busy, drops connections, refuses, or has lost the bucket."""

from __future__ import annotations

import logging
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.damage import DamagePolicy
from data.errors import DataError, StorageError
from data.files import resolve_files
from data.index import DatasetIndex, build_index
from data.loader import BatchLoader, LoaderOptions
from data.order import SampleOrder
from data.retry import Retry
from data.schema import load_schema
from data.storage import Storage, locate, read_bytes
from tests.data.object_store import CREDENTIALS, ObjectStore, object_store
from tests.data.shards import numbered_schema, served_rows, write_shards

SCHEMA = numbered_schema(100)
QUICK = Retry(attempts=4, total_s=60.0, first_delay_s=0.01, longest_delay_s=0.05)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [[30, 10], [20], [40]])
    return folder


@pytest.fixture(scope="module")
def store(shards: Path) -> Iterator[ObjectStore]:
    with pytest.MonkeyPatch.context() as patch, object_store() as running:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        running.upload(shards, "clicks/train")
        yield running


@pytest.fixture(autouse=True)
def _calm(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "store" in request.fixturenames:
        request.getfixturevalue("store").calm()


def remote_index(store: ObjectStore, source: str = "s3://clicks/train", retry: Retry = QUICK) -> DatasetIndex:
    files = resolve_files(source, key="data.train", options=store.options, retry=retry)
    return build_index(files, SCHEMA)


def all_rows(index: DatasetIndex, options: LoaderOptions | None = None) -> list[int]:
    order = SampleOrder(index.row_counts, global_batch_size=16, lanes=2, window_rows=40, shuffle=True)
    loader = BatchLoader(index, order, SCHEMA, rank=0, world_size=1, options=options)
    with loader.batches(0, order.steps_per_epoch) as stream:
        return sorted(row for batch in stream for row in served_rows(batch))


@pytest.mark.parametrize(
    ("source", "uri", "path", "name"),
    [
        ("data/x.parquet", "", "data/x.parquet", "data/x.parquet"),
        ("/data/a b.parquet", "", "/data/a b.parquet", "/data/a b.parquet"),
        ("file:///data/a%20b.parquet", "", "/data/a b.parquet", "/data/a b.parquet"),
        ("s3://bucket/a%20b/*.parquet", "s3://bucket", "bucket/a%20b/*.parquet", "s3://bucket/a%20b/*.parquet"),
        ("s3://key:secret@bucket/x?region=r", "s3://key:secret@bucket?region=r", "bucket/x", "s3://bucket/x"),
        ("gs://anonymous@bucket/x/", "gs://anonymous@bucket", "bucket/x", "gs://bucket/x"),
        ("hdfs://me@host:8020/x", "hdfs://me@host:8020", "/x", "hdfs://host:8020/x"),
    ],
)
def test_a_source_is_split_into_storage_and_path_and_shown_without_secrets(
    source: str, uri: str, path: str, name: str
) -> None:
    storage, found = locate(source)
    assert (storage.uri, found, storage.name(found)) == (uri, path, name)
    assert "secret" not in repr(storage)


def test_an_unknown_scheme_is_told_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'ftp://host/x': the scheme 'ftp' is unknown; .*file, s3, gs, gcs, hdfs"):
        locate("ftp://host/x")


def test_a_query_and_options_together_are_refused() -> None:
    with pytest.raises(DataError, match=r"'s3://bucket/x': has a query, but data\.storage_options is set") as error:
        locate("s3://me:secret@bucket/x?region=r", {"region": "r"})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "s3://bucket/x?regoin=r&region=r",
            None,
            r"s3://bucket: .*'regoin'.*correct the URI's query, which takes what",
        ),
        (
            "s3://bucket/x",
            {"regoin": "r"},
            r"s3://bucket: .*'regoin'.*correct data\.storage_options.*S3FileSystem takes",
        ),
        ("gs://bucket/x?zone=1", None, r"gs://bucket: .*'zone'.*GcsFileSystem takes"),
    ],
)
def test_an_option_that_pyarrow_does_not_know_is_named(
    source: str, options: dict[str, str] | None, message: str
) -> None:
    with pytest.raises(StorageError, match=message):
        resolve_files(source, key="data.train", options=options, retry=QUICK)


@pytest.mark.skipif(shutil.which("hadoop") is not None, reason="there is a Hadoop here")
def test_hdfs_without_hadoop_on_this_machine_is_told() -> None:
    with pytest.raises(StorageError, match=r"hdfs://namenode:8020: pyarrow cannot make a file system of it \(Unable"):
        resolve_files("hdfs://namenode:8020/clicks", key="data.train", retry=QUICK)


def test_google_storage_that_cannot_be_reached_ends_in_time() -> None:
    options = {"anonymous": True, "endpoint_override": "127.0.0.1:1", "scheme": "http"}
    with pytest.raises(StorageError, match=r"gs://bucket/clicks: cannot be"):
        resolve_files("gs://bucket/clicks", key="data.train", options=options, retry=Retry(attempts=0, total_s=1.0))


def test_a_file_uri_is_the_path(shards: Path) -> None:
    by_uri = resolve_files(f"file://{shards}/part-000.parquet", key="data.train")
    assert by_uri == resolve_files(f"{shards}/part-000.parquet", key="data.train")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("s3://clicks/train", ["part-000", "part-001", "part-002"]),
        ("s3://clicks/train/", ["part-000", "part-001", "part-002"]),
        ("s3://clicks/train/part-001.parquet", ["part-001"]),
        ("s3://clicks/*/part-00[02].parquet", ["part-000", "part-002"]),
        ("s3://clicks/**/part-*.parquet", ["part-000", "part-001", "part-002"]),
    ],
)
def test_s3_is_read_by_key_prefix_and_glob(store: ObjectStore, source: str, expected: list[str]) -> None:
    index = remote_index(store, source)
    assert sorted({group.path for group in index.row_groups}) == [f"s3://clicks/train/{n}.parquet" for n in expected]


def test_s3_by_query_and_by_options_is_the_same_data_set_as_its_local_copy(store: ObjectStore, shards: Path) -> None:
    local = build_index(resolve_files(str(shards), key="data.train"), SCHEMA)
    by_query = build_index(resolve_files(f"s3://clicks/train?{store.query}", key="data.train", retry=QUICK), SCHEMA)
    assert {local.fingerprint, by_query.fingerprint, remote_index(store).fingerprint} == {local.fingerprint}
    assert all_rows(by_query) == list(range(100))


def test_an_index_of_s3_can_be_given_to_another_process(store: ObjectStore) -> None:
    index = pickle.loads(pickle.dumps(remote_index(store)))
    assert all_rows(index) == list(range(100))


def test_footers_that_the_index_hands_over_are_not_read_again(store: ObjectStore) -> None:
    index = remote_index(store)
    footers = len([method for method, _ in store.requests if method == "GET"])
    store.calm()
    groups = [group for group in index.row_groups if group.path.endswith("part-001.parquet")]
    rows = all_rows(DatasetIndex(tuple(groups), index.fingerprint))
    gets = [path for method, path in store.requests if method == "GET"]
    assert rows == list(range(40, 60))
    assert footers >= 3
    assert len(gets) == 2  # one row group: its columns in one request, its lists in another


def test_a_schema_and_its_vocabulary_are_read_from_s3(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "vocabulary").mkdir()
    (tmp_path / "vocabulary" / "site.txt").write_text("site-1\nsite-2\n")
    site = "{name: site, kind: vocabulary, vocabulary: vocabulary/site.txt}"
    (tmp_path / "schema.yaml").write_text(f"label: click\nsparse: [{site}]\n")
    store.upload(tmp_path, "schemas/v1")
    schema = load_schema("s3://schemas/v1/schema.yaml", read=lambda path: read_bytes(path, store.options, QUICK))
    assert schema.sparse[0].num_embeddings == 4  # null, unknown and two values


def test_a_schema_that_is_not_on_s3_is_told(store: ObjectStore) -> None:
    with pytest.raises(DataError, match=r"s3://clicks/schema\.yaml: cannot read the schema \(.*does not exist"):
        load_schema("s3://clicks/schema.yaml", read=lambda path: read_bytes(path, store.options, QUICK))


def test_nothing_at_a_prefix_is_told(store: ObjectStore) -> None:
    with pytest.raises(DataError, match=r"data\.train: 's3://clicks/tran' matches no Parquet file"):
        remote_index(store, "s3://clicks/tran")


def first_requests(store: ObjectStore, kind: str, *, count: int, part: str) -> None:
    """The first requests for some part of a path fail; a HEAD has no body that could be cut."""

    def fault(number: int, method: str, path: str) -> str | None:
        fails = part in path and len(store.faults) < count and (kind != "cut" or method == "GET")
        return kind if fails else None

    store.calm()
    store.fault = fault


@pytest.mark.parametrize("kind", ["busy", "drop", "cut"])
def test_reading_survives_a_server_that_fails_for_a_while(
    store: ObjectStore, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    # pyarrow itself tries three or four times: more failures in a row need our own attempts, too.
    with caplog.at_level(logging.WARNING):
        first_requests(store, kind, count=5, part="clicks")
        index = remote_index(store)
        assert len(store.faults) == 5
        assert any("s3://clicks/train: " in r.message and "trying again in" in r.message for r in caplog.records)
        caplog.clear()
        first_requests(store, kind, count=9, part="part-001")  # for two tasks that read it at once
        assert all_rows(index) == list(range(100))
        assert len(store.faults) == 9
        assert any("part-001.parquet: " in r.message and "trying again in" in r.message for r in caplog.records)


def test_a_refused_access_is_not_tried_again(store: ObjectStore) -> None:
    store.fault = lambda number, method, path: "deny"
    with pytest.raises(StorageError, match=r"s3://clicks/train: cannot be looked at .*ACCESS_DENIED.*credentials"):
        remote_index(store)
    assert len(store.requests) == 1


@pytest.mark.parametrize("skip", [False, True])
def test_access_refused_in_mid_run_ends_the_job_under_either_policy(store: ObjectStore, skip: bool) -> None:
    index = remote_index(store)
    store.fault = lambda number, method, path: "deny"
    policy = DamagePolicy(skip=skip, max_skipped_rows=1000)
    with pytest.raises(StorageError, match=r"s3://clicks/train/part-00\d\.parquet: .*ACCESS_DENIED"):
        all_rows(index, LoaderOptions(damage=policy))


def test_a_server_that_stays_away_is_told_after_the_last_attempt(store: ObjectStore) -> None:
    store.fault = lambda number, method, path: "busy"
    with pytest.raises(
        StorageError, match=r"s3://clicks/train: cannot be reached, after 2 attempts .*503.*data\.retries"
    ):
        remote_index(store, retry=Retry(attempts=1, total_s=60.0, first_delay_s=0.01))


@pytest.mark.parametrize("skip", [False, True])
def test_a_bucket_that_is_gone_in_mid_run_ends_the_job_under_either_policy(
    store: ObjectStore, shards: Path, skip: bool
) -> None:
    store.upload(shards, "doomed/train")
    index = remote_index(store, "s3://doomed/train")
    store.delete_bucket("doomed")
    policy = DamagePolicy(skip=skip, max_skipped_rows=1000)
    with pytest.raises(StorageError, match=r"s3://doomed/train/part-00\d\.parquet: is gone, and so is 's3://doomed'"):
        all_rows(index, LoaderOptions(damage=policy))


def test_an_object_that_is_deleted_in_mid_run_is_damage(store: ObjectStore, shards: Path) -> None:
    store.upload(shards, "leaky/train")
    index = remote_index(store, "s3://leaky/train")
    store.direct().delete_file("leaky/train/part-001.parquet")
    with pytest.raises(DataError, match=r"s3://leaky/train/part-001\.parquet, row group 0: was deleted while the job"):
        all_rows(index)
    policy = DamagePolicy(skip=True, max_skipped_rows=20)
    assert all_rows(index, LoaderOptions(damage=policy)) == [*range(40), *range(60, 100)]


def test_a_storage_is_a_plain_value() -> None:
    assert pickle.loads(pickle.dumps(Storage("s3://b", (("region", "r"),)))) == Storage("s3://b", (("region", "r"),))
