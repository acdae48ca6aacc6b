"""Reads a checkpoint's metadata without running code from it.

``torch.distributed.checkpoint`` keeps its metadata as a pickle, and a pickle may call anything. Ours holds
a handful of plain classes, so that the unpickler admits those and nothing else. Entries that are not
tensors are left out with it: torch would unpickle their contents without such care.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata

from trainer.checkpoint.bucket import Location
from trainer.errors import CheckpointError

_ADMITTED = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
}


def read_metadata(path: Location) -> Metadata:
    """A ``.metadata`` file, through the unpickler that admits only what it needs.

    Raises:
        CheckpointError: It cannot be read, or asks for something that is not admitted.
    """
    try:
        metadata = _Unpickler(path.read_bytes(), path).load()
    except (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, pickle.UnpicklingError) as cause:
        raise CheckpointError(f"{path}: cannot be read ({cause}); the checkpoint is damaged.") from cause
    assert isinstance(metadata, Metadata)
    return metadata


def _memory_format(of: Any, name: str) -> Any:
    """In place of ``getattr``, by which Python 3.11.0 to 3.11.3 write the members of an enumeration."""
    if of is not _MEM_FORMAT_ENCODING:
        raise pickle.UnpicklingError(f"it asks for '{name}' of {of!r}")
    return of[name]


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, path: Location) -> None:
        super().__init__(io.BytesIO(content))
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) == ("builtins", "getattr"):
            return _memory_format
        if is_dtype or name in _ADMITTED.get(module, ()):
            return super().find_class(module, name)
        raise CheckpointError(
            f"{self._path}: asks for '{module}.{name}', for which a checkpoint has no use; refused, because loading it "
            "could run code. Take the checkpoint from its source again."
        )
