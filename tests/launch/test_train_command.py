"""``launch/train.py`` as users start it: figures, event files, kills, mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.checkpoints import assert_equal_bits, tensors_of
from tests.forked import ForkedJob
from tests.launch.processes import RunningJob, run_python, run_torchrun
from trainer.ending import USER_ERROR_EXIT_CODE
from trainer.metric import metric_classes
from trainer.timing.stages import Stage

pytestmark = pytest.mark.distributed

SMALL = ("epochs=1", "global_batch_size=16", "eval_global_batch_size=16", "model.network.layers=[8]")


def own_data(root: Path, *more: str) -> list[str]:
    run_dir = f"run_dir={root.parent / 'run'}"
    return ["launch/train.py", "data=parquet", f"data.root={root}", *SMALL, run_dir, *more]


def test_demo_reaches_its_accuracy_and_shows_it(tmp_path: Path) -> None:
    done = run_torchrun(2, "launch/train.py", "experiment=adult", f"run_dir={tmp_path}")
    assert done.exit_code == 0, done.stderr
    figures = dict(re.findall(r"^  test (\w+) +([\d.]+)$", done.stdout, re.MULTILINE))
    assert sorted(figures) == sorted(metric.name for metric in metric_classes())
    assert float(figures["auc"]) >= 0.915
    result = json.loads((tmp_path / "result.json").read_text())
    assert f"{result['metrics']['auc']:.5f}" == figures["auc"]
    assert Path(result["checkpoint"]).is_dir()

    events = EventAccumulator(result["tensorboard"], size_guidance={"scalars": 0})
    events.Reload()
    metrics = [metric.name for metric in metric_classes()]
    expected = {f"{group}/{name}" for group in ("train", "train_lifetime", "test") for name in metrics}
    expected |= {"train/loss", "learning_rate/sparse", "learning_rate/dense", "memory/host_peak_mib"}
    expected |= {"speed/samples_per_s", "speed/samples_per_s_per_rank", "speed/step_ms"}
    expected |= {f"time/{stage.value}_ms" for stage in Stage} | {"time/lag_ms", "time/slowest_rank"}
    expected |= {f"at_a_glance/{name}_{group}" for group in ("train", "test") for name in ("auc", "logloss")}
    expected |= {"at_a_glance/samples_per_s", "at_a_glance/step_ms"}
    expected |= {f"final/test_{name}" for name in metrics}
    expected |= {f"data/nulls/{column}" for column in ("workclass", "occupation", "native_country")}
    assert set(events.Tags()["scalars"]) == expected
    assert events.Scalars("test/auc")[-1].value == pytest.approx(result["metrics"]["auc"])
    config = events.Tensors("run/config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "embedding_dim: 15" in config
    assert "| workclass |" in events.Tensors("run/sharding_plan/text_summary")[0].tensor_proto.string_val[0].decode()

    for rank in (0, 1):
        assert (
            f" rank {rank} INFO trainer.logging.journal: step 768  test "
            in (tmp_path / "logs" / f"rank-{rank}.log").read_text()
        )

    evaluated = run_python("launch/evaluate.py", f"checkpoint={result['checkpoint']}", "data=adult")
    assert evaluated.exit_code == 0, evaluated.stderr
    assert dict(re.findall(r"^test (\w+) +([\d.]+)$", evaluated.stdout, re.MULTILINE)) == figures


def test_killed_in_mid_epoch_it_resumes_to_the_same_bits(tmp_path: Path) -> None:
    def arguments(run: str) -> list[str]:
        options = ["epochs=2", "checkpoint.every_steps=20", "logging.every_steps=1"]
        return ["launch/train.py", "experiment=adult", f"run_dir={tmp_path / run}", *options]

    job = RunningJob(2, *arguments("killed"), log=tmp_path / "log")
    job.wait_for(lambda output: "step 27/128" in output)
    job.kill()
    again = ForkedJob(2, arguments("killed"), folder=tmp_path / "again")
    assert again.wait() == [0, 0], again.output(0)
    resumed = re.search(r"adult: 128 steps \(resumed at (\d+)\)", again.output(0))
    assert resumed is not None, again.output(0)
    assert int(resumed[1]) in range(20, 128, 20)

    whole = ForkedJob(2, arguments("whole"), folder=tmp_path / "whole-logs")
    assert whole.wait() == [0, 0], whole.output(0)
    last = Path("checkpoints", "step-00000128")
    assert_equal_bits(tensors_of(tmp_path / "killed" / last), tensors_of(tmp_path / "whole" / last))


def test_without_torchrun_it_is_a_world_of_one(click_log: Path) -> None:
    done = run_python(*own_data(click_log))
    assert done.exit_code == 0, done.stderr
    assert "1 ranks on cpu" in done.stderr
    assert "test auc" in done.stdout


def test_without_tensorboard_nothing_points_to_its_files(click_log: Path, tmp_path: Path) -> None:
    job = ForkedJob(1, own_data(click_log, "logging.tensorboard=false"), folder=tmp_path / "logs")
    assert job.wait() == [0], job.output(0)
    figures, _, commands = job.output(0).partition("\n  checkpoint  ")
    assert "test auc" in figures
    assert re.search(r"\n\nevaluate  .*\nresume", commands), commands
    assert "tensorboard --logdir" not in commands
    result = json.loads((click_log.parent / "run" / "result.json").read_text())
    assert result["tensorboard"] is None
    assert not (click_log.parent / "run" / "tensorboard").exists()


def edited_schema(click_log: Path, edit: str, value: object) -> list[str]:
    schema = yaml.safe_load((click_log / "schema.yaml").read_text())
    if edit == "label":
        schema["label"] = value
    else:
        schema[edit].append(value)
    (click_log / "schema.yaml").write_text(yaml.safe_dump(schema))
    return own_data(click_log)


def wrong_column_name(root: Path) -> list[str]:
    return edited_schema(root, "sparse", {"name": "sit", "kind": "hash", "num_embeddings": 9})


def missing_label(root: Path) -> list[str]:
    return edited_schema(root, "label", "clicked")


def string_for_a_number(root: Path) -> list[str]:
    return edited_schema(root, "dense", {"name": "site_number", "column": "site"})


def no_files(root: Path) -> list[str]:
    return own_data(root, f"data.train={root}/trian/*.parquet")


def config_typo(root: Path) -> list[str]:
    return own_data(root, "model.embeding_dim=32")


def lanes_of_three(root: Path) -> list[str]:
    return own_data(root, "data.lanes=3", "global_batch_size=15", "eval_global_batch_size=15")


Mistake = Callable[[Path], list[str]]

MISTAKES: dict[Mistake, str] = {
    wrong_column_name: r"part-0.parquet: column 'sit' \(sparse feature 'sit'\) is missing. Did you mean 'site'\?",
    missing_label: r"part-0.parquet: column 'clicked' \(the label\) is missing. Did you mean 'click'\? Known names: ",
    string_for_a_number: r"part-0.parquet: column 'site' has type string, but dense feature 'site_number'",
    no_files: r"data.train: '.*/trian/\*.parquet' matches no Parquet file",
    config_typo: r"unknown key 'model.embeding_dim'. Did you mean 'embedding_dim'\? Known names: embedding_dim, heads",
    lanes_of_three: r"a world of 2 workers cannot share data.lanes=3 equally; start 1 or 3 workers",
}


def assert_told_once(output: str, mistake: Mistake) -> None:
    spoken = re.findall(r"^error: .*", output, re.MULTILINE)
    assert len(spoken) == 1, output
    assert re.search(MISTAKES[mistake], spoken[0])
    # torchrun's own trace may be there, ours is not: the message says it all.
    assert "trainer/" not in output


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_mistakes_end_all_ranks_with_one_message(mistake: Mistake, click_log: Path, tmp_path: Path) -> None:
    job = ForkedJob(2, mistake(click_log), folder=tmp_path / "logs")
    codes = job.end_with_the_first()
    assert USER_ERROR_EXIT_CODE in codes
    assert 0 not in codes
    assert_told_once(job.output(0) + job.output(1), mistake)


@pytest.mark.parametrize("mistake", [wrong_column_name, config_typo], ids=lambda mistake: mistake.__name__)
def test_mistakes_end_torchrun_with_one_message(mistake: Mistake, click_log: Path) -> None:
    done = run_torchrun(2, *mistake(click_log))
    assert done.exit_code != 0
    assert_told_once(done.stderr, mistake)


def test_checkpoint_of_another_schema_is_refused_with_the_difference(click_log: Path, tmp_path: Path) -> None:
    trained = ForkedJob(1, own_data(click_log), folder=tmp_path / "trained")
    assert trained.wait() == [0], trained.output(0)
    schema = (click_log / "schema.yaml").read_text()
    (click_log / "schema.yaml").write_text(schema.replace("num_embeddings: 40", "num_embeddings: 41"))
    job = ForkedJob(2, own_data(click_log), folder=tmp_path / "refused")
    assert 0 not in job.end_with_the_first()
    (spoken,) = re.findall(r"^error: .*", job.output(0) + job.output(1), re.MULTILINE)
    assert "does not fit this run: schema.sparse.site.num_embeddings: 40 in the checkpoint, 41 here." in spoken
