"""Event files for TensorBoard, written by rank 0."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Writes scalars and texts under tags of the form ``group/name``.

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
