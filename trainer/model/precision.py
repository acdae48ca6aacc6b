"""In what the matrix products of a job are computed: what its devices have, and process-wide settings."""

from __future__ import annotations

import dataclasses

import torch

from trainer.config import PrecisionConfig
from trainer.distributed import Worker, gather
from trainer.errors import ConfigError

_FIRST_CUDA_WITH_BF16 = (8, 0)
_OF_ANY_DEVICE = ("bf16", "fp32")


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware, and not by way of float32, which would be slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _FIRST_CUDA_WITH_BF16
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def settle_precision(config: PrecisionConfig, worker: Worker, *, begun: str | None) -> PrecisionConfig:
    """Decides what ``precision.dense=auto`` is: bf16 where every rank's device has it, else fp32.

    All ranks must call this. What is decided goes into the run's config and checkpoints, so that evaluations and
    replays compute as the training did, wherever they run, and a run goes on as it began, on whatever devices.

    Args:
        config: Of the precision.
        worker: This process.
        begun: The precision of a run that goes on; None for one that begins.
    """
    if config.dense != "auto":
        return config
    if begun not in _OF_ANY_DEVICE:
        begun = "bf16" if all(gather(multiplies_bf16(worker.device))) else "fp32"
    return dataclasses.replace(config, dense=begun)


def set_matmul_precision(config: PrecisionConfig, device: torch.device) -> None:
    """Lets CUDA's matrix products use TF32, or not; bf16 and fp16 are the model's own affair.

    Raises:
        ConfigError: The device does not have the precision.
    """
    if config.dense == "tf32" and device.type != "cuda":
        raise ConfigError("precision.dense is 'tf32', which CUDA devices have alone; use fp32, bf16 or fp16.")
    torch.set_float32_matmul_precision("high" if config.dense == "tf32" else "highest")
