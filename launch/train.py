"""Trains a model: ``torchrun --standalone --nproc_per_node=2 launch/train.py experiment=adult``."""

from __future__ import annotations

import gc
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from launch.cli import command
from trainer.config import TrainConfig
from trainer.distributed import Worker, process_group, worker_from_environment
from trainer.logging.console import ONLY_FILE, set_up_logging
from trainer.loop import Result, train

logger = logging.getLogger(__name__)


def run(config: TrainConfig) -> float:
    """Joins the job, trains, and prints the outcome on rank 0.

    Returns:
        The watched metric of the final model, the objective of a sweep.
    """
    worker = worker_from_environment(config.device)
    set_up_logging(worker, log_dir=Path(config.run_dir, "logs"), as_json=config.logging.console == "json")
    with process_group(worker, timeout_s=config.distributed.timeout_s), _logged():
        result = train(config, worker)
        if worker.is_main:
            print(summary(config, result, worker), flush=True)
    free_memory()
    return result.metrics[config.monitor.metric]


def free_memory() -> None:
    """Gives back what an ended job held, for the next one of a sweep: TorchRec's pipeline refers to itself."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _logged() -> Iterator[None]:
    """Leaves the trace of what ends this rank in its log; on the console, one rank says it in a line."""
    try:
        yield
    except Exception:
        logger.exception("ended by an error", extra=ONLY_FILE)
        raise


def summary(config: TrainConfig, result: Result, worker: Worker) -> str:
    """The final figures, and commands for what a user would do next."""
    rate = "-" if result.samples_per_s is None else f"{result.samples_per_s:,.0f}"
    start = "" if result.resumed_at is None else f" (resumed at {result.resumed_at})"
    metrics = "\n".join(f"  {result.split} {name:<12} {value:.5f}" for name, value in result.metrics.items())
    board, curves = "", ""
    if result.tensorboard is not None:
        board = f"\n  tensorboard       {result.tensorboard}"
        curves = f"\nlook at the curves      {_bin()}tensorboard --logdir {config.run_dir}"
    return f"""
{config.name}: {result.steps} steps{start}
{metrics}
  samples/s         {rate}
  checkpoint        {result.checkpoint}{board}
{curves}
evaluate                {_bin()}python launch/evaluate.py checkpoint={result.checkpoint}
resume, twice as long   {_again(worker, epochs=str(2 * config.epochs))}
try another model       {_again(worker, **{"model.embedding_dim": "31", "run_dir": f"{config.run_dir}-dim31"})}"""


def _bin() -> str:
    """Where the commands are, if the shell would not find them by name."""
    folder = os.path.dirname(sys.executable)
    return "" if folder in os.environ.get("PATH", "").split(os.pathsep) else f"{os.path.relpath(folder)}/"


def _again(worker: Worker, **changes: str) -> str:
    """This job's own command line with some keys changed."""
    hosts = worker.world_size // worker.local_world_size
    where = "--standalone" if hosts == 1 else f"--nnodes={hosts} --rdzv_backend=c10d --rdzv_endpoint=HOST:PORT"
    kept = [argument for argument in sys.argv[1:] if argument.partition("=")[0] not in changes]
    arguments = shlex.join([*kept, *(f"{key}={value}" for key, value in changes.items())])
    return f"{_bin()}torchrun {where} --nproc_per_node={worker.local_world_size} launch/train.py {arguments}"


if __name__ == "__main__":
    command("train", TrainConfig, run)
