"""What is sampled of a model for histograms: norms of table rows, gradients of the dense part."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from trainer.checkpoint.canonical import is_weight, model_state
from trainer.checkpoint.parts import Stored
from trainer.distributed import gather

FloatArray = npt.NDArray[np.float32]


def embedding_norms(model: nn.Module, *, num_rows: int) -> dict[str, FloatArray]:
    """Norms of evenly spaced rows of each table, however it is sharded. All ranks must call this.

    Args:
        model: Sharded.
        num_rows: Of each table, at most.

    Returns:
        By table, float32 [rows]; the same on all ranks.
    """
    tables = {key: stored for key, stored in model_state(model).tensors.items() if is_weight(key) and _is_table(key)}
    parts = gather({key: _squares(stored, num_rows) for key, stored in tables.items()})
    names = {key: key.split("/")[1] for key in tables}
    return {name: np.sqrt(sum(part[key] for part in parts)) for key, name in names.items()}


def dense_gradients(model: nn.Module) -> dict[str, FloatArray]:
    """The gradients of the newest step, of what every rank holds alike; those of tables live in their kernels."""
    named = ((name.removeprefix("_dmp_wrapped_module."), p) for name, p in model.named_parameters())
    found = {name.removeprefix("module."): p.grad for name, p in named if ".embedding_bags." not in name}
    return {name: grad.detach().float().cpu().numpy().ravel() for name, grad in found.items() if grad is not None}


def _is_table(key: str) -> bool:
    return key.startswith("tables/")


def _squares(stored: Stored, num_rows: int) -> FloatArray:
    """This rank's part of the sums of squares of the sampled rows, float32 [sampled rows]."""
    total = stored.size[0]
    chosen = torch.arange(min(num_rows, total)) * total // min(num_rows, total)
    squares = torch.zeros(len(chosen))
    for part in stored.to_write().parts:
        first = part.offsets[0]
        held = (chosen >= first) & (chosen < first + len(part.tensor))
        rows = part.tensor.detach()[(chosen[held] - first).to(part.tensor.device)]
        squares[held] += rows.float().square().sum(1).cpu()
    return squares.numpy()
