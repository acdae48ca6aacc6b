"""Evaluates a checkpoint: ``python launch/evaluate.py checkpoint=runs/adult/checkpoints/step-... [data=...]``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from launch.cli import command
from trainer.assembly import assemble
from trainer.checkpoint import state, storage
from trainer.checkpoint.manager import check_identity, schema_identity
from trainer.config import EvaluateConfig, TrainConfig, to_config
from trainer.distributed import Worker, on_all, on_main, process_group, worker_from_environment
from trainer.evaluate import evaluate
from trainer.inputs import file_order, make_loader, open_dataset
from trainer.logging.console import set_up_logging


def run(config: EvaluateConfig) -> None:
    """Joins the job, loads, evaluates, and prints the metrics on rank 0."""
    worker = worker_from_environment(config.device)
    set_up_logging(worker)
    with process_group(worker, timeout_s=config.distributed.timeout_s):
        metrics = evaluate_checkpoint(config, worker)
        if worker.is_main:
            print(
                "\n".join(f"{config.split} {name:<12} {value:.5f}" for name, value in metrics.items()),
                flush=True,
            )


def evaluate_checkpoint(config: EvaluateConfig, worker: Worker) -> dict[str, float]:
    """Loads a checkpoint on this world size and runs it over a data set. All ranks must call this.

    Raises:
        ShardFMError: The checkpoint is damaged, or the data's schema is not the one it was trained with.
    """
    path = Path(config.checkpoint_path)
    manifest = on_main(lambda: storage.read_manifest(path))
    trained = to_config(manifest.config, TrainConfig, where=str(path))
    data = config.data or trained.data
    batch_size = config.eval_global_batch_size or trained.eval_global_batch_size
    dataset = open_dataset(data, "train" if config.split == "train" else "test")
    check_identity(
        path,
        {"schema": manifest.identity["schema"]},
        {"schema": schema_identity(dataset.schema)},
        remedy="Evaluate with the schema that the model was trained with.",
    )
    order = file_order(dataset, data, global_batch_size=batch_size)
    loader = on_all(lambda: make_loader(dataset, order, data, worker))
    assembled = assemble(dataset.schema, dataclasses.replace(trained, device=config.device), worker, loader)
    state.restore_model(path, assembled.model)
    return evaluate(assembled.model, loader, worker.device)


def hydra_arguments(arguments: list[str]) -> list[str]:
    """``checkpoint=PATH`` as Hydra needs it: it would take the key for the config group of that name."""
    return [f"checkpoint_path={a.partition('=')[2]}" if a.startswith("checkpoint=") else a for a in arguments]


if __name__ == "__main__":
    sys.argv[1:] = hydra_arguments(sys.argv[1:])
    command("evaluate", EvaluateConfig, run)
