"""Measures a part of the trainer on this machine: ``python launch/bench.py target=data|checkpoint``."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch

from launch.bench_checkpoint import measure_saves, report
from launch.bench_data import Measurement, measure
from launch.bench_files import KINDS, write_files
from launch.cli import command
from trainer.errors import ConfigError

TARGETS = ("data", "checkpoint")


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
    table_mib: int = 2048
    repeats: int = 5
    folder: str | None = None

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ConfigError(f"target is '{self.target}', which is unknown. Known names: {', '.join(TARGETS)}.")
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(f"kinds: '{kind}' is unknown. Known names: {', '.join(KINDS)}.")
        for key in ("rows", "row_group_rows", "window_rows", "batch_size", "num_threads", "table_mib", "repeats"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"{key} is {value}, but must be at least 1.")

    @property
    def decoding_threads(self) -> int:
        """``num_threads``; or one for each core but one, which assembles the batches."""
        return self.num_threads or max(1, len(os.sched_getaffinity(0)) - 1)


def run(config: BenchConfig) -> None:
    """Measures the target and prints the figures."""
    if config.target == "checkpoint":
        table_bytes = config.table_mib << 20
        print(report(measure_saves(table_bytes=table_bytes, repeats=config.repeats, folder=config.folder), table_bytes))
        return
    torch.set_num_threads(1)
    print(
        f"{config.rows:,} rows in row groups of {config.row_group_rows:,}, shuffled in windows of "
        f"{config.window_rows:,}; batches of {config.batch_size:,}; {config.decoding_threads} decoding threads; "
        f"medians of {config.repeats}\n{HEADER}"
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        for kind in config.kinds:
            folder = Path(config.folder or temporary)
            folder.mkdir(parents=True, exist_ok=True)
            file = write_files(folder, kind, rows=config.rows, row_group_rows=config.row_group_rows)
            measured = measure(
                file,
                kind,
                window_rows=config.window_rows,
                batch_size=config.batch_size,
                num_threads=config.decoding_threads,
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
