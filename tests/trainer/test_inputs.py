"""The data section of the config: its ranges, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.columns import held_bytes_per_row
from data.damage import DamagePolicy
from data.errors import DataError
from tests.trainer.test_config import composed
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.inputs import damage_policy, read_dataset, training_order

REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"on_damage": "skipp"},
        "data.on_damage is 'skipp', which is unknown. Did you mean 'skip'? Known names: raise, skip.",
    ),
    ({"max_skipped_rows": -1}, "data.max_skipped_rows is -1, but must be at least 0."),
    ({"retries": -1}, "data.retries is -1, but must be at least 0."),
    ({"retry_for_s": 0.0}, "data.retry_for_s is 0.0, but must be a positive number."),
    ({"window_mib": 0.0}, "data.window_mib is 0.0, but must be a positive number."),
    ({"storage_options": "x"}, "data.storage_options is 'x', but must be null, or names with"),
    ({"storage_options": {"a": [1]}}, "data.storage_options is {'a': [1]}, but must be null, or names with"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_a_value_out_of_range_is_refused(
    changes: dict[str, Any], message: str, make_config: Callable[..., TrainConfig]
) -> None:
    with pytest.raises(ConfigError) as error:
        make_config(data=changes)
    assert message in str(error.value)


def test_storage_options_can_be_given_on_the_command_line() -> None:
    config = composed("data=parquet", "data.root=s3://bucket/log", "data.storage_options={region: eu-west-1}")
    assert config.data.storage_options == {"region": "eu-west-1"}
    assert config.data.train == "s3://bucket/log/train"


def test_damage_ends_a_job_unless_it_is_told_to_skip(make_config: Callable[..., TrainConfig]) -> None:
    assert damage_policy(make_config().data) == DamagePolicy(skip=False)
    config = make_config(data={"on_damage": "skip", "max_skipped_rows": 7})
    assert damage_policy(config.data) == DamagePolicy(skip=True, max_skipped_rows=7)


def test_a_damaged_file_is_left_out_of_the_data_set(make_config: Callable[..., TrainConfig], click_log: Path) -> None:
    (click_log / "train" / "part-2.parquet").write_text("three rows were here")
    with pytest.raises(DataError, match=r"part-2\.parquet: its Parquet footer cannot be read"):
        read_dataset(make_config().data, "train")
    config = make_config(data={"on_damage": "skip", "max_skipped_rows": 10})
    assert read_dataset(config.data, "train").index.num_rows == 130


def test_footers_are_cached_by_split(make_config: Callable[..., TrainConfig], click_log: Path, tmp_path: Path) -> None:
    config = make_config(data={"index_cache": str(tmp_path / "cache")})
    fresh = {split: read_dataset(config.data, split).index for split in ("train", "test")}
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["test.arrow", "train.arrow"]
    assert {split: read_dataset(config.data, split).index for split in ("train", "test")} == fresh


def test_a_window_can_be_given_by_its_memory(make_config: Callable[..., TrainConfig], click_log: Path) -> None:
    config = make_config(data={"window_mib": 1 / 1024})
    dataset = read_dataset(config.data, "train")
    order = training_order(dataset, config.data, global_batch_size=16, seed=0)
    rows = 1024 // held_bytes_per_row(dataset.schema)
    assert order.window_rows == rows
    groups = [pq.read_metadata(path) for path in sorted((click_log / "train").glob("*.parquet"))]
    sizes = [g.row_group(i).num_rows for g in groups for i in range(g.num_row_groups)]
    for window in order.epoch_plan(0).windows[:-1]:
        assert rows <= sum(sizes[group] for group in window) < rows + 16
