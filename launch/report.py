"""Tells one run, or compares several: ``python launch/report.py runs/adult [runs/other ...] [out=report.html]``.

One HTML file with everything in it, from what the runs left in their directories; a run that goes on is told as far
as it is. Needs neither torchrun nor a GPU.
"""

from __future__ import annotations

import argparse
import datetime
import html
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch import page
from launch import report_charts as charts
from launch.outputs import check_file
from launch.report_run import RunFiles, read_runs
from trainer.ending import USER_ERROR_EXIT_CODE
from trainer.errors import ShardFMError

_LARGER_IS_BETTER = {"auc": True, "pr_auc": True, "gauc": True, "accuracy": True}
_SMALLER_IS_BETTER = {"logloss", "ne", "mse", "rmse"}
_NO_DIFFERENCE = ("run_dir", "checkpoint.", "logging.", "profiler.", "distributed.")
"""Keys of the config that change nothing of what is learned, or how fast."""
_MIB = 1 << 20
_MAX_SLICES = 40


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code: 0, or 2 if there is a mistake: it prints which."""
    parser = argparse.ArgumentParser(prog="launch/report.py", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run_dir of a training; out=FILE names the report")
    chosen = parser.parse_args(arguments).runs
    folders = [Path(argument) for argument in chosen if not argument.startswith("out=")]
    outs = [argument.removeprefix("out=") for argument in chosen if argument.startswith("out=")]
    if not folders or len(outs) > 1:
        parser.error("name at least one RUN, and at most one out=FILE")
    try:
        runs = read_runs(folders)
        out = Path(outs[0]) if outs else folders[0] / "report.html"
        check_file("out", out)
        out.write_text(report(runs), encoding="utf-8")
    except ShardFMError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    print(out)
    return 0


def report(runs: Sequence[RunFiles]) -> str:
    """The page."""
    one = runs[0] if len(runs) == 1 else None
    title = one.summary["name"] if one else f"{len(runs)} runs of {_names(runs)}"
    body = [
        page.tiles(_headline(one)) if one else "",
        _verdicts(runs),
        _final(runs) if not one else "",
        page.section("Differences", _differences(runs)) if not one else "",
        _learning(runs),
        _curves(runs),
        _final(runs) if one else "",
        _time(runs),
        *(_slices(run, many=not one) for run in runs),
        _plans(runs),
        _settings(runs),
        _made_with(runs),
    ]
    return page.document(title, "\n".join(body), subtitle=_subtitle(runs))


def _names(runs: Sequence[RunFiles]) -> str:
    return ", ".join(dict.fromkeys(run.summary["name"] for run in runs))


def _subtitle(runs: Sequence[RunFiles]) -> str:
    if len(runs) == 1:
        state = "" if runs[0].result else "Has not ended: what follows is what there is so far.\n"
        return f"{state}{runs[0].summary['headline']}"
    return f"{sum(run.result is not None for run in runs)} of {len(runs)} have ended."


def _headline(run: RunFiles) -> dict[str, str]:
    figures: dict[str, str] = {}
    if run.final is not None:
        for name, label in (("auc", "AUC"), ("logloss", "log loss"), ("ne", "NE"), ("calibration", "calibration")):
            if name in run.final.metrics:
                figures[f"{run.final.set} {label}"] = _figure(run.final.metrics[name])
    times = run.records.get("time", [])
    figures["samples/s"] = _rate(run)
    if times:
        figures["ms a step"] = f"{charts.mean_ms(run, _all_stages()):.3g}"
        figures["MiB on the fullest rank"] = f"{max(line['host_peak_bytes'] for line in times) / _MIB:,.0f}"
    figures["steps"] = f"{_steps(run):,}"
    figures["parameters"] = _short(run.summary["num_parameters"])
    return figures


def _verdicts(runs: Sequence[RunFiles]) -> str:
    """What held each run up most often, in the words of its last report of that kind."""
    told = []
    for run in runs:
        verdicts = [line["verdict"] for line in run.records.get("time", [])]
        if not verdicts:
            continue
        kind, times = Counter(verdict["kind"] for verdict in verdicts).most_common(1)[0]
        last = next(verdict["text"] for verdict in reversed(verdicts) if verdict["kind"] == kind)
        name = "What holds it up" if len(runs) == 1 else html.escape(run.label)
        told.append(f"<b>{name}</b>: {html.escape(last)} ({times} of {len(verdicts)} reports say so)")
    return f'<p class="verdict">{"<br>".join(told)}</p>' if told else ""


def _final(runs: Sequence[RunFiles]) -> str:
    """A row for each run and set, the best of each column marked."""
    found = [(run, evaluations[-1]) for run in runs for evaluations in run.evaluations.values()]
    if not found:
        return ""
    names = list(dict.fromkeys(name for _, evaluation in found for name in evaluation.metrics))
    rows = [
        (
            run.label,
            evaluation.set,
            f"{evaluation.step:,}",
            *(_figure(evaluation.metrics.get(name, math.nan)) for name in names),
            _rate(run),
        )
        for run, evaluation in found
    ]
    marked = []
    for set_name in dict.fromkeys(evaluation.set for _, evaluation in found):
        places = [place for place, (_, evaluation) in enumerate(found) if evaluation.set == set_name]
        for column, name in enumerate(names):
            values = {place: found[place][1].metrics.get(name, math.nan) for place in places}
            marked += [(place, 3 + column) for place in _best(name, values)]
    return page.section("Final metrics", page.table(("run", "set", "step", *names, "samples/s"), rows, marked=marked))


def _best(name: str, values: dict[int, float]) -> list[int]:
    known = {place: value for place, value in values.items() if math.isfinite(value)}
    if len(known) < 2 or not (name in _LARGER_IS_BETTER or name in _SMALLER_IS_BETTER):
        return []
    best = (max if name in _LARGER_IS_BETTER else min)(known.values())
    return [place for place, value in known.items() if value == best]


def _differences(runs: Sequence[RunFiles]) -> str:
    """The settings that are not the same in all runs."""
    keys = list(dict.fromkeys(key for run in runs for key in run.config))
    different = [
        key
        for key in keys
        if not key.startswith(_NO_DIFFERENCE) and len({str(run.config.get(key)) for run in runs}) > 1
    ]
    if not different:
        return "<p>The configs are the same.</p>"
    rows = [(key, *(str(run.config.get(key, "-")) for run in runs)) for key in different]
    return page.table(("setting", *(run.label for run in runs)), rows)


def _learning(runs: Sequence[RunFiles]) -> str:
    note = "Thin lines: the training rows since the last report. Thick lines with dots: evaluations."
    pictures = [charts.metric_curves(runs, "auc", "AUC"), charts.metric_curves(runs, "logloss", "Log loss")]
    return page.section("Learning", page.side_by_side(*pictures), note=note)


def _curves(runs: Sequence[RunFiles]) -> str:
    evaluated = [run for run in runs if run.final is not None and run.final.curves]
    if not evaluated:
        return ""
    sets = ", ".join(dict.fromkeys(run.final.set for run in evaluated if run.final))
    note = f"Of {sets}, after the last step. On the dashed line, predictions are as high as the clicks they are for."
    pictures = [charts.reliability(evaluated), charts.precision_recall(evaluated), charts.roc(evaluated)]
    return page.section("Predictions", page.side_by_side(*pictures), note=note)


def _time(runs: Sequence[RunFiles]) -> str:
    """Throughput, and where the time of a step went."""
    timed = [run for run in runs if run.records.get("time")]
    one = timed[0] if len(timed) == 1 else None
    parts = [page.side_by_side(charts.throughput(runs), charts.time_over_steps(one) if one else "")]
    parts.append(charts.time_bars(timed))
    if timed:
        header = ("part of a step", *(f"{run.label}, ms" for run in timed), *(f"{run.label}, share" for run in timed))
        header = ("part of a step", "ms", "share") if one else header
        rows = page.table(header, _time_rows(timed))
        parts.append(page.narrow(rows) if one else rows)
    note = "Each moment of a step belongs to one part; parts that overlap with computing count only where they stop it."
    return page.section("Speed, and where the time goes", *parts, note=note if timed else "")


def _time_rows(runs: Sequence[RunFiles]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    totals = [charts.mean_ms(run, _all_stages()) for run in runs]
    for name, (stages, _) in charts.GROUPS.items():
        values = [charts.mean_ms(run, stages) for run in runs]
        shares = [f"{100 * value / total:.1f} %" for value, total in zip(values, totals, strict=True)]
        rows.append((name, *(f"{value:.2f}" for value in values), *shares))
    rows.append(("together", *(f"{total:.2f}" for total in totals), *("100 %" for _ in runs)))
    lags = [sum(line["lag_ms"] for line in run.records["time"]) / len(run.records["time"]) for run in runs]
    rows.append(("lost to the slowest rank", *(f"{lag:.2f}" for lag in lags), *("" for _ in runs)))
    return rows


def _slices(run: RunFiles, *, many: bool) -> str:
    """The metrics of parts of the evaluation set, the heaviest first."""
    final = run.final
    if final is None or not final.slices:
        return ""
    heaviest = sorted(final.slices, key=lambda part: -part.weight)[:_MAX_SLICES]
    names = list(dict.fromkeys(name for part in heaviest for name in part.metrics))
    rows = [
        (
            f"{part.column} = {part.value}",
            f"{part.weight:,.0f}",
            *(_figure(part.metrics.get(name, math.nan)) for name in names),
        )
        for part in sorted(heaviest, key=lambda part: (part.column, -part.weight))
    ]
    left = len(final.slices) - len(heaviest)
    note = f"Of {final.set}, after step {final.step:,}." + (f" {left} lighter slices are left out." if left else "")
    title = f"Slices of {run.label}" if many else "Slices"
    return page.section(title, page.table(("slice", "weight", *names), rows), note=note)


def _plans(runs: Sequence[RunFiles]) -> str:
    header = ("table", "sharding", "kernel", "ranks", "rows", "row width")
    parts = []
    for run in runs:
        rows = [
            (
                t["name"],
                t["sharding_type"],
                t["kernel"],
                ", ".join(map(str, t["ranks"])),
                f"{t['rows']:,}",
                str(t["width"]),
            )
            for t in run.summary["plan"]
        ]
        content = page.table(header, rows)
        parts.append(content if len(runs) == 1 and len(rows) <= _MAX_SLICES else page.folded(run.label, content))
    return page.section("Sharding plan", *parts)


def _settings(runs: Sequence[RunFiles]) -> str:
    folded = []
    for run in runs:
        text = (run.folder / "config.yaml").read_text(encoding="utf-8")
        folded.append(page.folded(f"config of {run.label}", f"<pre>{html.escape(text)}</pre>"))
    return page.section("Config", *folded)


def _made_with(runs: Sequence[RunFiles]) -> str:
    """Data, revision and versions, in small type at the end."""
    lines = []
    for run in runs:
        sets = "; ".join(f"{d['name']}: {d['rows']:,} rows in {d['files']:,} files" for d in run.summary["datasets"])
        versions = ", ".join(f"{package} {version}" for package, version in run.summary["versions"].items())
        revision = f", revision {run.summary['revision']}" if run.summary["revision"] else ""
        lines.append(f"{run.label}: {sets}. {versions}{revision}.")
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = "<br>".join(html.escape(line) for line in [*lines, f"Report of {today}."])
    return f"<footer>{text}</footer>"


def _all_stages() -> list[str]:
    return [stage for stages, _ in charts.GROUPS.values() for stage in stages]


def _steps(run: RunFiles) -> int:
    return int(run.result["steps"]) if run.result else _last_step(run)


def _last_step(run: RunFiles) -> int:
    return max((int(line["step"]) for line in run.records.get("train", [])), default=0)


def _rate(run: RunFiles) -> str:
    lines = [line["speed"]["samples_per_s"] for line in run.records.get("train", []) if line.get("speed")]
    rate: Any = (run.result or {}).get("samples_per_s") or (sum(lines) / len(lines) if lines else None)
    return "-" if rate is None else f"{rate:,.0f}"


def _figure(value: float) -> str:
    return f"{value:.5f}" if math.isfinite(value) else "-"


def _short(number: int) -> str:
    for limit, unit in ((1e9, " bn"), (1e6, " M"), (1e4, " k")):
        if number >= limit:
            return f"{number / (1e3 if unit == ' k' else limit):,.3g}{unit}"
    return f"{number:,}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
