"""Checkpoints in an object store: there only with their manifest, which comes last and goes first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from data.errors import StorageError
from data.retry import Retry
from tests.data.object_store import CREDENTIALS, ObjectStore, object_store
from tests.trainer.checkpoint.test_storage import FILES, manifest
from trainer.checkpoint import storage
from trainer.checkpoint.bucket import BucketPath, location
from trainer.errors import CheckpointError


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with pytest.MonkeyPatch.context() as environment, object_store() as running:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        yield running


@pytest.fixture
def directory(store: ObjectStore) -> Iterator[BucketPath]:
    """An empty folder of a new bucket."""
    store.calm()
    store.direct().create_dir("runs")
    found = location("s3://runs/click/checkpoints", store.options)
    assert isinstance(found, BucketPath)
    yield found
    store.delete_bucket("runs")


def write(directory: BucketPath, step: int, content: bytes = b"x" * 10) -> BucketPath:
    staged = storage.stage(directory, step)
    (staged / "__0_0.distcp").write_bytes(content)
    path = storage.commit(directory, manifest(step))
    assert isinstance(path, BucketPath)
    return path


def test_a_checkpoint_is_committed_by_its_manifest_alone(directory: BucketPath) -> None:
    staged = storage.stage(directory, 5)
    (staged / "__0_0.distcp").write_bytes(b"x" * 10)
    assert storage.committed(directory) == []
    with pytest.raises(CheckpointError, match=r"s3://runs/click/checkpoints/step-00000005: has no manifest.json"):
        storage.read_manifest(staged)
    assert storage.commit(directory, manifest(5)) == staged
    assert storage.committed(directory) == [staged]
    assert storage.read_manifest(staged) == manifest(5)
    storage.verify(staged, FILES)


def test_what_a_crash_left_is_removed_by_the_next_save(directory: BucketPath) -> None:
    good = write(directory, 5)
    left = storage.stage(directory, 6)
    (left / "__0_0.distcp").write_bytes(b"xx")
    (left / "__1_0.distcp").write_bytes(b"yy")
    storage.stage(directory, 7)
    assert sorted(directory.files()) == ["step-00000005/__0_0.distcp", "step-00000005/manifest.json"]
    assert storage.committed(directory) == [good]


def test_a_step_that_is_saved_again_is_uncommitted_first(directory: BucketPath) -> None:
    write(directory, 5, b"damaged")
    storage.stage(directory, 5)
    assert storage.committed(directory) == []
    storage.verify(write(directory, 5), FILES)


def test_deletion_removes_the_manifest_first(directory: BucketPath, store: ObjectStore) -> None:
    path = write(directory, 5)
    store.calm()
    storage.delete(path)
    deleted = [asked for method, asked in store.requests if method == "DELETE"]
    assert [asked.rpartition("/")[2] for asked in deleted] == ["manifest.json", "__0_0.distcp"]
    assert storage.committed(directory) == []
    assert directory.files() == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x", r"__0_0.distcp: has 1 bytes instead of 10; the checkpoint is damaged"),
        (b"x" * 9 + b"y", r"__0_0.distcp: its checksum is not the one recorded; the checkpoint is damaged"),
        (None, r"__0_0.distcp: is missing; the checkpoint is damaged"),
    ],
    ids=["truncated", "flipped", "missing"],
)
def test_damage_is_named(content: bytes | None, message: str, directory: BucketPath) -> None:
    file = write(directory, 5) / "__0_0.distcp"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        storage.verify(directory / "step-00000005", storage.read_manifest(directory / "step-00000005").files)


def test_committed_is_sorted_by_step_and_takes_exact_names_only(directory: BucketPath) -> None:
    for step in (100_000_000, 7, 30):
        write(directory, step)
    (directory / "step-99" / "manifest.json").write_bytes(b"{}")
    (directory / "step-00000099-old" / "manifest.json").write_bytes(b"{}")
    assert [path.name for path in storage.committed(directory)] == ["step-00000007", "step-00000030", "step-100000000"]


def test_a_store_that_cannot_be_reached_is_no_damage(directory: BucketPath, store: ObjectStore) -> None:
    path = write(directory, 5)
    store.fault = lambda number, method, asked: "busy" if asked.endswith("manifest.json") else None
    impatient = BucketPath(
        type(path.storage)(path.storage.uri, path.storage.options, Retry(attempts=0, total_s=1)), path.path
    )
    with pytest.raises(StorageError, match="cannot be reached"):
        storage.read_manifest(impatient)
    store.calm()
