"""What a loader takes, measured in a process of its own, against what it says that it takes at most."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.decoded_size import decoded_sizes
from data.index import build_index
from data.loader import BatchLoader
from data.order import SampleOrder
from data.reader import decoding_bytes
from data.schema import Schema, parse_schema

ROOT = Path(__file__).parents[2]
NUM_ROWS, NUM_COLUMNS = 200_000, 8
WINDOW_ROWS, BATCH = 70_000, 1000

# Resident memory is taken before and at its peak; Arrow counts its own, and has decoded nothing else here.
MEASURE = """
import json, sys
from pathlib import Path
import pyarrow as pa
from tests.data.test_memory import decoding, drain, loader_of

def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(key)))

loader = loader_of(sys.argv[1], sys.argv[2])
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS:")
rows = drain(loader)
print(json.dumps({
    "rows": rows,
    "growth": resident("VmHWM:") - before,
    "bound": loader.memory_bytes(),
    "arrow": pa.default_memory_pool().max_memory(),
    "decoding": decoding(loader),
}))
"""


def schema_of(kind: str) -> Schema:
    feature: dict[str, Any] = {"kind": "id" if kind == "ids" else "hash", "num_embeddings": 2_000_000}
    feature |= {"max_length": 5} if kind == "lists" else {}
    declared = [{"name": f"c{n}", **feature} for n in range(NUM_COLUMNS)]
    return parse_schema({"label": "y", "dense": [{"name": "x"}], "sparse": declared}, where="test")


def texts(count: int, generator: np.random.Generator) -> pa.Array:
    """Strings of some thirty characters, each but for chance another one."""
    return pa.array([f"https://example.org/{n:x}" for n in generator.integers(0, 2**48, count).tolist()])


def column(kind: str, rows: int, generator: np.random.Generator) -> pa.Array:
    if kind == "ids":
        return pa.array(generator.integers(0, 2_000_000, rows))
    if kind == "lists":
        offsets = np.concatenate([[0], np.cumsum(generator.integers(0, 6, rows))])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), column("strings", int(offsets[-1]), generator))
    return texts(rows, generator)


def write(folder: Path, kind: str, row_group_rows: int) -> str:
    generator = np.random.default_rng(0)
    made = column(kind, NUM_ROWS, generator)
    columns = {f"c{n}": made for n in range(NUM_COLUMNS)}
    numbers = {"y": np.zeros(NUM_ROWS, np.int8), "x": generator.random(NUM_ROWS)}
    path = folder / f"{kind}.parquet"
    pq.write_table(pa.table({**numbers, **columns}), path, row_group_size=row_group_rows)
    return str(path)


def loader_of(file: str, kind: str) -> BatchLoader:
    index = build_index([file], schema_of(kind))
    order = SampleOrder(index.row_counts, global_batch_size=BATCH, lanes=1, window_rows=WINDOW_ROWS, shuffle=True)
    return BatchLoader(index, order, schema_of(kind), rank=0, world_size=1)


def drain(loader: BatchLoader) -> int:
    with loader.batches(0, loader.order.steps_per_epoch) as stream:
        return sum(int(batch.weights.sum()) for batch in stream)


def decoding(loader: BatchLoader) -> int:
    """What all tasks together hold at most."""
    rows, window_rows = int(loader.index.row_counts.max()), loader.order.largest_window
    one = decoding_bytes(loader.schema, loader.index.sizes, row_group_rows=rows, window_rows=window_rows)
    return loader.options.num_threads * one


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a process")
@pytest.mark.parametrize(
    ("kind", "row_group_rows"),
    [("ids", 10_000), ("ids", NUM_ROWS), ("strings", 10_000), ("strings", NUM_ROWS), ("lists", NUM_ROWS)],
)
def test_a_loader_takes_no_more_memory_than_it_says(tmp_path: Path, kind: str, row_group_rows: int) -> None:
    file = write(tmp_path, kind, row_group_rows)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE, file, kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["rows"] == NUM_ROWS
    assert measured["growth"] <= measured["bound"]
    assert measured["arrow"] <= measured["decoding"]


def test_the_length_of_strings_and_lists_is_known_from_the_footers(tmp_path: Path) -> None:
    long = ["x" * 100 + str(n) for n in range(50)]
    table = pa.table({"y": [0] * 50, "i": list(range(50)), "s": long, "t": [[n, n, n] for n in range(50)]})
    pq.write_table(table, tmp_path / "a.parquet")
    declared = {
        "i": {"name": "i", "kind": "id", "num_embeddings": 50},
        "s": {"name": "s", "kind": "hash", "num_embeddings": 50},
        "t": {"name": "t", "kind": "id", "num_embeddings": 50, "max_length": 3},
    }
    schema = parse_schema({"label": "y", "sparse": list(declared.values())}, where="test")
    sizes = decoded_sizes([pq.read_metadata(tmp_path / "a.parquet")], schema)
    assert (sizes.num_bytes["i"], sizes.num_bytes["t"]) == (8, 3 * 8)
    assert 3 * 100 < sizes.num_bytes["s"] < 3 * 110 + 200
    assert sizes.num_values == {"y": 1, "i": 1, "s": 1, "t": 3}
    assert sizes.of(["i", "t"]) == 4 * 8
