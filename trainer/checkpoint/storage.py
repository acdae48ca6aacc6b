"""Where checkpoints lie: staging, the commit, and what counts as committed.

::

    checkpoints/step-00000500/            committed: the name is given by one rename, the last act
        manifest.json                     step, epoch, identity, config, versions, sizes and checksums
        .metadata  __0_0.distcp ...       torch.distributed.checkpoint
    checkpoints/.staging-step-00000600/   being written, or left behind by a crash: never read
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainer.errors import CheckpointError

MANIFEST = "manifest.json"
_COMMITTED = re.compile(r"step-(\d{8,})")
_FORMAT = 2


@dataclass(frozen=True)
class StoredFile:
    """A file of a checkpoint as it was written.

    Attributes:
        num_bytes: Its size.
        sha256: Its checksum, hexadecimal.
    """

    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says about itself.

    Attributes:
        step: Steps that were completed.
        epoch: Epochs that were completed.
        identity: What a resumed run must agree with: schema, data set, model, order (see ``manager``).
        config: The resolved config of the run.
        versions: Of the packages that wrote it.
        world_size: Ranks that wrote it.
        files: The files by name.
        monitor: What the run remembered of its evaluations.
        format: Of the checkpoint's layout.
    """

    step: int
    epoch: int
    identity: dict[str, Any]
    config: dict[str, Any]
    versions: dict[str, str]
    world_size: int
    files: dict[str, StoredFile]
    monitor: dict[str, float | None] = field(default_factory=dict)
    format: int = _FORMAT


def staging_path(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step is written before it is committed."""
    return directory / f".staging-step-{step:08d}"


def committed_path(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step lies once it is committed."""
    return directory / f"step-{step:08d}"


def stage(directory: Path, step: int) -> Path:
    """Makes an empty staging directory; whatever a crash left in staging places goes."""
    directory.mkdir(parents=True, exist_ok=True)
    for leftover in [*directory.glob(".staging-*"), *directory.glob(".deleting-*")]:
        shutil.rmtree(leftover)
    path = staging_path(directory, step)
    path.mkdir()
    return path


def commit(directory: Path, manifest: Manifest) -> Path:
    """Makes the staged checkpoint of a step the real one, in one rename after all else is on disk.

    Args:
        directory: Of the run's checkpoints.
        manifest: What it says about itself.

    Returns:
        The committed directory.
    """
    staged, target = staging_path(directory, manifest.step), committed_path(directory, manifest.step)
    with open(staged / MANIFEST, "w", encoding="utf-8") as file:
        json.dump(asdict(manifest), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    _sync_directory(staged)
    if target.exists():  # a damaged one that the run went back behind
        delete(target)
    staged.rename(target)
    _sync_directory(directory)
    return target


def delete(path: Path) -> None:
    """Removes a committed checkpoint: first its name, in one rename, then its files."""
    doomed = path.with_name(f".deleting-{path.name}")
    path.rename(doomed)
    shutil.rmtree(doomed)


def committed(directory: Path) -> list[Path]:
    """The committed checkpoints, oldest first."""
    if not directory.is_dir():
        return []
    found = [(_COMMITTED.fullmatch(path.name), path) for path in directory.iterdir() if path.is_dir()]
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]


def read_manifest(path: Path) -> Manifest:
    """Reads a checkpoint's manifest and looks whether its files are all there.

    Raises:
        CheckpointError: It is no checkpoint, or a file is missing or of another size.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such checkpoint directory.")
    try:
        values = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files = {name: StoredFile(**file) for name, file in values.pop("files").items()}
        manifest = Manifest(**values, files=files)
    except FileNotFoundError as cause:
        raise CheckpointError(
            f"{path}: has no {MANIFEST}, so it is not a committed checkpoint; name a step-... directory."
        ) from cause
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as cause:
        raise CheckpointError(f"{path / MANIFEST}: cannot be read ({cause}); the checkpoint is damaged.") from cause
    if manifest.format != _FORMAT:
        raise CheckpointError(f"{path}: has format {manifest.format}, but this version reads format {_FORMAT}.")
    for name, file in manifest.files.items():
        actual = (path / name).stat().st_size if (path / name).exists() else None
        if actual != file.num_bytes:
            state = "is missing" if actual is None else f"has {actual} bytes instead of {file.num_bytes}"
            raise CheckpointError(f"{path / name}: {state}; the checkpoint is damaged.")
    return manifest


def measure(paths: Iterable[Path]) -> dict[str, StoredFile]:
    """Sizes and checksums of files, by name."""
    return {path.name: StoredFile(path.stat().st_size, _sha256(path)) for path in paths}


def verify(path: Path, files: Mapping[str, StoredFile]) -> None:
    """Reads files of a checkpoint and compares their checksums.

    Raises:
        CheckpointError: One cannot be read or does not hold what was written.
    """
    for name, file in files.items():
        try:
            actual = _sha256(path / name)
        except OSError as cause:
            raise CheckpointError(f"{path / name}: cannot be read ({cause}); the checkpoint is damaged.") from cause
        if actual != file.sha256:
            raise CheckpointError(f"{path / name}: its checksum is not the one recorded; the checkpoint is damaged.")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
