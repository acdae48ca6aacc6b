"""The tensors of a checkpoint, written and read by all ranks in parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from trainer.checkpoint.bucket import Location
from trainer.checkpoint.canonical import State, is_weight, model_state, training_state
from trainer.checkpoint.files import CheckpointWriter, TrustedReader
from trainer.checkpoint.parts import PartsLoadPlanner, PartsSavePlanner, Tensors
from trainer.checkpoint.storage import StoredFile
from trainer.checkpoint.trusted import read_metadata
from trainer.distributed import on_main
from trainer.errors import CheckpointError
from trainer.metric.training import TrainingMetrics
from trainer.optimizer import Optimizers

WRITE_REMEDY = (
    "Nothing is committed, and what was before stays. See to the room and the access there, and start the same command "
    "again: it continues from the newest checkpoint."
)

_SHOWN = 8


def write(tensors: Tensors, path: Location, *, group: dist.ProcessGroup | None = None) -> dict[str, StoredFile]:
    """Writes tensors, each rank its own parts. All ranks must call this.

    Args:
        tensors: See :func:`trainer.checkpoint.canonical.training_state`.
        path: An empty directory.
        group: To agree through; None for the job's own.

    Returns:
        The files that this rank wrote, by name.

    Raises:
        CheckpointError: Some rank could not write; raised on all ranks.
    """
    writer = CheckpointWriter(path)
    try:
        save(tensors, storage_writer=writer, planner=PartsSavePlanner(), process_group=group)
    except CheckpointException as cause:
        raise CheckpointError(f"{path}: cannot be written: {_reasons(cause)}. {WRITE_REMEDY}") from cause
    return writer.written


def restore_training(path: Location, model: nn.Module, optimizers: Optimizers, metrics: TrainingMetrics) -> None:
    """Loads model, optimizer states and what the metrics know. All ranks must call this.

    Raises:
        CheckpointError: See :func:`read`.
    """
    known = torch.zeros(metrics.state_size, dtype=torch.float64)
    read(training_state(model, optimizers, known), path)
    metrics.restore(known)


def restore_model(path: Location, model: nn.Module) -> None:
    """Loads what predictions need, and leaves the rest of the checkpoint. All ranks must call this.

    Raises:
        CheckpointError: See :func:`read`.
    """
    read(model_state(model), path, keys=is_weight)


def read(state: State, path: Location, *, keys: Callable[[str], bool] | None = None) -> None:
    """Loads a checkpoint into a state, whatever the sharding that wrote it. All ranks must call this.

    Args:
        state: Where to.
        path: The checkpoint.
        keys: Which of the checkpoint's keys the state has to hold; None for all.

    Raises:
        CheckpointError: A key is missing or extra, a tensor has another shape, or a file is damaged; raised
            on all ranks.
    """
    on_main(lambda: _check(state.tensors, read_metadata(path / ".metadata"), path, keys or (lambda key: True)))
    try:
        load(state.tensors, storage_reader=TrustedReader(path), planner=PartsLoadPlanner())
    except CheckpointException as cause:
        raise CheckpointError(f"{path}: cannot be loaded: {_reasons(cause)}") from cause
    state.finish_load()


def _check(tensors: Tensors, metadata: Metadata, path: Location, keys: Callable[[str], bool]) -> None:
    """Compares what a checkpoint holds with what is to be loaded."""
    entries = metadata.state_dict_metadata
    sizes = {
        key: tuple(entry.size) if isinstance(entry, TensorStorageMetadata) else None
        for key, entry in entries.items()
        if keys(key)
    }
    problems = []
    if missing := tensors.keys() - sizes.keys():
        problems.append(f"this run needs {_listed(missing)}, which the checkpoint does not hold")
    if extra := sizes.keys() - tensors.keys():
        problems.append(f"the checkpoint holds {_listed(extra)}, for which this run has no place")
    problems += [
        f"{key} is {_shape(sizes[key])} in the checkpoint and {_shape(tensors[key].size)} here"
        for key in sorted(tensors.keys() & sizes.keys())
        if sizes[key] != tensors[key].size
    ][:_SHOWN]
    if problems:
        raise CheckpointError(
            f"{path}: cannot be loaded: {'; '.join(problems)}. Take the model, the optimizer and the schema that the "
            "checkpoint was made with, or start another run in a new run_dir."
        )


def _listed(keys: Iterable[str]) -> str:
    names = sorted(keys)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _shape(size: tuple[int, ...] | None) -> str:
    if size is None:
        return "no tensor"
    return " x ".join(str(length) for length in size) or "a scalar"


def _reasons(cause: CheckpointException) -> str:
    """What each failed rank said, without the tracebacks that come along."""
    return "; ".join(f"rank {rank}: {' '.join(str(failure[0]).split())}" for rank, failure in cause.failures.items())
