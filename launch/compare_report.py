"""The report of a comparison: a table in Markdown, and the same with pictures in one HTML file."""

from __future__ import annotations

import html
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import yaml
from matplotlib.figure import Figure

from launch import page
from launch.compare_study import Run

matplotlib.use("svg")

_HEADER = ("model", "AUC", "log loss", "parameters", "time / LR", "samples/s", "seeds")


@dataclass(frozen=True)
class Spread:
    """A figure over the seeds of one model.

    Attributes:
        mean: Over the seeds.
        deviation: Of the sample; 0 for one seed.
    """

    mean: float
    deviation: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Mean and sample standard deviation."""
        return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0)

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} ± {self.deviation:{spec}}" if self.deviation else f"{self.mean:{spec}}"


@dataclass(frozen=True)
class Row:
    """One model, or one value of a sweep, over its seeds.

    Attributes:
        name: Of the model or the value.
        split: What was evaluated.
        auc: Area under the ROC curve.
        logloss: Mean log loss.
        num_parameters: That are learned.
        sample_us: Microseconds of training for a sample, over all workers.
        num_seeds: Trainings behind the figures.
    """

    name: str
    split: str
    auc: Spread
    logloss: Spread
    num_parameters: int
    sample_us: Spread | None
    num_seeds: int


def write_report(out: Path, runs: Iterable[Run]) -> Path:
    """Writes ``report.md`` and ``report.html`` over the runs that are done.

    Returns:
        The Markdown file.
    """
    done = [run for run in runs if run.is_done(out)]
    models = sorted(_rows(out, [run for run in done if not run.key]).values(), key=lambda row: -row.auc.mean)
    sweeps = {
        (key, model): list(_rows(out, [run for run in done if (run.key, run.model) == (key, model)]).values())
        for key, model in dict.fromkeys((run.key, run.model) for run in done if run.key)
    }
    best = _best_auc(out, done)
    text = _markdown(models, sweeps, best)
    path = out / "report.md"
    path.write_text(text, encoding="utf-8")
    path.with_suffix(".html").write_text(_page(models, sweeps, best), encoding="utf-8")
    return path


def _best_auc(out: Path, runs: Sequence[Run]) -> float | None:
    """The AUC of the probabilities that made-up clicks were drawn from, where ``launch/prepare.py`` wrote it down."""
    configs = (run.folder(out) / "config.yaml" for run in runs)
    roots = {yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["root"] for path in configs if path.is_file()}
    summaries = [path for path in (Path(root, "summary.json") for root in roots) if path.is_file()]
    facts: list[dict[str, float]] = [json.loads(path.read_text(encoding="utf-8"))["facts"] for path in summaries]
    return facts[0].get("bayes_auc") if len(roots) == len(facts) == 1 else None


def _rows(out: Path, runs: Sequence[Run]) -> dict[str, Row]:
    """The runs gathered by model, or by the value that is varied."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.value or run.model, []).append(run)
    rows = {}
    for name, members in groups.items():
        results = [run.result(out) for run in members]
        rates = [result["samples_per_s"] for result in results if result["samples_per_s"]]
        rows[name] = Row(
            name=name,
            split=results[0]["split"],
            auc=Spread.of([result["metrics"]["auc"] for result in results]),
            logloss=Spread.of([result["metrics"]["logloss"] for result in results]),
            num_parameters=results[0]["num_parameters"],
            sample_us=Spread.of([1e6 / rate for rate in rates]) if rates else None,
            num_seeds=len(results),
        )
    return rows


def _cells(rows: Sequence[Row], slowness_of_lr: float | None) -> list[tuple[str, ...]]:
    cells: list[tuple[str, ...]] = []
    for row in rows:
        slowness = row.sample_us.mean if row.sample_us else None
        cells.append(
            (
                row.name,
                f"{row.auc:.5f}",
                f"{row.logloss:.5f}",
                f"{row.num_parameters:,}",
                f"{slowness / slowness_of_lr:.2f}" if slowness and slowness_of_lr else "-",
                f"{1e6 / slowness:,.0f}" if slowness else "-",
                str(row.num_seeds),
            )
        )
    return cells


def _slowness_of_lr(models: Sequence[Row]) -> float | None:
    """The paper's unit of time (section 3.2.1)."""
    return next((row.sample_us.mean for row in models if row.name == "lr" and row.sample_us), None)


def _markdown(models: Sequence[Row], sweeps: dict[tuple[str, str], list[Row]], best: float | None) -> str:
    lr = _slowness_of_lr(models)
    parts = []
    if models:
        parts.append(_introduction(models, best) + "\n\n" + _markdown_table(_HEADER, _cells(models, lr)))
    for (key, model), rows in sweeps.items():
        header = (key, *_HEADER[1:])
        parts.append(f"## {model}: {key}\n\n" + _markdown_table(header, _cells(rows, lr)))
    return "# Comparison of models\n\n" + "\n\n".join(parts) + "\n"


def _introduction(models: Sequence[Row], best: float | None) -> str:
    known = "" if best is None else f" No model can be above {best:.5f}, the AUC of the clicks' own probabilities."
    return (
        f"Figures of the {models[0].split} rows, best AUC first; mean ± sample standard deviation over seeds. "
        f"time / LR: training time for a sample relative to logistic regression.{known}"
    )


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines)


def _page(models: Sequence[Row], sweeps: dict[tuple[str, str], list[Row]], best: float | None) -> str:
    lr = _slowness_of_lr(models)
    parts = []
    if models:
        parts += [
            f"<p>{_introduction(models, best)}</p>",
            page.table(_HEADER, _cells(models, lr)),
            _picture(models, lr, best),
        ]
    for (key, model), rows in sweeps.items():
        header = (key, *_HEADER[1:])
        title = f"<h2>{html.escape(f'{model}: {key}')}</h2>"
        parts += [title, _sweep_picture(key, rows), page.table(header, _cells(rows, lr))]
    return page.document("Comparison of models", "\n".join(parts))


def _picture(models: Sequence[Row], slowness_of_lr: float | None, best: float | None) -> str:
    """AUC and time side by side, a bar for each model."""
    figure = Figure(figsize=(10, 0.45 * len(models) + 1.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = list(reversed(models))
    names = [row.name for row in rows]
    # Dots: a bar that does not begin at 0 would lie.
    left.errorbar(
        [row.auc.mean for row in rows], names, xerr=[row.auc.deviation for row in rows], fmt="o", color="#3b6ea5"
    )
    if best is not None:
        left.axvline(best, color="#777777", linestyle="--", linewidth=1)
    left.grid(axis="y", alpha=0.3)
    left.set_xlabel(f"{models[0].split} AUC")
    times = [(row.sample_us.mean if row.sample_us else 0) / (slowness_of_lr or 1) for row in rows]
    right.barh(names, times, color="#c27a3a")
    right.set_xlabel("time / LR" if slowness_of_lr else "µs for a sample")
    return page.svg(figure)


def _sweep_picture(key: str, rows: Sequence[Row]) -> str:
    """AUC over the values, in their order."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    axes.errorbar(
        places, [row.auc.mean for row in rows], yerr=[row.auc.deviation for row in rows], marker="o", color="#3b6ea5"
    )
    axes.set_xticks(places, [row.name for row in rows])
    axes.set_xlabel(key)
    axes.set_ylabel(f"{rows[0].split} AUC")
    return page.svg(figure)
