"""The resolved config of a run, kept beside its results: what rebuilds its data before there is a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import yaml

from trainer.config import TrainConfig, to_config
from trainer.errors import ConfigError

_NAME = "config.yaml"


def save_config(config: TrainConfig) -> None:
    """Writes the config of a run into its ``run_dir``."""
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)
    (folder / _NAME).write_text(text, encoding="utf-8")


def load_config(run_dir: Path) -> TrainConfig:
    """Reads what :func:`save_config` wrote.

    Raises:
        ConfigError: There is none, or it is not one of this version.
    """
    path = run_dir / _NAME
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as cause:
        raise ConfigError(f"{path}: cannot be read ({cause}); name the run_dir of a training run.") from cause
    return to_config(values, TrainConfig, where=str(path))
