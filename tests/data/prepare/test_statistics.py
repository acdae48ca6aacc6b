"""The figures against NumPy's of the same rows."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data.errors import DataError
from data.files import resolve_files
from data.index import build_index
from data.prepare.config import FeaturesConfig, PrepareConfig, SplitConfig
from data.prepare.pipeline import prepare
from data.reader import read_window
from data.schema import load_schema

ROWS = 500
RNG = np.random.default_rng(0)
AMOUNTS = [None if n % 7 == 0 else float(v) for n, v in enumerate(RNG.lognormal(3, 1, ROWS).round(3))]
SITES = ["" if n % 11 == 0 else f"site{v}" for n, v in enumerate(RNG.zipf(1.5, ROWS) % 40)]


def summary_of(tmp_path: Path, features: FeaturesConfig | None = None) -> dict[str, Any]:
    path = tmp_path / "raw.csv"
    lines = [f"{n % 2},{'' if a is None else a},{s}\n" for n, (a, s) in enumerate(zip(AMOUNTS, SITES, strict=True))]
    path.write_text("label,amount,site\n" + "".join(lines))
    split, source = SplitConfig(test=0.0), {"name": "csv", "files": str(path)}
    features = features or FeaturesConfig()
    return prepare(PrepareConfig(out=str(tmp_path / "out"), source=source, split=split, features=features))


def test_dense_figures_are_those_of_numpy(tmp_path: Path) -> None:
    found = summary_of(tmp_path)["columns"]["amount"]
    present = np.array([amount for amount in AMOUNTS if amount is not None])
    seen = np.log1p(np.array([amount or 0.0 for amount in AMOUNTS]))
    assert found["nulls"] == ROWS - len(present)
    assert (found["min"], found["max"]) == (present.min(), present.max())
    assert found["mean"] == pytest.approx(seen.mean(), rel=1e-5)
    assert found["std"] == pytest.approx(seen.std(), rel=1e-5)
    expected = np.quantile(present, [0.01, 0.25, 0.5, 0.75, 0.99], method="inverted_cdf")
    assert list(found["quantiles"].values()) == pytest.approx(list(expected))


def test_values_are_counted_most_frequent_first(tmp_path: Path) -> None:
    found = summary_of(tmp_path)["columns"]["site"]
    counts = Counter(site for site in SITES if site)
    assert found["cardinality"] == len(counts)
    assert found["nulls"] == SITES.count("")
    assert found["top"] == [list(item) for item in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]]


def test_splits_count_rows_and_positives(tmp_path: Path) -> None:
    split = summary_of(tmp_path)["splits"]["train"]
    assert (split["rows"], split["positives"], split["positive_rate"]) == (ROWS, ROWS // 2, 0.5)


def test_buckets_by_quantiles_hold_about_the_same_number_of_rows(tmp_path: Path) -> None:
    summary_of(tmp_path, FeaturesConfig(dense_buckets=5))
    schema = yaml.safe_load((tmp_path / "out" / "schema.yaml").read_text())
    (bucket,) = [feature for feature in schema["sparse"] if feature["kind"] == "bucketize"]
    assert (bucket["name"], bucket["column"]) == ("amount_bucket", "amount")
    present = [amount for amount in AMOUNTS if amount is not None]
    sizes = np.bincount(np.searchsorted(bucket["borders"], present, side="right"))
    assert len(sizes) == 5
    assert sizes == pytest.approx([len(present) / 5] * 5, abs=2)


def test_buckets_may_be_the_only_categories(tmp_path: Path) -> None:
    path = tmp_path / "raw.csv"
    path.write_text("label,x\n" + "".join(f"{n % 2},{n}.5\n" for n in range(200)))
    config = PrepareConfig(out=str(tmp_path / "out"), source={"name": "csv", "files": str(path)})
    with pytest.raises(DataError, match=r"not one column of 'csv' is a category, .* features\.dense_buckets=10"):
        prepare(config)
    for made in (FeaturesConfig(dense_buckets=4), FeaturesConfig(log_square=True)):
        prepare(dataclasses.replace(config, features=made, overwrite=True))
        (feature,) = load_schema(tmp_path / "out" / "schema.yaml").sparse
        assert feature.source == "x"


def test_counts_become_categories_by_the_rule_of_criteo(tmp_path: Path) -> None:
    summary_of(tmp_path, FeaturesConfig(log_square=True))
    schema = load_schema(tmp_path / "out" / "schema.yaml")
    feature = schema.sparse[1]
    assert (feature.name, feature.source, feature.kind) == ("amount_log_square", "amount", "log_square")
    index = build_index(resolve_files(str(tmp_path / "out" / "train"), key="train"), schema)
    rows = read_window(index.row_groups, schema).one_hot[1]
    squares = [None if a is None else math.floor(math.log(a) ** 2) if a > 2 else math.floor(a) - 3 for a in AMOUNTS]
    assert rows.tolist() == [0 if square is None else 5 + square for square in squares]
    assert feature.num_embeddings == max(rows) + 1


def test_a_vocabulary_holds_the_values_seen_often_enough(tmp_path: Path) -> None:
    found = summary_of(tmp_path, FeaturesConfig(min_count=3))["columns"]["site"]
    counts = Counter(site for site in SITES if site)
    expected = [s for s, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if n >= 3]
    assert (tmp_path / "out" / found["vocabulary"]).read_text().splitlines() == expected
    assert found["kept"] == len(expected) < len(counts)
    schema = load_schema(tmp_path / "out" / "schema.yaml")
    assert [(feature.kind, feature.num_embeddings) for feature in schema.sparse] == [("vocabulary", len(expected) + 2)]
    index = build_index(resolve_files(str(tmp_path / "out" / "train"), key="train"), schema)
    rows = read_window(index.row_groups, schema).one_hot[0]
    assert rows.tolist() == [0 if not s else expected.index(s) + 2 if s in expected else 1 for s in SITES]


def test_hashed_tables_follow_the_distinct_values_up_to_the_limit(tmp_path: Path) -> None:
    distinct = len({site for site in SITES if site})
    for limit, expected in ((1000, 1 + 3 * distinct), (20, 20)):
        folder = tmp_path / str(limit)
        folder.mkdir()
        summary_of(folder, FeaturesConfig(rows_per_value=3.0, max_embeddings=limit))
        (site,) = yaml.safe_load((folder / "out" / "schema.yaml").read_text())["sparse"]
        assert site == {"name": "site", "kind": "hash", "num_embeddings": expected}


def test_the_summary_to_look_at_shows_the_figures(tmp_path: Path) -> None:
    summary_of(tmp_path)
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "500 rows read, 0 damaged ones left out" in text
    assert "| train | 500 | 0.5000 | 1 |" in text
    assert "| amount | 14.4% |" in text
    top, count = Counter(site for site in SITES if site).most_common(1)[0]
    assert f"| {top} ({count / ROWS:.1%}), " in text


def test_a_constant_column_gets_a_deviation_that_divides(tmp_path: Path) -> None:
    path = tmp_path / "raw.csv"
    path.write_text("label,x,s\n" + "1,2.5,a\n0,2.5,b\n" * 5)
    source = {"name": "csv", "files": str(path)}
    features = FeaturesConfig(dense_buckets=4)
    split = SplitConfig(test=0.0)
    prepare(PrepareConfig(out=str(tmp_path / "out"), source=source, split=split, features=features))
    schema = yaml.safe_load((tmp_path / "out" / "schema.yaml").read_text())
    assert schema["dense"] == [{"name": "x", "mean": 2.5, "std": 1.0}]
    assert [feature["name"] for feature in schema["sparse"]] == ["s"]  # one value makes no buckets


def test_too_little_memory_is_told_with_the_key(tmp_path: Path) -> None:
    source = {"name": "synthetic", "rows": 100_000}
    config = PrepareConfig(out=str(tmp_path), source=source, memory_gib=1e-5, num_threads=1)
    with pytest.raises(DataError, match=r"memory_gib is 1e-05, which does not suffice"):
        prepare(config)


def test_a_folder_above_the_shards_is_no_column(tmp_path: Path) -> None:
    (tmp_path / "site=abc" / "label=1").mkdir(parents=True)
    summary = summary_of(tmp_path / "site=abc" / "label=1", FeaturesConfig(min_count=1))
    assert summary["columns"]["site"]["cardinality"] == len({site for site in SITES if site})
    assert summary["splits"]["train"]["positives"] == ROWS // 2


def test_columns_may_differ_only_in_their_case(tmp_path: Path) -> None:
    path = tmp_path / "raw.csv"
    path.write_text("Click,click,S,s,X,x\n" + "0,1,a,b,1.5,2.5\n0,0,a,c,1.5,4.5\n")
    source, split = {"name": "csv", "files": str(path)}, SplitConfig(test=0.0)
    features = FeaturesConfig(min_count=1)
    found = prepare(PrepareConfig(out=str(tmp_path / "out"), source=source, split=split, features=features))
    assert found["splits"]["train"]["positives"] == 1
    assert [found["columns"][name]["top"] for name in "Ss"] == [[["a", 2]], [["b", 1], ["c", 1]]]
    assert [found["columns"][name]["mean"] for name in "Xx"] == [1.5, 3.5]
    (small,) = [feature for feature in load_schema(tmp_path / "out" / "schema.yaml").sparse if feature.name == "s"]
    assert small.num_embeddings == 2 + 2
