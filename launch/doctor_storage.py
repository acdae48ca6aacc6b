"""Whether every host reads the data and writes the checkpoints, and how fast."""

from __future__ import annotations

import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from data.counters import FeatureCounts
from data.parquet import RowGroup
from data.reader import WindowReader
from launch.doctor_report import Finding
from trainer.agreement import check_same_files, check_shared
from trainer.checkpoint.bucket import BucketPath, Location, location
from trainer.config.doctor import DoctorConfig
from trainer.distributed import Worker, on_main
from trainer.errors import ShardFMError
from trainer.inputs import Dataset, read_dataset

_GIB = 1 << 30
_LITTLE_SPACE = 10 * _GIB
_MANY = 0.01
"""A share of values outside their table, or unknown to their vocabulary, that is worth a warning."""


def check_checkpoints(config: DoctorConfig, worker: Worker) -> list[Finding]:
    """Lets every host write where the checkpoints go, and look for what rank 0 wrote. All ranks must call this."""
    directory = location(config.checkpoint.directory, config.checkpoint.storage_options)
    failure = _failure(lambda: check_shared(directory, worker))
    if failure is not None:
        return _once(worker, "checkpoint directory", failure)
    if worker.local_rank != 0:
        return []
    try:
        rate = _write(directory, config.write_mib << 20) / 1e6
    except (OSError, ShardFMError) as cause:
        remedy = "Give the job's user and credentials the right to write and delete there."
        told = f"{directory}: cannot be written ({cause})"
        return [Finding("fail", "checkpoint directory", told, remedy, socket.gethostname())]
    findings = [Finding("ok", "checkpoint directory", f"{directory}: written by all hosts, one for all")]
    if rate < config.min_write_mb_per_s:
        remedy = "Saves go on beside the training, but a save waits for the one before it: see checkpoint.every_steps."
        findings.append(Finding("warn", "checkpoint speed", f"{rate:.0f} MB/s", remedy, socket.gethostname()))
    else:
        findings.append(Finding("ok", "checkpoint speed", f"{rate:.0f} MB/s", host=socket.gethostname()))
    return findings + ([] if isinstance(directory, BucketPath) else _space(directory))


def check_data(config: DoctorConfig, worker: Worker) -> list[Finding]:
    """Reads all footers on rank 0, compares the files of all hosts and reads a sample. All ranks must call this."""
    findings: list[Finding] = []
    for split in ("train", *config.data.evaluation_sets):
        findings += _check_split(config, worker, split)
    return findings


def _check_split(config: DoctorConfig, worker: Worker, split: str) -> list[Finding]:
    name, opened = config.data.key_of(split), []
    failure = _failure(lambda: opened.append(on_main(lambda: read_dataset(config.data, split))))
    if failure is not None:
        return _once(worker, name, failure)
    (dataset,) = opened
    failure = _failure(lambda: check_same_files(dataset, worker, key=name))
    if failure is not None:
        return _once(worker, name, failure)
    told = f"{dataset.index.num_rows:,} rows in {dataset.index.num_files} files, which fit {config.data.schema}"
    findings = [Finding("ok", name, told)]
    if split == "train":
        findings += _sample(config, worker, dataset)
    return findings


def _sample(config: DoctorConfig, worker: Worker, dataset: Dataset) -> list[Finding]:
    """Decodes and encodes some row groups of this rank, as training would; other ranks take others."""
    groups = [group for group in dataset.index.row_groups if group.num_rows]
    own = groups[worker.rank :: worker.world_size] or groups[:1]
    own = own if config.sample_row_groups is None else own[:: max(1, len(own) // config.sample_row_groups)]
    own = own[: config.sample_row_groups]
    host, started, rows = socket.gethostname(), time.perf_counter(), 0
    counts: dict[str, FeatureCounts] = {}
    for group in own:
        try:
            found = _decode(group, dataset)
        except ShardFMError as cause:
            remedy = "Write the file again, or mend the schema; data.on_damage=skip leaves damaged rows out."
            return [Finding("fail", "data sample", str(cause), remedy, host)]
        rows += group.num_rows
        counts = {feature: counts.get(feature, FeatureCounts()) + found[feature] for feature in found}
    rate = rows / (time.perf_counter() - started)
    told = f"{rate:,.0f} rows/s on one thread of a rank, from {len(own)} row groups" if worker.local_rank == 0 else ""
    speed = [Finding("ok", "data sample", told, host=host)] if told else []
    return speed + _strange_values(counts)


def _decode(group: RowGroup, dataset: Dataset) -> dict[str, FeatureCounts]:
    reader = WindowReader([group], dataset.schema, sizes=dataset.index.sizes)
    for task in reader.tasks():
        task()
    return reader.columns.counts


def _strange_values(counts: dict[str, FeatureCounts]) -> list[Finding]:
    findings = []
    for feature, count in counts.items():
        for what, number in (("outside their table", count.out_of_range), ("unknown", count.out_of_vocabulary)):
            if count.values and number > _MANY * count.values:
                told = f"{feature}: {number / count.values:.0%} of the values are {what}"
                remedy = f"Look at num_embeddings or the vocabulary of '{feature}' in the schema."
                findings.append(Finding("warn", "ids", told, remedy))
    return findings or [Finding("ok", "ids", "the sample's values are within their tables")]


def _failure(act: Callable[[], object]) -> ShardFMError | None:
    try:
        act()
    except ShardFMError as error:
        return error
    return None


def _once(worker: Worker, check: str, failure: ShardFMError) -> list[Finding]:
    """Who failed itself tells it; the others heard of it."""
    told, _, remedy = str(failure).partition("; ")
    if not remedy:
        told, _, remedy = str(failure).partition(". ")
    finding = Finding("fail", check, told, remedy[:1].upper() + remedy[1:])
    return [finding] if worker.is_main else []


def _write(directory: Location, num_bytes: int) -> float:
    """Bytes a second, until they are on the disk or in the store."""
    path, content = directory / f".probe-{uuid.uuid4().hex}", bytes(num_bytes)
    started = time.perf_counter()
    try:
        if isinstance(path, BucketPath):
            path.write_bytes(content)
        else:
            with open(path, "wb") as file:
                file.write(content)
                os.fsync(file.fileno())
        return num_bytes / (time.perf_counter() - started)
    finally:
        if isinstance(path, BucketPath):
            path.unlink()
        else:
            path.unlink(missing_ok=True)


def _space(directory: Path) -> list[Finding]:
    free = shutil.disk_usage(directory).free
    told = f"{free / _GIB:.0f} GiB free"
    if free < _LITTLE_SPACE:
        remedy = "Free some, lower checkpoint.keep_last, or choose another checkpoint.directory."
        return [Finding("warn", "checkpoint space", told, remedy, socket.gethostname())]
    return [Finding("ok", "checkpoint space", "at least 10 GiB free")]
