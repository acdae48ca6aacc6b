"""What the hosts of a job must have in common: code, libraries, command line, data and checkpoint directory.

Hosts that differ in these train something else than was asked for, or fail hours later, at the first
checkpoint. So all is compared before the job begins.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import data
import trainer
from data.errors import DataError
from data.files import DataFile
from data.parquet import pack_footer, read_footer
from trainer.checkpoint.bucket import Location
from trainer.distributed import Worker, gather, on_all, on_main
from trainer.errors import ConfigError
from trainer.inputs import Dataset
from trainer.provenance import versions

OF_EACH_HOST = ("data.index_cache", "data.num_threads", "data.prefetch_batches")
"""Keys of the config that change nothing of what is trained: each host may have its own."""

_NUM_FOOTERS = 32
_NUM_THREADS = 16
_VISIBLE_S = 15.0
"""For a file of another host to appear: network file systems keep what they know of a folder for some seconds."""


def code_fingerprint() -> str:
    """A checksum over the project's own sources, equal wherever they are equal."""
    digest = hashlib.sha256()
    for package in (data, trainer):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def check_hosts_alike(config: object, worker: Worker) -> None:
    """Compares code, libraries, devices and config of all ranks. All ranks must call this.

    Args:
        config: The dataclass that this rank composed.
        worker: This process.

    Raises:
        ConfigError: Some rank differs from rank 0; on every rank, naming the first differences and their hosts.
    """
    own = {f"version of {name}": version for name, version in versions().items()}
    own["kind of device"] = worker.device.type
    own |= {"ShardFM's source code": code_fingerprint(), **_flat(dataclasses.asdict(config))}  # type: ignore[call-overload]
    told = gather((socket.gethostname(), own))
    differences = _differences(told)
    if differences:
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise ConfigError(
            f"the hosts do not run the same job: {'; '.join(differences[:3])}{more}. Install the same code and "
            "packages on all hosts (or mount one environment), look at the driver where a GPU was not found, and start "
            "all with the same command line."
        )


def check_same_files(dataset: Dataset, worker: Worker, *, key: str) -> None:
    """Looks whether every host has the files that rank 0 found. All ranks must call this.

    A rank of each host compares the sizes of all files and the footers of some, which hold the statistics of
    their columns. An object store is one for all.

    Args:
        dataset: As rank 0 read it.
        worker: This process.
        key: Of the config, for the message.

    Raises:
        DataError: A file is missing or another one on some host.
    """
    files = list(dict.fromkeys(group.file for group in dataset.index.row_groups if not group.file.storage.uri))
    looks = files and worker.local_rank == 0 and worker.rank != 0
    on_all(lambda: _compare_files(files, key) if looks else None)


def check_shared(directory: Location, worker: Worker) -> None:
    """Looks whether all ranks see one directory, and may write there. All ranks must call this.

    Args:
        directory: Of the checkpoints; an object store is one for all.
        worker: This process.

    Raises:
        ConfigError: It is another directory on some host, or cannot be written there.
    """
    if not isinstance(directory, Path):
        return
    name = on_main(lambda: _leave(directory, f".probe-{uuid.uuid4().hex}"))
    try:
        on_all(lambda: _find(directory, name, worker))
    finally:
        if worker.is_main:
            (directory / name).unlink(missing_ok=True)


def _differences(told: Sequence[tuple[str, Mapping[str, str]]]) -> list[str]:
    first_host, expected = told[0]
    by_key: dict[str, dict[str, list[str]]] = {}
    for rank, (host, own) in enumerate(told[1:], start=1):
        for name in sorted(expected.keys() | own.keys()):
            value = own.get(name, "absent")
            if value != expected.get(name, "absent"):
                by_key.setdefault(name, {}).setdefault(value, []).append(f"{host} (rank {rank})")
    # Code and versions before the config, as they stand in what was told.
    order = {name: number for number, name in enumerate(expected)}
    return [
        f"{name} is {expected.get(name, 'absent')} on {first_host} (rank 0), but "
        + ", ".join(f"{value} on {', '.join(places[:4])}" for value, places in by_key[name].items())
        for name in sorted(by_key, key=lambda name: order.get(name, len(order)))
    ]


def _flat(values: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(values, dict) or not values:
        return {} if prefix in OF_EACH_HOST else {prefix: repr(values)}
    flat: dict[str, str] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}.{name}" if prefix else str(name))
    return flat


def _compare_files(files: Sequence[DataFile], key: str) -> None:
    host = socket.gethostname()
    remedy = "Copy the data to all hosts again, or use a file system that they share."
    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="compare") as pool:
        infos = pool.map(lambda file: file.storage.info(file.path), files)
        for file, info in zip(files, infos, strict=True):
            if not info.is_file:
                raise DataError(f"{key}: {file.name} is there for rank 0, but not on {host}. {remedy}")
            if info.size != file.size:
                raise DataError(
                    f"{key}: {file.name} has {info.size:,} bytes on {host}, but {file.size:,} for rank 0. {remedy}"
                )
        some = [file for file in files[:: max(1, len(files) // _NUM_FOOTERS)] if file.footer is not None]
        footers = pool.map(lambda file: pack_footer(read_footer(file)), some)
        for file, footer in zip(some, footers, strict=True):
            if footer != file.footer:
                raise DataError(f"{key}: {file.name} holds other rows on {host} than for rank 0. {remedy}")


def _leave(directory: Path, name: str) -> str:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()
    except OSError as cause:
        raise ConfigError(
            f"checkpoint.directory={directory}: cannot be written on {socket.gethostname()} ({cause}); mount it for "
            "writing there, or choose another one."
        ) from cause
    return name


def _find(directory: Path, name: str, worker: Worker) -> None:
    deadline = time.monotonic() + _VISIBLE_S
    while not (directory.is_dir() and name in os.listdir(directory)):
        if time.monotonic() > deadline:
            raise ConfigError(
                f"checkpoint.directory={directory}: on {socket.gethostname()} it is not the folder that rank 0 sees; "
                "checkpoints need a file system that all hosts share, or an object store."
            )
        time.sleep(0.2)
    if worker.local_rank == 0:
        _leave(directory, f"{name}-{worker.rank}")
        (directory / f"{name}-{worker.rank}").unlink()
