"""Where results cannot be written, that is said before the work and not after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch import bench, compare, plan, replay
from launch.outputs import check_file, check_folder
from tests.forked import ForkedJob
from tests.launch.test_plan_command import ADULT, composed
from trainer.config import CompareConfig, ReplayConfig
from trainer.ending import USER_ERROR_EXIT_CODE
from trainer.errors import ConfigError


def test_a_place_is_made_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    check_folder("out", tmp_path / "new" / "folder")
    check_file("out", tmp_path / "new" / "other" / "rows.parquet")
    assert sorted(path.name for path in (tmp_path / "new").rglob("*")) == ["folder", "other"]


def test_a_place_that_cannot_be_written_is_told_with_key_and_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=rf"out={tmp_path}/file: cannot be written \(File exists\)"):
        check_folder("out", tmp_path / "file")
    with pytest.raises(ConfigError, match=rf"out={tmp_path}/file/a: .* \(Not a directory\)"):
        check_folder("out", tmp_path / "file" / "a")
    with pytest.raises(ConfigError, match=r"out=/proc/new: .*; choose another place"):
        check_folder("out", Path("/proc/new"))
    with pytest.raises(ConfigError, match=rf"cluster_out={tmp_path}: is a folder, but must name a file"):
        check_file("cluster_out", tmp_path)


def test_commands_try_their_places_first(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    refused = rf"^(out|folder)={file}\S*: "
    with pytest.raises(ConfigError, match=refused):
        plan.run(composed(*ADULT, f"out={file}"))
    with pytest.raises(ConfigError, match=refused):
        compare.run(CompareConfig(out=str(file), models=["lr"]))
    with pytest.raises(ConfigError, match=refused):
        replay.run(ReplayConfig(run_dir=str(tmp_path / "none"), step=1, out=str(file / "rows.parquet")))
    for config in (bench.BenchConfig(out=str(file)), bench.BenchConfig(folder=str(file))):
        with pytest.raises(ConfigError, match=refused):
            bench.run(config)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("launch/evaluate.py", "checkpoint=none"), "out"),
        (("launch/doctor.py", "experiment=adult"), "cluster_out"),
    ],
)
def test_all_ranks_end_where_rank_0_cannot_write(command: tuple[str, ...], key: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    job = ForkedJob(2, [*command, f"{key}={tmp_path}/file/results", "device=cpu"], folder=tmp_path / "logs")
    assert job.wait() == [USER_ERROR_EXIT_CODE] * 2
    assert f"error: {key}={tmp_path}/file/results: cannot be written (" in job.output(0)
    assert "Traceback" not in job.output(0)
