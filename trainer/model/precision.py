"""Process-wide settings of matrix products."""

from __future__ import annotations

import torch

from trainer.config import PrecisionConfig
from trainer.errors import ConfigError


def set_matmul_precision(config: PrecisionConfig, device: torch.device) -> None:
    """Lets CUDA's matrix products use TF32, or not; bf16 and fp16 are the model's own affair.

    Raises:
        ConfigError: The device does not have the precision.
    """
    if config.dense == "tf32" and device.type != "cuda":
        raise ConfigError("precision.dense is 'tf32', which CUDA devices have alone; use fp32, bf16 or fp16.")
    torch.set_float32_matmul_precision("high" if config.dense == "tf32" else "highest")
