"""What a run is, told once when it starts: as ``<run_dir>/run.json`` for programs, and as texts for TensorBoard."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.index import DatasetIndex
from data.schema import Schema
from trainer.planned_tables import PlannedTable
from trainer.provenance import git_revision, versions

NAME = "run.json"


@dataclass(frozen=True)
class DatasetSummary:
    """One data set of a run.

    Attributes:
        name: train, or of an evaluation set.
        rows: In all files.
        files: With rows.
        row_groups: Of them.
        fingerprint: Of names, sizes and rows of the files.
    """

    name: str
    rows: int
    files: int
    row_groups: int
    fingerprint: str

    @staticmethod
    def of(name: str, index: DatasetIndex) -> DatasetSummary:
        """From an index."""
        return DatasetSummary(name, index.num_rows, index.num_files, len(index.row_groups), index.fingerprint)


@dataclass(frozen=True)
class RunSummary:
    """A run, before its first step.

    Attributes:
        name: Of the run.
        headline: What is trained, in a line.
        world_size: Ranks.
        device: Their kind.
        num_parameters: That are learned.
        steps_per_epoch: Global batches in an epoch.
        total_steps: Of the run.
        datasets: What it reads.
        features: Of the schema: name, kind, rows of the table (0 for a number).
        plan: Where the tables are.
        versions: Of packages.
        revision: Of this code; None if it is not known.
    """

    name: str
    headline: str
    world_size: int
    device: str
    num_parameters: int
    steps_per_epoch: int
    total_steps: int
    datasets: list[DatasetSummary]
    features: list[tuple[str, str, int]]
    plan: list[PlannedTable]
    versions: dict[str, str] = dataclasses.field(default_factory=versions)
    revision: str | None = dataclasses.field(default_factory=git_revision)

    def write(self, run_dir: str) -> None:
        """Writes ``run.json``; a run that resumes writes it anew, with what it now runs on."""
        path = Path(run_dir, NAME)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")

    def texts(self) -> dict[str, str]:
        """Markdown by tag, for TensorBoard."""
        sets = [(d.name, f"{d.rows:,}", f"{d.files:,}", f"{d.row_groups:,}", d.fingerprint[:12]) for d in self.datasets]
        features = [(name, kind, f"{rows:,}" if rows else "-") for name, kind, rows in self.features]
        made_with = {"revision": self.revision or "-", **self.versions}
        return {
            "run/data": markdown_table(("set", "rows", "files", "row groups", "fingerprint"), sets)
            + "\n\n"
            + markdown_table(("feature", "kind", "table rows"), features),
            "run/made_with": markdown_table(("what", "version"), made_with.items()),
        }


def read_summary(run_dir: Path) -> dict[str, Any]:
    """The plain values that :meth:`RunSummary.write` wrote."""
    values: dict[str, Any] = json.loads((run_dir / NAME).read_text(encoding="utf-8"))
    return values


def features_of(schema: Schema) -> list[tuple[str, str, int]]:
    """Name, kind and table rows of each feature."""
    dense = [(feature.name, "number", 0) for feature in schema.dense]
    return dense + [(feature.name, feature.kind, feature.num_embeddings) for feature in schema.sparse]


def markdown_table(header: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under names joined by dots: ``{a: {b: 1}}`` becomes ``{a.b: 1}``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
