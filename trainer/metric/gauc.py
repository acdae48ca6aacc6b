"""AUC within groups of samples, such as the impressions of each user."""

from __future__ import annotations

import math
import tempfile
from contextlib import ExitStack
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

HELD_ROWS = 1 << 21
"""Samples of a rank that are in memory at a time, about, if there are more (of 24 bytes each)."""

_SAMPLE = np.dtype([("group", np.int64), ("score", np.float64), ("weight", np.float32), ("label", np.float32)])

Samples = npt.NDArray[np.void]


class GroupedAUC:
    """GAUC: the mean of the groups' AUCs, each weighted by its samples' weight (Zhou et al. 2018, eq. 11).

    Groups of one class have no AUC and are left out; so are samples without a group. Exact, ties as half, the
    same on any number of ranks up to the last places of float64.

    What it costs: every sample is kept, and at the end sent once to the rank that its group falls to by
    hash. A rank with more than :data:`HELD_ROWS` samples writes them to temporary files in parts by the
    hash of the group (24 bytes a sample, in the folder that TMPDIR names), and the parts are exchanged and
    computed one after the other. So memory is that of ``HELD_ROWS`` samples, a few times over, whatever
    their number; except that the samples of one group are in the memory of one rank at once.

    Args:
        num_rows: Samples of each rank, at most; the same on every rank.
        null_key: The key of samples without a group.
        held_rows: See :data:`HELD_ROWS`.
    """

    def __init__(self, num_rows: int, *, null_key: int, held_rows: int = HELD_ROWS) -> None:
        self._null_key = null_key
        self._parts = max(1, math.ceil(num_rows / held_rows))
        self._held: list[list[Samples]] = [[] for _ in range(self._parts)]
        self._open = ExitStack()
        self._files: list[IO[bytes]] = []
        if self._parts > 1:
            # Without a name: nothing is left of them, however the process ends.
            files = [tempfile.TemporaryFile() for _ in range(self._parts)]  # noqa: SIM115
            self._files = [self._open.enter_context(file) for file in files]

    def update(
        self, groups_B: torch.Tensor, logits_B: torch.Tensor, labels_B: torch.Tensor, weights_B: torch.Tensor
    ) -> None:
        """Adds a batch, on the CPU.

        Args:
            groups_B: Keys of the groups, int64 [B].
            logits_B: Before the sigmoid, float [B].
            labels_B: 0 or 1, float [B].
            weights_B: Sample weights, 0 for padding, float [B].
        """
        wanted = (weights_B > 0) & (groups_B != self._null_key)
        samples = np.empty(int(wanted.sum()), _SAMPLE)
        for name, values in zip(_SAMPLE.names or (), (groups_B, logits_B, weights_B, labels_B), strict=True):
            samples[name] = values[wanted].numpy()
        if not self._files:
            self._held[0].append(samples)
            return
        for part, rows in enumerate(_split(samples, _hash(samples["group"]) // 65536 % self._parts, self._parts)):
            self._files[part].write(rows.tobytes())

    def compute(self) -> float:
        """The figure over all ranks; NaN if no group has both classes. All ranks must call this, once."""
        sums = np.zeros(2)
        for part in range(self._parts):
            sums += _sums_of_groups(_exchanged(self._take(part)))
        self._open.close()
        total = torch.from_numpy(sums)
        dist.all_reduce(total)
        weighted, weight = total.tolist()
        return weighted / weight if weight else math.nan

    def _take(self, part: int) -> Samples:
        """The samples of a part on this rank, which are then no longer kept."""
        if not self._files:
            held, self._held = self._held[0], [[]]
            return np.concatenate(held) if held else np.empty(0, _SAMPLE)
        self._files[part].seek(0)
        return np.frombuffer(self._files[part].read(), _SAMPLE)


def _exchanged(samples: Samples) -> Samples:
    """All ranks' samples of the groups that fall to this rank. All ranks must call this."""
    world_size = dist.get_world_size()
    if world_size == 1:
        return samples
    outgoing = _split(samples, _hash(samples["group"]) % world_size, world_size)
    lengths = torch.tensor([len(rows) for rows in outgoing])
    incoming = torch.empty_like(lengths)
    dist.all_to_all_single(incoming, lengths)
    sizes_in, sizes_out = ((_SAMPLE.itemsize * counts).tolist() for counts in (incoming, lengths))
    sent = torch.from_numpy(np.concatenate(outgoing).view(np.uint8))
    received = torch.empty(sum(sizes_in), dtype=torch.uint8)
    dist.all_to_all_single(received, sent, sizes_in, sizes_out)
    return received.numpy().view(_SAMPLE)


def _sums_of_groups(samples: Samples) -> npt.NDArray[np.float64]:
    """Over the groups that have both classes: of AUC times weight, and of the weight, float64 [2]."""
    if not len(samples):
        return np.zeros(2)
    samples = samples[np.lexsort((samples["score"], samples["group"]))]
    groups, scores = samples["group"], samples["score"]
    new_group = np.append(True, groups[1:] != groups[:-1])
    new_score = new_group | np.append(True, scores[1:] != scores[:-1])
    weights = samples["weight"].astype(np.float64)
    positives = np.add.reduceat(weights * samples["label"], np.flatnonzero(new_score))
    negatives = np.add.reduceat(weights, np.flatnonzero(new_score)) - positives
    # From here on by distinct score of a group.
    starts = np.flatnonzero(new_group[new_score])
    sizes = np.diff(np.append(starts, len(positives)))
    below = np.cumsum(negatives) - negatives
    below -= np.repeat(below[starts], sizes)
    wins = np.add.reduceat(positives * (below + negatives / 2), starts)
    positive, negative = np.add.reduceat(positives, starts), np.add.reduceat(negatives, starts)
    both = (positive > 0) & (negative > 0)
    weight = (positive + negative)[both]
    return np.array([(wins[both] / (positive * negative)[both] * weight).sum(), weight.sum()])


def _split(samples: Samples, places: npt.NDArray[np.uint64], number: int) -> list[Samples]:
    order = np.argsort(places, kind="stable")
    ends = np.cumsum(np.bincount(places.astype(np.int64), minlength=number))
    return np.split(samples[order], ends[:-1])


def _hash(groups: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Spreads keys that may be small integers, by the multiplication of Fibonacci hashing."""
    return (groups.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)
