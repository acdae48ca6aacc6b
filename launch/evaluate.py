"""Evaluates a checkpoint: ``python launch/evaluate.py checkpoint=runs/adult/checkpoints/step-... [data=...]``."""

from __future__ import annotations

import dataclasses
import sys
from typing import cast

from launch.cli import command
from trainer.assembly import assemble
from trainer.checkpoint import state, storage
from trainer.checkpoint.bucket import location
from trainer.checkpoint.identity import check_identity, schema_identity
from trainer.config import DataConfig, EvaluateConfig, TrainConfig, to_config
from trainer.distributed import Worker, on_all, on_main, process_group, worker_from_environment
from trainer.errors import ConfigError
from trainer.evaluate import evaluate
from trainer.evaluation import Evaluation
from trainer.inputs import Split, file_order, make_loader, open_dataset
from trainer.logging.console import set_up_logging
from trainer.watchdog import Watchdog


def run(config: EvaluateConfig) -> None:
    """Joins the job, loads, evaluates, and prints the metrics on rank 0."""
    worker = worker_from_environment(config.device)
    set_up_logging(worker)
    with process_group(worker, timeout_s=config.distributed.timeout_s):
        with Watchdog(worker, config.distributed) as watchdog:
            evaluation = evaluate_checkpoint(config, worker, watchdog)
        if worker.is_main:
            figures = evaluation.metrics.items()
            print("\n".join(f"{evaluation.set} {name:<12} {value:.5f}" for name, value in figures), flush=True)


def evaluate_checkpoint(config: EvaluateConfig, worker: Worker, watchdog: Watchdog) -> Evaluation:
    """Loads a checkpoint on this world size and runs it over a split. All ranks must call this.

    Raises:
        ShardFMError: The checkpoint is damaged, or the data's schema is not the one it was trained with.
    """
    path = location(config.checkpoint_path)
    manifest = on_main(lambda: storage.read_manifest(path))
    trained = to_config(manifest.config, TrainConfig, where=str(path))
    data = config.data or trained.data
    batch_size = config.eval_global_batch_size or trained.eval_global_batch_size
    split = evaluated_split(config, data)
    dataset = open_dataset(data, split)
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
    with watchdog.doing(f"the evaluation of {split}"):
        return evaluate(
            assembled.model, loader, worker.device, watchdog, trained.metrics, name=split, step=manifest.step
        )


def evaluated_split(config: EvaluateConfig, data: DataConfig) -> Split:
    """The split that is asked for, or the one that there is.

    Raises:
        ConfigError: The data has no such split.
    """
    split = cast(Split, config.split or ("valid" if data.test is None else "test"))
    if getattr(data, split) is None:
        raise ConfigError(f"split is '{split}', but data.{split} is null; give data.{split}, or choose another split.")
    return split


def hydra_arguments(arguments: list[str]) -> list[str]:
    """``checkpoint=PATH`` as Hydra needs it: it would take the key for the config group of that name."""
    return [f"checkpoint_path={a.partition('=')[2]}" if a.startswith("checkpoint=") else a for a in arguments]


if __name__ == "__main__":
    sys.argv[1:] = hydra_arguments(sys.argv[1:])
    command("evaluate", EvaluateConfig, run)
