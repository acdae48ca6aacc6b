"""Where checkpoints lie: staging, the commit, and what counts as committed.

::

    checkpoints/step-00000500/            committed: the name is given by one rename, the last act
        manifest.json                     step, epoch, identity, config, versions, sizes and checksums
        .metadata  __0_0.distcp ...       torch.distributed.checkpoint
    checkpoints/.staging-step-00000600/   being written, or left behind by a crash: never read

In an object store, where a rename is a copy of everything, files are written to where they stay, and the
manifest comes last: it is the mark of the commit, and a folder without it is never read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainer.checkpoint.bucket import BucketPath, Location
from trainer.errors import CheckpointError

MANIFEST = "manifest.json"
_COMMITTED = re.compile(r"step-(\d{8,})")
_FORMAT = 2


class FormatError(CheckpointError):
    """A checkpoint that another version of this program wrote: not damaged, but not to be read either."""


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
        num_nonfinite_steps: Steps that were left out because their loss was not finite.
        loss_scale: Of gradients through float16; empty without it.
        format: Of the checkpoint's layout.
    """

    step: int
    epoch: int
    identity: dict[str, Any]
    config: dict[str, Any]
    versions: dict[str, str]
    world_size: int
    files: dict[str, StoredFile]
    monitor: dict[str, float | str | None] = field(default_factory=dict)
    num_nonfinite_steps: int = 0
    loss_scale: dict[str, float] = field(default_factory=dict)
    format: int = _FORMAT


def committed_path(directory: Location, step: int) -> Location:
    """Where the checkpoint of a step lies once it is committed."""
    return directory / f"step-{step:08d}"


def step_of(path: Location) -> int:
    """The step of a committed checkpoint."""
    return int(path.name.removeprefix("step-"))


def stage(directory: Location, step: int) -> Location:
    """An empty place to write the checkpoint of a step to; whatever a crash left in such places goes."""
    if isinstance(directory, BucketPath):
        kept = {path.name for path in committed(directory)} - {committed_path(directory, step).name}
        _empty(directory, lambda folder: bool(_COMMITTED.fullmatch(folder)) and folder not in kept)
        return committed_path(directory, step)
    directory.mkdir(parents=True, exist_ok=True)
    for leftover in [*directory.glob(".staging-*"), *directory.glob(".deleting-*")]:
        shutil.rmtree(leftover)
    path = _staging_path(directory, step)
    path.mkdir()
    return path


def commit(directory: Location, manifest: Manifest) -> Location:
    """Makes the staged checkpoint of a step the real one, in one act after all else is stored.

    Args:
        directory: Of the run's checkpoints.
        manifest: What it says about itself.

    Returns:
        The committed directory.
    """
    content = json.dumps(asdict(manifest), indent=1).encode()
    if isinstance(directory, BucketPath):
        mark = committed_path(directory, manifest.step) / MANIFEST
        mark.write_bytes(content)
        return committed_path(directory, manifest.step)
    target = directory / committed_path(directory, manifest.step).name
    staged = _staging_path(directory, manifest.step)
    with open(staged / MANIFEST, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    _sync_directory(staged)
    if target.exists():  # a damaged one that the run went back behind
        delete(target)
    staged.rename(target)
    _sync_directory(directory)
    return target


def delete(path: Location) -> None:
    """Removes a committed checkpoint: first what makes it one, then its files."""
    if isinstance(path, BucketPath):
        (path / MANIFEST).unlink()
        _empty(path, lambda folder: True)
        return
    doomed = path.with_name(f".deleting-{path.name}")
    path.rename(doomed)
    shutil.rmtree(doomed)


def committed(directory: Location) -> list[Location]:
    """The committed checkpoints, oldest first."""
    names: list[str] = []
    if isinstance(directory, BucketPath):
        names = [name.removesuffix(f"/{MANIFEST}") for name in directory.files() if name.endswith(f"/{MANIFEST}")]
    elif directory.is_dir():
        names = [path.name for path in directory.iterdir() if path.is_dir()]
    found = [(int(match[1]), directory / match[0]) for name in names if (match := _COMMITTED.fullmatch(name))]
    return [path for _, path in sorted(found, key=lambda pair: pair[0])]


def read_manifest(path: Location) -> Manifest:
    """Reads a checkpoint's manifest and looks whether its files are all there.

    Raises:
        CheckpointError: It is no checkpoint, or a file is missing or of another size.
        FormatError: Another version of this program wrote it.
        StorageError: It lies in an object store that cannot be reached.
    """
    if isinstance(path, Path) and not path.is_dir():
        raise CheckpointError(f"{path}: there is no such checkpoint directory.")
    try:
        values = json.loads((path / MANIFEST).read_bytes())
        if values["format"] != _FORMAT:
            raise FormatError(
                f"{path}: has format {values['format']}, but this version reads format {_FORMAT}; use the version of "
                f"shardfm that wrote it ({values['versions'].get('shardfm', 'unknown')}), or start anew in another "
                "run_dir."
            )
        files = {name: StoredFile(**file) for name, file in values.pop("files").items()}
        manifest = Manifest(**values, files=files)
    except FileNotFoundError as cause:
        raise CheckpointError(
            f"{path}: has no {MANIFEST}, so it is not a committed checkpoint; name a step-... directory."
        ) from cause
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as cause:
        raise CheckpointError(f"{path / MANIFEST}: cannot be read ({cause}); the checkpoint is damaged.") from cause
    sizes = path.files() if isinstance(path, BucketPath) else {p.name: p.stat().st_size for p in path.iterdir()}
    for name, file in manifest.files.items():
        if sizes.get(name) != file.num_bytes:
            state = f"has {sizes[name]} bytes instead of {file.num_bytes}" if name in sizes else "is missing"
            raise CheckpointError(f"{path / name}: {state}; the checkpoint is damaged.")
    return manifest


def verify(path: Location, files: Mapping[str, StoredFile]) -> None:
    """Reads files of a checkpoint and compares their checksums.

    Raises:
        CheckpointError: One cannot be read or does not hold what was written.
        StorageError: They lie in an object store that cannot be reached.
    """
    for name, file in files.items():
        try:
            actual = _sha256(path / name)
        except OSError as cause:
            raise CheckpointError(f"{path / name}: cannot be read ({cause}); the checkpoint is damaged.") from cause
        if actual != file.sha256:
            raise CheckpointError(f"{path / name}: its checksum is not the one recorded; the checkpoint is damaged.")


def _staging_path(directory: Path, step: int) -> Path:
    return directory / f".staging-step-{step:08d}"


def _empty(directory: BucketPath, chosen: Callable[[str], bool]) -> None:
    """Removes the files of those folders that are chosen by name; that of a file right here is empty."""
    names = list(directory.files())
    # Manifests first: what loses a file must not count as committed.
    for name in sorted(names, key=lambda name: not name.endswith(MANIFEST)):
        if chosen(name.rpartition("/")[0]):
            (directory / name).unlink()


def _sha256(path: Location) -> str:
    if isinstance(path, BucketPath):
        return path.sha256()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
