"""``launch/report.py`` over real runs: figures, differences and pictures in one file that needs no network."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from launch.report import main
from tests.ranks import results_of, run_ranks
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.evaluation import Slice, read_evaluation, write_evaluation
from trainer.loop import train

pytestmark = pytest.mark.distributed


class Page(HTMLParser):
    """The texts of a page's cells by table, and what it would fetch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.fetched: list[str] = []
        self.open: list[str] = []
        self._cell = False
        self.text = path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See :class:`HTMLParser`."""
        places = [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.fetched += [place for place in places if not place.startswith("#")]
        self._cell = tag in ("td", "th")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif self._cell:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        """See :class:`HTMLParser`."""
        self._cell = False

    def handle_data(self, data: str) -> None:
        """See :class:`HTMLParser`."""
        if self._cell:
            self.tables[-1][-1][-1] += data

    def table(self, first_header: str) -> list[list[str]]:
        """The rows below the header of the table that begins so."""
        (found,) = (rows[1:] for rows in self.tables if rows[0][0] == first_header)
        return found

    def pictures(self) -> list[ElementTree.Element]:
        """Its pictures, parsed."""
        return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", self.text, re.DOTALL)]


def train_all(worker: Worker, configs: list[TrainConfig]) -> None:
    for config in configs:
        train(config, worker)


@pytest.fixture
def runs(make_config: Callable[..., TrainConfig], tmp_path: Path) -> list[Path]:
    """Two runs that differ by one setting; the second is still going on."""
    configs = [
        make_config(run_dir=tmp_path / "runs" / name, optimizer={"dense": {"lr": lr}}, logging={"tensorboard": False})
        for name, lr in (("slow", 0.001), ("fast", 0.125))
    ]
    results_of(run_ranks(1, train_all, configs))
    folders = [Path(config.run_dir) for config in configs]
    (folders[1] / "result.json").unlink()
    return folders


def test_reports_tell_what_the_runs_left(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_one(runs[0], capsys)
    check_two(runs, tmp_path / "deep" / "both.html", capsys)
    check_mistake(tmp_path, capsys)
    check_damage(runs[0], tmp_path, capsys)


def check_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "evaluations" / "test" / "step-00000018.json"
    part = Slice("site", "<b>", 12.0, {"auc": 0.625, "ne": float("nan")})
    write_evaluation(dataclasses.replace(read_evaluation(path), slices=[part]), run)

    assert main([str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    page = Page(run / "report.html")
    assert page.fetched == []
    assert "<script" not in page.text

    result = json.loads((run / "result.json").read_text())
    ((name, split, step, *figures, rate),) = page.table("run")
    assert (name, split, step) == ("slow", "test", "18")
    assert figures == [f"{value:.5f}" for value in result["metrics"].values()]
    assert rate == f"{result['samples_per_s']:,.0f}"
    assert f"<b>{result['metrics']['auc']:.5f}</b><span>test AUC</span>" in page.text
    assert page.table("slice") == [["site = <b>", "12", "0.62500", "-"]]
    assert {row[0] for row in page.table("table")} == {"site", "user", "row_id", "tags"}

    *parts, together, _ = page.table("part of a step")
    assert sum(float(part[1]) for part in parts) == pytest.approx(float(together[1]), abs=0.1)
    titles = {text.text for picture in page.pictures() for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"AUC", "Log loss", "Reliability", "Precision over recall", "ROC"} <= titles


def check_two(runs: list[Path], out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*map(str, runs), f"out={out}"]) == 0
    page = Page(out)
    assert page.fetched == []
    assert page.table("setting") == [["optimizer.dense.lr", "0.001", "0.125"]]
    assert [row[0] for row in page.table("run")] == ["slow", "fast"]
    assert "1 of 2 have ended." in page.text
    assert page.text.count('class="best"') >= 5
    capsys.readouterr()


def check_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: holds no run.json; name the run_dir of a training run.\n"


def check_damage(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), f"out={tmp_path}"]) == 2
    assert f"error: out={tmp_path}: is a folder, but must name a file" in capsys.readouterr().err
    for name in ("run.json", "config.yaml", "metrics.jsonl", "result.json", "evaluations/test/step-00000018.json"):
        path = run / name
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] + b"\x00\n" + content[len(content) // 2 :])
        assert main([str(run)]) == 2
        assert re.match(rf"error: {path}(, line \d+)?: is damaged \(", capsys.readouterr().err), name
        path.write_bytes(content)
    (run / "config.yaml").write_bytes(b"")
    assert main([str(run)]) == 2
    assert f"error: {run / 'config.yaml'}: is damaged (" in capsys.readouterr().err
