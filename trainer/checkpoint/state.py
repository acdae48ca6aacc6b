"""The tensors of a checkpoint, written and read by all ranks in parallel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from trainer.checkpoint.trusted import TrustedReader
from trainer.errors import CheckpointError
from trainer.metric import MetricSet
from trainer.optimizer import Optimizers


def model_state(model: nn.Module) -> dict[str, Any]:
    """The part of a checkpoint that predictions need."""
    return {"model": model.state_dict()}


def training_state(model: nn.Module, optimizers: Optimizers, metric_sums: torch.Tensor) -> dict[str, Any]:
    """All tensors of a training run; references, so that loading in place restores the run.

    Optimizer states only: learning rates are a function of the step and never read back.
    """
    replicated = {"replicated_optimizer": optimizers.replicated.state_dict()["state"]} if optimizers.replicated else {}
    return {
        **model_state(model),
        **replicated,
        "fused_optimizer": optimizers.fused.state_dict()["state"],
        "dense_optimizer": optimizers.dense.state_dict()["state"],
        "metric_sums": metric_sums,
    }


def write(state: dict[str, Any], path: Path) -> None:
    """Writes a state, each rank its own shards. All ranks must call this.

    Raises:
        CheckpointError: Some rank could not write; raised on all ranks.
    """
    try:
        save(state, storage_writer=FileSystemWriter(path))
    except CheckpointException as cause:
        raise CheckpointError(f"{path}: cannot be written: {_reasons(cause)}") from cause


def read(state: dict[str, Any], path: Path) -> None:
    """Loads a checkpoint in place, whatever the sharding that wrote it. All ranks must call this.

    Raises:
        CheckpointError: A tensor is missing or has another shape, or a file is damaged; raised on all ranks.
    """
    try:
        load(state, storage_reader=TrustedReader(path))
    except CheckpointException as cause:
        raise CheckpointError(f"{path}: cannot be loaded: {_reasons(cause)}") from cause


def restore_training(path: Path, model: nn.Module, optimizers: Optimizers, metrics: MetricSet) -> None:
    """Loads model, optimizer states and metric sums. All ranks must call this."""
    sums = torch.zeros_like(metrics.global_sums())
    read(training_state(model, optimizers, sums), path)
    metrics.restore(sums)


def _reasons(cause: CheckpointException) -> str:
    """What each failed rank said, without the tracebacks that come along."""
    return "; ".join(f"rank {rank}: {' '.join(str(failure[0]).split())}" for rank, failure in cause.failures.items())
