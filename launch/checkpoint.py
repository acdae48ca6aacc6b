"""Looks into a checkpoint: ``python launch/checkpoint.py inspect|verify runs/adult/checkpoints/step-...``.

Needs neither torchrun nor a GPU, and runs no code from the checkpoint.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import yaml
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from launch.cli import USER_ERROR_EXIT_CODE
from trainer.checkpoint import storage
from trainer.checkpoint.storage import Manifest
from trainer.checkpoint.trusted import read_metadata
from trainer.errors import CheckpointError

_MIB = 1 << 20


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code: 0, or 2 if the checkpoint is damaged or none."""
    parser = argparse.ArgumentParser(prog="launch/checkpoint.py", description=__doc__)
    parser.add_argument("act", choices=["inspect", "verify"])
    parser.add_argument("path", type=Path, help="a step-... directory")
    chosen = parser.parse_args(arguments)
    try:
        manifest = storage.read_manifest(chosen.path)
        if chosen.act == "inspect":
            print(inspect(chosen.path, manifest))
        else:
            storage.verify(chosen.path, manifest.files)
            read_metadata(chosen.path / ".metadata")
            num_bytes = sum(file.num_bytes for file in manifest.files.values())
            print(f"{chosen.path}: intact: {len(manifest.files)} files, {num_bytes / _MIB:.1f} MiB, checksums right")
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    return 0


def inspect(path: Path, manifest: Manifest) -> str:
    """Position, tensors, config and versions, for people."""
    lines = [f"step {manifest.step}, epoch {manifest.epoch}, written by {manifest.world_size} ranks", "", "tensors:"]
    for name, entry in sorted(read_metadata(path / ".metadata").state_dict_metadata.items()):
        assert isinstance(entry, TensorStorageMetadata)
        size_mib = math.prod(entry.size) * entry.properties.dtype.itemsize / _MIB
        shape = " x ".join(f"{length:,}" for length in entry.size) or "scalar"
        dtype = str(entry.properties.dtype).removeprefix("torch.")
        lines.append(f"  {name:<70} {shape:>20}  {dtype:<8} {size_mib:>10.2f} MiB in {len(entry.chunks)} shards")
    lines += ["", "versions:", *(f"  {package} {version}" for package, version in manifest.versions.items())]
    return "\n".join([*lines, "", "config:", yaml.safe_dump(manifest.config, sort_keys=False)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
