"""Training over damaged files: the same on every world size, counted over all ranks, ended by all ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.checkpoints import tensors_of
from tests.data.test_damage import spoil_page
from tests.ranks import results_of, run_ranks
from trainer.checkpoint.canonical import is_weight
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.errors import DataError, PeerError
from trainer.loop import Result, train

pytestmark = pytest.mark.distributed

NUM_ROWS = 133
SKIPPED_ROWS = 32  # two row groups of 16, of two files


def run_training(worker: Worker, config: TrainConfig) -> Result:
    return train(config, worker)


@pytest.fixture
def damaged(click_log: Path) -> None:
    """The first row group of two files does not pass its checksum."""
    for name in ("part-0", "part-3"):
        path = click_log / "train" / f"{name}.parquet"
        pq.write_table(pq.read_table(path), path, row_group_size=16, write_page_checksum=True)
        spoil_page(str(path), row_group=0, column="row_id")


@pytest.fixture
def skipping(
    make_config: Callable[..., TrainConfig], tmp_path: Path, damaged: None
) -> Callable[[str, int], TrainConfig]:
    """A run directory and a budget to a config."""

    def make(run: str, budget: int) -> TrainConfig:
        data: dict[str, Any] = {"on_damage": "skip", "max_skipped_rows": budget}
        return make_config(run_dir=tmp_path / run, data=data)

    return make


def test_skipped_rows_are_shown_and_change_nothing_between_world_sizes(
    skipping: Callable[[str, int], TrainConfig],
) -> None:
    trained, metrics = [], []
    for world_size in (1, 2):
        config = skipping(f"on-{world_size}", SKIPPED_ROWS)
        result: Result = results_of(run_ranks(world_size, run_training, config))[0]
        events = EventAccumulator(result.tensorboard)
        events.Reload()
        # Both epochs skip them.
        assert [event.value for event in events.Scalars("data/skipped_rows")][-1] == 2 * SKIPPED_ROWS
        metrics.append(result.metrics)
        trained.append(tensors_of(Path(result.checkpoint)))
    for name, value in metrics[1].items():
        assert value == pytest.approx(metrics[0][name], abs=1e-4), name
    weights = [name for name in trained[0] if is_weight(name)]
    assert max((trained[1][name] - trained[0][name]).abs().max() for name in weights) < 1e-3


def test_more_than_the_budget_of_all_ranks_together_ends_all_ranks(
    skipping: Callable[[str, int], TrainConfig],
) -> None:
    outcomes = run_ranks(2, run_training, skipping("over", SKIPPED_ROWS - 1))
    messages = [str(outcome) for outcome in outcomes if isinstance(outcome, DataError | PeerError)]
    assert any(f"32 of {NUM_ROWS} rows cannot be read, more than data.max_skipped_rows" in text for text in messages)
    assert all(isinstance(outcome, Exception) for outcome in outcomes)


def test_damage_that_may_not_be_skipped_ends_all_ranks_with_the_place(
    make_config: Callable[..., TrainConfig], damaged: None
) -> None:
    outcomes = run_ranks(2, run_training, make_config())
    assert all(isinstance(outcome, Exception) for outcome in outcomes)
    told = " ".join(str(outcome) for outcome in outcomes if isinstance(outcome, DataError))
    assert "row group 0: column 'row_id' cannot be decoded" in told
