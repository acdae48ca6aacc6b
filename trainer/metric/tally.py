"""What is kept of samples: sums and a sketch of their scores, which add up over batches, ranks and runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from trainer.metric.samples import Samples, Term
from trainer.metric.score_sketch import ScoreSketch


@dataclass(frozen=True)
class Tally:
    """The sums of all metrics' terms and the sketch of the scores.

    Attributes:
        sums: Of the weighted terms, float64 [terms].
        scores: See :class:`ScoreSketch`.
    """

    sums: torch.Tensor
    scores: ScoreSketch

    @staticmethod
    def empty(num_terms: int, capacity: int, device: torch.device) -> Tally:
        """Of no samples."""
        sums = torch.zeros(num_terms, dtype=torch.float64, device=device)
        return Tally(sums, ScoreSketch.empty(capacity, device))

    def with_samples(self, samples: Samples, terms: Sequence[Term]) -> Tally:
        """Of these samples, too; does not wait for the device."""
        values = torch.stack([term(samples) for term in terms])
        scores = self.scores.with_samples(samples.scores, samples.labels, samples.weights)
        return Tally(self.sums + values @ samples.weights, scores)

    def merged(self, other: Tally) -> Tally:
        """Of the samples of both."""
        return Tally(self.sums + other.sums, self.scores.merged(other.scores))

    def to(self, device: torch.device) -> Tally:
        """A copy on the device, or this one."""
        scores = ScoreSketch(**{name: values.to(device) for name, values in vars(self.scores).items()})
        return Tally(self.sums.to(device), scores)

    def vector(self) -> torch.Tensor:
        """All of it as float64 [terms + 1 + 6 * (capacity + 1)], without loss."""
        parts = [self.sums, self.scores.shared_bits, self.scores.highest, self.scores.lowest, self.scores.sums]
        return torch.cat([part.double().reshape(-1) for part in parts])

    def from_vector(self, vector: torch.Tensor) -> Tally:
        """What :meth:`vector` gave, of a tally of the size of this one."""
        places = len(self.scores.highest)
        sums, bits, highest, lowest, weights = vector.split([len(self.sums), 1, places, places, 4 * places])
        scores = ScoreSketch(highest.int(), lowest.int(), weights.clone().view(places, 4), bits.long().squeeze(0))
        return Tally(sums.clone(), scores)

    def over_ranks(self) -> Tally:
        """Of the samples of all ranks, on the CPU. All ranks must call this."""
        here = self.to(torch.device("cpu"))
        merged = merge_over_ranks(here.vector(), lambda a, b: here.from_vector(a).merged(here.from_vector(b)).vector())
        return here.from_vector(merged)


def merge_over_ranks(value: torch.Tensor, merge: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Merges the ranks' tensors in pairs, then pairs of pairs, and so on. All ranks must call this.

    No rank holds more than two of them, and it takes log2(ranks) rounds.

    Args:
        value: Of this rank, on the CPU, of the same shape on every rank.
        merge: Of two values, of the same shape again.

    Returns:
        The same on every rank.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    distance = 1
    while distance < world_size and rank % distance == 0:
        if rank % (2 * distance):
            dist.send(value, rank - distance)
        elif rank + distance < world_size:
            other = torch.empty_like(value)
            dist.recv(other, rank + distance)
            value = merge(value, other)
        distance *= 2
    dist.broadcast(value, 0)
    return value
