"""Imports go one way: launch -> trainer -> data; heads see tensors, metrics see predictions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "data": ("trainer", "launch", "torch.distributed", "torchrec.distributed"),
    "trainer": ("launch",),
    "trainer/model/head": ("data.batch", "data.loader", "trainer.distributed", "torchrec"),
    "trainer/metric": ("data.", "trainer.model", "torchrec"),
}


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_go_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        for name in imports_of(path):
            for forbidden in FORBIDDEN[package]:
                prefix = forbidden.rstrip(".")
                assert not f"{name}.".startswith(f"{prefix}."), f"{path.relative_to(ROOT)} imports {name}"
