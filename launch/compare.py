"""Trains models side by side and reports: ``python launch/compare.py out=runs/compare -- experiment=adult``.

What follows ``--`` goes to every run, as ``launch/train.py`` takes it. Each run is a training of its own under
torchrun, in a directory of its own below ``out``. A comparison that was interrupted goes on where it was; what
is done is not done again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launch.cli import command
from launch.compare_report import write_report
from launch.compare_study import Run, runs_of
from launch.outputs import check_folder
from trainer.config import CompareConfig
from trainer.ending import PREEMPTED_EXIT_CODE
from trainer.errors import ConfigError, ShardFMError
from trainer.preemption import PreemptedError

_TRAIN = Path(__file__).parent / "train.py"
_LOG_LINES = 12


class ComparisonError(ShardFMError):
    """Some runs of a comparison failed."""


def run(config: CompareConfig) -> None:
    """Trains what is left to train, and writes the report over all that is there.

    Raises:
        ConfigError: ``out`` holds a comparison with other overrides or cannot be written, or a run cannot be named.
        ComparisonError: Runs failed; the others are in the report.
    """
    out, runs = Path(config.out), runs_of(config)
    _claim(out, config)
    failed = []
    for number, member in enumerate(runs, start=1):
        print(f"[{number}/{len(runs)}] {member.name} ", end="", flush=True)
        if member.is_done(out):
            print("is done", flush=True)
        elif member.pretrained and not member.pretrained.is_done(out):
            print(f"cannot start: {member.pretrained.name}, whose tables it starts from, is not done", flush=True)
            failed.append(member.name)
        elif not _train(member, out, config):
            failed.append(member.name)
    report = write_report(out, runs)
    print(f"\n{report.read_text(encoding='utf-8')}\nreport: {report} and {report.with_suffix('.html')}", flush=True)
    if failed:
        raise ComparisonError(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}. Start again to retry.")


def _claim(out: Path, config: CompareConfig) -> None:
    """Runs with other overrides are no comparison: they need a directory of their own."""
    check_folder("out", out)
    record = out / "compare.json"
    ours = {"overrides": config.overrides, "nproc_per_node": config.nproc_per_node}
    if not record.exists():
        record.write_text(json.dumps(ours, indent=1) + "\n", encoding="utf-8")
    theirs = json.loads(record.read_text(encoding="utf-8"))
    if theirs != ours:
        raise ConfigError(f"out: {out} holds a comparison with {theirs}, not {ours}; set out to a new directory.")


def _train(member: Run, out: Path, config: CompareConfig) -> bool:
    """One training, its output in a file; whether it came to its end."""
    folder = member.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    arguments = [f"--nproc_per_node={config.nproc_per_node}", str(_TRAIN), *config.overrides, *member.overrides(out)]
    started = time.monotonic()
    path = os.pathsep.join([str(_TRAIN.parents[1]), os.environ.get("PYTHONPATH", "")])
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        code = subprocess.run(
            [*launcher, *arguments], stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": path}
        ).returncode
    if member.is_done(out):
        result = member.result(out)
        print(f"auc {result['metrics']['auc']:.5f} in {time.monotonic() - started:.0f} s", flush=True)
        return True
    lines = (folder / "log.txt").read_text(encoding="utf-8").splitlines()[-_LOG_LINES:]
    print(f"failed with code {code}; the end of {folder / 'log.txt'}:\n  " + "\n  ".join(lines), flush=True)
    if code in (PREEMPTED_EXIT_CODE, -2, 130):
        raise PreemptedError("The comparison was stopped; the same command continues it.")
    return False


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """This command's own arguments, and those of every run, which nobody but the runs may read."""
    given = list(arguments)
    place = given.index("--") if "--" in given else len(given)
    return given[:place], given[place + 1 :]


def with_overrides(config: CompareConfig, passed: Sequence[str]) -> CompareConfig:
    """The comparison with what followed ``--`` for every run."""
    return dataclasses.replace(config, overrides=[*config.overrides, *passed])


if __name__ == "__main__":
    sys.argv[1:], passed = split_arguments(sys.argv[1:])
    command("compare", CompareConfig, lambda config: run(with_overrides(config, passed)))
