"""Checkpoints of runs in sharding groups: written once, read by all, continued with or without groups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import assert_equal_bits, tensors_of
from tests.distributed.test_canonical_state import load_all, save, trained
from tests.ranks import results_of, run_ranks
from trainer.checkpoint.canonical import training_state
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.errors import ConfigError
from trainer.loop import Result, train

pytestmark = pytest.mark.distributed

Make = Callable[..., TrainConfig]

STOP_AT = 3


@pytest.fixture
def cases(make_config: Make) -> Callable[[int | None], dict[str, TrainConfig]]:
    """Group size to configs by name; rows are wide enough for two shards of columns."""

    def make(group_size: int | None) -> dict[str, TrainConfig]:
        kinds = {"rows": ("row_wise", "rowwise_adagrad"), "columns": ("column_wise", "adagrad")}
        return {
            name: make_config(
                global_batch_size=24,
                data={"lanes": 12},
                model={"embedding_dim": 255, "heads": {"linear": {}, "fm": {}, "dnn": {"layers": [4]}}},
                sharding={"types": [sharding], "group_size": group_size},
                optimizer={"sparse": {"name": optimizer}},
            )
            for name, (sharding, optimizer) in kinds.items()
        }

    return make


def train_and_save(worker: Worker, configs: dict[str, TrainConfig], folder: Path) -> dict[str, int]:
    """Returns the numbers of tables and their states that this rank writes."""
    written = {}
    for name, config in configs.items():
        job = trained(config, worker)
        save(job, folder / name)
        tensors = training_state(job.assembled.model, job.optimizers, job.metrics.state()).tensors
        tables = [stored.to_write() for key, stored in tensors.items() if key.startswith("tables/")]
        written[name] = sum(part.tensor.numel() for stored in tables for part in stored.parts)
    return written


def test_each_copy_of_a_table_is_loaded_and_one_is_saved(
    cases: Callable[[int | None], dict[str, TrainConfig]], tmp_path: Path
) -> None:
    grouped, plain = tmp_path / "grouped", tmp_path / "plain"
    grouped.mkdir()
    plain.mkdir()
    written = results_of(run_ranks(4, train_and_save, cases(2), grouped))
    results_of(run_ranks(2, train_and_save, cases(None), plain))
    for name in cases(2):
        held = sum(tensor.numel() for key, tensor in tensors_of(grouped / name).items() if key.startswith("tables/"))
        assert sum(rank[name] for rank in written) == held
        # Each group writes some of the tables.
        assert all(sum(rank[name] for rank in group) for group in (written[:2], written[2:]))
    for world_size, group_size, folder in ((2, None, grouped), (4, 2, grouped), (4, 2, plain)):
        configs = list(cases(group_size).items())
        assert all(all(rank) for rank in results_of(run_ranks(world_size, load_all, configs, folder))), folder
    # What was loaded, and saved again without groups, is what was saved in groups.
    assert_equal_bits(tensors_of(grouped / "again-2-column_wise-columns"), tensors_of(grouped / "columns"))


def run_training(worker: Worker, config: TrainConfig) -> Result:
    return train(config, worker)


def train_on(world_size: int, config: TrainConfig) -> Result:
    result: Result = results_of(run_ranks(world_size, run_training, config))[0]
    return result


def test_a_run_in_groups_continues_bit_for_bit(make_config: Make, tmp_path: Path) -> None:
    def config(run: str, **more: Any) -> TrainConfig:
        sharding = {"types": ["row_wise"], "group_size": 2, "average_every_steps": 3}
        return make_config(run_dir=tmp_path / run, epochs=1, sharding=sharding, **more)

    whole = train_on(4, config("whole"))
    train_on(4, config("parts", max_steps=STOP_AT))
    parts = train_on(4, config("parts"))
    assert parts.resumed_at == STOP_AT
    assert_equal_bits(tensors_of(Path(whole.checkpoint)), tensors_of(Path(parts.checkpoint)))
    assert whole.metrics == parts.metrics


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sharding": {"group_size": 2, "average_every_steps": 4}, "max_steps": 6},
            "max_steps is 6, but must be a multiple of sharding.average_every_steps (4).",
        ),
        (
            {"sharding": {"average_every_steps": 4}},
            "sharding.average_every_steps is 4, but must be 1 without sharding.group_size.",
        ),
        ({"sharding": {"group_size": 0}}, "sharding.group_size is 0, but must be at least 1."),
    ],
)
def test_what_would_change_nothing_or_another_run_is_refused(
    changes: dict[str, Any], message: str, make_config: Make
) -> None:
    with pytest.raises(ConfigError) as error:
        make_config(**changes)
    assert message in str(error.value)
