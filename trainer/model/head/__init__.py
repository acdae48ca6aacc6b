"""The heads, found by looking into this folder: one file, one subclass of :class:`Head`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from data.structured import structured, suggestion
from trainer.errors import ConfigError
from trainer.model.head.base import Head
from trainer.model.network import NetworkConfig


@cache
def known_heads() -> dict[str, type[Head]]:
    """Every head by name; the name is that of its file."""
    heads: dict[str, type[Head]] = {}
    for module in pkgutil.iter_modules(__path__):
        members = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
        found = [m for m in members if inspect.isclass(m) and issubclass(m, Head) and m is not Head]
        if module.name != "base":
            (heads[module.name],) = found
    return heads


def head_configs(settings: dict[str, Any], network: NetworkConfig | None = None) -> dict[str, Any]:
    """Checks the settings of the chosen heads.

    Args:
        settings: ``model.heads``: a head's name to its settings (None or {} for the defaults).
        network: ``model.network``: the defaults of the heads that hold a network.

    Returns:
        Each head's name to an instance of its ``Config``.

    Raises:
        ConfigError: An unknown head, or a setting that its ``Config`` refuses.
    """
    known = known_heads()
    for name in settings:
        if name not in known:
            raise ConfigError(f"model.heads: unknown head '{name}'.{suggestion(name, sorted(known))}")
    configs = {}
    for name, values in settings.items():
        own, cls = values, known[name].Config
        if network is not None and issubclass(cls, NetworkConfig) and isinstance(values, Mapping | None):
            own = {**network.defaults(), **(values or {})}
        configs[name] = structured(cls, own, where=f"model.heads.{name}", error=ConfigError)
    return configs
