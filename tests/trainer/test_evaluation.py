"""The file of an evaluation."""

from __future__ import annotations

import json
import math
from pathlib import Path

from trainer.evaluation import Evaluation, Slice, read_evaluation, write_evaluation

FOUND = Evaluation(
    set="valid",
    step=120,
    metrics={"auc": 0.75, "logloss": 0.5},
    curves={"reliability": {"prediction": [0.25, 0.5], "rate": [0.0, 1.0], "weight": [3.0, 1.0]}},
    slices=[Slice("site", "a.com", 4.0, {"auc": 0.5})],
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = write_evaluation(FOUND, tmp_path)
    assert path == tmp_path / "evaluations" / "valid" / "step-00000120.json"
    assert read_evaluation(path) == FOUND
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_is_not_defined_is_null_in_the_file(tmp_path: Path) -> None:
    undefined = Evaluation("valid", 1, {"auc": math.nan}, {}, [Slice("site", "b", 1.0, {"ne": math.nan})])
    path = write_evaluation(undefined, tmp_path)
    plain = json.loads(path.read_text(), parse_constant=lambda name: f"not JSON: {name}")
    assert (plain["metrics"], plain["slices"][0]["metrics"]) == ({"auc": None}, {"ne": None})
    again = read_evaluation(path)
    assert math.isnan(again.metrics["auc"])
    assert math.isnan(again.slices[0].metrics["ne"])
