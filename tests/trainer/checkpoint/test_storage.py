"""What counts as a checkpoint, and what a damaged one says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.checkpoint import storage
from trainer.checkpoint.storage import Manifest, StoredFile
from trainer.errors import CheckpointError

# echo -n xxxxxxxxxx | sha256sum
FILES = {"__0_0.distcp": StoredFile(10, "fc11d6f28e59d3cc33c0b14ceb644bf0902ebd63d61218dffe9e7dac7c254542")}


def manifest(step: int) -> Manifest:
    return Manifest(step=step, epoch=0, identity={}, config={}, versions={}, world_size=2, files=FILES)


def write(directory: Path, step: int) -> Path:
    staged = storage.stage(directory, step)
    (staged / "__0_0.distcp").write_bytes(b"x" * 10)
    return Path(str(storage.commit(directory, manifest(step))))


def test_only_a_rename_commits(tmp_path: Path) -> None:
    storage.stage(tmp_path, 5)
    assert storage.committed(tmp_path) == []
    assert storage.commit(tmp_path, manifest(5)) == tmp_path / "step-00000005"
    assert storage.committed(tmp_path) == [tmp_path / "step-00000005"]


def test_committed_is_sorted_by_step_and_takes_exact_names_only(tmp_path: Path) -> None:
    for step in (100_000_000, 7, 30):
        write(tmp_path, step)
    (tmp_path / "step-00000099-old").mkdir()
    (tmp_path / "step-99").mkdir()
    assert [path.name for path in storage.committed(tmp_path)] == ["step-00000007", "step-00000030", "step-100000000"]


def test_a_missing_directory_holds_nothing(tmp_path: Path) -> None:
    assert storage.committed(tmp_path / "none") == []


def test_staging_removes_what_a_crash_left(tmp_path: Path) -> None:
    storage.stage(tmp_path, 3)
    committed = write(tmp_path, 4)
    committed.rename(tmp_path / ".deleting-step-00000004")
    storage.stage(tmp_path, 6)
    assert [path.name for path in tmp_path.iterdir()] == [".staging-step-00000006"]


def test_committing_a_step_again_replaces_it(tmp_path: Path) -> None:
    old = write(tmp_path, 5)
    (old / "__0_0.distcp").unlink()
    again = write(tmp_path, 5)
    assert again == old
    storage.verify(again, FILES)


def test_manifest_comes_back(tmp_path: Path) -> None:
    path = write(tmp_path, 12)
    assert storage.read_manifest(path) == manifest(12)
    storage.verify(path, FILES)


def test_flipped_bit_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    (path / "__0_0.distcp").write_bytes(b"x" * 9 + b"y")
    assert storage.read_manifest(path).files == FILES
    with pytest.raises(CheckpointError, match=r"__0_0.distcp: its checksum is not the one recorded"):
        storage.verify(path, FILES)


def test_truncated_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    (path / "__0_0.distcp").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"__0_0.distcp: has 1 bytes instead of 10; the checkpoint is damaged"):
        storage.read_manifest(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    (path / "__0_0.distcp").unlink()
    with pytest.raises(CheckpointError, match=r"__0_0.distcp: is missing; the checkpoint is damaged"):
        storage.read_manifest(path)


def test_missing_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    (path / storage.MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"has no manifest.json, so it is not a committed checkpoint"):
        storage.read_manifest(path)


def test_broken_manifest_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    (path / storage.MANIFEST).write_text("{")
    with pytest.raises(CheckpointError, match=r"manifest.json: cannot be read .*; the checkpoint is damaged"):
        storage.read_manifest(path)


def test_other_format_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    values = json.loads((path / storage.MANIFEST).read_text())
    (path / storage.MANIFEST).write_text(json.dumps({**values, "format": 99}))
    with pytest.raises(CheckpointError, match="has format 99, but this version reads format 2"):
        storage.read_manifest(path)


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such checkpoint directory"):
        storage.read_manifest(tmp_path / "step-00000001")
