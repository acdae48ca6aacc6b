"""Weights of another run for a new one: some of them, under other names, into tables that may have grown.

Weights only: optimizer states, the position in the data and all else start anew.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from data.schema import Schema
from trainer.checkpoint import storage
from trainer.checkpoint.bucket import Location
from trainer.checkpoint.canonical import is_weight, model_state
from trainer.checkpoint.files import TrustedReader
from trainer.checkpoint.identity import schema_identity
from trainer.checkpoint.parts import Part, PartsLoadPlanner, Stored
from trainer.checkpoint.storage import Manifest
from trainer.checkpoint.trusted import read_metadata
from trainer.config import InitFromConfig
from trainer.distributed import on_main
from trainer.errors import CheckpointError

Sizes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class WarmStart:
    """What comes from where.

    Attributes:
        sources: By the key in this run, the key in the checkpoint.
        resized: Of those, the tables that have more rows here: (rows there, rows here).
        missing: Keys of this run that keep their own initialization.
        unused: Keys of the checkpoint that nothing here takes.
    """

    sources: dict[str, str]
    resized: dict[str, tuple[int, int]]
    missing: list[str]
    unused: list[str]

    def table(self) -> str:
        """For people, in Markdown."""
        lines = ["| tensor | initialized from |", "|---|---|"]
        for key, source in sorted(self.sources.items()):
            told = "loaded" if source == key else f"loaded: {source}"
            if key in self.resized:
                there, here = self.resized[key]
                told = f"resized: {there:,} rows of {source}, {here - there:,} new ones"
            lines.append(f"| {key} | {told} |")
        lines += [f"| {key} | missing: starts anew |" for key in sorted(self.missing)]
        lines += [f"| {key} | unused: in the checkpoint only |" for key in sorted(self.unused)]
        return "\n".join(lines)


def plan_warm_start(config: InitFromConfig, there: Sizes, here: Sizes) -> WarmStart:
    """Decides which weights are taken; a pure function.

    Args:
        config: Patterns and renames.
        there: Sizes of the checkpoint's weights, by key.
        here: Sizes of this run's weights, by key.

    Raises:
        CheckpointError: A pattern or a rename fits nothing, nothing is left to take, or a tensor has another shape.
    """
    names = {_renamed(key, config.rename): key for key in there}
    if len(names) < len(there):
        raise CheckpointError(f"init_from.rename: {config.rename} gives two tensors of the checkpoint one name.")
    for old, new in config.rename.items():
        _demand(any(_is_below(key, old) for key in there), f"init_from.rename: '{old}'", "in the checkpoint", there)
        _demand(any(_is_below(key, new) for key in here), f"init_from.rename: '{new}'", "in this run", here)
    shared = sorted(names.keys() & here.keys())
    for pattern in config.include:
        _demand(bool(fnmatch.filter(shared, pattern)), f"init_from.include: '{pattern}'", "in both", shared)
    for pattern in config.exclude:
        _demand(bool(fnmatch.filter(names, pattern)), f"init_from.exclude: '{pattern}'", "in the checkpoint", names)

    chosen = [key for key in shared if _matches(key, config.include) and not _matches(key, config.exclude)]
    if not chosen:
        raise CheckpointError(
            f"init_from.exclude: {config.exclude} leaves nothing of what init_from.include={config.include} takes, so "
            "that nothing would be initialized; exclude less, or set init_from.path=null to start anew."
        )
    resized = {key: _grown(key, there[names[key]], here[key]) for key in chosen if there[names[key]] != here[key]}
    sources = {key: names[key] for key in chosen}
    return WarmStart(
        sources,
        resized,
        missing=sorted(here.keys() - sources.keys()),
        unused=sorted(there.keys() - set(sources.values())),
    )


def warm_start(
    model: nn.Module, config: InitFromConfig, path: Location, schema: Schema, *, embedding_dim: int
) -> WarmStart:
    """Loads the weights in place, whatever the sharding here and there. All ranks must call this.

    Args:
        model: Sharded and initialized; new rows stay as they are.
        config: What to take.
        path: The checkpoint.
        schema: Of this run.
        embedding_dim: Of this run.

    Raises:
        CheckpointError: The checkpoint is damaged, or does not give what is asked for; on all ranks.
    """
    targets = model_state(model).tensors
    here = {key: stored.size for key, stored in targets.items()}

    def plan() -> WarmStart:
        manifest = storage.read_manifest(path)
        storage.verify(path, manifest.files)
        entries = read_metadata(path / ".metadata").state_dict_metadata
        there = {
            key: tuple(entry.size)
            for key, entry in entries.items()
            if is_weight(key) and isinstance(entry, TensorStorageMetadata)
        }
        planned = plan_warm_start(config, there, here)
        _check_meaning(planned, manifest, schema, embedding_dim)
        return planned

    planned = on_main(plan)
    wanted = {
        source: _first_rows(targets[key], planned.resized.get(key, (None,))[0])
        for key, source in planned.sources.items()
    }
    try:
        load(wanted, storage_reader=TrustedReader(path), planner=PartsLoadPlanner())
    except CheckpointException as cause:
        reasons = "; ".join(f"rank {rank}: {failure[0]}" for rank, failure in cause.failures.items())
        raise CheckpointError(f"{path}: cannot be loaded: {reasons}") from cause
    return planned


def _check_meaning(planned: WarmStart, manifest: Manifest, schema: Schema, embedding_dim: int) -> None:
    """Shapes may agree where meanings do not."""
    trained_dim = manifest.config["model"]["embedding_dim"]
    if trained_dim != embedding_dim and any(key.startswith("tables/") for key in planned.sources):
        raise CheckpointError(
            f"init_from: the tables were trained with model.embedding_dim={trained_dim}, but this run has "
            f"{embedding_dim}; take the same, or exclude tables/*."
        )
    hashed = {f"tables/{f.table}/weight": f.name for f in schema.sparse if f.kind in ("hash", "cross")}
    for key in planned.resized.keys() & hashed.keys():
        raise CheckpointError(
            f"init_from: {key} has {planned.resized[key][0]} rows there and {planned.resized[key][1]} here, "
            f"but feature '{hashed[key]}' hashes its values: with another number of rows each value gets another row. "
            f"Keep num_embeddings, or exclude {key}."
        )
    saved, now = manifest.identity["schema"], schema_identity(schema)
    if any(key.startswith("dense/") for key in planned.sources) and _features(saved) != _features(now):
        raise CheckpointError(
            "init_from: the features are others, or in another order, than in the checkpoint's run, and the dense "
            "parameters (dense/*) go by that order; take only init_from.include=[tables/*]."
        )


def _features(schema: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    return list(schema["dense"]), list(schema["sparse"])


def _first_rows(stored: Stored, num_rows: int | None) -> Stored:
    """The parts of a table that lie within its first rows; the rest of it is new."""
    if num_rows is None:
        return stored
    parts = [
        Part((part.offsets[0], *part.offsets[1:]), part.tensor[: num_rows - part.offsets[0]])
        for part in stored.parts
        if part.offsets[0] < num_rows
    ]
    return replace(stored, size=(num_rows, *stored.size[1:]), parts=tuple(parts))


def _grown(key: str, there: tuple[int, ...], here: tuple[int, ...]) -> tuple[int, int]:
    if not key.startswith("tables/") or there[1:] != here[1:] or there[0] > here[0]:
        shapes = [" x ".join(map(str, size)) for size in (there, here)]
        raise CheckpointError(
            f"init_from: {key} is {shapes[0]} in the checkpoint and {shapes[1]} here; only tables may differ, and only "
            f"by more rows. Leave it out: init_from.exclude=[{key}]."
        )
    return there[0], here[0]


def _demand(fits: bool, what: str, where: str, names: Any) -> None:
    if not fits:
        listed = ", ".join(sorted(names)[:8]) or "nothing"
        raise CheckpointError(f"{what} fits no tensor {where}; there is {listed}.")


def _renamed(key: str, rename: Mapping[str, str]) -> str:
    for old in sorted(rename, key=len, reverse=True):
        if _is_below(key, old):
            return rename[old] + key[len(old) :]
    return key


def _is_below(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}/") or key.startswith(f"{name}.")


def _matches(key: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)
