"""Which trainings a comparison consists of."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from trainer.config import CompareConfig
from trainer.errors import ConfigError


@dataclass(frozen=True)
class Run:
    """One training of a comparison.

    Attributes:
        model: The option of the config group.
        seed: Of the run.
        key: What is varied in a sweep, None otherwise.
        value: Its value, as on the command line.
        pretrained: The run whose tables it starts from.
    """

    model: str
    seed: int
    key: str | None = None
    value: str | None = None
    pretrained: Run | None = None

    @property
    def name(self) -> str:
        """Its directory below that of the comparison."""
        varied = re.sub(r"[^\w.+-]+", "_", f"{self.key}={self.value}").strip("_") if self.key else "base"
        return f"{self.model}/{varied}/seed-{self.seed}"

    def folder(self, out: Path) -> Path:
        """Its run directory."""
        return out / self.name

    def overrides(self, out: Path) -> list[str]:
        """What it adds to the command line of all runs."""
        arguments = [f"model={self.model}", f"seed={self.seed}", _quoted("run_dir", str(self.folder(out)))]
        if self.key:
            arguments.append(f"{self.key}={self.value}")
        if self.pretrained:
            start = self.pretrained.result(out)["checkpoint"]
            arguments += [_quoted("init_from.path", start), "init_from.include=[tables/*]"]
        return arguments

    def is_done(self, out: Path) -> bool:
        """Whether the training came to its end."""
        return (self.folder(out) / "result.json").exists()

    def result(self, out: Path) -> dict[str, Any]:
        """What the training reported at its end."""
        values: dict[str, Any] = json.loads((self.folder(out) / "result.json").read_text(encoding="utf-8"))
        return values


def _quoted(key: str, value: str) -> str:
    """An override whose value Hydra takes as it is."""
    escaped = value.replace("'", "\\'")
    return f"{key}='{escaped}'"


def runs_of(config: CompareConfig) -> list[Run]:
    """All runs of a comparison, what others start from before them.

    Raises:
        ConfigError: A sweep that is not one key with several values.
    """
    runs: dict[Run, None] = {}
    for seed in config.seeds:
        for model in config.models:
            source = config.pretrain.get(model)
            pretrained = Run(source, seed) if source else None
            if pretrained:
                runs.setdefault(pretrained)
            runs.setdefault(Run(model, seed, pretrained=pretrained))
        for key, value in (pair for sweep in config.sweeps for pair in _varied(sweep)):
            for model in config.sweep_models:
                runs.setdefault(Run(model, seed, key, value))
    return list(runs)


def _varied(sweep: str) -> list[tuple[str, str]]:
    """``key=a,b`` as its pairs."""
    try:
        override = OverridesParser.create().parse_override(sweep)
    except HydraException as cause:
        raise ConfigError(f"sweeps: {sweep!r} cannot be read: {cause}") from cause
    if not override.is_sweep_override() or not override.key_or_group:
        raise ConfigError(f"sweeps: {sweep!r} is one value; write key=value1,value2,...")
    return [(override.get_key_element(), value) for value in override.sweep_string_iterator()]
