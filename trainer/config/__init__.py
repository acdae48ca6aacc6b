"""The configuration: dataclasses with their ranges, and the way from Hydra's composition to them."""

from __future__ import annotations

from typing import Any, TypeVar

from omegaconf import DictConfig

from data.structured import structured
from trainer.config.checkpoint import CheckpointConfig
from trainer.config.cluster import ClusterConfig
from trainer.config.compare import CompareConfig
from trainer.config.data import DataConfig
from trainer.config.evaluate import EvaluateConfig
from trainer.config.init_from import InitFromConfig
from trainer.config.logging import LoggingConfig, ProfilerConfig
from trainer.config.metrics import MetricsConfig
from trainer.config.model import ModelConfig
from trainer.config.monitor import MonitorConfig
from trainer.config.optimizer import (
    DENSE_OPTIMIZERS,
    DenseOptimizerConfig,
    OptimizerConfig,
    ScheduleConfig,
    SparseOptimizerConfig,
    TableOptimizerRule,
)
from trainer.config.precision import LossScaleConfig, PrecisionConfig
from trainer.config.replay import ReplayConfig
from trainer.config.sharding import ShardingConfig
from trainer.config.train import DistributedConfig, TrainConfig
from trainer.errors import ConfigError

__all__ = [
    "DENSE_OPTIMIZERS",
    "CheckpointConfig",
    "ClusterConfig",
    "CompareConfig",
    "DataConfig",
    "DenseOptimizerConfig",
    "DistributedConfig",
    "EvaluateConfig",
    "InitFromConfig",
    "LoggingConfig",
    "LossScaleConfig",
    "MetricsConfig",
    "ModelConfig",
    "MonitorConfig",
    "OptimizerConfig",
    "PrecisionConfig",
    "ProfilerConfig",
    "ReplayConfig",
    "ScheduleConfig",
    "ShardingConfig",
    "SparseOptimizerConfig",
    "TableOptimizerRule",
    "TrainConfig",
    "to_config",
]

T = TypeVar("T")


def to_config(composed: DictConfig | dict[str, Any], cls: type[T], *, where: str = "config") -> T:
    """Turns composed values into a typed, range-checked config.

    Args:
        composed: Hydra's composition, or the plain values of a checkpoint's record.
        cls: :class:`TrainConfig`, :class:`EvaluateConfig` or :class:`ReplayConfig`.
        where: Names the values in messages.

    Raises:
        ConfigError: The message names the key, the value, the rule and the known names.
    """
    return structured(cls, composed, where=where, error=ConfigError)
