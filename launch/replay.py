"""Shows the rows of one step: ``python launch/replay.py checkpoint=runs/adult/checkpoints/step-... step=57``.

Needs no torchrun, whatever the number of workers that trained: the order of the data is a pure function.
With a checkpoint, its model's logits are shown, too, in evaluation mode: those of the model as it was saved,
which is not the one that met the step, unless the checkpoint is of the step before.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from launch.cli import command
from launch.evaluate import hydra_arguments
from launch.outputs import check_file
from trainer.checkpoint import storage
from trainer.checkpoint.bucket import location
from trainer.checkpoint.identity import check_identity
from trainer.config import DataConfig, ReplayConfig, TrainConfig, to_config
from trainer.distributed import process_group, worker_from_environment
from trainer.errors import ConfigError
from trainer.logging.console import set_up_logging
from trainer.replay import Replay, logits_of, rebuild, write_rows
from trainer.run_config import load_config


def run(config: ReplayConfig) -> None:
    """Rebuilds the step and prints its rows."""
    if config.out is not None:
        check_file("out", Path(config.out))
    worker = worker_from_environment("cpu")
    if worker.world_size > 1:
        raise ConfigError("launch/replay.py is one process: start it with python instead of torchrun.")
    set_up_logging(worker)
    path = location(config.checkpoint_path) if config.checkpoint_path else None
    if path is None:
        trained, identity = load_config(Path(str(config.run_dir))), None
    else:
        manifest = storage.read_manifest(path)
        trained, identity = to_config(manifest.config, TrainConfig, where=str(path)), manifest.identity
    trained = dataclasses.replace(trained, device="cpu")
    replay = rebuild(trained, _data(config, trained), config.step - 1, config.lanes)
    if path and identity:
        now = {"schema": replay.schema.described(), "data.train": replay.fingerprint}
        remedy = "Only the data that the run was trained on gives the rows of the step."
        check_identity(path, {key: identity[key] for key in now}, now, remedy=remedy)
    logits = None
    if path and config.logits:
        with process_group(worker, timeout_s=600):
            logits = logits_of(replay, trained, path, worker)
    print("\n".join(describe(replay, config, logits)), flush=True)
    if config.out:
        write_rows(replay, Path(config.out), logits)
        print(f"wrote {len(replay.places)} rows to {config.out}", flush=True)


def describe(replay: Replay, config: ReplayConfig, logits: torch.Tensor | None) -> list[str]:
    """The rows for people; those whose logits are not finite first."""
    lines = [f"epoch {replay.epoch + 1}, step {config.step}: {len(replay.places)} rows"]
    numbers = list(range(len(replay.places)))
    if logits is not None:
        strange = [number for number in numbers if not math.isfinite(logits[number])]
        lines[0] += f", {len(strange)} of them with a logit that is not finite"
        numbers = strange + [number for number in numbers if number not in set(strange)]
    for number in numbers[: config.max_rows]:
        lines += _row(replay, number, logits)
    if len(numbers) > config.max_rows:
        lines.append(f"and {len(numbers) - config.max_rows} more (max_rows=N, or out=FILE for all of them)")
    return lines


def _row(replay: Replay, number: int, logits: torch.Tensor | None) -> list[str]:
    batch, place, row = replay.batch, replay.places[number], replay.rows[number]
    label = float(batch.labels[row])
    figures = [f"label {label:g}", f"weight {float(batch.weights[row]):g}"]
    if logits is not None:
        logit = logits[number]
        loss = F.binary_cross_entropy_with_logits(logit, torch.tensor(label))
        figures += [f"logit {float(logit):g}", f"loss {float(loss):g}"]
    dense = [f"{feature.name} {float(batch.dense[row, n]):g}" for n, feature in enumerate(replay.schema.dense)]
    sparse = []
    for key in replay.schema.sparse_keys:
        jagged = batch.sparse[key]
        start, stop = jagged.offsets()[row : row + 2].tolist()
        sparse.append(f"{key} {jagged.values()[start:stop].tolist()}")
    parts = [figures, *([dense] if dense else []), sparse]
    return [f"lane {place.lane}: {place}", *(f"  {'  '.join(part)}" for part in parts)]


def _data(config: ReplayConfig, trained: TrainConfig) -> DataConfig:
    """Where the data lies now, in the order that the run gave it."""
    if config.data is None:
        return trained.data
    kept = {name: getattr(trained.data, name) for name in ("lanes", "window_rows", "window_mib", "on_damage")}
    return dataclasses.replace(config.data, **kept)


if __name__ == "__main__":
    sys.argv[1:] = hydra_arguments(sys.argv[1:])
    command("replay", ReplayConfig, run)
