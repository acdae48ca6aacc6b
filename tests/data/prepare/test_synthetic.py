from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.prepare.config import PrepareConfig, ShardsConfig, SplitConfig
from data.prepare.pipeline import prepare
from data.prepare.source.synthetic import SyntheticConfig
from data.prepare.synthetic import CARDINALITIES, DENSE_NULLS, ClickModel, best_scores


def auc(labels: npt.NDArray[np.int8], scores: npt.NDArray[np.float64]) -> float:
    """The Mann-Whitney statistic; ties fall either way."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores)] = np.arange(1, len(scores) + 1)
    positives = int(labels.sum())
    wins = ranks[labels == 1].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * (len(labels) - positives)))


MODEL = ClickModel(seed=1, max_cardinality=1000)


def test_a_row_is_the_same_wherever_one_starts() -> None:
    whole = MODEL.rows(0, 1000)
    part = MODEL.rows(700, 40)
    assert (part.dense == whole.dense[:, 700:740]).all()
    assert (part.dense_null == whole.dense_null[:, 700:740]).all()
    assert (part.ids == whole.ids[:, 700:740]).all()
    assert part.probabilities.tolist() == whole.probabilities[700:740].tolist()
    assert (part.labels == whole.labels[700:740]).all()


def test_another_seed_gives_other_rows_and_another_signal() -> None:
    other = ClickModel(seed=2, max_cardinality=1000)
    ours, theirs = MODEL.rows(0, 1000), other.rows(0, 1000)
    assert (ours.ids != theirs.ids).mean() > 0.3
    assert abs(np.corrcoef(ours.probabilities, theirs.probabilities)[0, 1]) < 0.2


def test_sizes_follow_scale_and_limit() -> None:
    assert ClickModel(seed=0).cardinalities == list(CARDINALITIES)
    assert ClickModel(seed=0, max_cardinality=100).cardinalities == [min(size, 100) for size in CARDINALITIES]
    assert max(ClickModel(seed=0, scale=1e-3).cardinalities) == 10131
    assert min(ClickModel(seed=0, scale=1e-9).cardinalities) == 2


def test_ids_stay_within_their_tables_and_follow_a_power_law() -> None:
    clicks = MODEL.rows(0, 200_000)
    for ids, size in zip(clicks.ids, MODEL.cardinalities, strict=True):
        assert ids.min() >= 0
        assert ids.max() == size or size > 500
        assert ids.max() <= size
    counts = np.bincount(clicks.ids[0], minlength=1001)[1:]
    # On log-log axes the frequency falls with the rank, by about the exponent 1.1.
    ranks = np.arange(3, 100)
    slope = np.polyfit(np.log(ranks), np.log(counts[ranks - 1]), 1)[0]
    assert slope == pytest.approx(-1.1, abs=0.05)


def test_dense_columns_are_counts_with_the_declared_share_of_nulls_and_some_negative() -> None:
    clicks = MODEL.rows(0, 100_000)
    assert clicks.dense_null.mean(axis=1) == pytest.approx(list(DENSE_NULLS), abs=0.007)
    lowest = [values[~null].min() for values, null in zip(clicks.dense, clicks.dense_null, strict=True)]
    assert lowest[1] == -2
    assert min(lowest[:1] + lowest[2:]) == 0


def test_labels_follow_the_probabilities() -> None:
    clicks = MODEL.rows(0, 200_000)
    order = np.argsort(clicks.probabilities)
    for tenth in np.array_split(order, 10):
        expected = clicks.probabilities[tenth].mean()
        error = np.sqrt(expected * (1 - expected) / len(tenth))
        assert abs(clicks.labels[tenth].mean() - expected) < 4 * error


def test_best_scores_are_those_of_all_pairs() -> None:
    p = np.array([0.1, 0.5, 0.5, 0.9, 0.3])
    right = pairs = 0.0
    for i, j in itertools.permutations(range(len(p)), 2):
        weight = p[i] * (1 - p[j])
        pairs += weight
        right += weight * (1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0)
    assert best_scores(p).auc == pytest.approx(right / pairs, rel=1e-12)


def test_no_estimate_from_labels_contradicts_the_best_scores() -> None:
    clicks = MODEL.rows(0, 200_000)
    best = best_scores(clicks.probabilities)
    p, y = clicks.probabilities, clicks.labels
    assert auc(y, p) == pytest.approx(best.auc, abs=0.004)
    assert -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)) == pytest.approx(best.logloss, abs=0.004)
    assert clicks.labels.mean() == pytest.approx(best.positive_rate, abs=0.004)


def test_first_order_alone_falls_short_and_pairs_and_bends_are_there_to_learn() -> None:
    """Log-odds per id, summed up over the columns, see the first order only: above chance, well below the best."""
    clicks = MODEL.rows(0, 60_000)
    seen = slice(0, 40_000)
    scores = np.zeros(20_000)
    for ids in clicks.ids:
        positives = np.bincount(ids[seen], weights=clicks.labels[seen], minlength=1001) + 1
        negatives = np.bincount(ids[seen], weights=1 - clicks.labels[seen], minlength=1001) + 3
        scores += np.log(positives / negatives)[ids[40_000:]]
    best = best_scores(clicks.probabilities).auc
    assert 0.6 < auc(clicks.labels[40_000:], scores) < best - 0.03


@pytest.mark.parametrize("ids", ["integer", "string"])
def test_nulls_and_ids_reach_the_shards(tmp_path: Path, ids: str) -> None:
    source = {"name": "synthetic", "rows": 3000, "max_cardinality": 40, "seed": 1, "ids": ids}
    shards = ShardsConfig(rows=1000, row_group_rows=300)
    prepare(PrepareConfig(out=str(tmp_path), source=source, shards=shards, split=SplitConfig(test=0)))
    table = pq.read_table(tmp_path / "train")
    clicks = ClickModel(seed=1, max_cardinality=40).rows(0, 3000)
    assert table["label"].to_pylist() == clicks.labels.tolist()
    expected = [None if null else value for value, null in zip(clicks.dense[1], clicks.dense_null[1], strict=True)]
    assert table["I2"].to_pylist() == expected
    for f in (0, 21):
        values, numbers = table[f"C{f + 1}"].to_pylist(), clicks.ids[f].tolist()
        assert [value is None for value in values] == [number == 0 for number in numbers]
        if ids == "integer":
            assert [value or 0 for value in values] == numbers
        else:
            # One text of 8 hexadecimal digits for each id, and another for each other id.
            pairs = {(value, number) for value, number in zip(values, numbers, strict=True) if number}
            assert len(pairs) == len({value for value, _ in pairs}) == len({number for _, number in pairs})
            assert all(len(value) == 8 and int(value, 16) >= 0 for value, _ in pairs)


def test_criteo_tsv_gives_the_same_rows_as_parquet(tmp_path: Path) -> None:
    """End to end: raw text by way of the criteo source against Parquet directly."""
    source = {"name": "synthetic", "rows": 2500, "max_cardinality": 40, "ids": "string"}
    shards = ShardsConfig(rows=1000, row_group_rows=300)
    direct = PrepareConfig(out=str(tmp_path / "direct"), source=source, shards=shards)
    raw = PrepareConfig(out=str(tmp_path / "raw"), source=source, shards=shards, format="criteo_tsv")
    by_text = {"name": "criteo", "files": str(tmp_path / "raw" / "raw")}
    summary = prepare(raw)
    prepare(direct)
    prepare(PrepareConfig(out=str(tmp_path / "text"), source=by_text, shards=ShardsConfig(rows=700, row_group_rows=64)))
    for split in ("train", "test"):
        assert pq.read_table(tmp_path / "text" / split).equals(pq.read_table(tmp_path / "direct" / split))
    schemas = [(tmp_path / name / "schema.yaml").read_text().partition("\n")[2] for name in ("text", "direct")]
    assert schemas[0] == schemas[1]
    assert summary["splits"]["raw"]["rows"] == 2500
    assert prepare(raw) == summary


def test_the_best_auc_is_written_into_the_summary(tmp_path: Path) -> None:
    summary = prepare(PrepareConfig(out=str(tmp_path), source={"name": "synthetic", "rows": 5000, "seed": 1}))
    expected = best_scores(ClickModel(seed=1).rows(0, 5000).probabilities)
    assert summary["facts"]["bayes_auc"] == pytest.approx(expected.auc, rel=1e-9)
    assert f"- bayes_auc: {summary['facts']['bayes_auc']}" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rows": 0}, "rows is 0, but must be at least 1"),
        ({"ids": "float"}, "ids is 'float', but must be one of integer, string"),
        ({"scale": 0.0}, "scale is 0, but must be a positive number"),
        ({"max_cardinality": 1}, "max_cardinality is 1, but must be at least 2"),
    ],
)
def test_impossible_settings_are_told(settings: dict[str, object], said: str) -> None:
    with pytest.raises(DataError) as error:
        SyntheticConfig(**settings)  # type: ignore[arg-type]
    assert said in str(error.value)


def test_criteo_tsv_of_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "raw.csv"
    path.write_text("label,user_id,item_id,tag_id\n1,2,3,4\n")
    source = {"name": "movielens", "files": str(path)}
    with pytest.raises(DataError, match="format: criteo_tsv needs the columns of Criteo's logs"):
        prepare(PrepareConfig(out=str(tmp_path / "out"), source=source, format="criteo_tsv"))
