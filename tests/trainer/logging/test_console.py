"""Progress as a person sees it on a terminal, and as a log file holds it."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import pty
import re
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.distributed import Worker
from trainer.errors import ConfigError
from trainer.logging.console import ONLY_FILE, Progress, set_up_logging

METRICS = {"logloss": 0.25, "auc": 0.75}


def test_a_terminal_shows_a_moving_line_with_rate_and_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 160))
    with os.fdopen(writer, "w") as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        with Progress(total_steps=4, start_step=1, speak=True) as progress:
            for step in (2, 3):
                progress.step_done()
                progress.report(step, METRICS, samples_per_s=1234.5, step_s=0.1, verdict="data-bound: rank 3 waits")
    shown = read_to_the_end(reader)
    assert "\r" in shown
    assert "| 3/4 [" in shown
    assert "step" in shown.rpartition("3/4")[2]
    assert "logloss 0.25000  auc 0.75000  1,234 samples/s" in shown
    assert "\n" in shown.rpartition("data-bound: rank 3 waits")[0], "the verdict has a line of its own"


def test_lines_of_the_log_go_above_the_bar_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 160))
    with os.fdopen(writer, "w") as screen, undone_logging():
        monkeypatch.setattr(sys, "stderr", screen)
        set_up_logging(Worker(0, 1, 0, 1, torch.device("cpu")))
        with Progress(total_steps=2, start_step=0, speak=True) as progress:
            progress.step_done()
            progress.report(1, METRICS, samples_per_s=5.0, step_s=1.0)
            logging.getLogger("trainer.x").info("step 1: saved")
            progress.step_done()
    shown = read_to_the_end(reader)
    lines = re.split(r"[\r\n]|\x1b\[A", shown)
    assert any(re.fullmatch(r"\d\d:\d\d:\d\d step 1: saved", line) for line in lines), "a line of its own"
    assert "| 2/2 [" in shown.rpartition("saved")[2]
    assert "step 1/2" not in shown, "what the bar shows is not told again"


def test_json_lines_hold_the_figures_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = told_by(monkeypatch, as_json=True)
    assert [line.pop("time")[:2] for line in lines] == ["20", "20"]
    common = {"rank": 0, "level": "info"}
    assert lines[0] == {**common, "logger": "trainer.x", "message": "hello"}
    told = lines[1].pop("message")
    assert told == "step 10/130  logloss 0.25000  auc 0.75000  5 samples/s  eta 02:00  compute-bound"
    figures = {"step": 10, "total_steps": 130, "logloss": 0.25, "auc": 0.75, "calibration": None}
    speed = {"samples_per_s": 5.0, "eta_s": 120.0, "verdict": "compute-bound"}
    assert lines[1] == {**common, "logger": "trainer.logging.console", **figures, **speed}


def told_by(monkeypatch: pytest.MonkeyPatch, *, as_json: bool) -> list[dict[str, Any]]:
    screen = io.StringIO()
    with undone_logging():
        monkeypatch.setattr(sys, "stderr", screen)
        set_up_logging(Worker(0, 1, 0, 1, torch.device("cpu")), as_json=as_json)
        logging.getLogger("trainer.x").info("hello")
        with Progress(total_steps=130, start_step=0, speak=True) as progress:
            undefined = {**METRICS, "calibration": float("nan")}
            progress.report(10, undefined, samples_per_s=5.0, step_s=1.0, verdict="compute-bound")
    return [json.loads(line) for line in screen.getvalue().splitlines()]


def test_every_rank_has_a_log_and_only_rank_0_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    with undone_logging():
        monkeypatch.setattr(sys, "stderr", screen)
        for rank in (0, 1):
            set_up_logging(Worker(rank, 2, rank, 2, torch.device("cpu")), log_dir=tmp_path / "logs")
            logging.getLogger("trainer.x").info("from %d", rank)
            logging.getLogger("trainer.x").error("traced", extra=ONLY_FILE)
    assert screen.getvalue().split(" ", 1)[1] == "from 0\n"
    for rank in (0, 1):
        first, second = (tmp_path / "logs" / f"rank-{rank}.log").read_text().splitlines()
        assert first.endswith(f" rank {rank} INFO trainer.x: from {rank}")
        assert second.endswith(f" rank {rank} ERROR trainer.x: traced")


def test_a_place_that_cannot_hold_logs_is_a_mistake_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with undone_logging(), pytest.raises(ConfigError, match=r"run_dir: .*/run/logs cannot be written"):
        set_up_logging(Worker(0, 1, 0, 1, torch.device("cpu")), log_dir=tmp_path / "run" / "logs")


@contextmanager
def undone_logging() -> Iterator[None]:
    """Leaves the root logger as it was."""
    root, ours = logging.getLogger(), [logging.getLogger(name) for name in ("trainer", "data")]
    handlers, levels = list(root.handlers), [logger.level for logger in (root, *ours)]
    root.handlers = []  # what replaces them must not close them
    try:
        yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers = handlers
        for logger, level in zip((root, *ours), levels, strict=True):
            logger.setLevel(level)


def read_to_the_end(reader: int) -> str:
    """What was written to a pseudo-terminal whose other end is closed."""
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(reader, 1 << 16)
        except OSError as end:
            if end.errno != errno.EIO:  # how Linux tells the end
                raise
            part = b""
        if not part:
            os.close(reader)
            return b"".join(parts).decode()
        parts.append(part)


def test_elsewhere_plain_lines_tell_step_rate_and_eta(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="trainer")
    with Progress(total_steps=130, start_step=0, speak=True) as progress:
        progress.step_done()
        progress.report(10, METRICS, samples_per_s=None, step_s=None)
        progress.report(20, METRICS, samples_per_s=5000.0, step_s=1.0)
    assert [record.getMessage() for record in caplog.records] == [
        "step 10/130  logloss 0.25000  auc 0.75000  - samples/s  eta -",
        "step 20/130  logloss 0.25000  auc 0.75000  5,000 samples/s  eta 01:50",
    ]


def test_other_ranks_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="trainer")
    with Progress(total_steps=2, start_step=0, speak=False) as progress:
        progress.report(1, METRICS, samples_per_s=5.0, step_s=1.0)
    assert not caplog.records
