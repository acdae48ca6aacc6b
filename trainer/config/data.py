"""Where the data lies and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from data.damage import POLICIES
from trainer.config.rules import at_least, check, one_of, positive


@dataclass
class DataConfig:
    """Where the data lies and how it is read.

    ``train``, ``valid`` and ``test`` are a file, a glob, a directory, a URI of one of these, or a list of such;
    one of the last two may be left out (null). Evaluations during training see ``valid``, if there is one;
    ``configs/data/parquet.yaml`` says what the other keys mean.
    """

    name: str = MISSING
    root: str = MISSING
    schema: str = MISSING
    train: Any = MISSING
    valid: Any = None
    test: Any = None
    lanes: int = 8
    window_rows: int = 131072
    window_mib: float | None = None
    num_threads: int = 2
    prefetch_batches: int = 4
    on_damage: str = "raise"
    max_skipped_rows: int | None = None
    retries: int = 5
    retry_for_s: float = 60.0
    storage_options: Any = None
    index_cache: str | None = None

    def __post_init__(self) -> None:
        one_of(POLICIES, self.on_damage, "data.on_damage")
        if self.max_skipped_rows is not None:
            at_least(0, self.max_skipped_rows, "data.max_skipped_rows")
        at_least(0, self.retries, "data.retries")
        positive(self.retry_for_s, "data.retry_for_s")
        options = self.storage_options or {}
        plain = isinstance(options, dict) and all(isinstance(v, str | int | float) for v in options.values())
        check(plain, "data.storage_options", options, "null, or names with strings, numbers or booleans")
        at_least(1, self.lanes, "data.lanes")
        at_least(1, self.window_rows, "data.window_rows")
        if self.window_mib is not None:
            positive(self.window_mib, "data.window_mib")
        at_least(1, self.num_threads, "data.num_threads")
        at_least(1, self.prefetch_batches, "data.prefetch_batches")
        check(self.valid is not None or self.test is not None, "data.test", None, "given, if data.valid is not")
        for key in ("train", "valid", "test"):
            value = getattr(self, key)
            if value is None and key != "train":
                continue
            paths = value if isinstance(value, list) else [value]
            check(
                bool(paths) and all(isinstance(path, str) and path for path in paths),
                f"data.{key}",
                value,
                "a path, a glob, a directory or a list of them",
            )
