"""What the ranks of a job wrote down, over all its lives, whatever hosts took part."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

from tests.distributed.records import NUM_ROWS, STEPS_PER_EPOCH, TOTAL_STEPS

_NAME = re.compile(r"from-(\d+)-rank-(\d+)-of-(\d+)\.jsonl")


@dataclass(frozen=True)
class Count:
    """Rows of the job's last state that were trained on too rarely or too often.

    Attributes:
        lost: Rows that are missing, over all epochs.
        repeated: Rows beyond once an epoch.
        lives: The step that each life began at, and its workers.
    """

    lost: int
    repeated: int
    lives: tuple[tuple[int, int], ...]


def count_rows(folder: Path) -> Count:
    """Compares the rows of all steps that survived with each row once an epoch."""
    lives = _lives(folder)
    stop, rows = TOTAL_STEPS, []
    for start, world_size in reversed(lives):
        if start < stop:
            done = _steps(folder, start, world_size)
            rows.append([done.get(step, []) for step in range(start, stop)])
            stop = start
    steps = list(itertools.chain.from_iterable(reversed(rows)))
    lost = repeated = 0
    for epoch in range(TOTAL_STEPS // STEPS_PER_EPOCH):
        seen = list(itertools.chain.from_iterable(steps[epoch * STEPS_PER_EPOCH : (epoch + 1) * STEPS_PER_EPOCH]))
        lost += NUM_ROWS - len(set(seen))
        repeated += len(seen) - len(set(seen))
    return Count(lost, repeated, tuple(lives))


def _lives(folder: Path) -> list[tuple[int, int]]:
    """In the order of time; of lives that began alike the last one wrote what is there."""
    began: dict[tuple[int, int], int] = {}
    for path in folder.glob("from-*"):
        named = _NAME.fullmatch(path.name)
        assert named is not None
        life = (int(named[1]), int(named[3]))
        began[life] = max(began.get(life, 0), path.stat().st_mtime_ns)
    return sorted(began, key=lambda life: began[life])


def _steps(folder: Path, start: int, world_size: int) -> dict[int, list[int]]:
    """For each step that all ranks completed, the rows of its global batch."""
    ranks = []
    for rank in range(world_size):
        path = folder / f"from-{start:05d}-rank-{rank}-of-{world_size}.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        ranks.append({record["step"]: record["rows"] for record in records})
    common = set.intersection(*map(set, ranks))
    return {step: [row for rank in ranks for row in rank[step]] for step in sorted(common)}
