"""``launch/evaluate.py`` and the ways in which it can be called wrongly."""

from __future__ import annotations

from pathlib import Path

from launch.evaluate import hydra_arguments
from tests.launch.processes import run_python


def test_checkpoint_is_taken_as_a_path_and_not_as_a_config_group() -> None:
    assert hydra_arguments(["checkpoint=/a=b", "data=adult"]) == ["checkpoint_path=/a=b", "data=adult"]


def test_without_a_checkpoint_it_says_what_is_missing() -> None:
    done = run_python("launch/evaluate.py")
    assert done.exit_code == 2
    assert "error: config: 'checkpoint_path' has no value: it is mandatory." in done.stderr


def test_a_directory_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    done = run_python("launch/evaluate.py", f"checkpoint={tmp_path}")
    assert done.exit_code == 2
    assert f"error: {tmp_path}: has no manifest.json, so it is not a committed checkpoint" in done.stderr
