"""The time of a step on all ranks, gathered with one small collective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from trainer.timing.clock import Window
from trainer.timing.stages import STEP_STAGES, WAITS, Stage

_STAGES = tuple(Stage)
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Breakdown:
    """Where the time went, rank by rank.

    Attributes:
        num_steps: That the means are over.
        ms: Milliseconds of a step, float64 [ranks, stages in the order of :class:`Stage`].
        host_peak_bytes: Largest resident memory of each rank's process so far, float64 [ranks].
        device_peak_bytes: Most memory of tensors on each rank's device so far, float64 [ranks]; 0 on CPU.
        cache_hit_rate: Of the tables in main memory behind a cache on the GPU; None if there are none.
    """

    num_steps: int
    ms: FloatArray
    host_peak_bytes: FloatArray
    device_peak_bytes: FloatArray
    cache_hit_rate: float | None

    def of(self, stage: Stage) -> FloatArray:
        """Milliseconds of a stage on each rank, float64 [ranks]."""
        return self.ms[:, _STAGES.index(stage)]

    @property
    def step_ms(self) -> float:
        """Milliseconds of a step, evaluations left out; the mean over ranks, which differ by what they overlap."""
        return float(sum(self.of(stage) for stage in STEP_STAGES).mean())  # type: ignore[union-attr]

    @property
    def waits_ms(self) -> FloatArray:
        """What each rank spends in exchanges, and so at least in part waiting for others, float64 [ranks]."""
        return np.sum([self.of(stage) for stage in WAITS], axis=0)

    @property
    def slowest_rank(self) -> int:
        """The rank that arrives last: who comes late to every exchange waits least in it."""
        return int(self.waits_ms.argmin())

    @property
    def lag_ms(self) -> float:
        """How much longer than the slowest rank the others wait, in the mean: what they lose to it in a step."""
        waits = self.waits_ms
        others = np.delete(waits, self.slowest_rank)
        return float(others.mean() - waits[self.slowest_rank]) if others.size else 0.0

    def record(self) -> dict[str, Any]:
        """Plain values: each stage's mean over ranks, its largest value and the rank of that."""
        stages = {
            stage.value: {
                "mean_ms": float(self.of(stage).mean()),
                "max_ms": float(self.of(stage).max()),
                "max_rank": int(self.of(stage).argmax()),
            }
            for stage in Stage
        }
        return {
            "num_steps": self.num_steps,
            "step_ms": self.step_ms,
            "stages": stages,
            "slowest_rank": self.slowest_rank,
            "lag_ms": self.lag_ms,
            "host_peak_bytes": float(self.host_peak_bytes.max()),
            "device_peak_bytes": float(self.device_peak_bytes.max()),
            "cache_hit_rate": self.cache_hit_rate,
        }


def gather_breakdown(
    window: Window, *, host_peak_bytes: int, device_peak_bytes: int, cache: tuple[float, float]
) -> Breakdown | None:
    """Tells every rank what the others measured. All ranks must call this.

    Args:
        window: Of this rank.
        host_peak_bytes: Of this rank.
        device_peak_bytes: Of this rank.
        cache: Rows asked for and missed; see :class:`trainer.timing.memory.CacheCounters`.

    Returns:
        None if some rank has no step measured yet.
    """
    figures = [window.num_steps, host_peak_bytes, device_peak_bytes, *cache, *window.seconds.values()]
    own = torch.tensor(figures, dtype=torch.float64)
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    table = torch.stack(parts).numpy()
    steps = table[:, 0]
    if not steps.all():
        return None
    asked, missed = table[:, 3].sum(), table[:, 4].sum()
    return Breakdown(
        num_steps=int(steps.max()),
        ms=1000 * table[:, 5:] / steps[:, None],
        host_peak_bytes=table[:, 1],
        device_peak_bytes=table[:, 2],
        cache_hit_rate=1 - missed / asked if asked else None,
    )
