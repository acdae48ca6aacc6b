"""Fills a manifest: ``python launch/cluster/render.py job nodes=4 -- experiment=adult | kubectl apply -f -``.

The first argument names a file in ``launch/cluster/kubernetes`` (job, pytorchjob), ``key=value`` replaces a value of
``values.yaml`` there, and what follows ``--`` goes to ``launch/train.py``.
"""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from data.structured import suggestion
from trainer.errors import ConfigError

FOLDER = Path(__file__).parent / "kubernetes"
_LEAST = {"nodes": 1, "gpus": 0, "workers": 1, "port": 1, "grace_s": 1, "max_restarts": 0, "backoff_limit": 0}
"""Values that are whole numbers, and what they must be at least."""


class _Manifest(string.Template):
    """Kubernetes and shells have uses of their own for the dollar."""

    delimiter = "@"


def manifests() -> list[str]:
    """The names of the manifests."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "values")


def render(name: str, changes: Sequence[str], arguments: Sequence[str]) -> str:
    """A manifest with all values put in.

    Args:
        name: Of the manifest.
        changes: ``key=value`` of ``values.yaml``; the value is YAML.
        arguments: Of the training script.

    Raises:
        ConfigError: There is no such manifest or key, or a value is not what its key takes.
    """
    if name not in manifests():
        raise ConfigError(f"there is no manifest '{name}'.{suggestion(name, manifests())}")
    values: dict[str, Any] = yaml.safe_load((FOLDER / "values.yaml").read_text(encoding="utf-8"))
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or key not in values:
            raise ConfigError(f"'{change}' is no key=value of values.yaml.{suggestion(key, list(values))}")
        values[key] = _value(key, value)
    if values["workers"] is None:
        values["workers"] = values["gpus"] or 1
    filled = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    # One of the volume's own keys, below its name.
    filled["volume"] = json.dumps(values["volume"])[1:-1]
    manifest = _Manifest((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return manifest.substitute(filled, arguments=json.dumps(list(arguments)))


def _value(key: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as cause:
        raise ConfigError(f"{key} is {text!r}, but must be YAML ({' '.join(str(cause).split())}).") from cause
    optional = key == "workers" and value is None
    if key in _LEAST and not optional and (type(value) is not int or value < _LEAST[key]):
        raise ConfigError(f"{key} is {text!r}, but must be a whole number of at least {_LEAST[key]}.")
    return value


def main(arguments: Sequence[str]) -> int:
    """Prints a manifest; returns the exit code."""
    own, _, passed = _split(arguments)
    try:
        if not own:
            raise ConfigError(f"name a manifest: {', '.join(manifests())}.")
        print(render(own[0], own[1:], passed))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _split(arguments: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    given = list(arguments)
    at = given.index("--") if "--" in given else len(given)
    return given[:at], at < len(given), given[at + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
