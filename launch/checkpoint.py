"""Looks into a checkpoint: ``python launch/checkpoint.py inspect|verify runs/adult/checkpoints/step-...``.

Needs neither torchrun nor a GPU, and runs no code from the checkpoint.
"""

from __future__ import annotations

import argparse
import math
import sys

import yaml
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from trainer.checkpoint import storage
from trainer.checkpoint.bucket import Location, location
from trainer.checkpoint.canonical import is_weight
from trainer.checkpoint.storage import Manifest
from trainer.checkpoint.trusted import read_metadata
from trainer.ending import USER_ERROR_EXIT_CODE
from trainer.errors import ShardFMError

_MIB = 1 << 20


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code: 0, or 2 if the checkpoint is damaged or none."""
    parser = argparse.ArgumentParser(prog="launch/checkpoint.py", description=__doc__)
    parser.add_argument("act", choices=["inspect", "verify"])
    parser.add_argument("path", help="a step-... directory, or an s3:// or gs:// folder")
    chosen = parser.parse_args(arguments)
    try:
        path = location(chosen.path)
        manifest = storage.read_manifest(path)
        if chosen.act == "inspect":
            print(inspect(path, manifest))
        else:
            storage.verify(path, manifest.files)
            read_metadata(path / ".metadata")
            num_bytes = sum(file.num_bytes for file in manifest.files.values())
            print(f"{path}: intact: {len(manifest.files)} files, {num_bytes / _MIB:.1f} MiB, checksums right")
    except ShardFMError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    return 0


def inspect(path: Location, manifest: Manifest) -> str:
    """Position, tensors, config and versions, for people."""
    lines = [f"step {manifest.step}, epoch {manifest.epoch}, written by {manifest.world_size} ranks"]
    entries = read_metadata(path / ".metadata").state_dict_metadata
    tensors = {key: entry for key, entry in sorted(entries.items()) if isinstance(entry, TensorStorageMetadata)}
    lines += [
        "",
        "tables:",
        f"  {'name':<30} {'rows':>13} {'width':>6}  {'dtype':<8} {'MiB':>10} {'parts':>6}  moments",
    ]
    lines += [_table_line(key, tensors) for key in tensors if key.startswith("tables/") and is_weight(key)]
    lines += ["", "dense parameters:"]
    lines += [_dense_line(key, tensors) for key in tensors if key.startswith("dense/") and is_weight(key)]
    lines += ["", "versions:", *(f"  {package} {version}" for package, version in manifest.versions.items())]
    return "\n".join([*lines, "", "config:", yaml.safe_dump(manifest.config, sort_keys=False)])


def _table_line(key: str, tensors: dict[str, TensorStorageMetadata]) -> str:
    table, weight = key.removeprefix("tables/").removesuffix("/weight"), tensors[key]
    rows, width = weight.size
    moments = _moments(key.removesuffix("weight"), tensors, leave_out=key)
    size = f"{_num_bytes(weight) / _MIB:>10.2f} {len(weight.chunks):>6}"
    return f"  {table:<30} {rows:>13,} {width:>6}  {_dtype(weight):<8} {size}  {moments}".rstrip()


def _dense_line(key: str, tensors: dict[str, TensorStorageMetadata]) -> str:
    shape, dtype, moments = _shape(tensors[key]), _dtype(tensors[key]), _moments(f"{key}/", tensors)
    return f"  {key.removeprefix('dense/'):<50} {shape:>15}  {dtype:<8}  {moments}".rstrip()


def _moments(prefix: str, tensors: dict[str, TensorStorageMetadata], *, leave_out: str = "") -> str:
    found = {key: entry for key, entry in tensors.items() if key.startswith(prefix) and key != leave_out}
    return ", ".join(f"{key.removeprefix(prefix)} [{_shape(entry)}]" for key, entry in found.items())


def _shape(entry: TensorStorageMetadata) -> str:
    return " x ".join(f"{length:,}" for length in entry.size) or "scalar"


def _dtype(entry: TensorStorageMetadata) -> str:
    return str(entry.properties.dtype).removeprefix("torch.")


def _num_bytes(entry: TensorStorageMetadata) -> int:
    return math.prod(entry.size) * entry.properties.dtype.itemsize


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
