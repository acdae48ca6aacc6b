"""The sources, found by looking into this folder: one file, one subclass of :class:`Source`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from typing import Any

from data.errors import DataError
from data.prepare.source.base import Source
from data.structured import structured, suggestion


@cache
def known_sources() -> dict[str, type[Source]]:
    """Every source by name; the name is that of its file."""
    sources: dict[str, type[Source]] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name == "base":
            continue
        name = f"{__name__}.{module.name}"
        members = vars(importlib.import_module(name)).values()
        (sources[module.name],) = [
            m for m in members if inspect.isclass(m) and issubclass(m, Source) and m.__module__ == name
        ]
    return sources


def source_config(settings: dict[str, Any]) -> Any:
    """Checks the settings of a source.

    Args:
        settings: ``source`` of the config: ``name`` and what the source's ``Config`` declares.

    Returns:
        An instance of the source's ``Config``.

    Raises:
        DataError: An unknown source, or a setting that its ``Config`` refuses.
    """
    known, name = known_sources(), str(settings.get("name"))
    if name not in known:
        raise DataError(f"source: unknown source '{name}'.{suggestion(name, sorted(known))}")
    rest = {key: value for key, value in settings.items() if key != "name"}
    return structured(known[name].Config, rest, where="source", error=DataError)


def make_source(settings: dict[str, Any]) -> Source:
    """The source of these settings, its input files found and looked at.

    Raises:
        DataError: As :func:`source_config`, or the input is not what the source needs.
    """
    return known_sources()[str(settings.get("name"))](source_config(settings))
