"""Parts of tensors: cut into pieces, spread over writers, written and read in whatever cut."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.checkpoints import tensors_of
from tests.ranks import results_of, run_ranks
from trainer.checkpoint import state
from trainer.checkpoint.canonical import State
from trainer.checkpoint.parts import Part, Stored, spread_writers, whole
from trainer.distributed import Worker

MIB = 1 << 20


def test_large_parts_are_cut_into_pieces_that_cover_them_once() -> None:
    part = Part((1000, 8), torch.empty(3_000_001, 16, device="meta"))
    pieces = Stored((5_000_000, 24), torch.float32, (part,)).in_pieces().parts
    assert len(pieces) > 5
    assert all(piece.tensor.numel() * 4 <= 32 * MIB for piece in pieces)
    row = 1000
    for piece in pieces:
        assert piece.offsets == (row, 8)
        assert piece.tensor.shape[1] == 16
        row += len(piece.tensor)
    assert row == 1000 + 3_000_001


def test_small_parts_and_scalars_stay_whole() -> None:
    for tensor in (torch.empty(100, 16, device="meta"), torch.empty((), device="meta")):
        stored = whole(tensor)
        assert stored.in_pieces() == stored


def test_every_replica_has_one_writer_and_the_large_ones_take_turns() -> None:
    replicas = {f"dense/{number}": whole(torch.empty(number + 1, device="meta")) for number in range(6)}
    writers: dict[str, list[int]] = {key: [] for key in replicas}
    for rank in range(4):
        for key, stored in spread_writers(replicas, rank=rank, world_size=4).items():
            writers[key] += [rank for part in stored.to_write().parts]
    assert writers == {"dense/5": [0], "dense/4": [1], "dense/3": [2], "dense/2": [3], "dense/1": [0], "dense/0": [1]}


def write_and_read(worker: Worker, folder: Path) -> bool:
    """Writes a table of several pieces, and reads it by columns."""
    table = torch.arange(40 * MIB // 32, dtype=torch.float32).repeat(8, 1).t().contiguous() + torch.arange(8) / 8
    state.write({"tables/t/weight": whole(table)}, folder)
    left, right = torch.empty(len(table), 3), torch.empty(len(table), 5)
    stored = Stored(tuple(table.shape), table.dtype, (Part((0, 0), left), Part((0, 3), right)))
    state.read(State({"tables/t/weight": stored}), folder)
    return torch.equal(torch.cat([left, right], 1), table) and torch.equal(tensors_of(folder)["tables/t/weight"], table)


def test_pieces_are_read_in_any_cut(tmp_path: Path) -> None:
    assert results_of(run_ranks(1, write_and_read, tmp_path / "checkpoint")) == [True]
