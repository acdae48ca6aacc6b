"""What a training takes of a rank's memory, next to what its parts are known to take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from data.list_lengths import mean_list_lengths
from launch.bench_contenders import Training
from launch.plan_estimate import estimate
from trainer.cluster import cluster_of_hosts, hosts_of_job
from trainer.config import TrainConfig
from trainer.config.plan import PlanConfig
from trainer.distributed import Worker
from trainer.host_memory import process_memory_bytes
from trainer.job import build
from trainer.timing.memory import device_peak_bytes

_MIB = 1 << 20


@dataclass(frozen=True)
class MemoryUse:
    """Of one rank, in bytes.

    Attributes:
        parts: Of the model and its training, by use, as ``launch/plan.py`` counts them.
        reading: That the loader holds at most.
        host: How far the process's peak rose above what it was before; None where the system does not tell.
        device: The peak on the GPU; 0 on CPU.
    """

    parts: dict[str, int]
    reading: int
    host: int | None
    device: int

    def report(self) -> str:
        """As a table, in MiB."""
        in_host = {"reading, at most": self.reading}
        sections = (
            [("main memory", {**self.parts, **in_host}, self.host)]
            if not self.device
            else [("GPU memory", self.parts, self.device), ("main memory", in_host, self.host)]
        )
        lines = []
        for title, parts, measured in sections:
            lines.append(f"{title:<20} {'MiB':>9}")
            lines += [f"  {use:<18} {size / _MIB:>9.1f}" for use, size in parts.items()]
            together = sum(parts.values())
            lines.append(f"  {'together':<18} {together / _MIB:>9.1f}")
            if measured is not None:
                lines.append(f"  {'measured':<18} {measured / _MIB:>9.1f}  {measured / together:.2f} of it")
        return "\n".join(lines)


def measure_memory(config: TrainConfig, worker: Worker, *, steps: int) -> MemoryUse:
    """Builds a job and takes some steps. All ranks must call this.

    Args:
        config: Of the training, which reads as it goes.
        worker: This process.
        steps: That it takes.
    """
    jobs = []

    def act() -> None:
        jobs.append(build(config, worker))
        training = Training(jobs[0], config.precision.dense, "Parquet")
        training(steps)
        training.close()

    host = peak_growth(act)
    loader = jobs[0].train_loader
    # How fast it is does not matter here.
    cluster = dataclasses.replace(
        cluster_of_hosts(hosts_of_job(worker), worker.device.type), dense_tflops={config.precision.dense: 1.0}
    )
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values["checkpoint"] = dataclasses.replace(config.checkpoint, asynchronous=False)  # nothing is saved
    lengths = mean_list_lengths(loader.index.row_groups, loader.schema)
    plan = estimate(PlanConfig(**values, cluster=cluster), loader.schema, lengths)
    rank = worker.rank % plan.groups.size
    parts = {use: int(sizes[rank]) for use, sizes in plan.memory.items()}
    return MemoryUse(parts, loader.memory_bytes(), host, device_peak_bytes(worker.device))


def peak_growth(act: Callable[[], None]) -> int | None:
    """How far the resident memory of the process rises above what it was, in bytes; None where Linux does not tell."""
    pa.default_memory_pool().release_unused()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present
    except OSError:
        act()
        return None
    before = process_memory_bytes("VmRSS")
    act()
    return process_memory_bytes("VmHWM") - before
