"""What a checkpoint's metadata may ask for, whichever Python wrote it."""

from __future__ import annotations

import copyreg
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)

from trainer.checkpoint.trusted import read_metadata
from trainer.errors import CheckpointError

METADATA = Metadata(
    {
        "dense/bias": TensorStorageMetadata(
            TensorProperties(dtype=torch.float32),
            torch.Size([3]),
            [ChunkStorageMetadata(torch.Size([0]), torch.Size([3]))],
        )
    }
)


def by_name(member: _MEM_FORMAT_ENCODING) -> Any:
    return getattr, (_MEM_FORMAT_ENCODING, member.name)


def by_value(member: _MEM_FORMAT_ENCODING) -> Any:
    return _MEM_FORMAT_ENCODING, (member.value,)


def written(value: object, reduce: Any) -> bytes:
    file = io.BytesIO()
    pickler = pickle.Pickler(file)
    pickler.dispatch_table = copyreg.dispatch_table | {_MEM_FORMAT_ENCODING: reduce}
    pickler.dump(value)
    return file.getvalue()


@pytest.mark.parametrize("reduce", [by_name, by_value], ids=["Python 3.11.2", "Python 3.11.7"])
def test_members_of_enumerations_are_read_as_all_versions_of_python_write_them(reduce: Any, tmp_path: Path) -> None:
    path = tmp_path / ".metadata"
    path.write_bytes(written(METADATA, reduce))
    assert read_metadata(path) == METADATA


class Attribute:
    """Pickled as an attribute of something that a checkpoint may hold."""

    def __reduce__(self) -> Any:
        return getattr, (Metadata, "__init__")


def test_other_attributes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / ".metadata"
    path.write_bytes(pickle.dumps(Attribute()))
    with pytest.raises(CheckpointError, match=r"cannot be read \(it asks for '__init__' of <class '.*Metadata'>\)"):
        read_metadata(path)
