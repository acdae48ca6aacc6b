"""Event files for TensorBoard, written by rank 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from trainer.timing.stages import STEP_STAGES


class TensorBoard:
    """Writes scalars, texts, histograms and pictures under tags of the form ``group/name``.

    Args:
        directory: Of the event files; None writes nothing (other ranks, or switched off).
        start_step: Where the run starts or resumes; later points of an earlier attempt are hidden.
    """

    def __init__(self, directory: Path | None, *, start_step: int) -> None:
        self._writer = SummaryWriter(directory, purge_step=start_step + 1) if directory else None

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each of the group's curves."""
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def text(self, tag: str, markdown: str) -> None:
        """Adds a text."""
        if self._writer:
            self._writer.add_text(tag, markdown)

    def histogram(self, tag: str, values: npt.NDArray[np.floating], step: int) -> None:
        """Adds a histogram of numbers; what is not finite is left out."""
        finite = values[np.isfinite(values)]
        if self._writer and finite.size:
            self._writer.add_histogram(tag, finite, step)

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        """Adds a picture."""
        if self._writer:
            self._writer.add_image(tag, _pixels(figure), step, dataformats="HWC")

    def layout(self, evaluated: Sequence[str]) -> None:
        """Lays out the page "custom scalars": what matters first, sets beside each other.

        Args:
            evaluated: Names of the sets that are evaluated.
        """
        if self._writer:
            self._writer.add_custom_scalars(_layout(evaluated))

    def hparams(self, settings: Mapping[str, bool | float | str], final: Mapping[str, float], step: int) -> None:
        """Adds the run to the table that compares runs: its settings, and its final metrics under ``final/``."""
        if self._writer is None:
            return
        for summary in hparams(dict(settings), {f"final/{name}": value for name, value in final.items()}):
            self._writer._get_file_writer().add_summary(summary)
        for name, value in final.items():
            self._writer.add_scalar(f"final/{name}", value, step)

    def flush(self) -> None:
        """Brings everything to disk."""
        if self._writer:
            self._writer.flush()

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer:
            self._writer.close()


def _pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    """A picture's pixels, uint8 [height, width, 3]; drawn without pyplot, which would keep it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]


def _layout(evaluated: Sequence[str]) -> dict[str, dict[str, list[object]]]:
    def together(name: str) -> list[object]:
        return ["Multiline", [f"{group}/{name}$" for group in ("train", *evaluated)]]

    stages = [f"time/{stage.value}_ms$" for stage in STEP_STAGES]
    return {
        "1 quality": {"AUC": together("auc"), "log loss": together("logloss"), "calibration": together("calibration")},
        "2 speed": {
            "samples/s": ["Multiline", ["speed/samples_per_s$"]],
            "where a step's time goes, ms": ["Multiline", stages],
            "what the others lose to the slowest rank, ms": ["Multiline", ["time/lag_ms$"]],
        },
        "3 more": {
            "normalized entropy": together("ne"),
            "learning rates": ["Multiline", ["learning_rate/.*"]],
            "memory": ["Multiline", ["memory/.*_mib$"]],
        },
    }
