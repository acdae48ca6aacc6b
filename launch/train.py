"""Trains a model: ``torchrun --standalone --nproc_per_node=2 launch/train.py experiment=adult``."""

from __future__ import annotations

from launch.cli import command
from trainer.config import TrainConfig
from trainer.distributed import process_group, worker_from_environment
from trainer.logging.console import set_up_logging
from trainer.loop import Result, train


def run(config: TrainConfig) -> None:
    """Joins the job, trains, and prints the outcome on rank 0."""
    worker = worker_from_environment(config.device)
    set_up_logging(worker)
    with process_group(worker, timeout_s=config.distributed.timeout_s):
        result = train(config, worker)
        if worker.is_main:
            print(summary(config, result), flush=True)


def summary(config: TrainConfig, result: Result) -> str:
    """The final figures and what to do next."""
    rate = "-" if result.samples_per_s is None else f"{result.samples_per_s:,.0f}"
    start = "" if result.resumed_at is None else f" (resumed at {result.resumed_at})"
    metrics = "\n".join(f"  test {name:<12} {value:.5f}" for name, value in result.metrics.items())
    return f"""
{config.name}: {result.steps} steps{start}
{metrics}
  samples/s         {rate}
  checkpoint        {result.checkpoint}
  tensorboard       {result.tensorboard}

next:
  tensorboard --logdir {config.run_dir}
  python launch/evaluate.py checkpoint={result.checkpoint}
  torchrun --standalone --nproc_per_node=2 launch/train.py <same arguments> epochs={config.epochs * 2}   # resumes
  torchrun --standalone --nproc_per_node=2 launch/train.py <same arguments> model.embedding_dim=32 run_dir=runs/dim32"""


if __name__ == "__main__":
    command("train", TrainConfig, run)
