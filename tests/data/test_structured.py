from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from omegaconf import MISSING, OmegaConf

from data.errors import DataError
from data.structured import structured


@dataclass
class Inner:
    size: int = 1


@dataclass
class Outer:
    name: str = MISSING
    depth: int = 2
    rates: list[float] = field(default_factory=list)
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise DataError(f"depth is {self.depth}, but must be 0 or more.")


def convert(values: object) -> Outer:
    return structured(Outer, values, where="some.yaml", error=DataError)


def test_values_become_typed_records_with_nested_ones() -> None:
    assert convert({"name": "x", "rates": [1, 2.5], "inner": {"size": 3}}) == Outer("x", 2, [1.0, 2.5], Inner(3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "x", "dept": 3},
            r"some\.yaml: unknown key 'dept'\. Did you mean 'depth'\? Known names: depth, inner",
        ),
        ({"name": "x", "inner": {"sizes": 3}}, r"some\.yaml: unknown key 'inner\.sizes'\. Did you mean 'size'\?"),
        ({"name": "x", "depth": "deep"}, r"some\.yaml: 'depth': Value 'deep' .* could not be converted to Integer"),
        ({"name": "x", "rates": 3}, r"some\.yaml: 'rates': must be a list, like \[1, 2\]"),
        ({}, r"some\.yaml: 'name' has no value: it is mandatory"),
        ([1], r"some\.yaml: is \[1\], but must be a mapping"),
        ({"name": "x", "depth": -1}, r"some\.yaml: depth is -1, but must be 0 or more"),
    ],
)
def test_mistakes_are_told_with_place_key_and_rule(values: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        convert(values)


@pytest.mark.parametrize(
    ("key", "message"), [("dept", "'dept'.* 'depth'"), ("inner.sizes", r"'inner\.sizes'.* 'size'")]
)
def test_a_key_that_was_forced_into_a_typed_node_is_unknown_all_the_same(key: str, message: str) -> None:
    node = OmegaConf.structured(Outer(name="x"))
    OmegaConf.update(node, key, 3, force_add=True)
    with pytest.raises(DataError, match=rf"some\.yaml: unknown key {message}"):
        convert(node)
