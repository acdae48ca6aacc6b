"""Writes shards: to a temporary name first, so that a file with its right name is whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from data.prepare.config import ShardsConfig
from data.prepare.state import Shard


class ParquetShard:
    """One zstd Parquet file, with row groups of exactly the size asked for (but the last).

    Args:
        out: The output folder.
        folder: Of the split.
        index: Of the piece.
        config: Sizes and compression.
    """

    suffix: ClassVar[str] = ".parquet"

    def __init__(self, out: Path, folder: str, index: int, config: ShardsConfig) -> None:
        self._out = out
        self._path = f"{folder}/part-{index:05d}{self.suffix}"
        self._config = config
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0
        self._num_rows = 0
        self._writer: Any = None

    def add(self, table: pa.Table) -> None:
        """Takes rows; writes row groups as soon as they are full."""
        if not table.num_rows:
            return
        if self._writer is None:
            self._unfinished.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._open(table.schema)
        self._num_rows += table.num_rows
        self._waiting.append(table)
        self._num_waiting += table.num_rows
        if self._num_waiting >= self._config.row_group_rows:
            self._flush(self._num_waiting - self._num_waiting % self._config.row_group_rows)

    def close(self) -> Shard | None:
        """Writes the rest and gives the file its name; None if there were no rows."""
        if self._writer is None:
            return None
        self._flush(self._num_waiting)
        self._writer.close()
        final = self._out / self._path
        os.replace(self._unfinished, final)
        return Shard(self._path, self._num_rows, final.stat().st_size)

    @property
    def _unfinished(self) -> Path:
        return self._out / (self._path + ".tmp")

    def _flush(self, num_rows: int) -> None:
        table = pa.concat_tables(self._waiting)
        self._write(table.slice(0, num_rows))
        self._waiting, self._num_waiting = [table.slice(num_rows)], table.num_rows - num_rows

    def _open(self, schema: pa.Schema) -> Any:
        level = self._config.zstd_level
        return pq.ParquetWriter(
            self._unfinished,
            schema,
            compression="zstd",
            compression_level=level,
            write_page_checksum=True,  # without it, a reader takes most corrupt pages for other values
        )

    def _write(self, table: pa.Table) -> None:
        if table.num_rows:
            self._writer.write_table(table, row_group_size=self._config.row_group_rows)


class TsvShard(ParquetShard):
    """The same as tab-separated text without a header: a null is an empty field."""

    suffix: ClassVar[str] = ".tsv"

    def _open(self, schema: pa.Schema) -> Any:
        options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
        return pa.csv.CSVWriter(self._unfinished, schema, write_options=options)

    def _write(self, table: pa.Table) -> None:
        self._writer.write_table(table)
