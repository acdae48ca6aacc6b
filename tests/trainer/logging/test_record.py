"""``metrics.jsonl``: whole lines, numbers or null, and nothing of an attempt that was lost."""

from __future__ import annotations

import json
import math
from pathlib import Path

from trainer.logging.record import RunRecord, read_record


def test_a_resumed_run_takes_out_what_it_does_again(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    with RunRecord(path, start_step=0) as record:
        for step in (1, 2, 3):
            record.write("train", step, metrics={"auc": 0.5})
    with path.open("a") as file:
        file.write('{"kind": "train", "step": 2, "half a li')  # killed in the middle of it
    with RunRecord(path, start_step=2) as record:
        record.write("train", 3, metrics={"auc": 0.75})
    lines = read_record(path)
    assert [(line["step"], line["metrics"]["auc"]) for line in lines] == [(1, 0.5), (2, 0.5), (3, 0.75)]
    assert sorted(file.name for file in path.parent.iterdir()) == ["metrics.jsonl"]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    with RunRecord(tmp_path / "metrics.jsonl", start_step=0) as record:
        record.write("evaluation", 1, set="test", metrics={"auc": math.nan, "ne": math.inf, "mse": 0.25})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=lambda name: name)["metrics"] == {"auc": None, "ne": None, "mse": 0.25}


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with RunRecord(None, start_step=0) as record:
        record.write("train", 1)
        record.flush()
    assert list(tmp_path.iterdir()) == []
