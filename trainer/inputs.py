"""From the data section of the config to a checked schema, a row-group index and batches."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.carried import CarriedColumn
from data.columns import held_bytes_per_row
from data.damage import DamagePolicy
from data.files import resolve_files
from data.footer_cache import FooterCache
from data.index import DatasetIndex, build_index
from data.loader import BatchLoader, LoaderOptions
from data.order import SampleOrder
from data.retry import Retry
from data.schema import Schema, load_schema
from data.storage import read_bytes
from trainer.config import DataConfig
from trainer.distributed import Worker, on_main

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """The training rows or an evaluation set: checked, but not a row of it read.

    Attributes:
        schema: What the columns mean.
        index: The row groups.
    """

    schema: Schema
    index: DatasetIndex


def open_dataset(config: DataConfig, name: str, *, carried: Sequence[CarriedColumn] = ()) -> Dataset:
    """Reads the schema and all footers on rank 0 and gives them to all ranks. All ranks must call this.

    Args:
        config: Says where the files are.
        name: ``train``, or the name of an evaluation set.
        carried: Columns that batches are to bring along.

    Raises:
        DataError: No files, an impossible schema, or files that do not fit it.
        StorageError: Where the files lie cannot be reached.
    """
    return on_main(lambda: read_dataset(config, name, carried=carried))


def read_dataset(config: DataConfig, name: str, *, carried: Sequence[CarriedColumn] = ()) -> Dataset:
    """Reads the schema and all footers in this process, for itself; raises as :func:`open_dataset` does."""
    started = time.monotonic()
    retry = Retry(attempts=config.retries, total_s=config.retry_for_s)
    schema = load_schema(config.schema, read=lambda path: read_bytes(path, config.storage_options, retry))
    schema = dataclasses.replace(schema, carried=tuple(carried))
    key = config.key_of(name)
    files = resolve_files(config.files_of(name), key=key, options=config.storage_options, retry=retry)
    logger.info("%s: reading the footers of %d files", key, len(files))
    cache = FooterCache(Path(config.index_cache, f"{name}.arrow")) if config.index_cache else None
    index = build_index(files, schema, policy=damage_policy(config), cache=cache)
    logger.info("%s: %s rows, indexed in %.1f s", key, f"{index.num_rows:,}", time.monotonic() - started)
    return Dataset(schema, index)


def damage_policy(config: DataConfig) -> DamagePolicy:
    """What the config says about damaged files."""
    return DamagePolicy(skip=config.on_damage == "skip", max_skipped_rows=config.max_skipped_rows)


def window_rows(schema: Schema, config: DataConfig) -> int:
    """Rows that are shuffled together, by number or by the memory that they take."""
    if config.window_mib is None:
        return config.window_rows
    return max(1, int(config.window_mib * 2**20) // held_bytes_per_row(schema))


def training_order(dataset: Dataset, config: DataConfig, *, global_batch_size: int, seed: int) -> SampleOrder:
    """The shuffled order of the training rows."""
    return SampleOrder(
        dataset.index.row_counts,
        global_batch_size=global_batch_size,
        lanes=config.lanes,
        window_rows=window_rows(dataset.schema, config),
        shuffle=True,
        seed=seed,
    )


def file_order(dataset: Dataset, config: DataConfig, *, global_batch_size: int) -> SampleOrder:
    """The rows as they lie in the files, for evaluation."""
    return SampleOrder(
        dataset.index.row_counts,
        global_batch_size=global_batch_size,
        lanes=config.lanes,
        window_rows=window_rows(dataset.schema, config),
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
            cache_bytes=config.cache_mib << 20,
            pin_for=worker.device if worker.device.type == "cuda" else None,
            damage=damage_policy(config),
        ),
    )
