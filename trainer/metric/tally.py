"""What is kept of samples: sums and a sketch of their scores, which add up over batches, ranks and runs."""

from __future__ import annotations

from collections.abc import Sequence
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
        kept = self.scores
        parts = (values.to(device) for values in (kept.highest, kept.lowest, kept.sums, kept.shared_bits))
        return Tally(self.sums.to(device), ScoreSketch(kept.capacity, *parts))

    def vector(self) -> torch.Tensor:
        """All of it, on the CPU, without loss: float64 of at most :attr:`largest_vector` elements."""
        kept = self.scores
        size = torch.tensor([len(kept.highest)])
        parts = (self.sums, kept.shared_bits, size, kept.highest, kept.lowest, kept.sums)
        return torch.cat([part.double().cpu().reshape(-1) for part in parts])

    @property
    def largest_vector(self) -> int:
        """Elements of :meth:`vector` when all places are in use."""
        return len(self.sums) + 2 + 6 * (self.scores.capacity + 1)

    def taken_from(self, vector: torch.Tensor) -> tuple[Tally, torch.Tensor]:
        """A tally like this one from the beginning of ``vector``, as :meth:`vector` gave it, and the rest."""
        num_terms = len(self.sums)
        places = int(vector[num_terms + 1])
        parts = vector.split([num_terms, 1, 1, places, places, 4 * places, len(vector) - num_terms - 2 - 6 * places])
        sums, bits, _, highest, lowest, weights, rest = parts
        keys = (highest.int(), lowest.int())
        scores = ScoreSketch(self.scores.capacity, *keys, weights.clone().view(places, 4), bits.long().squeeze(0))
        return Tally(sums.clone(), scores), rest


def merge_over_ranks(tallies: Sequence[Tally]) -> list[Tally]:
    """Tallies of the samples of all ranks, on the CPU. All ranks must call this, with as many alike.

    The ranks merge theirs in pairs, then pairs of pairs, and so on: no rank holds more than two of them, and
    it takes log2(ranks) rounds.
    """
    merged = [tally.to(torch.device("cpu")) for tally in tallies]
    rank, world_size = dist.get_rank(), dist.get_world_size()
    distance = 1
    while distance < world_size and rank % distance == 0:
        if rank % (2 * distance):
            packed = _packed(merged)
            dist.send(torch.tensor([len(packed)]), rank - distance)
            dist.send(packed, rank - distance)
        elif rank + distance < world_size:
            length = torch.zeros(1, dtype=torch.int64)
            dist.recv(length, rank + distance)
            packed = torch.empty(int(length), dtype=torch.float64)
            dist.recv(packed, rank + distance)
            merged = [ours.merged(theirs) for ours, theirs in zip(merged, _unpacked(packed, merged), strict=True)]
        distance *= 2
    if world_size == 1:
        return merged
    packed = _packed(merged)
    length = torch.tensor([len(packed)])
    dist.broadcast(length, 0)
    if rank:
        packed = torch.empty(int(length), dtype=torch.float64)
    dist.broadcast(packed, 0)
    return _unpacked(packed, merged)


def _packed(tallies: Sequence[Tally]) -> torch.Tensor:
    return torch.cat([tally.vector() for tally in tallies])


def _unpacked(packed: torch.Tensor, like: Sequence[Tally]) -> list[Tally]:
    tallies = []
    for one in like:
        tally, packed = one.taken_from(packed)
        tallies.append(tally)
    return tallies
