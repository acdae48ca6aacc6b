"""From the data section of the config to a checked schema, a row-group index and batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data.index import DatasetIndex, build_index, resolve_files
from data.loader import BatchLoader, LoaderOptions
from data.order import SampleOrder
from data.schema import Schema, load_schema
from trainer.config import DataConfig
from trainer.distributed import Worker, on_main

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Dataset:
    """A split of a data set: checked, but not a row of it read.

    Attributes:
        schema: What the columns mean.
        index: The row groups.
    """

    schema: Schema
    index: DatasetIndex


def open_dataset(config: DataConfig, split: Split) -> Dataset:
    """Reads the schema and all footers on rank 0 and gives them to all ranks. All ranks must call this.

    Raises:
        DataError: No files, an impossible schema, or files that do not fit it.
    """

    def read() -> Dataset:
        schema = load_schema(config.schema)
        files = resolve_files(getattr(config, split), key=f"data.{split}")
        return Dataset(schema, build_index(files, schema))

    return on_main(read)


def training_order(dataset: Dataset, config: DataConfig, *, global_batch_size: int, seed: int) -> SampleOrder:
    """The shuffled order of the training rows."""
    return SampleOrder(
        dataset.index.row_counts,
        global_batch_size=global_batch_size,
        lanes=config.lanes,
        window_rows=config.window_rows,
        shuffle=True,
        seed=seed,
    )


def file_order(dataset: Dataset, config: DataConfig, *, global_batch_size: int) -> SampleOrder:
    """The rows as they lie in the files, for evaluation."""
    return SampleOrder(
        dataset.index.row_counts,
        global_batch_size=global_batch_size,
        lanes=config.lanes,
        window_rows=config.window_rows,
        shuffle=False,
    )


def make_loader(dataset: Dataset, order: SampleOrder, config: DataConfig, worker: Worker) -> BatchLoader:
    """This worker's batches in the given order."""
    return BatchLoader(
        dataset.index,
        order,
        dataset.schema,
        rank=worker.rank,
        world_size=worker.world_size,
        options=LoaderOptions(
            num_threads=config.num_threads,
            prefetch_batches=config.prefetch_batches,
            pin_memory=worker.device.type == "cuda",
        ),
    )
