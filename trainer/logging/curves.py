"""Pictures of an evaluation's curves."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.evaluation import Evaluation

_INK, _LINE, _SOFT = "#1f2933", "#2563a8", "#9aa5b1"


def pictures(evaluation: Evaluation) -> dict[str, Figure]:
    """Reliability, precision over recall, and ROC, by name."""
    curves = evaluation.curves
    figures = {name: Figure(figsize=(4.8, 4.2), dpi=100) for name in curves}
    for name, figure in figures.items():
        axes = figure.add_axes((0.15, 0.12, 0.82, 0.8))  # layouts that fit themselves draw everything twice
        axes.set_title(f"{evaluation.set}, step {evaluation.step:,}", color=_INK, fontsize=10)
        axes.grid(alpha=0.25)
        _DRAW[name](axes, curves[name])
    return figures


def draw_reliability(
    axes: Axes, curve: dict[str, list[float]], *, color: str = _LINE, label: str | None = None
) -> None:
    """Click rates over mean predictions, on logarithmic axes where click rates are low."""
    points = [(p, r) for p, r in zip(curve["prediction"], curve["rate"], strict=True) if p > 0 and r > 0]
    axes.plot([p for p, _ in points], [r for _, r in points], marker="o", markersize=4, color=_LINE)
    if points:
        ends = [min(map(min, points)), max(map(max, points))]
        axes.plot(ends, ends, color=_SOFT, linewidth=1, linestyle="--")
        if ends[0] < 0.01:
            axes.set_xscale("log")
            axes.set_yscale("log")
    axes.set_xlabel("mean prediction")
    axes.set_ylabel("rate of clicks")


def draw_precision_recall(axes: Axes, curve: dict[str, list[float]]) -> None:
    """Precision over recall."""
    axes.plot(curve["recall"], curve["precision"], color=_LINE)
    _unit_square(axes, x="recall", y="precision")


def draw_roc(axes: Axes, curve: dict[str, list[float]]) -> None:
    """True over false positive rate, and what a coin would do."""
    axes.plot(curve["false_positive_rate"], curve["true_positive_rate"], color=_LINE)
    axes.plot([0, 1], [0, 1], color=_SOFT, linewidth=1, linestyle="--")
    _unit_square(axes, x="false positive rate", y="true positive rate")


def _unit_square(axes: Axes, *, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)


_DRAW: dict[str, Callable[[Axes, dict[str, list[float]]], None]] = {
    "reliability": draw_reliability,
    "precision_recall": draw_precision_recall,
    "roc": draw_roc,
}
