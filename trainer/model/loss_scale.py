"""The factor on a loss whose gradients pass through float16, so that small ones are not rounded to 0."""

from __future__ import annotations

import torch

from trainer.config import LossScaleConfig


class LossScale:
    """As large as it can be: halved by a step whose gradients overflow, doubled after many that do not.

    Micikevicius et al. 2018, section 3.2. It is a power of 2, so that scaling and its undoing round nothing
    in float32. All ranks decide alike, because they are told alike (see ``trainer.nonfinite.FiniteCheck``).

    Args:
        config: Where it starts, and how many steps are many.

    Attributes:
        value: The factor.
        num_overflows: Steps of the run that were left out because their gradients overflowed.
    """

    def __init__(self, config: LossScaleConfig) -> None:
        self.value = config.initial
        self.num_overflows = 0
        self._growth_steps = config.growth_steps
        self._good_steps = 0
        self._overflow: torch.Tensor | None = None

    def see(self, overflow: torch.Tensor) -> None:
        """Takes note of whether this rank's gradients overflowed, float [1], 1 or 0; does not wait for the device."""
        self._overflow = overflow

    @property
    def overflow(self) -> torch.Tensor:
        """What the newest forward pass of this rank found, float [1]."""
        assert self._overflow is not None, "a forward pass in training comes first"
        return self._overflow

    def step_done(self, *, overflowed: bool) -> None:
        """Follows a step.

        Args:
            overflowed: On some rank.
        """
        self._good_steps = 0 if overflowed else self._good_steps + 1
        if overflowed:
            self.num_overflows += 1
            self.value /= 2
        elif self._good_steps == self._growth_steps:
            self._good_steps = 0
            self.value *= 2

    def state(self) -> dict[str, float]:
        """Plain values for the checkpoint's record."""
        return {"value": self.value, "good_steps": self._good_steps, "num_overflows": self.num_overflows}

    def restore(self, saved: dict[str, float]) -> None:
        """Continues from what :meth:`state` gave; an empty one, of a run without a scale, changes nothing."""
        if saved:
            self.value = saved["value"]
            self._good_steps = int(saved["good_steps"])
            self.num_overflows = int(saved["num_overflows"])
