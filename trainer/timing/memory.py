"""How much memory a process took at most, and how often the cache before tables in main memory had the row."""

from __future__ import annotations

import resource

import torch
from torch import nn

from trainer.table_kernels import table_kernels

_UNIQUE_INDICES, _UNIQUE_MISSES = 2, 3
"""Places in FBGEMM's counters (its ``UVMCacheStatsIndex``)."""


def host_peak_bytes() -> int:
    """The largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_peak_bytes(device: torch.device) -> int:
    """The most memory that tensors of this process have held on the device so far, in bytes; 0 on CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


class CacheCounters:
    """What FBGEMM counts of the cache before tables under ``fused_uvm_caching``.

    The counters lie on the device. They are copied without waiting, and read one look later.

    Args:
        model: Sharded.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kernels = [kernel for kernel in table_kernels(model) if kernel.gather_uvm_cache_stats]
        self._copies: list[torch.Tensor] = []
        self._seen = (0.0, 0.0)

    def take(self) -> tuple[float, float]:
        """Distinct rows asked for and missed, between the two last looks before this one."""
        counts = torch.stack(self._copies).double().sum(0) if self._copies else torch.zeros(6)
        total = float(counts[_UNIQUE_INDICES]), float(counts[_UNIQUE_MISSES])
        self._copies = [kernel.get_uvm_cache_stats().to("cpu", non_blocking=True) for kernel in self._kernels]
        asked, missed = total[0] - self._seen[0], total[1] - self._seen[1]
        self._seen = total
        return asked, missed
