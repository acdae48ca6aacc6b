"""A stand-alone evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from data.structured import structured
from trainer.config.data import DataConfig
from trainer.config.metrics import MetricsConfig
from trainer.config.rules import at_least, one_of
from trainer.config.train import DEVICES, DistributedConfig
from trainer.errors import ConfigError


@dataclass
class EvaluateConfig:
    """A stand-alone evaluation.

    ``data`` and ``metrics`` are None to take those of the checkpoint's own run. ``split`` is an evaluation set,
    ``train`` or ``all``. With ``out``, what is found is written below that folder, as a run does below its own.
    """

    checkpoint_path: str = MISSING
    data: DataConfig | None = None
    metrics: Any = None
    split: str | None = None
    out: str | None = None
    device: str = "auto"
    eval_global_batch_size: int | None = None
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        one_of(DEVICES, self.device, "device")
        if self.metrics is not None:
            self.metrics = structured(MetricsConfig, self.metrics, where="metrics", error=ConfigError)
        if self.eval_global_batch_size is not None:
            at_least(1, self.eval_global_batch_size, "eval_global_batch_size")
