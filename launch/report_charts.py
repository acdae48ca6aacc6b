"""The pictures of a run report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from launch.page import COLORS, SOFT, style, svg
from launch.report_run import RunFiles

matplotlib.use("svg")

_HALF, _THIRD, _FULL = (6.0, 3.1), (4.0, 3.4), (12.0, 3.4)
GROUPS: dict[str, tuple[tuple[str, ...], str]] = {
    "wait for data": (("data_wait",), "#d9822b"),
    "copy": (("copy",), "#f0bf82"),
    "exchange of ids": (("input_dist",), "#8fbbe0"),
    "lookup and update of tables": (("lookup", "table_update"), "#2f8f6b"),
    "exchange of embeddings": (("output_dist",), "#4a8ecb"),
    "dense forward": (("dense_forward",), "#b9a7e0"),
    "dense backward": (("dense_backward",), "#7d68c2"),
    "all-reduce": (("all_reduce",), "#1f5a96"),
    "dense optimizer": (("optimizer",), "#a6468c"),
    "agreement of the ranks": (("sync",), "#bcd7ee"),
    "checkpoint": (("checkpoint",), "#c0392b"),
    "rest": (("metrics", "logging", "rest"), "#c5ccd4"),
}
"""The stages of a step as a report tells them, with their colors: exchanges blue, tables green, dense part violet."""

P = ParamSpec("P")


def _styled(draw: Callable[P, str]) -> Callable[P, str]:
    """Draws in the style of the page."""

    @functools.wraps(draw)
    def styled(*arguments: P.args, **options: P.kwargs) -> str:
        with style():
            return draw(*arguments, **options)

    return styled


@_styled
def metric_curves(runs: Sequence[RunFiles], name: str, title: str) -> str:
    """A metric over the steps: training rows as a thin line, evaluations as a thick one."""
    figure, axes = _axes(_HALF)
    for color, run in zip(_colors(len(runs)), runs, strict=True):
        many = len(runs) > 1
        axes.plot(*run.curve("train", name), color=color, alpha=0.45, linewidth=1, label=None if many else "training")
        for number, set_name in enumerate(run.evaluations):
            label = run.label if many else set_name
            marked: Any = {"linestyle": ("-", "--", ":")[number % 3], "marker": "o", "markersize": 3.5}
            axes.plot(*run.curve(set_name, name), color=color, label=None if many and number else label, **marked)
    axes.set_title(title)
    _steps(axes)
    _look_past_the_start(axes)
    axes.legend()
    return svg(figure)


@_styled
def throughput(runs: Sequence[RunFiles]) -> str:
    """Samples per second over the steps."""
    figure, axes = _axes(_HALF)
    for color, run in zip(_colors(len(runs)), runs, strict=True):
        lines = [line for line in run.records.get("train", []) if line.get("speed")]
        axes.plot(
            [line["step"] for line in lines],
            [line["speed"]["samples_per_s"] for line in lines],
            color=color,
            label=run.label,
        )
    axes.set_title("Throughput, samples/s over all ranks")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_thousands())
    _steps(axes)
    if len(runs) > 1:
        axes.legend()
    return svg(figure)


@_styled
def time_over_steps(run: RunFiles) -> str:
    """Where the time of a step went, as layers over the steps."""
    lines = run.records.get("time", [])
    figure, axes = _axes(_HALF)
    layers = [[group_ms(line, names) for line in lines] for names, _ in GROUPS.values()]
    axes.stackplot(
        [line["step"] for line in lines], layers, colors=[color for _, color in GROUPS.values()], linewidth=0
    )
    axes.set_title("A step's time over the run, ms (mean over ranks)")
    axes.set_ylim(bottom=0)
    _steps(axes)
    return svg(figure)


@_styled
def time_bars(runs: Sequence[RunFiles]) -> str:
    """Where the time of a step went in the whole run: a bar for each run."""
    runs = [run for run in runs if run.records.get("time")]
    if not runs:
        return ""
    figure, axes = _axes((_FULL[0], 1.25 + 0.42 * len(runs)))
    labels = [run.label for run in reversed(runs)]
    start = [0.0] * len(runs)
    for name, (stages, color) in GROUPS.items():
        widths = [mean_ms(run, stages) for run in reversed(runs)]
        axes.barh(labels, widths, left=start, color=color, label=name, height=0.62)
        start = [a + b for a, b in zip(start, widths, strict=True)]
    axes.set_xlabel("ms of a step, mean over ranks and over the run")
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper left", ncols=6, handlelength=1, handleheight=1)
    if len(runs) == 1:
        axes.set_yticks([])
    return svg(figure)


@_styled
def reliability(runs: Sequence[RunFiles]) -> str:
    """Click rates over mean predictions, of the final evaluations."""
    figure, axes = _axes(_THIRD)
    rates: list[float] = []
    for color, run in zip(_colors(len(runs)), runs, strict=True):
        curve = _curve(run, "reliability")
        points = [(p, r) for p, r in zip(curve["prediction"], curve["rate"], strict=True) if p > 0 and r > 0]
        axes.plot([p for p, _ in points], [r for _, r in points], color=color, marker="o", markersize=3.5)
        rates += [value for point in points for value in point]
    if rates:
        ends = [min(rates), max(rates)]
        axes.plot(ends, ends, color=SOFT, linewidth=1, linestyle="--")
    if rates and min(rates) < 0.01:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_title("Reliability")
    axes.set_xlabel("mean prediction of a bin")
    axes.set_ylabel("rate of clicks in it")
    return svg(figure)


@_styled
def precision_recall(runs: Sequence[RunFiles]) -> str:
    """Precision over recall, of the final evaluations."""
    return _unit_square(runs, "precision_recall", "recall", "precision", "Precision over recall")


@_styled
def roc(runs: Sequence[RunFiles]) -> str:
    """True over false positive rate, of the final evaluations."""
    return _unit_square(runs, "roc", "false_positive_rate", "true_positive_rate", "ROC", diagonal=True)


def group_ms(line: dict[str, Any], stages: Sequence[str]) -> float:
    """Milliseconds of some stages in a report's time, the mean over ranks."""
    return float(sum(line["stages"][stage]["mean_ms"] for stage in stages))


def mean_ms(run: RunFiles, stages: Sequence[str]) -> float:
    """Milliseconds of some stages in a step, the mean over the run."""
    lines = run.records["time"]
    return sum(line["num_steps"] * group_ms(line, stages) for line in lines) / sum(line["num_steps"] for line in lines)


def _unit_square(runs: Sequence[RunFiles], curve: str, x: str, y: str, title: str, *, diagonal: bool = False) -> str:
    figure, axes = _axes(_THIRD)
    for color, run in zip(_colors(len(runs)), runs, strict=True):
        points = _curve(run, curve)
        axes.plot(points[x], points[y], color=color, label=run.label)
    if diagonal:
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle="--")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(title)
    axes.set_xlabel(x.replace("_", " "))
    axes.set_ylabel(y.replace("_", " "))
    if len(runs) > 1:
        axes.legend(loc="lower left" if curve == "precision_recall" else "lower right")
    return svg(figure)


def _curve(run: RunFiles, name: str) -> Any:
    assert run.final is not None
    return run.final.curves[name]


def _axes(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _colors(num: int) -> list[str]:
    return [COLORS[number % len(COLORS)] for number in range(num)]


def _look_past_the_start(axes: Axes) -> None:
    """Lets what comes after the first tenth of each line fill the picture: the start would flatten it."""
    later: list[float] = []
    for line in axes.get_lines():
        values = np.asarray(line.get_ydata(), np.float64)
        later += values[len(values) // 10 :].tolist()
    if later and max(later) > min(later):
        room = 0.06 * (max(later) - min(later))
        axes.set_ylim(min(later) - room, max(later) + room)


def _steps(axes: Axes) -> None:
    axes.set_xlabel("steps")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(_thousands())
    axes.margins(x=0.01)


def _thousands() -> FuncFormatter:
    return FuncFormatter(lambda value, place: f"{value:,.0f}")
