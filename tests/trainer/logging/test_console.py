"""Progress as a person sees it on a terminal, and as a log file holds it."""

from __future__ import annotations

import errno
import logging
import os
import pty
import sys
import termios

import pytest

from trainer.logging.console import Progress

METRICS = {"logloss": 0.25, "auc": 0.75}


def test_a_terminal_shows_a_moving_line_with_rate_and_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 160))
    with os.fdopen(writer, "w") as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        with Progress(total_steps=4, start_step=1, speak=True) as progress:
            for step in (2, 3):
                progress.step_done()
                progress.report(step, METRICS, samples_per_s=1234.5, step_s=0.1)
    shown = read_to_the_end(reader)
    assert "\r" in shown
    assert "| 3/4 [" in shown
    assert "step" in shown.rpartition("3/4")[2]
    assert "logloss 0.25000  auc 0.75000  1,234 samples/s" in shown


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
