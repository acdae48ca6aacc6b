from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.prepare.config import PrepareConfig, ShardsConfig, SplitConfig
from data.prepare.pipeline import prepare
from data.prepare.source.base import Rows
from data.prepare.source.synthetic import Synthetic, SyntheticConfig
from data.prepare.split import make_splitter

SOURCE = Synthetic(SyntheticConfig(rows=1000))


def rows(start: int, count: int, **columns: object) -> Rows:
    return Rows(pa.table(columns or {"x": [0] * count}), np.arange(start, start + count))


def test_random_gives_the_proportions_asked_for() -> None:
    codes = make_splitter(SplitConfig(test=0.2, valid=0.1, seed=5), SOURCE)(rows(0, 100_000))
    shares = np.bincount(codes, minlength=3) / 100_000
    # Four standard deviations of a binomial share.
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=4 * np.sqrt(0.25 / 100_000))


def test_random_depends_on_row_number_and_seed_alone() -> None:
    split = make_splitter(SplitConfig(test=0.5), SOURCE)
    whole = split(rows(0, 1000))
    assert np.concatenate([split(rows(start, 10)) for start in range(0, 1000, 10)]).tolist() == whole.tolist()
    other = make_splitter(SplitConfig(test=0.5, seed=1), SOURCE)(rows(0, 1000))
    assert 400 < (whole != other).sum() < 600


def test_random_is_the_same_in_every_version() -> None:
    """SplitMix64 in plain Python integers: who compares with an earlier preparation needs the same rows."""

    def mix(value: int) -> int:
        z = (value + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    draws = [(mix(n ^ mix(7)) >> 11) / 2**53 for n in range(50)]
    codes = make_splitter(SplitConfig(test=0.25, valid=0.25, seed=7), SOURCE)(rows(0, 50))
    assert codes.tolist() == [2 if u < 0.25 else 1 if u < 0.5 else 0 for u in draws]


def test_damaged_lines_do_not_move_the_others_to_another_split(tmp_path: Path) -> None:
    lines = [f"{n % 2},{n},1,1\n" for n in range(300)]
    tests = []
    for damage in (None, 0, 150):
        text = [line if n != damage else "broken\n" for n, line in enumerate(lines)]
        path = tmp_path / f"{damage}.csv"
        path.write_text("label,user_id,item_id,tag_id\n" + "".join(text))
        source = {"name": "movielens", "files": str(path)}
        out = tmp_path / f"out{damage}"
        prepare(PrepareConfig(out=str(out), source=source, on_bad_line="skip", shards=ShardsConfig(rows=70)))
        tests.append(set(pq.read_table(out / "test")["user_id"].to_pylist()))
    assert tests[1] == tests[0] - {0}
    assert tests[2] == tests[0] - {150}


def test_ratio_takes_the_last_rows() -> None:
    codes = make_splitter(SplitConfig(by="ratio", test=0.1, valid=0.2), SOURCE)(rows(0, 1000))
    assert codes.tolist() == [0] * 700 + [1] * 200 + [2] * 100


def test_ratio_counts_the_lines_of_all_files_without_headers(tmp_path: Path) -> None:
    for name, count in (("a", 70), ("b", 30)):
        text = "".join(f"{n % 2},{ord(name) * 1000 + n},1,1\n" for n in range(count))
        (tmp_path / name).write_text("label,user_id,item_id,tag_id\n" + text.removesuffix("\n"))
    source = {"name": "movielens", "files": [str(tmp_path / "a"), str(tmp_path / "b")]}
    prepare(PrepareConfig(out=str(tmp_path / "out"), source=source, split=SplitConfig(by="ratio", test=0.25)))
    assert pq.read_table(tmp_path / "out" / "test")["user_id"].to_pylist() == [98_005 + n for n in range(25)]


@pytest.mark.parametrize("convert", [int, str])
def test_time_takes_what_is_not_before(convert: type) -> None:
    values = [convert(v) for v in (14102100, 14103000, 14102923, 14102900)]
    config = SplitConfig(by="time", column="label", valid_from=14102900, test_from=14103000)
    split = make_splitter(config, SOURCE)
    assert split(rows(0, 5, label=[*values, None])).tolist() == [0, 2, 1, 1, 0]


def test_time_needs_a_column_of_the_source() -> None:
    with pytest.raises(DataError, match=r"split.column: 'labl' is no column .* Did you mean 'label'"):
        make_splitter(SplitConfig(by="time", column="labl", test_from=1), SOURCE)


def test_time_needs_a_value_that_compares() -> None:
    split = make_splitter(SplitConfig(by="time", column="label", test_from="noon"), SOURCE)
    with pytest.raises(DataError, match="split: 'noon' cannot be compared with column 'label' of type int64"):
        split(rows(0, 2, label=[1, 2]))
