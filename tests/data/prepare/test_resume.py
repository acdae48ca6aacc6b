"""An interrupted preparation goes on, a changed one refuses, a finished one stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data.errors import DataError
from data.prepare.config import FeaturesConfig, PrepareConfig, ShardsConfig, SplitConfig
from data.prepare.pipeline import prepare
from tests.data.prepare.samples import SAMPLES
from tests.data.prepare.test_contract import contents

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 60.0


def movielens(tmp_path: Path, out: str = "out", **others: Any) -> PrepareConfig:
    path = tmp_path / "raw.txt"
    if not path.exists():
        lines = [f"{n % 2},{10_000 + n},{n * 7 % 50},{n % 9}\n" for n in range(1000)]
        path.write_text("label,user_id,item_id,tag_id\n" + "".join(lines))
    values: dict[str, Any] = {
        "source": {"name": "movielens", "files": str(path)},
        "shards": ShardsConfig(rows=100, row_group_rows=64),
        "num_threads": 2,
    }
    return PrepareConfig(out=str(tmp_path / out), **(values | others))


def test_a_killed_preparation_goes_on_and_ends_as_if_never_stopped(tmp_path: Path) -> None:
    def config(out: str) -> PrepareConfig:
        source = {"name": "synthetic", "rows": 200_000, "max_cardinality": 50}
        return PrepareConfig(out=str(tmp_path / out), source=source, shards=ShardsConfig(rows=5000), num_threads=2)

    imports = "from data.prepare.config import *; from data.prepare.pipeline import prepare; "
    running = subprocess.Popen([sys.executable, "-c", f"{imports} prepare({config('killed')!r})"], cwd=ROOT)
    records = tmp_path / "killed" / ".prepare" / "pieces"
    give_up = time.monotonic() + DEADLINE_S
    while len(list(records.glob("*.json"))) < 3:
        assert running.poll() is None, "ended before it could be killed"
        assert time.monotonic() < give_up
        try:  # a wait on the process itself, so that its end is noticed at once
            running.wait(timeout=0.005)
        except subprocess.TimeoutExpired:
            continue
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = {path: path.stat().st_mtime_ns for path in records.glob("*.json")}
    assert 3 <= len(kept) < 40

    prepare(config("killed"))
    prepare(config("whole"))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("missing", [[0], [4], [9], [2, 3, 7], list(range(10))])
def test_whatever_pieces_are_missing_are_written_anew(tmp_path: Path, missing: list[int]) -> None:
    config = movielens(tmp_path)
    prepare(config)
    before = contents(tmp_path / "out")
    for index in missing:
        (tmp_path / "out" / "train" / f"part-{index:05d}.parquet").unlink()
    prepare(config)
    assert contents(tmp_path / "out") == before


def test_a_shard_that_was_cut_short_is_written_anew(tmp_path: Path) -> None:
    prepare(movielens(tmp_path))
    before = contents(tmp_path / "out")
    shard = tmp_path / "out" / "test" / "part-00003.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    prepare(movielens(tmp_path))
    assert contents(tmp_path / "out") == before


def test_a_failed_run_keeps_its_pieces_and_leaves_no_half_file_behind_in_the_end(tmp_path: Path) -> None:
    config = movielens(tmp_path)
    path = tmp_path / "raw.txt"
    good = path.read_bytes()
    stamp = path.stat()
    path.write_bytes(good[:-2] + b"\xff\n")  # the last line, as long as before
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(DataError, match="line 1001: is not UTF-8 text: byte 0xff"):
        prepare(config)
    assert len(list((tmp_path / "out" / ".prepare" / "pieces").iterdir())) == 9
    assert not (tmp_path / "out" / "summary.json").exists()
    path.write_bytes(good)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    prepare(config)
    prepare(movielens(tmp_path, "whole"))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_reading_starts_behind_the_finished_pieces(tmp_path: Path) -> None:
    """The first half of the file is destroyed: nobody looks at it any more."""
    config = movielens(tmp_path)
    prepare(config)
    before = contents(tmp_path / "out")
    path = tmp_path / "raw.txt"
    stamp, text = path.stat(), path.read_bytes()
    header = text.index(b"\n") + 1
    path.write_bytes(text[:header] + b"?" * (len(text) // 2 - header) + text[len(text) // 2 :])
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    for index in (7, 8, 9):
        (tmp_path / "out" / "train" / f"part-{index:05d}.parquet").unlink()
    prepare(config)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": SplitConfig(seed=1)}, "options.split.seed was 0, now 1"),
        ({"shards": ShardsConfig(rows=50, row_group_rows=64)}, "options.shards.rows was 100, now 50"),
        ({"on_bad_line": "skip"}, "options.on_bad_line was 'error', now 'skip'"),
        ({"features": FeaturesConfig(dense_buckets=4)}, "options.features.dense_buckets was 0, now 4"),
    ],
)
def test_a_changed_option_is_refused_and_taken_with_overwrite(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    prepare(movielens(tmp_path))
    with pytest.raises(DataError, match="was prepared otherwise") as error:
        prepare(movielens(tmp_path, **change))
    assert said in str(error.value)
    assert "overwrite=true" in str(error.value)
    prepare(movielens(tmp_path, **change, overwrite=True))
    prepare(movielens(tmp_path, "fresh", **change))
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_changed_input_is_refused(tmp_path: Path) -> None:
    prepare(movielens(tmp_path))
    with (tmp_path / "raw.txt").open("ab") as file:
        file.write(b"0,1,2,3\n")
    with pytest.raises(DataError, match=r"was prepared otherwise \(input was .*raw\.txt"):
        prepare(movielens(tmp_path))


def test_threads_and_memory_may_change(tmp_path: Path) -> None:
    summary = prepare(movielens(tmp_path))
    assert prepare(movielens(tmp_path, num_threads=1, memory_gib=1.0)) == summary


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(DataError, match="was not made by prepare"):
            prepare(movielens(tmp_path, overwrite=overwrite))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_overwrite_leaves_what_others_put_there(tmp_path: Path) -> None:
    prepare(movielens(tmp_path))
    (tmp_path / "out" / "notes.txt").write_text("mine")
    prepare(movielens(tmp_path, overwrite=True))
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_an_edited_schema_survives_a_further_run(tmp_path: Path) -> None:
    prepare(movielens(tmp_path))
    schema = tmp_path / "out" / "schema.yaml"
    schema.write_text(schema.read_text() + "# mine\n")
    (tmp_path / "out" / "train" / "part-00000.parquet").unlink()
    prepare(movielens(tmp_path))
    assert schema.read_text().endswith("# mine\n")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    prepare(movielens(tmp_path))
    record = tmp_path / "out" / ".prepare" / "pieces" / "00001.json"
    record.write_text(record.read_text()[:20])
    with pytest.raises(DataError, match=r"00001.json: cannot be read .* overwrite=true"):
        prepare(movielens(tmp_path))


def test_two_at_a_time_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    hold = f"import fcntl, sys; f = open({str(tmp_path / 'out' / '.prepare.lock')!r}, 'a'); fcntl.flock(f, 2); "
    script = hold + "print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(DataError, match=r"is being written by another prepare.py"):
            prepare(movielens(tmp_path))
        other.communicate(b"")
    prepare(movielens(tmp_path))


def test_an_empty_input_is_told(tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_text("label,user_id,item_id,tag_id\n")
    with pytest.raises(DataError, match="the input holds no rows"):
        prepare(movielens(tmp_path))


def test_no_training_rows_is_told(tmp_path: Path) -> None:
    split = SplitConfig(by="time", column="user_id", test_from=0)
    with pytest.raises(DataError, match="not a single row is left for training"):
        prepare(movielens(tmp_path, split=split))


def test_the_summary_counts_what_the_records_count(tmp_path: Path) -> None:
    sample = SAMPLES["movielens"]
    raw = tmp_path / "damaged"
    raw.mkdir()
    config = movielens(tmp_path, source={"name": "movielens", **sample.write(raw, repeat=500, damaged=True)})
    config.on_bad_line = "skip"
    prepare(config)
    records = [json.loads(path.read_text()) for path in (tmp_path / "out" / ".prepare" / "pieces").iterdir()]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["rows"]["bad"] == sum(record["num_bad"] for record in records) == len(sample.damaged)
    assert summary["rows"]["read"] == 500 + len(sample.damaged)
    assert summary["splits"]["train"]["rows"] + summary["splits"]["test"]["rows"] == 500


def test_an_input_of_nothing_but_damage_is_told(tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_text("label,user_id,item_id,tag_id\n" + "1,2\n" * 500)
    with pytest.raises(DataError, match=r"not a single line could be taken: .*raw.txt, line 2: has 2 fields"):
        prepare(movielens(tmp_path, on_bad_line="skip"))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"out: .*file/out cannot be made \(Not a directory\)"):
        prepare(movielens(tmp_path, "file/out"))


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    prepare(movielens(tmp_path))
    shutil.rmtree(tmp_path / "out" / "train")
    (tmp_path / "out" / "train").write_text("in the way")
    with pytest.raises(DataError, match=r"out: cannot write to .*out .*; make room and run again"):
        prepare(movielens(tmp_path))
