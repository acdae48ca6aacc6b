"""The configuration: dataclasses with their ranges, and the way from Hydra's composition to them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from omegaconf import MISSING, DictConfig

from data.damage import POLICIES
from data.structured import structured, suggestion
from trainer.errors import ConfigError
from trainer.model.head import head_configs

T = TypeVar("T")

DEVICES = ("auto", "cpu", "cuda")
SPARSE_OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad", "adam")
DENSE_OPTIMIZERS = ("sgd", "adagrad", "adam", "adamw")
SCHEDULES = ("constant", "linear", "cosine")
SHARDING_TYPES = (
    "table_wise",
    "row_wise",
    "table_row_wise",
    "column_wise",
    "table_column_wise",
    "grid_shard",
)


@dataclass
class DataConfig:
    """Where the data lies and how it is read.

    ``train`` and ``test`` are a file, a glob, a directory, a URI of one of these, or a list of such;
    ``configs/data/parquet.yaml`` says what the other keys mean.
    """

    name: str = MISSING
    root: str = MISSING
    schema: str = MISSING
    train: Any = MISSING
    test: Any = MISSING
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
        _one_of(POLICIES, self.on_damage, "data.on_damage")
        if self.max_skipped_rows is not None:
            _at_least(0, self.max_skipped_rows, "data.max_skipped_rows")
        _at_least(0, self.retries, "data.retries")
        _positive(self.retry_for_s, "data.retry_for_s")
        options = self.storage_options or {}
        plain = isinstance(options, dict) and all(isinstance(v, str | int | float) for v in options.values())
        _check(plain, "data.storage_options", options, "null, or names with strings, numbers or booleans")
        _at_least(1, self.lanes, "data.lanes")
        _at_least(1, self.window_rows, "data.window_rows")
        if self.window_mib is not None:
            _positive(self.window_mib, "data.window_mib")
        _at_least(1, self.num_threads, "data.num_threads")
        _at_least(1, self.prefetch_batches, "data.prefetch_batches")
        for key in ("train", "test"):
            value = getattr(self, key)
            paths = value if isinstance(value, list) else [value]
            _check(
                bool(paths) and all(isinstance(path, str) and path for path in paths),
                f"data.{key}",
                value,
                "a path, a glob, a directory or a list of them",
            )


@dataclass
class ModelConfig:
    """The heads over the shared embeddings: name to settings, checked and completed by the head's ``Config``."""

    embedding_dim: int = 16
    init_std: float = 0.01
    heads: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _at_least(1, self.embedding_dim, "model.embedding_dim")
        _check(0 <= self.init_std <= 10, "model.init_std", self.init_std, "between 0 and 10")
        _check(bool(self.heads), "model.heads", self.heads, "at least one head")
        self.heads = {name: asdict(settings) for name, settings in head_configs(self.heads).items()}


@dataclass
class SparseOptimizerConfig:
    """The optimizer that FBGEMM runs inside the backward pass of the embedding tables."""

    name: str = "adagrad"
    lr: float = 0.05
    eps: float = 1.0e-8

    def __post_init__(self) -> None:
        _one_of(SPARSE_OPTIMIZERS, self.name, "optimizer.sparse.name")
        _positive(self.lr, "optimizer.sparse.lr")
        _positive(self.eps, "optimizer.sparse.eps")


@dataclass
class DenseOptimizerConfig:
    """The optimizer of everything that is not an embedding table."""

    name: str = "adam"
    lr: float = 1.0e-3
    weight_decay: float = 0.0
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        _one_of(DENSE_OPTIMIZERS, self.name, "optimizer.dense.name")
        _positive(self.lr, "optimizer.dense.lr")
        _check(
            0 <= self.weight_decay < math.inf,
            "optimizer.dense.weight_decay",
            self.weight_decay,
            "0 or a positive number",
        )
        if self.max_grad_norm is not None:
            _positive(self.max_grad_norm, "optimizer.dense.max_grad_norm")


@dataclass
class ScheduleConfig:
    """The factor on both learning rates: linear warm-up, then constant, linear or cosine to ``final``."""

    name: str = "constant"
    warmup_steps: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        _one_of(SCHEDULES, self.name, "optimizer.schedule.name")
        _at_least(0, self.warmup_steps, "optimizer.schedule.warmup_steps")
        _check(0 <= self.final <= 1, "optimizer.schedule.final", self.final, "between 0 and 1")


@dataclass
class OptimizerConfig:
    """Sparse (tables) and dense (the rest), driven by one schedule."""

    sparse: SparseOptimizerConfig = field(default_factory=SparseOptimizerConfig)
    dense: DenseOptimizerConfig = field(default_factory=DenseOptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


@dataclass
class ShardingConfig:
    """What TorchRec's planner may choose from, and the memory that it may plan with."""

    types: list[str] = field(default_factory=lambda: ["table_wise", "row_wise"])
    hbm_cap_gib: float | None = None
    ddr_cap_gib: float = 8.0
    reserved_fraction: float = 0.15

    def __post_init__(self) -> None:
        _check(bool(self.types), "sharding.types", self.types, "at least one sharding type")
        for name in self.types:
            _one_of(SHARDING_TYPES, name, "sharding.types")
        if self.hbm_cap_gib is not None:
            _positive(self.hbm_cap_gib, "sharding.hbm_cap_gib")
        _positive(self.ddr_cap_gib, "sharding.ddr_cap_gib")
        _check(
            0 <= self.reserved_fraction < 1,
            "sharding.reserved_fraction",
            self.reserved_fraction,
            "at least 0 and below 1",
        )


@dataclass
class CheckpointConfig:
    """When to save, how many to keep, and where a run starts (``auto``, ``none`` or a path)."""

    directory: str = MISSING
    every_steps: int = 1000
    keep_last: int = 3
    resume: str = "auto"

    def __post_init__(self) -> None:
        _at_least(1, self.every_steps, "checkpoint.every_steps")
        _at_least(1, self.keep_last, "checkpoint.keep_last")


@dataclass
class LoggingConfig:
    """How often figures are written, and whether to TensorBoard, too."""

    every_steps: int = 100
    tensorboard: bool = True

    def __post_init__(self) -> None:
        _at_least(1, self.every_steps, "logging.every_steps")


@dataclass
class DistributedConfig:
    """The process group."""

    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        _positive(self.timeout_s, "distributed.timeout_s")


@dataclass
class TrainConfig:
    """The whole of a training run; ``configs/train.yaml`` composes it.

    ``max_steps`` stops a run before its ``epochs`` are over and leaves the learning-rate schedule as it is,
    so that a run that stops there and goes on later is the same run.
    """

    name: str = MISSING
    run_dir: str = MISSING
    seed: int = 0
    device: str = "auto"
    global_batch_size: int = 4096
    epochs: int = 1
    max_steps: int | None = None
    eval_every_epochs: int = 1
    eval_global_batch_size: int = 8192
    data: DataConfig = MISSING
    model: ModelConfig = MISSING
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    checkpoint: CheckpointConfig = MISSING
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        _one_of(DEVICES, self.device, "device")
        _at_least(0, self.seed, "seed")
        _at_least(1, self.epochs, "epochs")
        _at_least(1, self.eval_every_epochs, "eval_every_epochs")
        if self.max_steps is not None:
            _at_least(1, self.max_steps, "max_steps")
        for key in ("global_batch_size", "eval_global_batch_size"):
            _check_multiple(getattr(self, key), self.data.lanes, key)


@dataclass
class EvaluateConfig:
    """A stand-alone evaluation; ``data`` is None to take the data set of the checkpoint's own run."""

    checkpoint_path: str = MISSING
    data: DataConfig | None = None
    split: str = "test"
    device: str = "auto"
    eval_global_batch_size: int | None = None
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        _one_of(DEVICES, self.device, "device")
        _one_of(("train", "test"), self.split, "split")
        if self.eval_global_batch_size is not None:
            _at_least(1, self.eval_global_batch_size, "eval_global_batch_size")


def to_config(composed: DictConfig | dict[str, Any], cls: type[T], *, where: str = "config") -> T:
    """Turns composed values into a typed, range-checked config.

    Args:
        composed: Hydra's composition, or the plain values of a checkpoint's record.
        cls: :class:`TrainConfig` or :class:`EvaluateConfig`.
        where: Names the values in messages.

    Raises:
        ConfigError: The message names the key, the value, the rule and the known names.
    """
    return structured(cls, composed, where=where, error=ConfigError)


def _check(ok: bool, key: str, value: object, rule: str) -> None:
    if not ok:
        raise ConfigError(f"{key} is {value!r}, but must be {rule}.")


def _positive(value: float, key: str) -> None:
    _check(0 < value < math.inf, key, value, "a positive number")


def _at_least(least: int, value: int, key: str) -> None:
    _check(value >= least, key, value, f"at least {least}")


def _one_of(names: tuple[str, ...], value: str, key: str) -> None:
    if value not in names:
        raise ConfigError(f"{key} is '{value}', which is unknown.{suggestion(value, list(names))}")


def _check_multiple(value: int, lanes: int, key: str) -> None:
    _check(
        value > 0 and value % lanes == 0,
        key,
        value,
        f"a positive multiple of data.lanes ({lanes}); try {max(1, round(value / lanes)) * lanes}",
    )
