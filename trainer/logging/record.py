"""The figures of a run as lines of JSON, for programs: ``<run_dir>/metrics.jsonl``."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from trainer.errors import ConfigError

NAME = "metrics.jsonl"


class RunRecord:
    """Appends a line for each report; a run that resumes takes out what it is going to do again.

    Args:
        path: Of the file; None writes nothing (other ranks).
        start_step: Where the run starts or resumes: lines of later steps are of an attempt that was lost.
    """

    def __init__(self, path: Path | None, *, start_step: int) -> None:
        self._file: TextIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _drop_later(path, start_step)
            self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Adds a line.

        Args:
            kind: ``train``, ``time``, ``data`` or ``evaluation``.
            step: Steps completed.
            values: Numbers, texts and mappings of them; what is not finite becomes null.
        """
        if self._file is not None:
            line = {"kind": kind, "step": step, "unix_s": round(time.time(), 3), **values}
            self._file.write(json.dumps(_finite(line), allow_nan=False) + "\n")

    def flush(self) -> None:
        """Brings everything to disk."""
        if self._file is not None:
            self._file.flush()

    def __enter__(self) -> RunRecord:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


def read_record(path: Path) -> list[dict[str, Any]]:
    """The lines of a record; the last one is left out if the process that wrote it did not come to its end.

    Raises:
        ConfigError: Another line is damaged.
    """
    lines: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            continue
        try:
            lines.append(json.loads(line))
        except ValueError as cause:
            raise ConfigError(f"{path}, line {number}: is damaged ({cause}); take the line out.") from cause
    return lines


def _drop_later(path: Path, start_step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in read_record(path) if line["step"] <= start_step]
    staged = path.with_suffix(".tmp")
    staged.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    os.replace(staged, path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
