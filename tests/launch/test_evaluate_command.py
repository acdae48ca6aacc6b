"""``launch/evaluate.py`` and the ways in which it can be called wrongly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch.cli import check_groups, open_mappings
from launch.evaluate import hydra_arguments
from tests.launch.processes import run_python
from trainer.config import EvaluateConfig, ReplayConfig, TrainConfig
from trainer.errors import ConfigError


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


@pytest.mark.parametrize("argument", ["data.root=/clicks", "+data.root=/clicks", "data={root: /clicks}"])
@pytest.mark.parametrize("config_class", [EvaluateConfig, ReplayConfig])
def test_a_key_of_data_needs_data(config_class: type[Any], argument: str) -> None:
    with pytest.raises(ConfigError, match=r"data is null here.* choose one first, like data=parquet data.*clicks"):
        check_groups(config_class, open_mappings([argument]))
    check_groups(config_class, open_mappings(["data=parquet", argument]))
    check_groups(TrainConfig, open_mappings([argument]))


def test_keys_of_what_is_null_are_told_with_what_to_give() -> None:
    done = run_python("launch/evaluate.py", "checkpoint=x", "data.root=/clicks")
    assert done.exit_code == 2
    assert "error: data.root=/clicks: data is null here" in done.stderr
    done = run_python("launch/evaluate.py", "checkpoint=x", "metrics.gauc_column=site")
    assert done.exit_code == 2
    assert "'metrics' has no keys to change; give it as a whole, like 'metrics={gauc_column: VALUE}'." in done.stderr
