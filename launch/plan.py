"""Plans a training run without a GPU: ``python launch/plan.py experiment=criteo_1tb cluster=h100_8x1 ...``.

Prints what each rank would hold, where each table would go and what a step would take, by TorchRec's own planner.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from hydra.core.config_store import ConfigStore

from data.list_lengths import mean_list_lengths
from data.order import check_world_size
from data.schema import Schema, load_schema
from launch.cli import command
from launch.outputs import check_folder
from launch.plan_estimate import estimate
from launch.plan_figures import Estimate, as_json
from launch.plan_ladder import Rung, climb
from launch.plan_report import ladder_text, page, text
from trainer.config.plan import PlanConfig
from trainer.errors import ConfigError, DataError
from trainer.inputs import read_dataset


def run(config: PlanConfig) -> None:
    """Plans, prints and writes the report.

    Raises:
        DataError: The lists are to be measured, and the data cannot be read.
        ConfigError: It does not fit; the message says what to change, and with the ladder, what helped. Or ``out``
            cannot be written.
    """
    if config.out is not None:
        check_folder("out", Path(config.out))
    # The planner tells its search at length.
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    schema = load_schema(config.data.schema)
    lengths = _measured(config, schema) if config.measure_lists else {}
    failure: ConfigError | None = None
    result: Estimate | None = None
    try:
        result = estimate(config, schema, lengths)
        print(text(result, config), flush=True)
        _say_lanes(config)
    except ConfigError as error:
        failure = error
        print(f"{config.name} on {config.cluster.name}: does not fit.\n{error}", flush=True)
    rungs = climb(config, schema, lengths) if config.ladder else []
    if rungs:
        print(ladder_text(rungs), flush=True)
    if config.out is not None:
        _write(Path(config.out), result, rungs, config)
    if failure is not None or (result is not None and not result.fits):
        hint = "see the ladder above" if config.ladder else "ladder=true tries what helps"
        raise ConfigError(f"the plan does not fit; {hint}.")


def _measured(config: PlanConfig, schema: Schema) -> dict[str, float]:
    return mean_list_lengths(read_dataset(config.data, "train").index.row_groups, schema)


def _say_lanes(config: PlanConfig) -> None:
    try:
        check_world_size(config.data.lanes, config.cluster.world_size)
    except DataError as cause:
        print(f"\nto train so: {cause}", flush=True)


def _write(out: Path, result: Estimate | None, rungs: list[Rung], config: PlanConfig) -> None:
    plan = None if result is None else as_json(result)
    figures = {"name": config.name, "plan": plan, "ladder": [rung.figures() for rung in rungs]}
    (out / "plan.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (out / "plan.html").write_text(page(result, rungs, config), encoding="utf-8")
    print(f"\nreport: {out / 'plan.html'} and {out / 'plan.json'}", flush=True)


if __name__ == "__main__":
    # The config is a training run's, with keys of its own: train.yaml finds it under the name of its schema.
    ConfigStore.instance().store(name="train_schema", node=PlanConfig)
    command("plan", PlanConfig, run)
