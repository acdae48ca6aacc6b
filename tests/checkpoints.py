"""Reads checkpoints without the trainer: plain tensors, one process."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by their flat names, unsharded."""
    reader = FileSystemReader(path)
    entries = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def assert_equal_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Same names, same shapes, same bits.

    But for the sums of the metrics: those of the ranks are added up where a run is saved and resumed, and float64
    sums in another order differ in their last places (see :class:`trainer.metric.MetricSet`).
    """
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        if name == "metric_sums":
            torch.testing.assert_close(tensor, b[name], rtol=1e-12, atol=1e-9)
            continue
        assert torch.equal(tensor, b[name]), f"{name} differs by {(tensor - b[name]).abs().max()}"
