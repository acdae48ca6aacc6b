"""Saving, retention and the choice of where to resume."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch.distributed as dist

from trainer.checkpoint import state, storage
from trainer.checkpoint.background import Background
from trainer.checkpoint.bucket import Location, location
from trainer.checkpoint.identity import check_resumable
from trainer.checkpoint.parts import Tensors
from trainer.checkpoint.retention import dropped_steps
from trainer.checkpoint.staging import Staging
from trainer.checkpoint.storage import FormatError, Manifest
from trainer.config import TrainConfig
from trainer.distributed import gather, on_all, on_main
from trainer.errors import CheckpointError, ConfigError
from trainer.monitor import Monitor
from trainer.provenance import versions

logger = logging.getLogger(__name__)

T = TypeVar("T")

_BESIDE_TRAINING = ("device", "distributed", "logging", "profiler")


@dataclasses.dataclass(frozen=True)
class Resume:
    """Where a run continues.

    Attributes:
        path: The checkpoint.
        manifest: What it says about itself.
    """

    path: Location
    manifest: Manifest


class CheckpointManager:
    """The checkpoints of one run; a context, which lets a write that goes on end. All ranks must create it.

    Args:
        config: Of the run; recorded in every checkpoint.
        identity: What a checkpoint must agree with to be resumed (see ``identity``).
        world_size: Recorded in every checkpoint.

    Attributes:
        config: Of the run; what :meth:`find_resume` shows may settle it.
    """

    def __init__(self, config: TrainConfig, identity: dict[str, Any], *, world_size: int) -> None:
        self.directory = location(config.checkpoint.directory, config.checkpoint.storage_options)
        self.config = config
        self._origin = location(config.checkpoint.resume, config.checkpoint.storage_options)
        self._identity = identity
        self._world_size = world_size
        self._damaged: set[int] = set()
        self._staging = Staging()
        self._background = (
            Background(timeout_s=config.distributed.timeout_s) if config.checkpoint.asynchronous else None
        )

    def save(
        self,
        tensors: Tensors,
        *,
        step: int,
        epoch: int,
        monitor: Monitor,
        num_nonfinite_steps: int,
        loss_scale: dict[str, float],
    ) -> Location:
        """Saves a checkpoint, then drops what no rule keeps. All ranks must call this.

        If the config says so, training may go on when this returns, and the checkpoint is written from a
        copy; :meth:`wait` waits for its commit. A save waits for the one before it.

        Args:
            tensors: See :func:`trainer.checkpoint.canonical.training_state`.
            step: Steps completed.
            epoch: Epochs completed.
            monitor: Its state is recorded, and its best step may be kept.
            num_nonfinite_steps: Left out so far; recorded.
            loss_scale: Its state; recorded.

        Returns:
            The directory that is, or is going to be, committed.

        Raises:
            CheckpointError: Some rank could not write, now or since the last save; nothing is committed,
                and what was stays.
        """
        manifest = Manifest(
            step=step,
            epoch=epoch,
            identity=self._identity,
            config=dataclasses.asdict(self.config),
            versions=versions(),
            world_size=self._world_size,
            monitor=monitor.state(),
            num_nonfinite_steps=num_nonfinite_steps,
            loss_scale=loss_scale,
            files={},
        )
        best = monitor.best_step if self.config.keeps_best else None
        if self._background is None:
            self._write(tensors, manifest, best, None)
        else:
            self._background.wait()
            staged, group = on_all(lambda: self._staging.copy(tensors)), self._background.group
            self._background.start(lambda: self._write(staged, manifest, best, group))
        return storage.committed_path(self.directory, step)

    def check(self) -> None:
        """Raises what a write failed with, on all ranks in the same step. All ranks must call this, once a step.

        Raises:
            CheckpointError: Some rank could not write; nothing is committed.
        """
        if self._background is not None:
            self._background.check()

    def wait(self) -> None:
        """Waits until what was saved is committed. All ranks must call this.

        Raises:
            CheckpointError: Some rank could not write; nothing is committed.
        """
        if self._background is not None:
            self._background.wait()

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._background is not None:
            self._background.settle()

    def find_resume(self) -> Resume | None:
        """The checkpoint to continue from, or None to start anew. All ranks must call this.

        Raises:
            ConfigError: ``checkpoint.resume=none`` in a directory that holds checkpoints.
            CheckpointError: The checkpoint is damaged, or made for another schema, data set, model or
                order.
        """
        resume = self.config.checkpoint.resume
        candidates = on_main(self._candidates)
        damages: list[str] = []
        for path in reversed(candidates):
            manifest, damage = read_together(path)
            if manifest is not None:
                return on_main(functools.partial(self._accept, path, manifest, damages))
            damages.append(damage)
            if path != self._origin:
                self._damaged.add(storage.step_of(path))
        return on_main(functools.partial(_start_anew, self.directory, resume, damages))

    def is_own(self, resume: Resume) -> bool:
        """Whether the run continues from a checkpoint in its own directory."""
        own = storage.committed_path(self.directory, resume.manifest.step)
        if isinstance(own, Path) and isinstance(resume.path, Path):
            return own.resolve() == resume.path.resolve()
        return own == resume.path

    def holds(self, step: int) -> bool:
        """Whether the run's own directory has a committed checkpoint of a step; for one rank to ask."""
        return storage.committed_path(self.directory, step) in storage.committed(self.directory)

    def _candidates(self) -> list[Location]:
        """The checkpoints that the run may continue from, the best last."""
        resume = self.config.checkpoint.resume
        found = storage.committed(self.directory)
        if resume == "auto":
            return found
        # What the same command wrote, before it was killed or preempted, goes on.
        own = [path for path in found if self._wrote(path)]
        if resume != "none":
            return [self._origin, *own]
        if len(own) < len(found):
            raise ConfigError(
                f"checkpoint.resume is 'none', but {self.directory} holds {len(found)} checkpoints of an earlier run; "
                "set run_dir to a new directory, remove that one, or use checkpoint.resume=auto."
            )
        return own

    def _wrote(self, path: Location) -> bool:
        """Whether a run with the same config wrote a checkpoint; what tells nothing of it, none did."""
        try:
            saved = storage.read_manifest(path).config
        except CheckpointError:
            return False
        ours = json.loads(json.dumps(dataclasses.asdict(self.config)))
        if self.config.precision.dense == "auto":
            ours["precision"]["dense"] = saved["precision"]["dense"]
        return all(saved.get(key) == value for key, value in ours.items() if key not in _BESIDE_TRAINING)

    def _accept(self, path: Location, manifest: Manifest, damages: list[str]) -> Resume:
        for damage in damages:
            logger.warning("%s Falling back to the one before it.", damage)
        allowed = self.config.checkpoint.allow_differences
        for difference in check_resumable(path, manifest.identity, self._identity, allowed=allowed):
            logger.warning("%s: continued although it differs: %s", path, difference)
        return Resume(path, manifest)

    def _write(self, tensors: Tensors, manifest: Manifest, best: int | None, group: dist.ProcessGroup | None) -> None:
        """Writes and commits; in the thread of the background, all it says to other ranks goes through its group."""
        started = time.monotonic()
        staged = on_main(lambda: self._stored(lambda: storage.stage(self.directory, manifest.step)), group=group)
        measured = gather(state.write(tensors, staged, group=group), group=group)
        files = {name: file for part in measured for name, file in part.items()}

        def finish() -> None:
            path = storage.commit(self.directory, dataclasses.replace(manifest, files=files))
            logger.info("step %d: saved %s in %.1f s", manifest.step, path, time.monotonic() - started)
            self._damaged.discard(manifest.step)
            self._drop(best)

        on_main(lambda: self._stored(finish), group=group)

    def _stored(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except OSError as cause:
            raise CheckpointError(f"{self.directory}: cannot be written: {cause}. {state.WRITE_REMEDY}") from cause

    def _drop(self, best: int | None) -> None:
        steps = [storage.step_of(path) for path in storage.committed(self.directory)]
        in_use = next((step for step in steps if storage.committed_path(self.directory, step) == self._origin), None)
        doomed = dropped_steps(steps, self.config.checkpoint, best=best, damaged=self._damaged, in_use=in_use)
        for step in doomed:
            storage.delete(storage.committed_path(self.directory, step))


def _start_anew(directory: Location, resume: str, damages: list[str]) -> None:
    """Nothing to continue from is fine only if there never was anything."""
    if damages and resume == "auto":
        raise CheckpointError(
            f"{directory}: all {len(damages)} checkpoints are damaged, the newest of them so: {damages[0]} "
            "Set run_dir to a new directory to start anew."
        )
    if damages:
        raise CheckpointError(damages[0])


def read_together(path: Location) -> tuple[Manifest | None, str]:
    """The manifest of an intact checkpoint, or None and what is damaged. All ranks must call this.

    Each rank verifies its share of the files.
    """

    def attempt(act: Callable[[], T]) -> tuple[T | None, str]:
        try:
            return act(), ""
        except FormatError:
            raise
        except CheckpointError as damage:
            return None, str(damage)

    manifest, damage = on_main(lambda: attempt(lambda: storage.read_manifest(path)))
    if manifest is None:
        return None, damage
    share = sorted(manifest.files)[dist.get_rank() :: dist.get_world_size()]
    _, damage = on_all(lambda: attempt(lambda: storage.verify(path, {name: manifest.files[name] for name in share})))
    damages = [message for message in gather(damage) if message]
    return (None, damages[0]) if damages else (manifest, "")
