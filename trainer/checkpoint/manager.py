"""Saving, retention and the choice of where to resume."""

from __future__ import annotations

import dataclasses
import functools
import logging
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from data.order import SampleOrder
from data.schema import Schema
from trainer.checkpoint import state, storage
from trainer.checkpoint.parts import Tensors
from trainer.checkpoint.storage import Manifest
from trainer.config import TrainConfig
from trainer.distributed import gather, on_all, on_main
from trainer.errors import CheckpointError, ConfigError
from trainer.inputs import Dataset
from trainer.monitor import Monitor

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PACKAGES = ("shardfm", "torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "pyarrow", "numpy")


@dataclasses.dataclass(frozen=True)
class Resume:
    """Where a run continues.

    Attributes:
        path: The checkpoint.
        manifest: What it says about itself.
    """

    path: Path
    manifest: Manifest


class CheckpointManager:
    """The checkpoints of one run.

    Args:
        config: Of the run; recorded in every checkpoint.
        identity: What a checkpoint must agree with to be resumed (see :func:`run_identity`).
        world_size: Recorded in every checkpoint.
    """

    def __init__(self, config: TrainConfig, identity: dict[str, Any], *, world_size: int) -> None:
        self.directory = Path(config.checkpoint.directory)
        self._config = config
        self._identity = identity
        self._world_size = world_size

    def save(self, tensors: Tensors, *, step: int, epoch: int, monitor: Monitor) -> Path:
        """Writes and commits a checkpoint, then drops the oldest but the best. All ranks must call this.

        Args:
            tensors: See :func:`trainer.checkpoint.canonical.training_state`.
            step: Steps completed.
            epoch: Epochs completed.
            monitor: Its state is recorded, and its best step kept.

        Returns:
            The committed directory.

        Raises:
            CheckpointError: Some rank could not write; nothing is committed, and what was stays.
        """
        started = time.monotonic()
        staged = on_main(lambda: storage.stage(self.directory, step))
        state.write(tensors, staged)
        # Each rank reads back what it wrote itself, so that the checksums cost no rank the whole checkpoint.
        rank = dist.get_rank()
        own = [*staged.glob(f"__{rank}_*"), *(staged.glob(".metadata") if rank == 0 else ())]
        measured = gather(on_all(lambda: storage.measure(own)))
        files = {name: file for part in measured for name, file in part.items()}

        def finish() -> Path:
            manifest = Manifest(
                step=step,
                epoch=epoch,
                identity=self._identity,
                config=dataclasses.asdict(self._config),
                versions=_versions(),
                world_size=self._world_size,
                monitor=monitor.state(),
                files=files,
            )
            path = storage.commit(self.directory, manifest)
            best = storage.committed_path(self.directory, monitor.best_step or 0)
            for old in storage.committed(self.directory)[: -self._config.checkpoint.keep_last]:
                if not (self._config.monitor.use_best and old == best):
                    storage.delete(old)
            logger.info("step %d: saved %s in %.1f s", step, path, time.monotonic() - started)
            return path

        return on_main(finish)

    def find_resume(self) -> Resume | None:
        """The checkpoint to continue from, or None to start anew. All ranks must call this.

        Raises:
            ConfigError: ``checkpoint.resume=none`` in a directory that holds checkpoints.
            CheckpointError: The checkpoint is damaged, or made for another schema, data set, model or
                order.
        """
        resume = self._config.checkpoint.resume
        candidates = on_main(lambda: _candidates(self.directory, resume))
        damages: list[str] = []
        for path in reversed(candidates):
            manifest, damage = _read_together(path)
            if manifest is not None:
                return on_main(functools.partial(self._accept, path, manifest, damages))
            damages.append(damage)
        return on_main(functools.partial(_start_anew, self.directory, resume, damages))

    def _accept(self, path: Path, manifest: Manifest, damages: list[str]) -> Resume:
        for damage in damages:
            logger.warning("%s Falling back to the one before it.", damage)
        remedy = "Change it back, or set run_dir to a new directory to start another run."
        check_identity(path, manifest.identity, self._identity, remedy=remedy)
        return Resume(path, manifest)


def run_identity(dataset: Dataset, config: TrainConfig, order: SampleOrder) -> dict[str, Any]:
    """What must be the same for a checkpoint to be continued: else its tensors or its position are wrong."""
    return {
        "schema": schema_identity(dataset.schema),
        "data.train": dataset.index.fingerprint,
        "model": dataclasses.asdict(config.model),
        "optimizer.sparse.name": config.optimizer.sparse.name,
        "optimizer.dense.name": config.optimizer.dense.name,
        "seed": config.seed,
        "global_batch_size": order.global_batch_size,
        "data.lanes": order.lanes,
        "data.window_rows": order.window_rows,
    }


def schema_identity(schema: Schema) -> dict[str, Any]:
    """A schema as plain values, features by name, so that differences are told by name."""
    return schema.described()


def check_identity(path: Path, saved: dict[str, Any], current: dict[str, Any], *, remedy: str) -> None:
    """Compares a checkpoint with what is at hand.

    Raises:
        CheckpointError: They differ; the message lists each difference.
    """
    old, new = _flatten(saved), _flatten(current)
    differences = [
        f"{key}: {old.get(key, 'absent')!r} in the checkpoint, {new.get(key, 'absent')!r} here"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if differences:
        listed = "; ".join(differences[:8]) + (f"; and {len(differences) - 8} more" if len(differences) > 8 else "")
        raise CheckpointError(f"{path}: does not fit this run: {listed}. {remedy}")


def _candidates(directory: Path, resume: str) -> list[Path]:
    """The checkpoints that a run may continue from, the best last."""
    found = storage.committed(directory)
    if resume == "none" and found:
        raise ConfigError(
            f"checkpoint.resume is 'none', but {directory} holds {len(found)} checkpoints of an earlier run; "
            "set run_dir to a new directory, remove that one, or use checkpoint.resume=auto."
        )
    return found if resume in ("auto", "none") else [Path(resume)]


def _start_anew(directory: Path, resume: str, damages: list[str]) -> None:
    """Nothing to continue from is fine only if there never was anything."""
    if damages and resume == "auto":
        raise CheckpointError(
            f"{directory}: all {len(damages)} checkpoints are damaged, the newest of them so: {damages[0]} "
            "Set run_dir to a new directory to start anew."
        )
    if damages:
        raise CheckpointError(damages[0])


def _read_together(path: Path) -> tuple[Manifest | None, str]:
    """The manifest of an intact checkpoint, or None and what is damaged; each rank verifies its share of the files."""

    def attempt(act: Callable[[], T]) -> tuple[T | None, str]:
        try:
            return act(), ""
        except CheckpointError as damage:
            return None, str(damage)

    manifest, damage = on_main(lambda: attempt(lambda: storage.read_manifest(path)))
    if manifest is None:
        return None, damage
    share = sorted(manifest.files)[dist.get_rank() :: dist.get_world_size()]
    _, damage = attempt(lambda: storage.verify(path, {name: manifest.files[name] for name in share}))
    damages = [message for message in gather(damage) if message]
    return (None, damages[0]) if damages else (manifest, "")


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
