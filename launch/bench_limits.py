"""What the machine could do at best: matrix products of a network's shapes, and copies in memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from trainer.config import PrecisionConfig
from trainer.model.precision import set_matmul_precision

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_COPIED_BYTES = 256 << 20
_TIMES = 3


@dataclass(frozen=True)
class Limits:
    """Of one rank.

    Attributes:
        products_ms: For each precision, all matrix products of a step, forward and backward, one after the other.
        copied_bytes_per_s: Of a copy much larger than the caches, what is read and what is written together.
    """

    products_ms: dict[str, float]
    copied_bytes_per_s: float

    @classmethod
    def median(cls, measured: Sequence[Limits]) -> Limits:
        """Of several measurements."""
        precisions = measured[0].products_ms
        return cls(
            {name: statistics.median(limits.products_ms[name] for limits in measured) for name in precisions},
            statistics.median(limits.copied_bytes_per_s for limits in measured),
        )


def measure_limits(batch_size: int, widths: Sequence[int], precisions: Sequence[str], device: torch.device) -> Limits:
    """Measures them, the best of a few times.

    Args:
        batch_size: Rows of a step.
        widths: Of the network's input and of each of its layers.
        precisions: Of the products.
        device: Where.
    """
    source = torch.empty(_COPIED_BYTES // 8, dtype=torch.int64, device=device)
    target = torch.empty_like(source)
    return Limits(
        {name: 1000 * _best(_products(batch_size, widths, name, device), device) for name in precisions},
        2 * _COPIED_BYTES / _best(lambda: target.copy_(source), device),
    )


def _products(batch_size: int, widths: Sequence[int], precision: str, device: torch.device) -> Callable[[], object]:
    layers = []
    for inner, outer in pairwise(widths):
        x, w, g = ((batch_size, inner), (outer, inner), (batch_size, outer))
        layers.append([torch.randn(shape, device=device).to(_DTYPES[precision]) for shape in (x, w, g)])

    def multiply() -> None:
        set_matmul_precision(PrecisionConfig(dense=precision), device)
        for x, w, g in layers:
            torch.mm(x, w.t())
            torch.mm(g, w)
            torch.mm(g.t(), x)

    return multiply


def _best(act: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of a few times, after one that is not counted."""
    seconds = []
    for _ in range(_TIMES + 1):
        started = time.perf_counter()
        act()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
