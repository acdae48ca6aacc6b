"""A comparison trains what is not done, and reports what the runs found."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.compare_report import write_report
from launch.compare_study import Run, runs_of
from tests.launch.processes import run_python
from trainer.config import CompareConfig
from trainer.errors import ConfigError


def finished(out: Path, run: Run, **figures: Any) -> None:
    run.folder(out).mkdir(parents=True)
    values = {"split": "test", "num_parameters": 10, "samples_per_s": 1e5, "checkpoint": "step-9", **figures}
    (run.folder(out) / "result.json").write_text(json.dumps(values))


def test_each_model_is_trained_with_each_seed_and_sweeps_vary_one_key_at_a_time() -> None:
    config = CompareConfig(
        out="x", models=["lr", "deepfm"], seeds=[3, 4], sweeps=["a.b=[4,4],[8]", "c=1,2"], sweep_models=["deepfm"]
    )
    names = [run.name for run in runs_of(config)]
    assert names == [
        f"{name}/seed-{seed}"
        for seed in (3, 4)
        for name in ("lr/base", "deepfm/base", *(f"deepfm/{v}" for v in ("a.b_4_4", "a.b_8", "c_1", "c_2")))
    ]


def test_a_model_that_starts_from_anothers_tables_comes_after_it(tmp_path: Path) -> None:
    fm, fnn = runs_of(CompareConfig(out="x", models=["fnn"], pretrain={"fnn": "fm"}))
    assert (fm.model, fnn.model) == ("fm", "fnn")
    finished(tmp_path, fm, checkpoint="/runs/fm/step-7")
    assert {"init_from.path='/runs/fm/step-7'", "init_from.include=[tables/*]"} <= set(fnn.overrides(tmp_path))


@pytest.mark.parametrize("sweep", ["a=1", "a", "=1,2"])
def test_a_sweep_without_several_values_is_refused(sweep: str) -> None:
    with pytest.raises(ConfigError, match="sweeps: "):
        runs_of(CompareConfig(out="x", models=["lr"], sweeps=[sweep], sweep_models=["lr"]))


def test_the_report_tells_means_spreads_and_times_relative_to_lr(tmp_path: Path) -> None:
    aucs = {"lr": [0.70, 0.72, 0.71], "deepfm": [0.80, 0.83, 0.81]}
    runs = []
    for model, values in aucs.items():
        for seed, auc in enumerate(values):
            runs.append(Run(model, seed))
            rate = {"lr": 2e5, "deepfm": 5e4}[model]
            finished(tmp_path, runs[-1], metrics={"auc": auc, "logloss": 1 - auc}, samples_per_s=rate)
    for value in ("relu", "tanh"):
        runs.append(Run("deepfm", 0, "model.network.activation", value))
        finished(tmp_path, runs[-1], metrics={"auc": 0.8, "logloss": 0.2})
    runs.append(Run("fm", 0))  # not done: left out
    assert "No model can be above" not in write_report(tmp_path, runs).read_text()
    (tmp_path / "summary.json").write_text(json.dumps({"facts": {"bayes_auc": 0.8765432}}))
    (runs[0].folder(tmp_path) / "config.yaml").write_text(yaml.safe_dump({"data": {"root": str(tmp_path)}}))
    text = write_report(tmp_path, runs).read_text()
    assert "No model can be above 0.87654, the AUC of the clicks' own probabilities." in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    mean, deviation = statistics.mean(aucs["deepfm"]), statistics.stdev(aucs["deepfm"])
    assert lines[2].startswith(f"| deepfm | {mean:.5f} ± {deviation:.5f} |")
    assert lines[2].endswith("| 4.00 | 50,000 | 3 |")
    assert lines[3].startswith(f"| lr | {statistics.mean(aucs['lr']):.5f} ± ")
    assert lines[3].endswith("| 1.00 | 200,000 | 3 |")
    assert [line.split("|")[1].strip() for line in lines[6:]] == ["relu", "tanh"]
    assert "## deepfm: model.network.activation" in text
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")


@pytest.mark.distributed
def test_a_comparison_trains_reports_and_does_nothing_twice(click_log: Path, tmp_path: Path) -> None:
    out = tmp_path / "compare"
    shared = [
        *("data=parquet", f"data.root={click_log}", "data.lanes=4", "global_batch_size=16"),
        *("eval_global_batch_size=16", "device=cpu", "model.embedding_dim=3", "model.network.layers=[4]"),
    ]
    arguments = [f"out={out}", "models=[lr,fm]", "seeds=[0]", "--", *shared]
    done = run_python("launch/compare.py", *arguments)
    assert done.exit_code == 0, done.stderr
    results = {model: json.loads((out / model / "base/seed-0/result.json").read_text()) for model in ("lr", "fm")}
    for model, result in results.items():
        assert f"| {model} | {result['metrics']['auc']:.5f} |" in (out / "report.md").read_text()
    again = run_python("launch/compare.py", *arguments)
    assert again.stdout.count("is done") == 2
    other = run_python("launch/compare.py", *arguments, "epochs=2")
    assert other.exit_code == 2
    assert "set out to a new directory" in other.stderr


def test_a_run_that_fails_is_shown_with_the_end_of_its_log_and_what_would_start_from_it_is_left_out(
    tmp_path: Path,
) -> None:
    passed = ["name='größe-${seed}'", "epochs=0"]
    done = run_python("launch/compare.py", f"out={tmp_path}", "models=[fm,fnn]", "seeds=[0]", "--", *passed)
    assert done.exit_code == 2
    assert "epochs is 0, but must be at least 1" in done.stdout
    assert "fnn/base/seed-0 cannot start: fm/base/seed-0, whose tables it starts from, is not done" in done.stdout
    assert "2 of 2 runs failed: fm/base/seed-0, fnn/base/seed-0" in done.stderr
    assert (tmp_path / "report.md").is_file()
    assert json.loads((tmp_path / "compare.json").read_text())["overrides"] == passed
