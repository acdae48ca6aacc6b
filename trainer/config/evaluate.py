"""A stand-alone evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from trainer.config.data import DataConfig
from trainer.config.rules import at_least, one_of
from trainer.config.train import DEVICES, DistributedConfig


@dataclass
class EvaluateConfig:
    """A stand-alone evaluation; ``data`` is None to take the data set of the checkpoint's own run."""

    checkpoint_path: str = MISSING
    data: DataConfig | None = None
    split: str | None = None
    device: str = "auto"
    eval_global_batch_size: int | None = None
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        one_of(DEVICES, self.device, "device")
        if self.split is not None:
            one_of(("train", "valid", "test"), self.split, "split")
        if self.eval_global_batch_size is not None:
            at_least(1, self.eval_global_batch_size, "eval_global_batch_size")
