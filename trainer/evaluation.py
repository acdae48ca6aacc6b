"""What an evaluation found: figures, curves and slices, as an object and as a JSON file.

A file ``<run_dir>/evaluations/<set>/step-00000100.json`` holds one evaluation::

    set            name of the evaluation set: valid, test, or a name under data.eval
    step           steps that the model was trained for
    metrics        {auc: 0.91, logloss: 0.31, ...}
    curves         {name: {column: [values]}}, columns of equal length, a row is a point:
      reliability        prediction (mean), rate (of positives), weight: bins of about equal weight, predictions rising
      precision_recall   threshold (probability), precision, recall: thresholds falling
      roc                threshold (probability), true_positive_rate, false_positive_rate: thresholds falling
    slices         [{column: site, value: "a.com", weight: 120.0, metrics: {auc: 0.9, ...}}, ...]

A figure that is not defined (the AUC of samples that are all negative) is null in the file and NaN in the object.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.metric.curves import Curve


@dataclass(frozen=True)
class Slice:
    """The samples that share a value of a column.

    Attributes:
        column: Of the data set.
        value: What the samples have in common, for people: a value, or an interval.
        weight: Sum of their weights.
        metrics: By name.
    """

    column: str
    value: str
    weight: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """A model's figures over an evaluation set, the same on every rank and for every world size.

    Attributes:
        set: Name of the evaluation set.
        step: Steps that the model was trained for.
        metrics: By name.
        curves: By name, then by column; see :mod:`trainer.metric.curves`.
        slices: The same metrics over parts of the set; empty unless the config names some.
    """

    set: str
    step: int
    metrics: dict[str, float]
    curves: dict[str, Curve] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)


def evaluations_dir(run_dir: str | Path) -> Path:
    """Where a run's evaluations are, a folder for each set."""
    return Path(run_dir) / "evaluations"


def write_evaluation(evaluation: Evaluation, run_dir: str | Path) -> Path:
    """Writes the file of an evaluation, whole or not at all; replaces one of the same set and step.

    Returns:
        Where it lies.
    """
    path = evaluations_dir(run_dir) / evaluation.set / f"step-{evaluation.step:08d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_without_nan(dataclasses.asdict(evaluation)), indent=1, allow_nan=False)
    staged = path.with_suffix(".tmp")
    staged.write_text(text + "\n", encoding="utf-8")
    staged.replace(path)
    return path


def read_evaluation(path: Path) -> Evaluation:
    """What :func:`write_evaluation` wrote."""
    values = json.loads(path.read_text(encoding="utf-8"))
    slices = [Slice(**{**part, "metrics": _with_nan(part["metrics"])}) for part in values.pop("slices")]
    return Evaluation(**{**values, "metrics": _with_nan(values["metrics"]), "slices": slices})


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(metrics: dict[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in metrics.items()}
