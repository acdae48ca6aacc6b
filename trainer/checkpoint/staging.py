"""Copies of a state in host memory, so that training may go on while they are written."""

from __future__ import annotations

import socket
from dataclasses import replace

import torch

from trainer.checkpoint.parts import Part, Tensors
from trainer.distributed import gather
from trainer.errors import ConfigError
from trainer.host_memory import host_memory_bytes, process_memory_bytes

_GIB = 1 << 30


class Staging:
    """Host memory for what this rank writes, taken at the first save and used again by all later ones.

    Pinned where the state is on a GPU, so that its copies run at the bus's full speed and side by side. In pieces:
    torch rounds pinned memory up to a power of 2, and for large parts that would be up to twice of it.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}

    def copy(self, tensors: Tensors) -> Tensors:
        """A copy of the parts that this rank writes; complete when this returns, and overwritten by the next."""
        copies = {
            key: replace(
                stored,
                parts=tuple(
                    replace(part, tensor=self._copy(key, part)) for part in stored.to_write().in_pieces().parts
                ),
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


def check_room(tensors: Tensors) -> None:
    """Looks, before training, whether every host has the memory for the copies of its ranks. All ranks must call this.

    Raises:
        ConfigError: A host has not; on every rank.
    """
    needed = sum(part.tensor.nbytes for stored in tensors.values() for part in stored.to_write().parts)
    told = gather((socket.gethostname(), needed, process_memory_bytes("RssAnon"), host_memory_bytes()))
    for host in dict.fromkeys(name for name, *_ in told):
        copies, resident, memory = zip(*(sizes for name, *sizes in told if name == host), strict=True)
        if sum(copies) + sum(resident) > min(memory):
            raise ConfigError(
                f"checkpoint.asynchronous is true, but {host} has {min(memory) / _GIB:,.2f} GiB of main memory: its "
                f"{len(copies)} ranks take {sum(resident) / _GIB:,.2f} GiB, and the copies that checkpoints are "
                f"written from would take {sum(copies) / _GIB:,.2f} GiB more; use checkpoint.asynchronous=false, or "
                "more hosts."
            )
