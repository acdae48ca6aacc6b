"""What a checkpoint and the run that continues from it must have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from data.order import SampleOrder
from data.schema import Schema
from trainer.checkpoint.bucket import Location
from trainer.config import TrainConfig
from trainer.errors import CheckpointError, ConfigError
from trainer.inputs import Dataset
from trainer.table_optimizer import table_settings

_SHOWN = 8


def run_identity(dataset: Dataset, config: TrainConfig, order: SampleOrder) -> dict[str, Any]:
    """What must be the same for a checkpoint to be continued: else its tensors or its position are wrong."""
    return {
        "schema": schema_identity(dataset.schema),
        "data.train": dataset.index.fingerprint,
        "model": dataclasses.asdict(config.model),
        "precision.tables": config.precision.tables,
        "optimizer.sparse.name": config.optimizer.sparse.name,
        # By table, whatever the rules are that lead to it.
        "optimizer.tables": {
            table: settings.name
            for table, settings in table_settings(dataset.schema, config.optimizer).items()
            if settings.name != config.optimizer.sparse.name
        },
        "optimizer.dense.name": config.optimizer.dense.name,
        "seed": config.seed,
        "global_batch_size": order.global_batch_size,
        "data.lanes": order.lanes,
        "data.window_rows": order.window_rows,
    }


def schema_identity(schema: Schema) -> dict[str, Any]:
    """A schema as plain values, features by name, so that differences are told by name."""
    return schema.described()


def check_identity(path: Location, saved: dict[str, Any], current: dict[str, Any], *, remedy: str) -> None:
    """Compares a checkpoint with what is at hand.

    Raises:
        CheckpointError: They differ; the message lists each difference.
    """
    differences = _differences(saved, current)
    if differences:
        raise CheckpointError(f"{path}: does not fit this run: {_listed(differences)}. {remedy}")


def check_resumable(
    path: Location, saved: dict[str, Any], current: dict[str, Any], *, allowed: Sequence[str]
) -> list[str]:
    """Compares a checkpoint with the run that is to continue from it.

    Args:
        path: The checkpoint.
        saved: Its identity.
        current: The run's.
        allowed: Keys, or their beginnings up to a dot, that may differ.

    Returns:
        The differences that were allowed.

    Raises:
        CheckpointError: There are others; the message lists each, and tells how to allow them.
        ConfigError: ``allowed`` names something unknown.
    """
    known = _flatten(saved).keys() | _flatten(current).keys()
    for name in allowed:
        if not any(_is_below(key, name) for key in known):
            raise ConfigError(
                f"checkpoint.allow_differences names '{name}', which no checkpoint is compared by. "
                f"Known names: {', '.join(sorted(saved.keys() | current.keys()))}, and what is below them."
            )
    differences = _differences(saved, current)
    refused = {key: told for key, told in differences.items() if not any(_is_below(key, name) for name in allowed)}
    if refused:
        # A long list is better allowed by its heads.
        heads = {next(name for name in (*saved, *current) if _is_below(key, name)) for key in refused}
        names = [*allowed, *sorted(heads if len(refused) > _SHOWN else refused)]
        raise CheckpointError(
            f"{path}: does not fit this run: {_listed(refused)}. Change it back, or set run_dir to a new directory to "
            "start another run; or, if you know that the checkpoint may be continued all the same, add "
            f"'checkpoint.allow_differences=[{','.join(names)}]'."
        )
    return list(differences.values())


def _differences(saved: dict[str, Any], current: dict[str, Any]) -> dict[str, str]:
    old, new = _flatten(saved), _flatten(current)
    return {
        key: f"{key}: {old.get(key, 'absent')!r} in the checkpoint, {new.get(key, 'absent')!r} here"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }


def _listed(differences: dict[str, str]) -> str:
    told = list(differences.values())
    return "; ".join(told[:_SHOWN]) + (f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else "")


def _is_below(key: str, name: str) -> bool:
    return f"{key}.".startswith(f"{name}.")


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
