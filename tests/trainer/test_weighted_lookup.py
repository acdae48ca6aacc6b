from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data.index import build_index
from data.loader import BatchLoader
from data.order import SampleOrder
from data.schema import parse_schema
from trainer.model.embeddings import RowLayout, embedding_tables

LISTS = [[1, 2, 3], [], [4], [2, 2]]
WEIGHTS = [[0.5, 1.0, 2.0], [], [3.0], [1.0, 0.25]]


@pytest.mark.parametrize("weighted", [True, False])
def test_sums_means_and_weighted_sums_of_lists_are_those_of_the_definition(tmp_path: Path, weighted: bool) -> None:
    columns = {"y": [0, 1, 0, 1], "t": pa.array(LISTS), "w": pa.array(WEIGHTS), "i": [5, 6, 7, 8]}
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns), path)
    tags = {"column": "t", "kind": "id", "num_embeddings": 10, "max_length": 3}
    sparse = [
        {"name": "i", "kind": "id", "num_embeddings": 10},
        {"name": "mean", "pooling": "mean", **tags},
        {"name": "sum", **tags, **({"weights": "w"} if weighted else {})},
    ]
    schema = parse_schema({"label": "y", "sparse": sparse}, where="test")
    index = build_index([str(path)], schema)
    order = SampleOrder(index.row_counts, global_batch_size=4, lanes=1, window_rows=4, shuffle=False)
    with BatchLoader(index, order, schema, rank=0, world_size=1).batches(0, 1) as stream:
        batch = next(stream)

    tables = embedding_tables(schema, RowLayout(3, first_order=True))
    tables.to_empty(device="cpu")
    value_of_row = torch.arange(10.0) + 1
    for table in tables.parameters():
        table.data.copy_(value_of_row.unsqueeze(1).expand_as(table))
    looked_up = {key: value[:, 0].tolist() for key, value in tables(batch.sparse).to_dict().items()}

    rows = [[float(value + 1) for value in values] for values in LISTS]
    weights = WEIGHTS if weighted else [[1.0] * len(values) for values in LISTS]
    assert looked_up["i"] == [6.0, 7.0, 8.0, 9.0]
    assert looked_up["mean"] == pytest.approx([sum(row) / max(len(row), 1) for row in rows])
    assert looked_up["sum"] == pytest.approx(
        [sum(a * b for a, b in zip(r, w, strict=True)) for r, w in zip(rows, weights, strict=True)]
    )
