from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.errors import DataError
from data.prepare.config import PrepareConfig
from data.structured import structured


def parse(**values: Any) -> PrepareConfig:
    values = {"out": "out", "source": {"name": "synthetic"}} | values
    return structured(PrepareConfig, values, where="config", error=DataError)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"source": {"name": "critio"}}, "source: unknown source 'critio'. Did you mean 'criteo'"),
        ({"source": {"name": "synthetic", "row": 3}}, "source: unknown key 'row'. Did you mean 'rows'"),
        ({"source": {"name": "criteo"}}, "source: 'files' has no value: it is mandatory"),
        ({"out": "a*b"}, "out is 'a[*]b', but must be a path without any of"),
        ({"on_bad_line": "ignore"}, "on_bad_line is 'ignore', which is unknown.* Known names: error, skip"),
        ({"format": "orc"}, "format is 'orc', which is unknown.* Known names: parquet, criteo_tsv"),
        ({"memory_gib": 0}, "memory_gib is 0.0, but must be a positive number"),
        ({"num_threads": 0}, "num_threads is 0, but must be at least 1"),
        ({"split": {"by": "date"}}, "split.by is 'date', which is unknown"),
        ({"split": {"test": 1.0}}, "split.test is 1.0, but must be at least 0 and below 1"),
        ({"split": {"test": 0.6, "valid": 0.5}}, r"split.test \+ split.valid is 1.1, but must be below 1"),
        ({"split": {"by": "time"}}, "split.column is None, but must be given together with split.test_from"),
        ({"split": {"column": "x", "test_from": 1}}, "split.column is 'x', but must be given .* only then"),
        ({"shards": {"rows": 0}}, "shards.rows is 0, but must be at least 1"),
        ({"shards": {"row_group_rows": 0}}, "shards.row_group_rows is 0, but must be at least 1"),
        ({"shards": {"zstd_level": 23}}, "shards.zstd_level is 23, but must be between 1 and 22"),
        ({"features": {"max_embeddings": 1}}, "features.max_embeddings is 1, but must be at least 2"),
        ({"features": {"rows_per_value": 0}}, "features.rows_per_value is 0.0, but must be a positive number"),
        ({"features": {"min_count": 0}}, "features.min_count is 0, but must be at least 1"),
        ({"features": {"dense_buckets": 1}}, "features.dense_buckets is 1, but must be 0, or 2 and more"),
    ],
)
def test_an_impossible_option_is_told(values: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        parse(**values)


def test_threads_default_to_those_of_the_machine() -> None:
    assert parse().threads >= 1
    assert parse(num_threads=3).threads == 3


def test_data_preparation_knows_no_trainer_and_no_torch() -> None:
    folder = Path(__file__).resolve().parents[3] / "data" / "prepare"
    for path in folder.rglob("*.py"):
        text = path.read_text()
        assert "import torch" not in text
        assert "from torch" not in text
        assert "from trainer" not in text
        assert "from launch" not in text
