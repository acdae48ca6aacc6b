"""A batch as the metrics see it, and the terms that they sum up over it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
import torch.nn.functional as F


class Samples:
    """Scores, labels and weights of a batch, and what several metrics need of them, computed once.

    Args:
        logits: Before the sigmoid, float32 [B].
        labels: 0 or 1, float32 [B].
        weights: Sample weights, 0 for padding, float32 [B].

    Attributes:
        scores: The logits, float32 [B].
        logits: float64 [B].
        labels: float64 [B].
        weights: float64 [B].
    """

    def __init__(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> None:
        self.scores = logits
        self.logits, self.labels, self.weights = (values.double() for values in (logits, labels, weights))

    @cached_property
    def predictions(self) -> torch.Tensor:
        """After the sigmoid, float64 [B]."""
        return self.logits.sigmoid()

    @cached_property
    def losses(self) -> torch.Tensor:
        """Binary cross entropies in nats, from the logits: finite wherever these are, float64 [B]."""
        return F.binary_cross_entropy_with_logits(self.logits, self.labels, reduction="none")


Term = Callable[[Samples], torch.Tensor]
"""What is summed up over samples, each times its weight: [B] to float64 [B]. Equal ones are summed up once."""


def one(samples: Samples) -> torch.Tensor:
    """Sums up to the weight of the samples."""
    return torch.ones_like(samples.weights)


def label(samples: Samples) -> torch.Tensor:
    """Sums up to the weight of the positives."""
    return samples.labels


def prediction(samples: Samples) -> torch.Tensor:
    """Sums up to the positives that were expected."""
    return samples.predictions


def loss(samples: Samples) -> torch.Tensor:
    """Binary cross entropy, in nats."""
    return samples.losses


def squared_error(samples: Samples) -> torch.Tensor:
    """(prediction - label)^2."""
    return (samples.predictions - samples.labels).square()
