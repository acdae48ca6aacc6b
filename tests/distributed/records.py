"""A small numbered data set, the job that trains on it, and what its ranks wrote down of each step."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import yaml

from tests.data.shards import write_shards
from tests.launch.processes import ROOT

# Uneven, with one shard of fewer rows than ranks, an empty row group, and a shard without rows.
SHARDS = [[137, 25], [], [2], [264, 0, 61], [119]]
NUM_ROWS = 608
STEPS_PER_EPOCH = 38  # of 16 rows: 4 lanes of 152 rows, 4 a step
SAVE_EVERY = 3
TOTAL_STEPS = 2 * STEPS_PER_EPOCH
JOB = str(ROOT / "tests" / "distributed" / "recording_job.py")

SCHEMA = {
    "label": "click",
    "weight": "number",
    "dense": [{"name": "price"}],
    "sparse": [
        {"name": "row", "kind": "id", "num_embeddings": NUM_ROWS},
        {"name": "site", "kind": "hash", "num_embeddings": 20},
    ],
}


def arguments(root: Path | str, run_dir: Path) -> list[str]:
    """Of the recording job: two epochs over what :func:`write_data` wrote."""
    return [
        *("data=parquet", f"data.root={root}", "data.lanes=4", "data.window_rows=100", "data.prefetch_batches=2"),
        *(
            f"run_dir={run_dir}",
            "device=cpu",
            "precision=fp32",
            "epochs=2",
            "global_batch_size=16",
            "eval_global_batch_size=64",
        ),
        *("eval_every_epochs=2", "model.embedding_dim=3", "model.network.layers=[4]"),
        *(f"checkpoint.every_steps={SAVE_EVERY}", "checkpoint.keep_last=2", "logging.every_steps=10"),
    ]


def write_data(root: Path) -> None:
    """``root/schema.yaml``, ``root/train`` and ``root/test``."""
    write_shards(root / "train", SHARDS)
    write_shards(root / "test", [[16]])
    (root / "schema.yaml").write_text(yaml.safe_dump(SCHEMA), encoding="utf-8")


class Records:
    """What the ranks of all processes wrote down, life by life.

    Args:
        folder: RECORD_DIR of the job; made here.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def starts(self) -> list[int]:
        """The step that each life began at."""
        return sorted({int(path.name.split("-")[1]) for path in self.folder.glob("from-*")})

    def steps(self, start: int) -> dict[int, list[int]]:
        """For each step that all ranks of a life completed, the rows of its global batch."""
        ranks = []
        for path in sorted(self.folder.glob(f"from-{start:05d}-rank-*")):
            lines = path.read_text().splitlines(keepends=True)
            records = [json.loads(line) for line in lines if line.endswith("\n")]
            ranks.append({record["step"]: record["rows"] for record in records})
        common = set.intersection(*map(set, ranks)) if ranks else set()
        return {step: [row for rank in ranks for row in rank[step]] for step in sorted(common)}

    def survived(self) -> list[list[int]]:
        """The rows of each step, of those lives' steps that the next life's checkpoint contains."""
        starts = [*self.starts(), TOTAL_STEPS]
        steps = []
        for start, next_start in itertools.pairwise(starts):
            done = self.steps(start)
            steps += [done[step] for step in range(start, next_start)]
        return steps
