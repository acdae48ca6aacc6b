"""Evaluates a checkpoint: ``python launch/evaluate.py checkpoint=runs/adult/checkpoints/step-... [data=...]``."""

from __future__ import annotations

import sys
from pathlib import Path

from launch.cli import command
from launch.outputs import check_folder
from trainer.assembly import assemble_to_predict
from trainer.checkpoint import state, storage
from trainer.checkpoint.bucket import location
from trainer.checkpoint.identity import check_identity, schema_identity
from trainer.config import DataConfig, EvaluateConfig, MetricsConfig, TrainConfig, to_config
from trainer.distributed import Worker, on_main, process_group, worker_from_environment
from trainer.errors import ConfigError
from trainer.evaluate import evaluate
from trainer.evaluation import Evaluation, write_evaluation
from trainer.evaluation_set import make_evaluation_set, open_evaluation_data
from trainer.logging.console import set_up_logging
from trainer.watchdog import Watchdog


def run(config: EvaluateConfig) -> None:
    """Joins the job, loads, evaluates, and prints the metrics on rank 0."""
    worker = worker_from_environment(config.device)
    set_up_logging(worker)
    with process_group(worker, timeout_s=config.distributed.timeout_s):
        if config.out is not None:
            out = Path(config.out)
            on_main(lambda: check_folder("out", out))
        with Watchdog(worker, config.distributed) as watchdog:
            evaluations = evaluate_checkpoint(config, worker, watchdog)
        if worker.is_main:
            for evaluation in evaluations:
                figures = evaluation.metrics.items()
                print("\n".join(f"{evaluation.set} {name:<12} {value:.5f}" for name, value in figures), flush=True)
                if config.out is not None:
                    print(f"{evaluation.set} is in {write_evaluation(evaluation, config.out)}", flush=True)


def evaluate_checkpoint(config: EvaluateConfig, worker: Worker, watchdog: Watchdog) -> list[Evaluation]:
    """Loads a checkpoint on this world size and runs it over evaluation sets. All ranks must call this.

    Raises:
        ShardFMError: The checkpoint is damaged, or the data's schema is not the one it was trained with.
    """
    path = location(config.checkpoint_path)
    manifest = on_main(lambda: storage.read_manifest(path))
    trained = to_config(manifest.config, TrainConfig, where=str(path))
    data = config.data or trained.data
    batch_size = config.eval_global_batch_size or trained.eval_global_batch_size
    metrics: MetricsConfig = config.metrics or trained.metrics
    names = evaluated_sets(config, data)
    datasets = {name: open_evaluation_data(name, data, metrics) for name in names}
    schema = datasets[names[0]].schema
    check_identity(
        path,
        {"schema": manifest.identity["schema"]},
        {"schema": schema_identity(schema)},
        remedy="Evaluate with the schema that the model was trained with.",
    )
    sets = [
        make_evaluation_set(name, dataset, data, metrics, worker, global_batch_size=batch_size)
        for name, dataset in datasets.items()
    ]
    assembled = assemble_to_predict(schema, trained, worker, sets[0].loader)
    state.restore_model(path, assembled.model)
    evaluations = []
    for rows in sets:
        with watchdog.doing(f"the evaluation of {rows.name}"):
            found = evaluate(assembled.model, rows, metrics, worker.device, watchdog, step=manifest.step)
            evaluations.append(found)
    return evaluations


def evaluated_sets(config: EvaluateConfig, data: DataConfig) -> list[str]:
    """The evaluation set that is asked for, or all of them; by default what a final model is evaluated on.

    Raises:
        ConfigError: The data has no such set.
    """
    known = data.evaluation_sets
    if config.split == "all":
        return known
    name = config.split or next((name for name in ("test", "valid") if name in known), known[0])
    if name not in ("train", *known):
        raise ConfigError(
            f"split is '{name}', but {data.key_of(name)} is null; give {data.key_of(name)}, or choose another split: "
            f"all, train, {', '.join(known)}."
        )
    return [name]


def hydra_arguments(arguments: list[str]) -> list[str]:
    """``checkpoint=PATH`` as Hydra needs it: it would take the key for the config group of that name."""
    return [f"checkpoint_path={a.partition('=')[2]}" if a.startswith("checkpoint=") else a for a in arguments]


if __name__ == "__main__":
    sys.argv[1:] = hydra_arguments(sys.argv[1:])
    command("evaluate", EvaluateConfig, run)
