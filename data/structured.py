"""Typed records from YAML: one place that turns plain values into dataclasses, with errors that help."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from data.errors import ShardFMError

T = TypeVar("T")


def parsed_yaml(text: bytes, *, where: str, error: type[ShardFMError]) -> Any:
    """The plain values of a YAML document.

    Args:
        text: The document.
        where: The file that it was read from, for messages.
        error: The class of the errors raised.

    Raises:
        ShardFMError: It is no YAML, or a key stands twice in one mapping.
    """
    try:
        return yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as cause:
        raise error(f"{where}: not valid YAML: {' '.join(str(cause).split())}") from cause


def structured(cls: type[T], values: Any, *, where: str, error: type[ShardFMError]) -> T:
    """Converts plain values into an instance of a dataclass, types and names checked.

    Args:
        cls: The dataclass; its ``__post_init__`` checks ranges and may raise ``error`` itself.
        values: A mapping, an OmegaConf node, or None for the defaults.
        where: What the values belong to (a file or a config section), for messages.
        error: The class of the errors raised.

    Returns:
        The dataclass instance, nested dataclasses included.

    Raises:
        ShardFMError: An unknown key, a wrong type or a missing mandatory value; the message names
            the key, the value, the rule and the known names.
    """
    if values is not None and not isinstance(values, (Mapping, DictConfig)):
        raise error(f"{where}: is {values!r}, but must be a mapping of keys to values.")
    try:
        # Plain first: of a node that is typed itself, OmegaConf would take over keys that the dataclass does not have.
        plain = OmegaConf.to_container(values, resolve=True) if isinstance(values, DictConfig) else values
        node = OmegaConf.merge(OmegaConf.structured(cls), plain or {})
        result = OmegaConf.to_object(node)
    except OmegaConfBaseException as cause:
        raise error(f"{where}: {explain(cause)}") from cause
    except error as cause:  # from a __post_init__, which does not know where its values come from
        raise error(f"{where}: {cause}") from cause
    assert isinstance(result, cls)
    return result


def explain(cause: OmegaConfBaseException) -> str:
    """Says in one line which key breaks which rule; an unknown key is answered with the known ones."""
    key = cause.full_key or str(cause.key)
    rule = str(cause.msg or cause).splitlines()[0]
    if isinstance(cause, MissingMandatoryValue) or MISSING in rule:
        return f"'{key}' has no value: it is mandatory."
    known = _known_names(cause)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and known:
        return f"unknown key '{key}'.{suggestion(key.rpartition('.')[2], known)}"
    owner, _, name = key.rpartition(".")
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and owner:
        return f"'{owner}' has no keys to change; give it as a whole, like '{owner}={{{name}: VALUE}}'."
    if "is not a ListConfig" in rule:
        rule = "must be a list, like [1, 2]"
    return f"'{key}': {rule.rstrip('.')}."


def suggestion(name: str, known: list[str]) -> str:
    """' Did you mean ...? Known names: ...', for the end of a message about an unknown name."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"{hint} Known names: {', '.join(known)}."


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice, of which PyYAML would keep the last and say nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(
                    f"line {line}: key '{key.value}' is there already, on line {lines[key.value]}; put both together."
                )
            lines[key.value] = line
        return node


def _known_names(cause: OmegaConfBaseException) -> list[str]:
    owner = cause.object_type
    candidates = [owner, *get_args(owner)] if owner is not None else []
    for candidate in candidates:
        if dataclasses.is_dataclass(candidate):
            return sorted(field.name for field in dataclasses.fields(candidate))
    parent = cause.parent_node
    return sorted(str(key) for key in parent) if parent is not None and hasattr(parent, "keys") else []
