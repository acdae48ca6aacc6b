"""Reads a checkpoint's metadata without running code from it.

``torch.distributed.checkpoint`` keeps its metadata as a pickle, and a pickle may call anything. Ours holds
a handful of plain classes, so that the unpickler admits those and nothing else. Entries that are not
tensors are left out with it: torch would unpickle their contents without such care.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from trainer.errors import CheckpointError

_ADMITTED = {
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
}


class TrustedReader(FileSystemReader):
    """The reader of torch, with an unpickler that refuses what a checkpoint has no use for.

    Args:
        path: The checkpoint's directory.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._metadata_path = path / ".metadata"

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The metadata.

        Raises:
            CheckpointError: It cannot be read, or asks for something that is not admitted.
        """
        metadata = read_metadata(self._metadata_path)
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def read_metadata(path: Path) -> Metadata:
    """A ``.metadata`` file, through the unpickler that admits only what it needs.

    Raises:
        CheckpointError: It cannot be read, or asks for something that is not admitted.
    """
    try:
        with open(path, "rb") as file:
            metadata = _Unpickler(file, path).load()
    except (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, pickle.UnpicklingError) as cause:
        raise CheckpointError(f"{path}: cannot be read ({cause}); the checkpoint is damaged.") from cause
    assert isinstance(metadata, Metadata)
    return metadata


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or name in _ADMITTED.get(module, ()):
            return super().find_class(module, name)
        raise CheckpointError(
            f"{self._path}: asks for '{module}.{name}', for which a checkpoint has no use; refused, because loading it "
            "could run code. Take the checkpoint from its source again."
        )
