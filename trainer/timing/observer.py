"""One rank's view of where its time goes, and, at every report, of where that of all ranks went."""

from __future__ import annotations

from torch import nn

from trainer.distributed import Worker
from trainer.timing.breakdown import Breakdown, gather_breakdown
from trainer.timing.clock import StageClock
from trainer.timing.memory import CacheCounters, device_peak_bytes, host_peak_bytes


class Observer:
    """Measures a training on every rank.

    Args:
        model: Sharded.
        worker: This process.

    Attributes:
        clock: To be told of what the training is at.
    """

    def __init__(self, model: nn.Module, worker: Worker) -> None:
        self.clock = StageClock(worker.device)
        self._device = worker.device
        self._cache = CacheCounters(model)

    def report(self) -> Breakdown | None:
        """The time since the last report; None if no step was measured. All ranks must call this."""
        return gather_breakdown(
            self.clock.take(),
            host_peak_bytes=host_peak_bytes(),
            device_peak_bytes=device_peak_bytes(self._device),
            cache=self._cache.take(),
        )
