"""Who is timed when training is measured: this project, and PyTorch without it."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from data.batch import Batch
from launch.bench_files import NUM_DENSE, NUM_SPARSE
from trainer.job import Job
from trainer.model.precision import set_matmul_precision
from trainer.timing.breakdown import Breakdown
from trainer.timing.observer import Observer

BATCHES_IN_MEMORY = 64
"""So many that the rows of the first ones have left the caches when they are looked up again, as in training."""


class Contender(Protocol):
    """Whoever takes steps to be timed.

    Attributes:
        precision: Of the matrix products.
        ours: Whether it is this project's.
    """

    precision: str
    ours: bool

    def __call__(self, steps: int) -> None:
        """Takes some steps."""

    def parts(self) -> Breakdown | None:
        """Where the time since the last call went. All ranks must call this."""


class Training:
    """A job that trains some steps at a time.

    Args:
        job: Built anew.
        precision: That it has.
        source: Of the batches, ``memory`` or ``Parquet``.
    """

    ours = True

    def __init__(self, job: Job, precision: str, source: str) -> None:
        self.precision = precision
        self._job = job
        self._observer = Observer(job.assembled.model, job.worker)
        self._clock = self._observer.clock
        self._pipeline = job.pipeline(self._clock)
        self._stream = job.train_loader.batches(0, BATCHES_IN_MEMORY if source == "memory" else job.total_steps)
        batches: Iterator[Batch] = itertools.cycle(list(self._stream)) if source == "memory" else self._stream
        self._batches = self._clock.reads(batches)
        self._step = 0

    def __call__(self, steps: int) -> None:
        """See :class:`Contender`."""
        job = self._job
        set_matmul_precision(job.config.precision, job.worker.device)
        for _ in range(steps):
            job.optimizers.set_learning_rates(self._step)
            job.assembled.step_context.advance(self._step)
            outputs, _ = self._pipeline.step(self._batches)
            job.metrics.update(*outputs)
            self._step += 1
            self._clock.step_done()

    def parts(self) -> Breakdown | None:
        """See :class:`Contender`."""
        return self._observer.report()

    def close(self) -> None:
        """Ends the reading ahead."""
        self._stream.close()


class Evaluation:
    """A job that evaluates some steps at a time, from memory."""

    ours = True

    def __init__(self, job: Job, precision: str) -> None:
        self.precision = precision
        self._job = job
        job.assembled.model.eval()
        with job.train_loader.batches(0, BATCHES_IN_MEMORY) as stream:
            self._batches = itertools.cycle(list(stream))

    @torch.no_grad()
    def __call__(self, steps: int) -> None:
        """See :class:`Contender`."""
        job = self._job
        set_matmul_precision(job.config.precision, job.worker.device)
        for batch in itertools.islice(self._batches, steps):
            _, outputs = job.assembled.model(batch.to(job.worker.device, non_blocking=True))
            job.metrics.update(*outputs)

    def parts(self) -> Breakdown | None:
        """See :class:`Contender`."""
        return None

    def close(self) -> None:
        """Nothing is open."""


class Baseline:
    """PyTorch without this project."""

    ours = False

    def __init__(self, training: Any, rows: Iterator[tuple[torch.Tensor, ...]], precision: str) -> None:
        self.precision = precision
        self._training = training
        self._rows = rows

    def __call__(self, steps: int) -> None:
        """See :class:`Contender`."""
        for rows in itertools.islice(self._rows, steps):
            self._training.step(*rows)

    def parts(self) -> Breakdown | None:
        """See :class:`Contender`."""
        return None


def baselines(
    file: Path, tables: list[int], *, embedding_dim: int, layers: list[int], batch_size: int, from_parquet: bool
) -> dict[str, Contender]:
    """Plain and hand-tuned PyTorch on the rows of a file, by name.

    Args:
        file: From ``bench_files``.
        tables: Rows of each.
        embedding_dim: D.
        layers: Of the network.
        batch_size: Rows of a step.
        from_parquet: Whether they read while they train.
    """
    # By name: they are no part of what is installed.
    plain, tuned = (importlib.import_module(f"tests.benchmarks.{name}") for name in ("plain", "tuned"))
    shape = (tables, NUM_DENSE, embedding_dim, layers)
    columns = [f"I{n}" for n in range(NUM_DENSE)], [f"C{n}" for n in range(NUM_SPARSE)], "label"

    def rows() -> Iterator[tuple[torch.Tensor, ...]]:
        read = plain.batches(file, *columns, batch_size)
        return read if from_parquet else itertools.cycle(list(itertools.islice(read, BATCHES_IN_MEMORY)))

    contenders: dict[str, Contender] = {
        f"hand-tuned PyTorch {name}": Baseline(tuned.Training(*shape, bf16=name == "bf16"), rows(), name)
        for name in ("bf16", "fp32")
    }
    return contenders | {"plain PyTorch fp32": Baseline(plain.Training(*shape), rows(), "fp32")}
