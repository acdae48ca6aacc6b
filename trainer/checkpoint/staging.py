"""Copies of a state in host memory, so that training may go on while they are written."""

from __future__ import annotations

from dataclasses import replace

import torch

from trainer.checkpoint.parts import Part, Tensors


class Staging:
    """Host memory for what this rank writes, taken at the first save and used again by all later ones.

    Pinned where the state is on a GPU, so that its copies run at the bus's full speed and side by side.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}

    def copy(self, tensors: Tensors) -> Tensors:
        """A copy of the parts that this rank writes; complete when this returns, and overwritten by the next."""
        copies = {
            key: replace(
                stored,
                parts=tuple(replace(part, tensor=self._copy(key, part)) for part in stored.to_write().parts),
            )
            for key, stored in tensors.items()
        }
        for device in {part.tensor.device for stored in tensors.values() for part in stored.parts}:
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
        return copies

    def _copy(self, key: str, part: Part) -> torch.Tensor:
        source = part.tensor.detach()
        buffer = self._buffers.get((key, part.offsets))
        if buffer is None or buffer.shape != source.shape or buffer.dtype != source.dtype:
            buffer = torch.empty(source.shape, dtype=source.dtype, pin_memory=source.is_cuda)
            self._buffers[(key, part.offsets)] = buffer
        return buffer.copy_(source, non_blocking=True)
