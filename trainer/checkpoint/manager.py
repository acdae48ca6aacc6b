"""Saving, retention and the choice of where to resume."""

from __future__ import annotations

import dataclasses
import logging
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from data.order import SampleOrder
from data.schema import Schema
from trainer.checkpoint import state, storage
from trainer.checkpoint.storage import Manifest
from trainer.config import CheckpointConfig, TrainConfig
from trainer.distributed import on_main
from trainer.errors import CheckpointError, ConfigError
from trainer.inputs import Dataset

logger = logging.getLogger(__name__)

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

    def save(self, tensors: dict[str, Any], *, step: int, epoch: int) -> Path:
        """Writes and commits a checkpoint, then drops the oldest. All ranks must call this.

        Args:
            tensors: See :func:`trainer.checkpoint.state.training_state`.
            step: Steps completed.
            epoch: Epochs completed.

        Returns:
            The committed directory.

        Raises:
            CheckpointError: Some rank could not write; nothing is committed, and what was stays.
        """
        started = time.monotonic()
        staged = on_main(lambda: storage.stage(self.directory, step))
        state.write(tensors, staged)

        def finish() -> Path:
            manifest = Manifest(
                step=step,
                epoch=epoch,
                identity=self._identity,
                config=dataclasses.asdict(self._config),
                versions=_versions(),
                world_size=self._world_size,
                files={},
            )
            path = storage.commit(self.directory, manifest)
            for old in storage.committed(self.directory)[: -self._config.checkpoint.keep_last]:
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
        return on_main(lambda: _find_resume(self.directory, self._config.checkpoint, self._identity))


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
        "data.window_rows": config.data.window_rows,
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


def _find_resume(directory: Path, config: CheckpointConfig, identity: dict[str, Any]) -> Resume | None:
    found = storage.committed(directory)
    if config.resume == "none":
        if found:
            raise ConfigError(
                f"checkpoint.resume is 'none', but {directory} holds {len(found)} checkpoints of an earlier run; "
                "set run_dir to a new directory, remove that one, or use checkpoint.resume=auto."
            )
        return None
    if config.resume != "auto":
        found = [Path(config.resume)]
    for path in reversed(found):
        try:
            manifest = storage.read_manifest(path)
        except CheckpointError as damage:
            if config.resume != "auto":
                raise
            logger.warning("%s Falling back to the one before it.", damage)
            continue
        remedy = "Change it back, or set run_dir to a new directory to start another run."
        check_identity(path, manifest.identity, identity, remedy=remedy)
        return Resume(path, manifest)
    if found:
        raise CheckpointError(
            f"{directory}: all {len(found)} checkpoints are damaged; set run_dir to a new directory to start anew."
        )
    return None


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
