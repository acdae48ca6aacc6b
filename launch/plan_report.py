"""A plan for people: text for the console, and one HTML file with a picture of ranks by tables."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from itertools import groupby

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from launch.page import document, svg
from launch.page import table as html_table
from launch.plan_estimate import USES
from launch.plan_figures import Estimate, TableEstimate, imbalance
from launch.plan_ladder import Rung
from trainer.config.plan import PlanConfig

matplotlib.use("svg")

_GIB = 1 << 30
_MAX_LINES = 40
_MAX_CELLS = 400
_ADVICE = {
    "fwd_compute": "the lookup is bound by memory bandwidth: spread hot tables (row_wise, column_wise)",
    "bwd_compute": "the tables' update is bound by memory bandwidth: spread hot tables (row_wise, column_wise)",
    "fwd_comms": "embeddings on their way between ranks: sharding.comms.forward=fp16, or column_wise for wide tables",
    "bwd_comms": "gradients on their way between ranks: sharding.comms.backward=bf16, or fewer row_wise tables",
    "prefetch": "rows come from main memory: raise sharding.cache_load_factor, or use more ranks",
    "dense": "matrix products: lower precision (TF32, bf16), a smaller network, or more ranks",
    "all_reduce": "gradients of the dense part: larger batches, or a smaller network",
    "average": "copies of tables, made equal: raise sharding.average_every_steps, or sharding.group_size",
}


def text(result: Estimate, config: PlanConfig) -> str:
    """The plan as text."""
    blocks = [_headline(result, config), _lines(*memory_table(result)), _lines(*tables_table(result.tables))]
    return "\n\n".join([*blocks, _lines(*time_table(result)), _verdict(result), _assumptions(result)])


def ladder_text(rungs: Sequence[Rung]) -> str:
    """The ladder as text."""
    return "\nladder (each rung of the upper part on top of the last; more ranks alone)\n" + _lines(
        *ladder_table(rungs)
    )


def memory_table(result: Estimate) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Memory of a rank by use: the mean, the fullest rank, its number."""
    rows: list[Sequence[str]] = [_spread(use, result.memory[use]) for use in USES]
    rows.append(("reserve", *(_gib(result.reserved),) * 2, ""))
    rows.append(_spread("total", result.memory_of_ranks + result.reserved))
    rows.append(("capacity", *(_gib(result.capacity[0]),) * 2, ""))
    if result.host.any():
        rows += [_spread("main memory", result.host), ("its capacity", *(_gib(result.capacity[1]),) * 2, "")]
    return ("memory of a rank, GiB", "mean", "largest", "on rank"), rows


def tables_table(tables: Sequence[TableEstimate]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """The tables one by one, or by sharding type and kernel where there are many."""
    if len(tables) <= _MAX_LINES:
        header = ("table", "rows", "values", "sharding", "kernel", "GiB", "shards", "ranks", "ms")
        return header, [
            (
                t.name,
                f"{t.rows:,}",
                f"{t.values:.4g}",
                t.sharding_type,
                t.kernel,
                _gib(sum(t.shard_bytes)),
                str(len(t.ranks)),
                _ranges(t.ranks),
                f"{t.ms:.3f}",
            )
            for t in tables
        ]
    kinds = sorted(tables, key=lambda t: (t.sharding_type, t.kernel))
    rows: list[Sequence[str]] = []
    for (sharding_type, kernel), members in groupby(kinds, key=lambda t: (t.sharding_type, t.kernel)):
        group = list(members)
        rows.append(
            (
                f"{len(group):,}",
                f"{sum(t.rows for t in group):,}",
                sharding_type,
                kernel,
                _gib(sum(sum(t.shard_bytes) for t in group)),
                f"{sum(len(t.ranks) for t in group):,}",
                f"{len({rank for t in group for rank in t.ranks}):,}",
                f"{max(t.ms for t in group):.3f}",
            )
        )
    return ("tables", "rows", "sharding", "kernel", "GiB", "shards", "ranks", "largest ms"), rows


def time_table(result: Estimate) -> tuple[Sequence[str], list[Sequence[str]]]:
    """A step of the slowest rank by its parts."""
    rows: list[Sequence[str]] = [
        (name, f"{ms:.3f}", f"{100 * ms / result.step_ms:.0f} %") for name, ms in result.parts.items()
    ]
    return ("step of the slowest rank", "ms", "share"), [*rows, ("step", f"{result.step_ms:.3f}", "100 %")]


def ladder_table(rungs: Sequence[Rung]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """What was tried, and what came of it."""
    rows: list[Sequence[str]] = []
    for rung in rungs:
        step = "-" if rung.result is None else f"{rung.result.step_ms:.3f}"
        fullest = "-" if rung.result is None else _gib(int(rung.result.memory_of_ranks.max()))
        rows.append((rung.name, rung.overrides, "fits" if rung.fits else "does not fit", fullest, step))
    return ("rung", "overrides", "outcome", "fullest rank, GiB", "step, ms"), rows


def page(result: Estimate | None, rungs: Sequence[Rung], config: PlanConfig) -> str:
    """The report as one HTML file."""
    parts = []
    if result is not None:
        parts = [
            f"<p>{html.escape(_headline(result, config))}</p><p>{html.escape(_verdict(result))}</p>",
            html_table(*memory_table(result)),
            _picture(result),
            html_table(*tables_table(result.tables)),
            html_table(*time_table(result)),
            f"<p>{html.escape(_assumptions(result))}</p>",
        ]
    if rungs:
        parts += ["<h2>Ladder</h2>", html_table(*ladder_table(rungs))]
    title = f"Plan of {config.name} on {config.cluster.name}"
    return document(title, "\n".join(parts) or "<p>No plan fits.</p>")


def _headline(result: Estimate, config: PlanConfig) -> str:
    cluster = result.cluster
    total, rows = sum(sum(t.shard_bytes) for t in result.tables), sum(t.rows for t in result.tables)
    # Those of rules after that of all other tables.
    optimizers = dict.fromkeys([config.optimizer.sparse.name, *(r.name for r in config.optimizer.tables if r.name)])
    kinds = f"{' and '.join(optimizers)}, {config.precision.tables} rows"
    return (
        f"{config.name} on {cluster.name}: {len(result.tables):,} tables of {rows:,} rows, "
        f"{total / _GIB:,.1f} GiB with optimizer states ({kinds}), over "
        f"{cluster.world_size:,} ranks ({cluster.nodes} x {cluster.ranks_per_node} {cluster.device}); "
        f"{result.batch_size:,} rows of a step on each{_groups(result)}"
    )


def _groups(result: Estimate) -> str:
    groups = result.groups
    return f"; {groups.count:,} groups of {groups.size:,} ranks, each with all tables" if groups.count > 1 else ""


def _verdict(result: Estimate) -> str:
    lines = ["It fits." if result.fits else "It does NOT fit."]
    lines.append(f"Bottleneck: {result.bottleneck}: {_ADVICE[result.bottleneck]}.")
    memory, time = imbalance(result.memory_of_ranks), imbalance(result.ms_of_ranks)
    lines.append(f"Imbalance (largest / mean over ranks): memory {memory:.2f}, time of tables {time:.2f}.")
    rate = 1000 * result.batch_size * result.cluster.world_size / result.step_ms
    lines.append(f"Predicted: {result.step_ms:.2f} ms a step, {rate:,.0f} samples/s.")
    return "\n".join(lines)


def _assumptions(result: Estimate) -> str:
    cluster = result.cluster
    return (
        "Assumed: tables as TorchRec's planner estimates them; dense matrix products "
        f"({result.dense.flops / 1e9:,.1f} GFLOP a rank and step) at {100 * cluster.dense_utilization:.0f} % of "
        f"{result.dense_tflops:g} TFLOP/s; its gradients in a ring; nothing overlapped; data never waited for."
    )


def _picture(result: Estimate) -> str:
    """Bytes by rank and table, as an image; neighbours share a cell where there are many."""
    ranks, tables = result.groups.size, len(result.tables)
    grid = np.zeros((min(ranks, _MAX_CELLS), min(tables, _MAX_CELLS)))
    for column, table in enumerate(result.tables):
        for rank, size in zip(table.ranks, table.shard_bytes, strict=True):
            grid[rank * len(grid) // ranks, column * grid.shape[1] // tables] += size / _GIB
    figure = Figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[4, 1], sharey=True)
    extent = (-0.5, tables - 0.5, ranks - 0.5, -0.5)
    shown = np.ma.masked_equal(grid, 0)
    image = left.imshow(shown, aspect="auto", extent=extent, interpolation="nearest", cmap="viridis")
    left.set_xlabel("table")
    left.set_ylabel("rank")
    if tables <= _MAX_LINES:
        left.set_xticks(range(tables), [t.name for t in result.tables], rotation=90, fontsize=7)
    figure.colorbar(image, ax=left, label="GiB", location="left")
    start, edges = np.zeros(ranks), np.repeat(np.arange(ranks + 1) - 0.5, 2)[1:-1]
    for use, values in result.memory.items():
        right.fill_betweenx(edges, _steps(start), _steps(start + values / _GIB), label=use, linewidth=0)
        start += values / _GIB
    right.axvline(result.capacity[0] / _GIB, color="#b03030")
    right.set_xlabel("GiB of memory")
    right.legend(fontsize=7)
    return svg(figure)


def _steps(values: np.ndarray) -> np.ndarray:
    """Each value at both edges of its rank, so that neighbours meet in a step."""
    return np.repeat(values, 2)


def _spread(name: str, values: np.ndarray) -> Sequence[str]:
    return (name, _gib(int(values.mean())), _gib(int(values.max())), str(int(values.argmax())))


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:,.3f}"


def _ranges(ranks: Sequence[int]) -> str:
    """Numbers with runs drawn together: 0-3, 8."""
    parts: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if parts and parts[-1][1] == rank - 1:
            parts[-1][1] = rank
        else:
            parts.append([rank, rank])
    shown = [str(a) if a == b else f"{a}-{b}" for a, b in parts]
    return ", ".join(shown[:6]) + (", ..." if len(shown) > 6 else "")


def _lines(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )
