"""Everything that a training run tells while it goes, from one place: TensorBoard, console, records."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from trainer.config import TrainConfig
from trainer.evaluation import Evaluation, write_evaluation
from trainer.logging import curves
from trainer.logging.console import Progress
from trainer.logging.histograms import FloatArray
from trainer.logging.record import NAME as RECORD
from trainer.logging.record import RunRecord
from trainer.logging.summary import RunSummary, flat
from trainer.logging.tensorboard import TensorBoard
from trainer.model.loss_scale import LossScale
from trainer.planned_tables import plan_markdown
from trainer.throughput import Throughput
from trainer.timing.breakdown import Breakdown
from trainer.timing.stages import Stage
from trainer.timing.verdict import Verdict, judge

logger = logging.getLogger(__name__)

_MIB = 1 << 20
_MAIN = ("auc", "logloss")
_MAIN_RATES = ("samples_per_s", "step_ms")
_SETTINGS = (
    "seed",
    "global_batch_size",
    "epochs",
    "max_steps",
    "model.",
    "optimizer.",
    "precision.",
    "monitor.lr_factor",
)
"""Keys of the config by which two runs differ in what they learn."""


class Journal:
    """The record of a run; silent on all ranks but one.

    Args:
        config: Of the run.
        total_steps: Of the whole run.
        start_step: Where this process starts.
        world_size: Ranks that share the global batch.
        speak: Whether this rank writes and prints.
    """

    def __init__(self, config: TrainConfig, *, total_steps: int, start_step: int, world_size: int, speak: bool) -> None:
        self._global_batch_size = config.global_batch_size
        self._world_size = world_size
        self._config = config
        self._speak = speak
        self._throughput = Throughput()
        self._progress = Progress(
            total_steps=total_steps, start_step=start_step, speak=speak, bar=config.logging.console == "text"
        )
        directory = tensorboard_dir(config) if speak and config.logging.tensorboard else None
        self._board = TensorBoard(directory, start_step=start_step)
        self._complete = True
        self._record = RunRecord(Path(config.run_dir, RECORD) if speak else None, start_step=start_step)

    @property
    def samples_per_s(self) -> float | None:
        """Training samples per second of this process over all ranks; None before the second step."""
        if not self._throughput.total_s:
            return None
        return self._throughput.total_steps * self._global_batch_size / self._throughput.total_s

    @property
    def train_s(self) -> float:
        """Seconds of this process in training steps, the first one left out."""
        return self._throughput.total_s

    def open(self, summary: RunSummary, evaluated: Sequence[str]) -> None:
        """Says once what is going to be trained, on what and with what; for the rank that speaks.

        Args:
            summary: Of the run.
            evaluated: Names of the sets that are evaluated.
        """
        logger.info("%s", summary.headline)
        with self._written():
            summary.write(self._config.run_dir)
            config = yaml.safe_dump(dataclasses.asdict(self._config), sort_keys=False)
            texts = {"run/sharding_plan": plan_markdown(summary.plan), "run/config": f"```yaml\n{config}```"}
            for tag, text in {**texts, **summary.texts()}.items():
                self._board.text(tag, text)
            self._board.layout(evaluated)

    def step_done(self) -> None:
        """Counts a step."""
        self._throughput.step_done()
        self._progress.step_done()

    def pause(self) -> None:
        """What was done since the last step was not training, and does not count as such."""
        self._throughput.pause()

    def train(
        self,
        step: int,
        figures: Mapping[str, Mapping[str, float]],
        learning_rates: Mapping[str, float],
        breakdown: Breakdown | None,
    ) -> None:
        """Writes the figures of the training rows since the last call.

        Args:
            step: Steps completed.
            figures: Metrics over those rows as ``train``, and over others by the name of their group.
            learning_rates: Of the last step.
            breakdown: Of the time of those steps; None if none was measured.
        """
        step_s = self._throughput.take_window()
        samples_per_s = self._global_batch_size / step_s if step_s else None
        metrics = figures["train"]
        speed: dict[str, float] = {}
        if step_s and samples_per_s:
            per_rank = samples_per_s / self._world_size
            speed = {"samples_per_s": samples_per_s, "samples_per_s_per_rank": per_rank, "step_ms": 1000 * step_s}
        rates = {name: value for name, value in speed.items() if name in _MAIN_RATES}
        verdict = None if breakdown is None else judge(breakdown)
        with self._written():
            self._board.scalars("train", {"loss": metrics["logloss"]}, step)
            for group, values in figures.items():
                self._board.scalars(group, values, step)
            self._board.scalars("learning_rate", learning_rates, step)
            self._board.scalars("speed", speed, step)
            self._record.write("train", step, metrics=dict(metrics), learning_rates=dict(learning_rates), speed=speed)
            if breakdown is not None and verdict is not None:
                self._time(step, breakdown, verdict)
            self._at_a_glance({**{f"{name}_train": metrics[name] for name in _MAIN}, **rates}, step)
            self._flush()
        told = None if verdict is None else verdict.text
        self._progress.report(step, metrics, step_s=step_s, samples_per_s=samples_per_s, verdict=told)

    def _time(self, step: int, breakdown: Breakdown, verdict: Verdict) -> None:
        """Writes where the time went."""
        stages = {f"{stage.value}_ms": float(breakdown.of(stage).mean()) for stage in Stage}
        self._board.scalars(
            "time", {**stages, "lag_ms": breakdown.lag_ms, "slowest_rank": breakdown.slowest_rank}, step
        )
        self._board.scalars("memory", _memory(breakdown), step)
        self._record.write("time", step, verdict=dataclasses.asdict(verdict), **breakdown.record())

    def left_out(self, step: int, num_nonfinite: int) -> None:
        """Writes that a step was not taken because its loss is not finite, and how many were not so far."""
        with self._written():
            self._board.scalars("train", {"nonfinite_steps": num_nonfinite}, step)
            self._record.write("nonfinite", step, steps=num_nonfinite)

    def loss_scale(self, step: int, scale: LossScale) -> None:
        """Writes the scale of the loss, and how many steps overflowed."""
        values = {"loss_scale": scale.value, "overflow_steps": float(scale.num_overflows)}
        with self._written():
            self._board.scalars("train", values, step)
            self._record.write("loss_scale", step, **values)

    def data(self, step: int, counts: Mapping[str, float]) -> None:
        """Writes counts about the data read so far."""
        with self._written():
            self._board.scalars("data", counts, step)
            if counts:
                self._record.write("data", step, counts=dict(counts))

    def histograms(self, step: int, norms: Mapping[str, FloatArray], gradients: Mapping[str, FloatArray]) -> None:
        """Writes histograms of norms of table rows, by table, and of gradients, by parameter."""
        with self._written():
            for group, values in (("embedding_norm", norms), ("gradient", gradients)):
                for name, numbers in values.items():
                    self._board.histogram(f"{group}/{name}", numbers, step)

    def evaluated(self, evaluation: Evaluation) -> None:
        """Writes what an evaluation found: its scalars and curves, and its file below ``<run_dir>/evaluations``."""
        with self._written():
            self._board.scalars(evaluation.set, evaluation.metrics, evaluation.step)
            self._at_a_glance({f"{name}_{evaluation.set}": evaluation.metrics[name] for name in _MAIN}, evaluation.step)
            if self._speak:
                write_evaluation(evaluation, self._config.run_dir)
                if self._config.logging.tensorboard:
                    for name, figure in curves.pictures(evaluation).items():
                        self._board.figure(f"curves/{evaluation.set}_{name}", figure, evaluation.step)
            self._record.write("evaluation", evaluation.step, set=evaluation.set, metrics=evaluation.metrics)
            self._flush()
        figures = "  ".join(f"{name} {value:.5f}" for name, value in evaluation.metrics.items())
        told = {"step": evaluation.step, "set": evaluation.set, **evaluation.metrics}
        logger.info("step %d  %s  %s", evaluation.step, evaluation.set, figures, extra={"figures": told})

    def ended(self, final: Evaluation, step: int) -> None:
        """Writes the run's settings and final metrics, for the table that compares runs.

        Args:
            final: Of the final model.
            step: Steps completed.
        """
        settings = {
            key: _plain(value)
            for key, value in flat(dataclasses.asdict(self._config)).items()
            if key.startswith(_SETTINGS)
        }
        metrics = {f"{final.set}_{name}": value for name, value in final.metrics.items()}
        with self._written():
            self._board.hparams(settings, metrics, step)

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Training does not depend on its figures: where they cannot be written, that is told once."""
        try:
            yield
        except OSError as error:
            if self._complete:
                logger.warning("figures cannot be written (%s): the run goes on, its curves may have gaps", error)
            self._complete = False

    def _at_a_glance(self, figures: Mapping[str, float], step: int) -> None:
        """What matters most once more, in the group that TensorBoard shows first: it sorts by name."""
        self._board.scalars("at_a_glance", figures, step)

    def _flush(self) -> None:
        self._board.flush()
        self._record.flush()

    def __enter__(self) -> Journal:
        self._progress.__enter__()
        self._board.__enter__()
        self._record.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._written():
            self._record.__exit__(kind, error, trace)
        with self._written():
            self._board.__exit__(kind, error, trace)
        self._progress.__exit__(kind, error, trace)


def tensorboard_dir(config: TrainConfig) -> Path:
    """Where the event files of a run are."""
    return Path(config.run_dir) / "tensorboard"


def _plain(value: Any) -> bool | float | str:
    """A setting as TensorBoard takes it."""
    return value if isinstance(value, bool | int | float | str) else str(value)


def _memory(breakdown: Breakdown) -> dict[str, float]:
    """The fullest rank's memory in MiB, and how well the cache serves."""
    figures = {"host_peak_mib": float(breakdown.host_peak_bytes.max()) / _MIB}
    if breakdown.device_peak_bytes.any():
        figures["device_peak_mib"] = float(breakdown.device_peak_bytes.max()) / _MIB
    if breakdown.cache_hit_rate is not None:
        figures["cache_hit_rate"] = breakdown.cache_hit_rate
    return figures
