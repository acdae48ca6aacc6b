"""Progress on rank 0: a moving line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from trainer.distributed import Worker

logger = logging.getLogger(__name__)


def set_up_logging(worker: Worker) -> None:
    """Rank 0 speaks; the others only when something is wrong. The libraries' chatter is turned down."""
    logging.basicConfig(
        level=logging.WARNING,
        format=f"%(asctime)s {'' if worker.is_main else f'rank {worker.rank} '}%(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        force=True,
    )
    for name in ("trainer", "data"):
        logging.getLogger(name).setLevel(logging.INFO if worker.is_main else logging.WARNING)
    for name in ("torch", "torchrec", "fbgemm_gpu"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # What the libraries say to the root logger, past their names (the planner, of every replicated table).
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: record.name != "root" or record.levelno >= logging.ERROR)
    # Deprecations that TorchRec meets in its own calls.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|torchrec|fbgemm_gpu)\b")


class Progress:
    """The state of a training run, told as it goes.

    Args:
        total_steps: Of the whole run.
        start_step: Where this process starts.
        speak: Whether to say anything (rank 0).
    """

    def __init__(self, *, total_steps: int, start_step: int, speak: bool) -> None:
        self._total = total_steps
        self._speak = speak
        self._bar: tqdm[Any] | None = None
        if speak and sys.stderr.isatty():
            self._bar = tqdm(total=total_steps, initial=start_step, unit="step", dynamic_ncols=True, desc="train")
            self._redirect = logging_redirect_tqdm()
            self._redirect.__enter__()

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
        figures = f"logloss {metrics['logloss']:.5f}  auc {metrics['auc']:.5f}  {rate} samples/s"
        told = "" if verdict is None else f"  {verdict}"
        if self._bar is not None:
            self._bar.set_postfix_str(figures + told)
            return
        eta = "-" if step_s is None else tqdm.format_interval((self._total - step) * step_s)
        logger.info("step %d/%d  %s  eta %s%s", step, self._total, figures, eta, told)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._redirect.__exit__(None, None, None)
            self._bar.close()
