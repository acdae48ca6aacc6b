"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import yaml

from data.schema import parse_schema

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_schema_example_is_a_schema() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    schema = parse_schema(yaml.safe_load(textwrap.dedent(example)), where="README.md")
    assert schema.weight == "sample_weight"
    assert schema.sparse_keys == ["site", "user_id", "hour_bucket", "genres"]


def test_every_command_and_target_named_exists() -> None:
    scripts = set(re.findall(r"launch/\w+\.py", README))
    assert len(scripts) >= 5
    assert all((ROOT / script).is_file() for script in scripts)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE))
    assert {"demo", "test", "check"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
