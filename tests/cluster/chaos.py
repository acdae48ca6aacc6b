"""Breaks a job on purpose in every way of ``faults`` and prints what happened: ``python -m tests.cluster.chaos``.

torchrun is started as a user would; name faults to run some of them alone.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.cluster.faults import FAULTS, Outcome, run
from tests.cluster.network import why_not

_HEAD = "| fault | what happened | detected after | training again after | rows lost, repeated |\n|---|---|---|---|---|"


def line(name: str, outcome: Outcome) -> str:
    """A row of the table."""
    detected, training = (
        "-" if seconds is None else f"{seconds:.1f} s" for seconds in (outcome.detected_s, outcome.training_s)
    )
    rows = "-" if outcome.count is None else f"{outcome.count.lost}, {outcome.count.repeated}"
    return f"| {FAULTS[name][0]} | {outcome.what} | {detected} | {training} | {rows} |"


def main(names: list[str]) -> int:
    """Runs the faults; returns the exit code."""
    reason = why_not()
    if reason is not None:
        print(reason)
        return 1
    lines, failed = [], 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        for name in names or list(FAULTS):
            try:
                lines.append(line(name, run(name, Path(folder, name), by_command=True)))
            except AssertionError as error:
                failed += 1
                lines.append(f"| {FAULTS[name][0]} | FAILED | | | |")
                print(error)
            print(lines[-1], flush=True)
    print("\n".join(["", _HEAD, *lines]))
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
