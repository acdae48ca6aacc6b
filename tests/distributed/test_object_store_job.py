"""A real job that trains from S3: busy servers and dropped connections, and a bucket that vanishes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.object_store import CREDENTIALS, ObjectStore, object_store
from tests.distributed.records import JOB, NUM_ROWS, STEPS_PER_EPOCH, Records, arguments, write_data
from tests.launch.processes import run_torchrun

pytestmark = pytest.mark.distributed


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A bucket with the schema and the data, and nothing of it here."""
    write_data(tmp_path / "data")
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with object_store() as running:
        running.upload(tmp_path / "data", "clicks/log")
        shutil.rmtree(tmp_path / "data")
        yield running


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    monkeypatch.setenv("RECORD_DIR", str(tmp_path / "records"))
    return Records(tmp_path / "records")


def s3_arguments(tmp_path: Path, store: ObjectStore) -> list[str]:
    options = ",".join(f"{key}:'{value}'" for key, value in store.options.items())
    return [
        JOB,
        *arguments("s3://clicks/log", tmp_path / "run"),
        "data.test=s3://clicks/**/part-*.parquet",
        f"data.storage_options={{{options}}}",
    ]


def test_a_job_trains_from_s3_and_survives_busy_servers_and_dropped_connections(
    tmp_path: Path, store: ObjectStore, records: Records
) -> None:
    def fault(number: int, method: str, path: str) -> str | None:
        # Bursts that are longer than what pyarrow itself tries again.
        burst, place = divmod(number, 40)
        return ("busy", "drop")[burst % 2] if place < 5 and len(store.faults) < 20 else None

    store.fault = fault
    finished = run_torchrun(2, *s3_arguments(tmp_path, store))
    assert finished.exit_code == 0, finished.stderr
    assert {"busy", "drop"} == set(store.faults)
    assert len(store.faults) > 10
    assert "trying again in" in finished.stderr
    rows = records.steps(0)
    first_epoch = [row for step in range(STEPS_PER_EPOCH) for row in rows[step]]
    assert sorted(first_epoch) == list(range(NUM_ROWS))
    assert "test logloss" in finished.stdout


def test_a_job_whose_bucket_vanishes_ends_soon_and_says_so(
    tmp_path: Path, store: ObjectStore, records: Records
) -> None:
    def fault(number: int, method: str, path: str) -> str | None:
        if not store.faults and len(records.steps(0)) > 3:
            store.delete_bucket("clicks")
            store.faults.append("gone")
        return None

    store.fault = fault
    started = time.monotonic()
    finished = run_torchrun(2, *s3_arguments(tmp_path, store))
    assert finished.exit_code != 0
    assert "is gone, and so is 's3://clicks'" in finished.stderr, finished.stderr
    assert records.steps(0), "the job was to fail in mid-run"
    assert time.monotonic() - started < 110
