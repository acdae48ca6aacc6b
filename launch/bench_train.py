"""Training steps, from memory and from Parquet, and evaluation, next to their limits and to PyTorch alone."""

from __future__ import annotations

import shutil
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import yaml

from launch.bench_contenders import Contender, Evaluation, Training, baselines
from launch.bench_files import NUM_DENSE, NUM_SPARSE, cardinalities, declaration_of, write_files
from launch.bench_limits import Limits, measure_limits
from trainer.config import CheckpointConfig, DataConfig, ModelConfig, OptimizerConfig, PrecisionConfig, TrainConfig
from trainer.config.optimizer import SparseOptimizerConfig
from trainer.distributed import Worker
from trainer.job import build
from trainer.model.network import NetworkConfig
from trainer.timing.breakdown import Breakdown

_READ_AHEAD_S = 0.5
FIELDS = f"{NUM_DENSE} + {NUM_SPARSE}"


@dataclass(frozen=True)
class Workload:
    """What is trained.

    Attributes:
        rows: Of the Parquet file.
        row_group_rows: Rows of each of its row groups.
        window_rows: Rows shuffled together.
        batch_size: Rows of a step on each rank.
        embedding_dim: D.
        layers: Of the network.
        num_threads: That decode, on each rank.
        steps: Of a measurement.
        repeats: Rounds of measurements, one of each contender after the other.
        precisions: Of our own matrix products, a contender for each.
        max_cardinality: Rows of the largest table.
    """

    rows: int
    row_group_rows: int
    window_rows: int
    batch_size: int
    embedding_dim: int
    layers: list[int]
    num_threads: int
    steps: int
    repeats: int
    precisions: list[str]
    max_cardinality: int

    @property
    def widths(self) -> list[int]:
        """Of the network's input and of its layers."""
        return [(NUM_DENSE + NUM_SPARSE) * self.embedding_dim, *self.layers]


@dataclass(frozen=True)
class Speed:
    """Of one contender.

    Attributes:
        name: Of it.
        precision: Of its matrix products.
        ours: Whether it is this project's.
        step_ms: Of each round, the mean over its steps.
        samples_per_s: Over all ranks, in the median round.
        parts: Where the time of a step goes, in the last round; None for evaluations and baselines.
    """

    name: str
    precision: str
    ours: bool
    step_ms: list[float]
    samples_per_s: float
    parts: Breakdown | None

    @property
    def median_ms(self) -> float:
        """Of the rounds."""
        return statistics.median(self.step_ms)


def measure_training(
    workload: Workload, target: str, worker: Worker, folder: Path, *, compare: bool
) -> tuple[list[Speed], Limits]:
    """Runs all contenders by turns. All ranks must call this.

    Args:
        workload: What is trained.
        target: ``step`` (batches in memory), ``train`` (from Parquet, and from memory for comparison) or ``eval``.
        worker: This process.
        folder: Where the Parquet file is made, unless it is there.
        compare: Whether plain and hand-tuned PyTorch run, too.

    Returns:
        Of each contender; and the limits, which are those of this rank.
    """
    write_data(workload, worker, folder)
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {}
        for precision in workload.precisions:
            job = build(config_of(workload, precision, worker, folder), worker)
            for source in ("Parquet", "memory") if target == "train" else ("memory",):
                ours = Evaluation(job, precision) if target == "eval" else Training(job, precision, source)
                contenders[f"ShardFM {precision}, from {source}"] = ours
                stack.callback(ours.close)
        if compare and target != "eval":
            contenders |= baselines(
                _file(workload, folder),
                [n + 2 for n in cardinalities(workload.max_cardinality)],
                embedding_dim=workload.embedding_dim,
                layers=workload.layers,
                batch_size=workload.batch_size,
                from_parquet=target == "train",
            )
        rounds: dict[str, list[float]] = {name: [] for name in contenders}
        limits = []
        for _ in range(workload.repeats):
            for name, contender in contenders.items():
                rounds[name].append(1000 * _timed(contender, workload.steps, worker) / workload.steps)
            limits.append(measure_limits(workload.batch_size, workload.widths, workload.precisions, worker.device))
        if worker.is_main:
            shutil.rmtree(_run_dir(folder), ignore_errors=True)
        rows = workload.batch_size * worker.world_size
        speeds = [
            Speed(name, c.precision, c.ours, rounds[name], 1000 * rows / statistics.median(rounds[name]), c.parts())
            for name, c in contenders.items()
        ]
    return speeds, Limits.median(limits)


def _timed(contender: Contender, steps: int, worker: Worker) -> float:
    """Seconds; the first step after another's turn finds cold caches and is not counted."""
    # Until those who read ahead, of all contenders, have what they hold ready for their next turn.
    time.sleep(_READ_AHEAD_S)
    contender(1)
    contender.parts()
    dist.barrier()
    started = time.perf_counter()
    contender(steps)
    if worker.device.type == "cuda":
        torch.cuda.synchronize(worker.device)
    dist.barrier()
    return time.perf_counter() - started


def _file(workload: Workload, folder: Path) -> Path:
    return write_files(
        folder,
        "ids",
        rows=workload.rows,
        row_group_rows=workload.row_group_rows,
        max_cardinality=workload.max_cardinality,
    )


def write_data(workload: Workload, worker: Worker, folder: Path) -> None:
    """The Parquet file, unless it is there, and its schema, by rank 0. All ranks must call this."""
    if worker.is_main:
        _file(workload, folder)
        declaration = yaml.safe_dump(declaration_of("ids", workload.max_cardinality))
        (folder / "schema.yaml").write_text(declaration, encoding="utf-8")
    dist.barrier()


def _run_dir(folder: Path) -> Path:
    return folder / "bench-run"


def config_of(workload: Workload, precision: str, worker: Worker, folder: Path) -> TrainConfig:
    """The training of a workload on the data that :func:`write_data` wrote."""
    file = str(_file(workload, folder))
    network = NetworkConfig(layers=workload.layers)
    data = DataConfig(
        name="bench",
        root=str(folder),
        schema=str(folder / "schema.yaml"),
        train=file,
        test=file,
        lanes=worker.world_size,
        window_rows=workload.window_rows,
        num_threads=workload.num_threads,
    )
    return TrainConfig(
        name="bench",
        run_dir=str(_run_dir(folder)),
        device=worker.device.type,
        global_batch_size=workload.batch_size * worker.world_size,
        eval_global_batch_size=workload.batch_size * worker.world_size,
        epochs=1000,
        data=data,
        model=ModelConfig(workload.embedding_dim, heads={"linear": {}, "fm": {}, "dnn": {}}, network=network),
        optimizer=OptimizerConfig(sparse=SparseOptimizerConfig(name="rowwise_adagrad")),
        precision=PrecisionConfig(dense=precision),
        checkpoint=CheckpointConfig(directory=str(_run_dir(folder) / "checkpoints"), resume="none"),
    )
