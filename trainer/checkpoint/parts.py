"""Tensors of a checkpoint as the parts that a rank holds, for ``torch.distributed.checkpoint`` to plan with.

Its own planners see ShardedTensor, DTensor and plain tensors, each made for one way of sharding. A part
is nothing but a place in the whole and the values there, so that it can as well be a staged copy, or what
was computed from several shards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

_PIECE_BYTES = 32 << 20


@dataclass(frozen=True)
class Part:
    """A box of a tensor.

    Attributes:
        offsets: Where it begins in the whole, one number for each dimension.
        tensor: Its values; loading writes into them.
        written: Whether this rank writes it; False where another rank that holds the same does.
    """

    offsets: tuple[int, ...]
    tensor: torch.Tensor
    written: bool = True


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint, as this rank sees it.

    Attributes:
        size: Of the whole.
        dtype: Of its elements.
        parts: What this rank holds of it, without empty ones.
    """

    size: tuple[int, ...]
    dtype: torch.dtype
    parts: tuple[Part, ...]

    @property
    def num_bytes(self) -> int:
        """Of the whole."""
        return math.prod(self.size) * self.dtype.itemsize

    def to_write(self) -> Stored:
        """The same with only those parts that this rank writes."""
        return replace(self, parts=tuple(part for part in self.parts if part.written))

    def in_pieces(self) -> Stored:
        """The same with large parts cut along their first dimension.

        Python stands still while torch packs a tensor, and so would training, and a rank that loads a few
        rows reads all of what was packed as one.
        """
        return replace(self, parts=tuple(piece for part in self.parts for piece in _pieces(part)))


Tensors = dict[str, Stored]
"""A whole state by canonical keys: the same keys and sizes on all ranks, the parts each rank's own."""


def whole(tensor: torch.Tensor) -> Stored:
    """A tensor that every rank holds alike."""
    return Stored(tuple(tensor.shape), tensor.dtype, (Part((0,) * tensor.dim(), tensor),))


def unwritten(stored: Stored) -> Stored:
    """The same, written by other ranks."""
    return replace(stored, parts=tuple(replace(part, written=False) for part in stored.parts))


def spread_writers(replicas: Tensors, *, rank: int, world_size: int) -> Tensors:
    """Lets every replica be written by one rank, the large ones by turns."""
    by_size = sorted(replicas, key=lambda key: (-replicas[key].num_bytes, key))
    writers = {key: number % world_size for number, key in enumerate(by_size)}
    return {
        key: replace(stored, parts=tuple(replace(part, written=writers[key] == rank) for part in stored.parts))
        for key, stored in replicas.items()
    }


class PartsSavePlanner(DefaultSavePlanner):
    """Plans to write what :meth:`Stored.to_write` leaves."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def set_up_planner(
        self, state_dict: dict[str, Any], storage_meta: StorageMeta | None = None, is_coordinator: bool = False
    ) -> None:
        """Takes the state as it is."""
        self.state_dict = {key: stored.to_write().in_pieces() for key, stored in state_dict.items()}
        self.is_coordinator = is_coordinator
        self._places = _places(self.state_dict)

    def create_local_plan(self) -> SavePlan:
        """One item for each part."""
        self.plan = SavePlan(
            [
                WriteItem(
                    index=MetadataIndex(key, part.offsets),
                    type=WriteItemType.SHARD,
                    tensor_data=TensorWriteData(
                        chunk=_chunk(part), properties=TensorProperties(stored.dtype), size=torch.Size(stored.size)
                    ),
                )
                for key, stored in self.state_dict.items()
                for part in stored.parts
            ]
        )
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> torch.Tensor:
        """The values of an item."""
        return self._places[index]


class PartsLoadPlanner(DefaultLoadPlanner):
    """Plans to read every part, from whatever chunks cover it."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Takes the state as it is."""
        self.state_dict = state_dict
        self.metadata = metadata
        self.is_coordinator = is_coordinator
        self._places = _places(self.state_dict)

    def create_local_plan(self) -> LoadPlan:
        """Items for each part."""
        assert self.metadata is not None
        items = []
        for key, stored in self.state_dict.items():
            entry = self.metadata.state_dict_metadata[key]
            assert isinstance(entry, TensorStorageMetadata)
            items += create_read_items_for_chunk_list(key, entry, [_chunk(part) for part in stored.parts])
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> torch.Tensor:
        """The values of a part, to be written into."""
        return self._places[index]


def _pieces(part: Part) -> list[Part]:
    num_bytes = part.tensor.numel() * part.tensor.element_size()
    if num_bytes <= _PIECE_BYTES:
        return [part]
    rows = max(1, len(part.tensor) * _PIECE_BYTES // num_bytes)
    starts = range(0, len(part.tensor), rows)
    return [
        Part((part.offsets[0] + start, *part.offsets[1:]), part.tensor[start : start + rows], part.written)
        for start in starts
    ]


def _chunk(part: Part) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(part.offsets), part.tensor.shape)


def _places(tensors: Tensors) -> dict[MetadataIndex, torch.Tensor]:
    return {
        MetadataIndex(key, part.offsets): part.tensor.detach()
        for key, stored in tensors.items()
        for part in stored.parts
    }
