"""Pieces to shards: side by side on all threads, in bounded memory, each noted when it is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from data.errors import DataError
from data.prepare.config import PrepareConfig
from data.prepare.shards import ParquetShard, TsvShard
from data.prepare.source.base import Piece, Rows, Source
from data.prepare.split import SPLITS, Splitter
from data.prepare.state import RAW, PieceRecord, State

NUM_EXAMPLES = 10
"""Damaged lines that a piece's record and the summary quote."""


@dataclass(frozen=True)
class PieceWriter:
    """Writes the shards of a source's pieces.

    Attributes:
        config: Of the preparation.
        source: Where the pieces come from.
        splitter: Which split a row goes to.
        state: Where shards and records go.
    """

    config: PrepareConfig
    source: Source
    splitter: Splitter
    state: State

    def write_missing(self, done: Mapping[int, PieceRecord]) -> Iterator[PieceRecord]:
        """Writes the pieces that are not done, and gives all records in the order of the input.

        Holds at most ``threads`` + 2 pieces at a time. The input before the first missing piece is not read.

        Raises:
            DataError: The first piece that fails, in the order of the input, says why.
        """
        last = None
        while (record := done.get(0 if last is None else last.index + 1)) is not None:
            yield record
            last = record.piece
        pieces = self.source.pieces(rows_per_piece=self.config.shards.rows, after=last)
        pool = ThreadPoolExecutor(self.config.threads, thread_name_prefix="piece")
        running: deque[Future[PieceRecord]] = deque()
        try:
            for piece in pieces:
                known = done.get(piece.index)
                running.append(pool.submit(self.write, piece) if known is None else _finished(known))
                del piece  # the worker frees its text block by block
                if len(running) > self.config.threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def write(self, piece: Piece) -> PieceRecord:
        """Writes the shards of one piece, then its record.

        Raises:
            DataError: A damaged line, with the policy ``error``; or a file cannot be written.
        """
        try:
            return self._write(piece)
        except OSError as cause:
            raise DataError(f"out: cannot write to {self.state.out} ({cause}); make room and run again.") from cause

    def _write(self, piece: Piece) -> PieceRecord:
        parquet = self.config.format == "parquet"
        kind, folders = (ParquetShard, SPLITS) if parquet else (TsvShard, (RAW,))
        writers = [kind(self.state.out, folder, piece.index, self.config.shards) for folder in folders]
        num_bad, examples = 0, list[str]()
        for rows in self.source.read(piece):
            if rows.bad and self.config.on_bad_line == "error":
                raise DataError(f"{rows.bad[0]}; mend the line, or leave such lines out with on_bad_line=skip.")
            num_bad += len(rows.bad)
            examples.extend(str(bad) for bad in rows.bad[: NUM_EXAMPLES - len(examples)])
            if parquet:
                self._deal(rows, writers)
            else:
                writers[0].add(rows.table)
        shards = [shard for writer in writers if (shard := writer.close()) is not None]
        record = PieceRecord(piece, shards, num_bad, examples)
        self.state.add_piece(record)
        return record

    def _deal(self, rows: Rows, writers: list[ParquetShard]) -> None:
        codes = self.splitter(rows)
        for code, writer in enumerate(writers):
            chosen = np.flatnonzero(codes == code)
            writer.add(rows.table if len(chosen) == rows.table.num_rows else rows.table.take(chosen))


def _finished(record: PieceRecord) -> Future[PieceRecord]:
    future: Future[PieceRecord] = Future()
    future.set_result(record)
    return future
