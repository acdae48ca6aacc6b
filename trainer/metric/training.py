"""The metrics of a training run: since the last report, over the last so many steps, and since its start."""

from __future__ import annotations

import torch
import torch.distributed as dist

from trainer.config.metrics import MetricsConfig
from trainer.metric import MetricSet
from trainer.metric.tally import Tally

TRAINING_CAPACITY = 1 << 14
"""Places for scores: a quarter of what evaluations have; reports are many, and checkpoints hold it all (1.5 MiB)."""

_SLOTS = 32
"""Of the moving window: it moves by so many parts of its length."""


class TrainingMetrics:
    """What is measured on the rows that are trained on, each before its step.

    All that is known is in every checkpoint, so that a run that was interrupted reports the same figures.

    Args:
        device: Where predictions are.
        config: Of the metrics.
    """

    def __init__(self, device: torch.device, config: MetricsConfig) -> None:
        self._recent = MetricSet(device, config, capacity=TRAINING_CAPACITY)
        self._window_steps = config.window_steps
        self._figures = self._recent.figures
        self._lifetime = self._nothing = self._recent.over_no_samples()
        # Sums of the terms and the number of steps, the newest first.
        self._slots = torch.zeros(_SLOTS, len(self._figures.terms) + 1, dtype=torch.float64)
        self._num_recent_steps = 0

    def update(self, logits_B: torch.Tensor, labels_B: torch.Tensor, weights_B: torch.Tensor) -> None:
        """Adds the batch of a step; see :meth:`MetricSet.update`."""
        self._recent.update(logits_B, labels_B, weights_B)
        self._num_recent_steps += 1

    def report(self) -> dict[str, dict[str, float]]:
        """Metrics over all ranks, and begins anew to count for the next report. All ranks must call this.

        Returns:
            ``train`` since the last report, ``train_lifetime`` since the run's start, and with
            ``metrics.window_steps`` ``train_window`` over the last steps, without the figures that need the order
            of all scores. Metrics are by name.
        """
        recent = self._recent.over_ranks()
        self._lifetime = self._lifetime.merged(recent)
        self._fill_slots(recent)
        self._recent.reset()
        self._num_recent_steps = 0
        figures = {
            "train": self._figures.of(recent.sums, recent.scores.ranking()),
            "train_lifetime": self._figures.of(self._lifetime.sums, self._lifetime.scores.ranking()),
        }
        if self._window_steps is not None:
            figures["train_window"] = self._figures.of(self._window(self._window_steps), None)
        return figures

    def state(self) -> torch.Tensor:
        """All that is known, over all ranks, float64 [state_size]. All ranks must call this."""
        recent = self._recent.over_ranks()
        steps = torch.tensor([float(self._num_recent_steps)], dtype=torch.float64)
        known = torch.cat([steps, self._slots.reshape(-1), recent.vector(), self._lifetime.vector()])
        return torch.cat([known, known.new_zeros(self.state_size - len(known))])

    @property
    def state_size(self) -> int:
        """Of :meth:`state`, which depends on nothing in the config."""
        return 1 + self._slots.numel() + 2 * self._nothing.largest_vector

    def restore(self, state: torch.Tensor) -> None:
        """Continues from a saved state, whose newest samples rank 0 takes as its own. All ranks must call this."""
        self._num_recent_steps = int(state[0])
        slots, tallies = state[1:].split([self._slots.numel(), 2 * self._nothing.largest_vector])
        self._slots = slots.clone().view_as(self._slots)
        recent, tallies = self._nothing.taken_from(tallies)
        self._lifetime, _ = self._nothing.taken_from(tallies)
        self._recent.restore(recent if dist.get_rank() == 0 else None)

    def _fill_slots(self, recent: Tally) -> None:
        if self._window_steps is not None and self._slots[0, -1] >= self._window_steps / _SLOTS:
            self._slots = self._slots.roll(1, 0)
            self._slots[0] = 0.0
        self._slots[0, :-1] += recent.sums
        self._slots[0, -1] += self._num_recent_steps

    def _window(self, window_steps: int) -> torch.Tensor:
        """Sums over the newest slots that together have the steps, or over all that there are."""
        steps = self._slots[:, -1]
        wanted = steps.cumsum(0) - steps < window_steps
        return self._slots[wanted, :-1].sum(0)
