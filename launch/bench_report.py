"""What a measurement of training is told as: a table, JSON, and a picture of the parts of a step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from launch.bench_limits import Limits
from launch.bench_train import FIELDS, Speed, Workload
from trainer.distributed import Worker
from trainer.timing.stages import STEP_STAGES

matplotlib.use("Agg")

from matplotlib import pyplot


def table(workload: Workload, target: str, speeds: Sequence[Speed], limits: Limits, worker: Worker) -> str:
    """The figures, for people. Ratios are those of neighbouring rounds, in the median."""
    best = next(speed for speed in speeds if speed.ours)
    lines = [
        f"{target}: {FIELDS} fields, D={workload.embedding_dim}, network {'-'.join(map(str, workload.layers))}, "
        f"{worker.world_size} ranks on {worker.device.type} with {workload.batch_size:,} rows each; "
        f"medians of {workload.repeats} rounds of {workload.steps} steps",
        f"{'':<32} {'ms/step':>9} {'least':>8} {'most':>8} {'samples/s':>12} {'products':>9} {'of the first':>12}",
    ]
    for speed in speeds:
        products = f"{share_of_products(speed, target, limits):>9.2f}" if speed.precision in limits.products_ms else "-"
        lines.append(
            f"{speed.name:<32} {speed.median_ms:>9.1f} {min(speed.step_ms):>8.1f} {max(speed.step_ms):>8.1f} "
            f"{speed.samples_per_s:>12,.0f} {products:>9} {ratio(speed, best):>12.2f}"
        )
    lines.append(f"products: time of the network's matrix products alone ({_products(limits)}), as a share of the step")
    row_bytes = 4 * row_width(workload.embedding_dim) * 26 * workload.batch_size
    lines.append(
        f"memory: a copy moves {limits.copied_bytes_per_s / 1e9:.1f} GB/s; reading the looked-up rows, and reading and "
        f"writing them once more, takes {1000 * 3 * row_bytes / limits.copied_bytes_per_s:.2f} ms of it"
    )
    return "\n".join(lines)


def share_of_products(speed: Speed, target: str, limits: Limits) -> float:
    """The share of a step that the matrix products alone would take; a third of them, in an evaluation."""
    passes = 1 / 3 if target == "eval" else 1.0
    return limits.products_ms[speed.precision] * passes / speed.median_ms


def ratio(speed: Speed, first: Speed) -> float:
    """How much faster the first is: the median over the rounds."""
    return float(np.median(np.array(speed.step_ms) / np.array(first.step_ms)))


def row_width(embedding_dim: int) -> int:
    """Floats of a table row: D factors and a weight, padded."""
    return -(-(embedding_dim + 1) // 4) * 4


def write(folder: Path, workload: Workload, target: str, speeds: Sequence[Speed], limits: Limits) -> None:
    """Writes ``bench-<target>.json``, and ``bench-<target>.png`` where there are steps to be taken apart."""
    figures: dict[str, Any] = {
        "target": target,
        "workload": asdict(workload),
        "limits": asdict(limits),
        "contenders": [
            {
                "name": speed.name,
                "precision": speed.precision,
                "step_ms": speed.step_ms,
                "samples_per_s": speed.samples_per_s,
                "parts": speed.parts.record() if speed.parts else None,
            }
            for speed in speeds
        ],
    }
    (folder / f"bench-{target}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    apart = [speed for speed in speeds if speed.parts]
    if apart:
        _draw(apart, folder / f"bench-{target}.png")


def _draw(speeds: Sequence[Speed], path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(11, 1.2 + 0.6 * len(speeds)), layout="constrained")
    left = np.zeros(len(speeds))
    names = [speed.name for speed in speeds]
    colors = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
    for stage, color in zip(STEP_STAGES, colors, strict=False):
        widths = np.array([speed.parts.of(stage).mean() for speed in speeds if speed.parts])
        if widths.max() >= 0.005 * (left + widths).max():
            axes.barh(names, widths, left=left, color=color, label=stage.value.replace("_", " "))
        left += widths
    axes.invert_yaxis()
    axes.set_xlabel("ms of a step, mean over ranks")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _products(limits: Limits) -> str:
    return ", ".join(f"{name} {milliseconds:.1f} ms" for name, milliseconds in limits.products_ms.items())
