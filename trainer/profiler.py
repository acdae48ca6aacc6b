"""Traces of some steps on every rank, and what was allocated when memory ran out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from trainer.config import ProfilerConfig
from trainer.distributed import Worker

logger = logging.getLogger(__name__)

_WARMUP_STEPS = 1
_MAX_ENTRIES = 100_000


class Profiler:
    """Records the configured steps with torch's profiler; a context around the training.

    ``<run_dir>/profile/rank-<rank>.pt.trace.json.gz`` opens in https://ui.perfetto.dev and in TensorBoard's profile
    page. Each step is marked, and within it the stages of TorchRec's pipeline. The profiler starts a step earlier,
    and slows the steps that it records.

    Args:
        config: Which steps.
        folder: For the files.
        worker: This process.
        first_step: That this process is going to do, counted from 1.
    """

    def __init__(self, config: ProfilerConfig, folder: Path, worker: Worker, *, first_step: int) -> None:
        self._config = config
        self._folder = folder
        self._worker = worker
        self._profile: profile | None = None
        self._trace = folder / f"rank-{worker.rank}.pt.trace.json.gz"
        if config.start_step is not None:
            steps = range(max(config.start_step, first_step), config.start_step + config.num_steps)
            self._profile = self._scheduled(steps, first_step) if steps else None

    def step_done(self) -> None:
        """A step of the training ends."""
        if self._profile is not None:
            self._profile.step()

    def _scheduled(self, recorded: range, first_step: int) -> profile:
        """Waits for the first of the steps, and ends after the last one."""
        num_before = recorded.start - first_step
        warmup = min(num_before, _WARMUP_STEPS)
        steps = schedule(wait=num_before - warmup, warmup=warmup, active=len(recorded), repeat=1)
        on_device = [ProfilerActivity.CUDA] if self._worker.device.type == "cuda" else []
        return profile(
            activities=[ProfilerActivity.CPU, *on_device], schedule=steps, on_trace_ready=self._write, acc_events=True
        )

    def _write(self, recorded: profile) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        recorded.export_chrome_trace(str(self._trace))
        logger.info("profile: %s (https://ui.perfetto.dev)", self._trace)

    @contextmanager
    def running(self) -> Iterator[None]:
        """The training; where memory runs out in it, what holds the memory is written before the error goes on.

        On CUDA, ``rank-<rank>.memory.pickle`` opens in https://pytorch.org/memory_viz.
        """
        keeps_history = self._config.memory_snapshot and self._worker.device.type == "cuda"
        if keeps_history:
            torch.cuda.memory._record_memory_history(max_entries=_MAX_ENTRIES)
        if self._profile is not None:
            self._profile.start()
        try:
            yield
        except torch.OutOfMemoryError:
            if keeps_history:
                self._dump_memory()
            raise
        if self._profile is not None:
            self._profile.stop()

    def _dump_memory(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"rank-{self._worker.rank}.memory.pickle"
        torch.cuda.memory._dump_snapshot(str(path))
        logger.error("out of memory: what was allocated is in %s (https://pytorch.org/memory_viz)", path)
