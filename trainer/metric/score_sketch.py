"""Scores and labels of any number of samples in constant memory, for figures that depend on their order."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.metric.ranking import Ranking

CAPACITY = 1 << 16
"""Places of a sketch."""

_UNUSED = 2**31 - 1
_KEY_BITS = 32


@dataclass(frozen=True)
class ScoreSketch:
    """The weight of negatives and positives at each score; neighbouring scores share a place where they are too many.

    A score's key is its float32 bits as an integer that rises with the score. Scores share a place if
    their keys are equal up to the last bits, and the number of these bits is the smallest one for which
    there are places enough: none as long as no more than ``capacity`` distinct scores were seen, and the
    sketch is exact. So places are no wider than they must be, wherever the scores lie (near zero, in a
    narrow band, far out). The number of bits, and with it the whole sketch, depends on the set of the samples
    alone and not on their order or on how they were spread over ranks: sketches of parts merge into the
    sketch of the whole.

    What is not known is the order of the samples within a place of several scores. It is taken as random: an
    AUC is off by at most half of the share of the (negative, positive) pairs that share such a place, and
    far less on average. How much of a place is tied, which a PR-AUC asks for, is estimated from sums in which
    each score has a random sign of its own: what has different scores cancels out in their squares, what is tied
    does not (Alon, Matias and Szegedy 1996). A place of a single score is exact.

    Own code, because the implementations at hand keep every prediction, or have fixed bins over the
    probability, where click rates crowd into the lowest ones.

    On a device every operation has fixed shapes and waits for nothing; on the CPU only places in use are kept.

    Attributes:
        capacity: Places that may be in use.
        highest: Highest key of each place, rising, int32 [P]; P is at most capacity + 1, at least one of them unused,
            at the end.
        lowest: Lowest key of each place, int32 [P].
        sums: Weights of the negatives and of the positives, and both again with signs, float64 [P, 4].
        shared_bits: The number of the last bits, int64 [].
    """

    capacity: int
    highest: torch.Tensor
    lowest: torch.Tensor
    sums: torch.Tensor
    shared_bits: torch.Tensor

    @staticmethod
    def empty(capacity: int, device: torch.device) -> ScoreSketch:
        """Of no samples."""
        unused = torch.full((1,), _UNUSED, dtype=torch.int32, device=device)
        return ScoreSketch(
            capacity=capacity,
            highest=unused,
            lowest=unused,
            sums=torch.zeros(1, 4, dtype=torch.float64, device=device),
            shared_bits=torch.zeros((), dtype=torch.int64, device=device),
        )

    def with_samples(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> ScoreSketch:
        """The sketch of these samples, too.

        Args:
            logits: Scores, float32 [B].
            labels: 0 or 1, float64 [B].
            weights: 0 or more, float64 [B].
        """
        positives = weights * labels
        keys = torch.where(weights > 0, keys_of(logits), _UNUSED)
        sums = torch.stack([weights - positives, positives], 1)
        signed = sums * _signs_of(keys)[:, None]
        return self._with(keys, keys, torch.cat([sums, signed], 1), self.shared_bits)

    def merged(self, other: ScoreSketch) -> ScoreSketch:
        """The sketch of the samples of both, which have the same capacity."""
        shared_bits = torch.maximum(self.shared_bits, other.shared_bits)
        return self._with(other.highest, other.lowest, other.sums, shared_bits)

    def ranking(self) -> Ranking:
        """What it holds; nothing if a score was not a number, since that has no rank."""
        held = (self.highest != _UNUSED).nonzero().squeeze(1)
        bounds = [scores_of(keys[held]).double() for keys in (self.lowest, self.highest)]
        logits = torch.where(bounds[0] == bounds[1], bounds[1], (bounds[0] + bounds[1]) / 2)
        negatives, positives, signed_negatives, signed_positives = self.sums[held].unbind(1)
        single, weights = bounds[0] == bounds[1], negatives + positives
        tied_positives = torch.where(single, positives, signed_positives.square() / positives)
        tied = torch.where(single, weights, tied_positives + signed_positives * signed_negatives / positives)
        tied_positives = torch.minimum(tied_positives.nan_to_num(0.0), positives)
        tied = torch.clamp(tied.nan_to_num(0.0), tied_positives, weights)
        ranking = Ranking(logits, negatives, positives, tied_positives, tied)
        return ranking.first(0) if logits.isnan().any() else ranking

    def _with(
        self, highest: torch.Tensor, lowest: torch.Tensor, sums: torch.Tensor, shared_bits: torch.Tensor
    ) -> ScoreSketch:
        """With further places [m]; at least ``shared_bits`` bits are shared."""
        ordered, order = torch.cat([self.highest, highest]).sort()
        # Unused keys end the order, whatever else there is, and share a place of their own.
        differing = torch.bitwise_xor(ordered[1:], ordered[:-1])
        # Mostly there are places enough, which is soon seen; but on a device, not without waiting for it.
        on_cpu = ordered.device.type == "cpu"
        if not on_cpu or int((differing >> shared_bits != 0).sum()) > self.capacity:
            shared_bits = torch.maximum(shared_bits, _bits_to_share(differing, self.capacity))
        places = torch.zeros_like(order)
        torch.cumsum(differing >> shared_bits != 0, 0, out=places[1:])
        num_places = int(places[-1]) + 1 if on_cpu else self.capacity + 1
        merged = self.sums.new_zeros(num_places, 4).index_add_(0, places, torch.cat([self.sums, sums])[order])
        unused = self.highest.new_full((num_places,), _UNUSED)
        return ScoreSketch(
            capacity=self.capacity,
            highest=unused.scatter_reduce(0, places, ordered, "amax", include_self=False),
            lowest=unused.scatter_reduce(0, places, torch.cat([self.lowest, lowest])[order], "amin"),
            sums=merged,
            shared_bits=shared_bits,
        )


def keys_of(scores: torch.Tensor) -> torch.Tensor:
    """Integers in the order of the scores, int32; 0 and -0 have the same.

    Args:
        scores: float32.
    """
    return _flip_negatives((scores + 0.0).view(torch.int32))


def scores_of(keys: torch.Tensor) -> torch.Tensor:
    """The scores of :func:`keys_of`, float32."""
    return _flip_negatives(keys).view(torch.float32)


def _signs_of(keys: torch.Tensor) -> torch.Tensor:
    """1 or -1, as good as independent for different keys and the same on every rank, int32."""
    mixed = keys
    for shift, factor in ((16, -2048144789), (13, -1028477387)):  # the finalizer of MurmurHash3
        mixed = torch.bitwise_xor(mixed, mixed >> shift) * factor
    return (mixed >> 31) * 2 + 1


def _flip_negatives(bits: torch.Tensor) -> torch.Tensor:
    return torch.bitwise_xor(bits, (bits >> 31) & _UNUSED)


def _bits_to_share(differing: torch.Tensor, capacity: int) -> torch.Tensor:
    """How many of the last bits must not count so that at most ``capacity`` neighbours still differ, int64 [].

    Args:
        differing: The bits in which a key differs from the one before it, int32 [n - 1].
    """
    # A float's exponent tells how many bits the integer has that it holds.
    exponents = ((differing.long() & 0xFFFFFFFF).double().view(torch.int64) >> 52) - 1022
    num_with_bits = torch.zeros(_KEY_BITS + 1, dtype=torch.int64, device=differing.device)
    num_with_bits.index_add_(0, exponents.clamp(min=0), torch.ones_like(exponents))
    still_differing = differing.numel() - num_with_bits.cumsum(0)  # [b]: if b bits do not count
    return (still_differing > capacity).sum()
