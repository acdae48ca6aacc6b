"""What a report knows of a run: the files that it left in its directory, read once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import ConfigError
from trainer.evaluation import Evaluation, evaluations_dir, read_evaluation
from trainer.logging.record import NAME as RECORD
from trainer.logging.record import read_record
from trainer.logging.summary import NAME as SUMMARY
from trainer.logging.summary import flat, read_summary


@dataclass(frozen=True)
class RunFiles:
    """A run, as it is on disk; it may still go on.

    Attributes:
        label: Tells it from the others of a report.
        folder: Its directory.
        summary: Of ``run.json``.
        config: Of ``config.yaml``, by dotted keys.
        records: Of ``metrics.jsonl``: by kind, in the order of the steps, each step once.
        evaluations: Of each set, in the order of the steps.
        result: Of ``result.json``; None as long as the run has not ended.
    """

    label: str
    folder: Path
    summary: dict[str, Any]
    config: dict[str, Any]
    records: dict[str, list[dict[str, Any]]]
    evaluations: dict[str, list[Evaluation]] = field(default_factory=dict)
    result: dict[str, Any] | None = None

    @property
    def final(self) -> Evaluation | None:
        """The evaluation that counts: of the final model, or the newest of a run that has not ended."""
        if self.result is not None and self.evaluations.get(self.result["split"]):
            return self.evaluations[self.result["split"]][-1]
        newest = [found[-1] for found in self.evaluations.values() if found]
        return max(newest, key=lambda evaluation: evaluation.step, default=None)

    def curve(self, kind: str, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric: of the training rows (``train``) or of an evaluation set, by its name."""
        lines = self.records.get(kind if kind == "train" else f"evaluation/{kind}", [])
        points = [(line["step"], line["metrics"].get(name)) for line in lines]
        known = [(step, value) for step, value in points if value is not None]
        return [step for step, _ in known], [value for _, value in known]


def read_runs(folders: list[Path]) -> list[RunFiles]:
    """Reads the runs that a report is about.

    Raises:
        ConfigError: A directory is not one of a run, or one of its files is damaged.
    """
    labels = _labels(folders)
    return [_read(folder, label) for folder, label in zip(folders, labels, strict=True)]


def _read(folder: Path, label: str) -> RunFiles:
    for name in (SUMMARY, RECORD, "config.yaml"):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder}: holds no {name}; name the run_dir of a training run.")
    result = folder / "result.json"
    with _naming(folder / SUMMARY):
        summary = read_summary(folder)
    with _naming(folder / "config.yaml"):
        config = flat(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    with _naming(folder / RECORD):
        records = _by_kind(read_record(folder / RECORD))
    with _naming(result):
        ended = json.loads(result.read_text(encoding="utf-8")) if result.exists() else None
    return RunFiles(label, folder, summary, config, records, _evaluations(folder), ended)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Whatever is wrong in a file, its name is told."""
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError) as cause:
        told = " ".join(f"{type(cause).__name__}: {cause}".split())
        raise ConfigError(f"{path}: is damaged ({told}); restore it, or leave this run out of the report.") from cause


def _by_kind(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    kinds: dict[str, dict[int, dict[str, Any]]] = {}
    for line in lines:
        kind = f"evaluation/{line['set']}" if line["kind"] == "evaluation" else line["kind"]
        kinds.setdefault(kind, {})[line["step"]] = line  # a step that is told again, after a resume, counts once
    return {kind: [found[step] for step in sorted(found)] for kind, found in kinds.items()}


def _evaluations(folder: Path) -> dict[str, list[Evaluation]]:
    root = evaluations_dir(folder)
    found: dict[str, list[Evaluation]] = {}
    for path in sorted(root.glob("*/step-*.json")):
        with _naming(path):
            found.setdefault(path.parent.name, []).append(read_evaluation(path))
    return found


def _labels(folders: list[Path]) -> list[str]:
    """The parts of the paths by which they differ."""
    parts = [folder.resolve().parts for folder in folders]
    shared = 0
    while len(parts) > 1 and all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    return ["/".join(p[shared:]) if len(parts) > 1 else p[-1] for p in parts]
