"""A run whose checkpoints lie in S3: trained, killed, continued; nothing but whole checkpoints counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launch.checkpoint import main as inspect_command
from tests.data.object_store import CREDENTIALS, ObjectStore, object_store
from tests.distributed.records import JOB, NUM_ROWS, TOTAL_STEPS, Records, arguments, write_data
from tests.launch.processes import run_python, run_torchrun
from tests.ranks import results_of, run_ranks
from trainer.checkpoint import storage
from trainer.checkpoint.bucket import location
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.errors import CheckpointError, PeerError
from trainer.loop import Result, train

pytestmark = pytest.mark.distributed

SAVE_EVERY = 15


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with object_store() as running:
        running.direct().create_dir("runs")
        yield running


def test_a_local_job_with_checkpoints_in_s3_is_killed_and_continues(
    tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path / "data")
    records = Records(tmp_path / "records")
    monkeypatch.setenv("RECORD_DIR", str(tmp_path / "records"))
    options = ",".join(f"{key}:'{value}'" for key, value in store.options.items())
    job = [
        *(JOB, *arguments(tmp_path / "data", tmp_path / "run")),
        f"checkpoint.every_steps={SAVE_EVERY}",
        *("checkpoint.directory=s3://runs/click", f"checkpoint.storage_options={{{options}}}"),
    ]
    kill_at = TOTAL_STEPS - 7
    monkeypatch.setenv("KILL_AT", str(kill_at))
    killed = run_torchrun(2, *job)
    assert killed.exit_code != 0
    monkeypatch.setenv("KILL_AT", "-1")
    continued = run_torchrun(1, *job)
    assert continued.exit_code == 0, continued.stderr

    last_saved = kill_at // SAVE_EVERY * SAVE_EVERY
    start = records.starts()[-1]
    assert start in (last_saved, last_saved - SAVE_EVERY)
    assert f"resumed at step {start} from s3://runs/click/step-{start:08d}" in continued.stderr
    rows = [row for step in records.survived() for row in step]
    assert sorted(rows) == sorted([*range(NUM_ROWS)] * 2)
    directory = location("s3://runs/click", store.options)
    steps = [storage.step_of(path) for path in storage.committed(directory)]
    assert steps == [TOTAL_STEPS - TOTAL_STEPS % SAVE_EVERY, TOTAL_STEPS]

    uri = f"s3://runs/click/step-{TOTAL_STEPS:08d}?{store.query}"
    assert inspect_command(["inspect", uri]) == 0
    assert inspect_command(["verify", uri]) == 0
    printed = capsys.readouterr().out
    assert f"step {TOTAL_STEPS}, epoch 2, written by 1 ranks" in printed
    assert "checksums right" in printed
    evaluated = run_python("launch/evaluate.py", f"checkpoint='{uri}'", "device=cpu")
    assert evaluated.exit_code == 0, evaluated.stderr
    assert "test logloss" in evaluated.stdout


def run_training(worker: Worker, config: TrainConfig) -> Result:
    return train(config, worker)


def test_a_store_that_fails_in_mid_save_ends_all_ranks_and_the_run_goes_on_from_what_is_whole(
    store: ObjectStore, make_config: Callable[..., TrainConfig]
) -> None:
    options: dict[str, Any] = {**store.options, "access_key": "testing", "secret_key": "testing"}
    config = make_config(
        max_steps=6, checkpoint={"directory": "s3://runs/failing", "every_steps": 2, "storage_options": options}
    )

    def fault(number: int, method: str, path: str) -> str | None:
        return "deny" if method in ("PUT", "POST") and "step-00000004/__1_0" in path else None

    store.fault = fault
    outcomes = run_ranks(2, run_training, config)
    assert all(isinstance(outcome, CheckpointError | PeerError) for outcome in outcomes), outcomes
    assert "s3://runs/failing/step-00000004: cannot be written: rank 1: " in str(outcomes[0])
    store.calm()
    directory = location("s3://runs/failing", options)
    assert [path.name for path in storage.committed(directory)] == ["step-00000002"]
    result: Result = results_of(run_ranks(1, run_training, config))[0]
    assert result.resumed_at == 2
    assert [path.name for path in storage.committed(directory)] == [f"step-{step:08d}" for step in (2, 4, 6)]
