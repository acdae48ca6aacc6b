"""Where the data lies and how it is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from data.damage import POLICIES
from trainer.config.rules import at_least, check, one_of, positive

OWN_SETS = ("valid", "test")
"""Evaluation sets with keys of their own."""


@dataclass
class DataConfig:
    """Where the data lies and how it is read.

    ``train``, ``valid`` and ``test`` are a file, a glob, a directory, a URI of one of these, or a list of such;
    ``eval`` maps names of further evaluation sets to such. There must be one set to evaluate on. Evaluations
    during training see ``valid``, if there is one, else ``test``, and all of ``eval``;
    ``configs/data/parquet.yaml`` says what the other keys mean.
    """

    name: str = MISSING
    root: str = MISSING
    schema: str = MISSING
    train: Any = MISSING
    valid: Any = None
    test: Any = None
    eval: Any = None
    lanes: int = 8
    window_rows: int = 131072
    window_mib: float | None = None
    num_threads: int = 2
    prefetch_batches: int = 4
    cache_mib: int = 0
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
        at_least(0, self.cache_mib, "data.cache_mib")
        self._check_paths()

    @property
    def evaluation_sets(self) -> list[str]:
        """Names of what there is to evaluate on."""
        return [*(name for name in OWN_SETS if getattr(self, name) is not None), *(self.eval or {})]

    def key_of(self, name: str) -> str:
        """The config key that gives the files of ``train`` or of an evaluation set."""
        return f"data.eval.{name}" if name in (self.eval or {}) else f"data.{name}"

    def files_of(self, name: str) -> Any:
        """The files of ``train`` or of an evaluation set, as they are given."""
        return self.eval[name] if name in (self.eval or {}) else getattr(self, name)

    def _check_paths(self) -> None:
        sets = self.eval if self.eval is not None else {}
        named = isinstance(sets, dict) and all(isinstance(k, str) and re.fullmatch(r"[\w-]+", k) for k in sets)
        check(named, "data.eval", sets, "null, or names of letters, digits, '_' and '-' with the files of each")
        taken = sorted({"train", *OWN_SETS} & sets.keys())
        check(not taken, "data.eval", taken, "of other names: data has keys of these names")
        check(bool(self.evaluation_sets), "data.test", None, "given, if data.valid and data.eval are not")
        for name in ("train", *self.evaluation_sets):
            value = self.files_of(name)
            paths = value if isinstance(value, list) else [value]
            check(
                bool(paths) and all(isinstance(path, str) and path for path in paths),
                self.key_of(name),
                value,
                "a path, a glob, a directory or a list of them",
            )
