"""Progress on rank 0: two moving lines on a terminal, plain lines or JSON elsewhere; and a log of every rank."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

from trainer.distributed import Worker
from trainer.errors import ConfigError

logger = logging.getLogger(__name__)

ONLY_FILE = {"only_file": True}
"""``extra`` of a record that belongs into the rank's log, but not onto the console."""


def set_up_logging(worker: Worker, *, log_dir: Path | None = None, as_json: bool = False) -> None:
    """Rank 0 speaks; the others only when something is wrong. The libraries' chatter is turned down.

    Args:
        worker: This process.
        log_dir: Every rank also writes what it has to say into ``rank-<rank>.log`` there; None for no files.
        as_json: One JSON object a line on the console, with the figures of reports as numbers.

    Raises:
        ConfigError: The directory cannot be written.
    """
    console = _Console(sys.stderr)
    console.setLevel(logging.INFO if worker.is_main else logging.WARNING)
    tag = "" if worker.is_main else f"rank {worker.rank} "
    plain = logging.Formatter(f"%(asctime)s {tag}%(message)s", datefmt="%H:%M:%S")
    console.setFormatter(_Json(worker.rank) if as_json else plain)
    handlers: list[logging.Handler] = [console]
    if log_dir is not None:
        handlers.append(_rank_file(log_dir, worker.rank))
    for handler in handlers:
        # What the libraries say to the root logger, past their names (the planner, of every replicated table).
        handler.addFilter(lambda record: record.name != "root" or record.levelno >= logging.ERROR)
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    for name in ("trainer", "data"):
        logging.getLogger(name).setLevel(logging.INFO if worker.is_main or log_dir else logging.WARNING)
    for name in ("torch", "torchrec", "fbgemm_gpu"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Deprecations that TorchRec meets in its own calls.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|torchrec|fbgemm_gpu)\b")


def _rank_file(log_dir: Path, rank: int) -> logging.Handler:
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(log_dir / f"rank-{rank}.log", encoding="utf-8")
    except OSError as cause:
        raise ConfigError(f"run_dir: {log_dir} cannot be written ({cause}); set run_dir to another place.") from cause
    handler.setFormatter(logging.Formatter(f"%(asctime)s rank {rank} %(levelname)s %(name)s: %(message)s"))
    return handler


class _Console(logging.StreamHandler[TextIO]):
    """Writes above the moving lines, if there are any."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.addFilter(lambda record: not getattr(record, "only_file", False))

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line."""
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class _Json(logging.Formatter):
    """A record as a JSON object in a line."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self._rank = rank

    def format(self, record: logging.LogRecord) -> str:
        """See :meth:`logging.Formatter.format`."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        line = {"time": when, "level": record.levelname.lower(), "rank": self._rank, "logger": record.name}
        figures = {key: _json_number(value) for key, value in getattr(record, "figures", {}).items()}
        told = {**line, **figures, "message": record.getMessage()}
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        return json.dumps(told, allow_nan=False)


def _json_number(value: Any) -> Any:
    """JSON knows no NaN."""
    return None if isinstance(value, float) and value - value != 0 else value


class Progress:
    """The state of a training run, told as it goes.

    Args:
        total_steps: Of the whole run.
        start_step: Where this process starts.
        speak: Whether to say anything (rank 0).
        bar: Whether a terminal shows moving lines: one of progress, and one of what holds the training up.
    """

    def __init__(self, *, total_steps: int, start_step: int, speak: bool, bar: bool = True) -> None:
        self._total = total_steps
        self._speak = speak
        self._bar: tqdm[Any] | None = None
        if speak and bar and sys.stderr.isatty():
            self._bar = tqdm(total=total_steps, initial=start_step, unit="step", dynamic_ncols=True, desc="train")
            self._verdict = tqdm(bar_format="{desc}", position=1, dynamic_ncols=True, leave=False)

    def step_done(self) -> None:
        """Moves the line on a terminal by a step."""
        if self._bar is not None:
            self._bar.update()

    def report(
        self,
        step: int,
        metrics: Mapping[str, float],
        *,
        samples_per_s: float | None,
        step_s: float | None,
        verdict: str | None = None,
    ) -> None:
        """Tells where the run stands.

        Args:
            step: Steps completed.
            metrics: Since the last report.
            samples_per_s: Over all ranks, since the last report; None if no step was timed.
            step_s: Seconds for a step, since the last report; None likewise.
            verdict: What holds the training up; None if it is not known.
        """
        if not self._speak:
            return
        rate = "-" if samples_per_s is None else f"{samples_per_s:,.0f}"
        shown = f"logloss {metrics['logloss']:.5f}  auc {metrics['auc']:.5f}  {rate} samples/s"
        eta_s = None if step_s is None else (self._total - step) * step_s
        eta = "-" if eta_s is None else tqdm.format_interval(eta_s)
        figures = {"step": step, "total_steps": self._total, **metrics, "samples_per_s": samples_per_s}
        told: dict[str, Any] = {"figures": {**figures, "eta_s": eta_s, "verdict": verdict}}
        if self._bar is not None:
            self._bar.set_postfix_str(shown)
            self._verdict.set_description_str(verdict or "")
            told |= ONLY_FILE
        ending = f"  {verdict}" if verdict else ""
        logger.info("step %d/%d  %s  eta %s%s", step, self._total, shown, eta, ending, extra=told)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._verdict.close()
            self._bar.close()
