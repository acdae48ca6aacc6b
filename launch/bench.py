"""Measures the trainer on this machine: ``python launch/bench.py target=data|step|train|...``."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch

from launch.bench_checkpoint import measure_saves, report
from launch.bench_comms import measure_exchanges
from launch.bench_comms import report as comms_report
from launch.bench_data import Measurement, measure
from launch.bench_files import KINDS, MAX_CARDINALITY, write_files
from launch.bench_memory import measure_memory
from launch.bench_report import table, write
from launch.bench_train import Workload, config_of, measure_training, write_data
from launch.cli import command
from launch.outputs import check_folder
from trainer.distributed import Worker, on_main, process_group, worker_from_environment
from trainer.errors import ConfigError

TARGETS = ("data", "step", "train", "eval", "memory", "comms", "checkpoint")
POSITIVE = (
    *("rows", "row_group_rows", "window_rows", "batch_size", "num_threads", "table_mib", "repeats"),
    *("embedding_dim", "max_cardinality", "steps"),
)


@dataclass
class BenchConfig:
    """What is measured, and on how much."""

    target: str = "data"
    kinds: list[str] = field(default_factory=lambda: list(KINDS))
    rows: int = 2_097_152
    row_group_rows: int = 65_536
    window_rows: int = 131_072
    batch_size: int = 4096
    num_threads: int | None = None
    cache_mib: int = 0
    table_mib: int = 2048
    repeats: int = 5
    folder: str | None = None
    out: str | None = None
    device: str = "auto"
    embedding_dim: int = 16
    layers: list[int] = field(default_factory=lambda: [400, 400, 400])
    precisions: list[str] = field(default_factory=lambda: ["bf16", "fp32"])
    max_cardinality: int = MAX_CARDINALITY
    steps: int = 20
    baselines: bool = True

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ConfigError(f"target is '{self.target}', which is unknown. Known names: {', '.join(TARGETS)}.")
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(f"kinds: '{kind}' is unknown. Known names: {', '.join(KINDS)}.")
        for key in ("kinds", "precisions"):
            if not getattr(self, key):
                raise ConfigError(f"{key} is [], but must name at least one.")
        for key in POSITIVE:
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"{key} is {value}, but must be at least 1.")
        if self.cache_mib < 0:
            raise ConfigError(f"cache_mib is {self.cache_mib}, but must be at least 0.")

    @property
    def decoding_threads(self) -> int:
        """``num_threads``; or one for each core but one, which assembles the batches."""
        return self.num_threads or max(1, len(os.sched_getaffinity(0)) - 1)

    def check_baselines(self) -> None:
        """The baselines cut their batches out of single row groups, and would look for a whole one forever.

        Raises:
            ConfigError: No row group has the rows of a batch.
        """
        largest = min(self.rows, self.row_group_rows)
        if self.batch_size > largest:
            raise ConfigError(
                f"batch_size is {self.batch_size}, but must be at most rows ({self.rows}) and row_group_rows "
                f"({self.row_group_rows}) for the baselines; set it to {largest} or less, or baselines=false."
            )


def run(config: BenchConfig) -> None:
    """Measures the target and prints the figures."""
    for key, folder in (("folder", config.folder), ("out", config.out)):
        if folder is not None:
            check_folder(key, Path(folder))
    if config.target == "checkpoint":
        table_bytes = config.table_mib << 20
        print(report(measure_saves(table_bytes=table_bytes, repeats=config.repeats, folder=config.folder), table_bytes))
        return
    if config.target == "comms":
        _run_comms(config)
    elif config.target == "data":
        _run_data(config)
    else:
        _run_training(config)


def _run_comms(config: BenchConfig) -> None:
    worker = worker_from_environment(config.device)
    if worker.world_size == 1:
        raise ConfigError("target is 'comms', but one rank has nobody to talk to; start several with torchrun.")
    with process_group(worker, timeout_s=600):
        exchanges = measure_exchanges(worker, repeats=config.repeats)
        if worker.is_main:
            print(comms_report(exchanges, worker), flush=True)


def _run_training(config: BenchConfig) -> None:
    workload = Workload(
        rows=config.rows,
        row_group_rows=config.row_group_rows,
        window_rows=config.window_rows,
        batch_size=config.batch_size,
        embedding_dim=config.embedding_dim,
        layers=config.layers,
        num_threads=config.num_threads or 1,
        steps=config.steps,
        repeats=config.repeats,
        precisions=config.precisions,
        max_cardinality=config.max_cardinality,
    )
    worker = worker_from_environment(config.device)
    with process_group(worker, timeout_s=600), tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(config.folder or on_main(lambda: temporary))
        if config.target == "memory":
            _run_memory(workload, worker, folder)
            return
        compare = config.baselines and worker.world_size == 1 and worker.device.type == "cpu"
        if compare and config.target != "eval":
            config.check_baselines()
        speeds, limits = measure_training(workload, config.target, worker, folder, compare=compare)
        if worker.is_main:
            print(table(workload, config.target, speeds, limits, worker), flush=True)
            if config.out is not None:
                write(Path(config.out), workload, config.target, speeds, limits)


def _run_memory(workload: Workload, worker: Worker, folder: Path) -> None:
    write_data(workload, worker, folder)
    used = measure_memory(config_of(workload, workload.precisions[0], worker, folder), worker, steps=workload.steps)
    if worker.is_main:
        print(used.report(), flush=True)


def _run_data(config: BenchConfig) -> None:
    torch.set_num_threads(1)
    print(
        f"{config.rows:,} rows in row groups of {config.row_group_rows:,}, shuffled in windows of "
        f"{config.window_rows:,}; batches of {config.batch_size:,}; {config.decoding_threads} decoding threads; "
        f"medians of {config.repeats}\n{HEADER}"
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        for kind in config.kinds:
            folder = Path(config.folder or temporary)
            file = write_files(folder, kind, rows=config.rows, row_group_rows=config.row_group_rows)
            measured = measure(
                file,
                kind,
                window_rows=config.window_rows,
                batch_size=config.batch_size,
                num_threads=config.decoding_threads,
                cache_bytes=config.cache_mib << 20,
                repeats=config.repeats,
            )
            print(line(kind, measured), flush=True)


HEADER = (
    f"{'columns':<8} {'rows/s':>10} {'pyarrow':>10} {'ratio':>6} {'CPU us/row':>10} {'pyarrow':>8} "
    f"{'B/row file':>10} {'B/row batch':>11} {'peak MiB':>9} {'bound MiB':>9}"
)


def line(kind: str, measured: Measurement) -> str:
    """A measurement under :data:`HEADER`."""
    peak = "-" if measured.peak_bytes is None else f"{measured.peak_bytes / 2**20:.0f}"
    return (
        f"{kind:<8} {measured.rows_per_s:>10,.0f} {measured.ceiling_rows_per_s:>10,.0f} {measured.ratio:>6.2f} "
        f"{1e6 * measured.cpu_s_per_row:>10.2f} {1e6 * measured.ceiling_cpu_s_per_row:>8.2f} "
        f"{measured.file_bytes_per_row:>10.0f} {measured.batch_bytes_per_row:>11.0f} "
        f"{peak:>9} {measured.bound_bytes / 2**20:>9.0f}"
    )


if __name__ == "__main__":
    command("bench", BenchConfig, run)
