"""The rows that a model is evaluated on, ready to be read, with the columns that its metrics are asked for by."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from data.carried import NULL_KEY, CarriedColumn, frequent_values
from data.categorical import value_keys
from data.index import DatasetIndex
from data.loader import BatchLoader
from data.parquet import file_schema, read_footer
from trainer.config import DataConfig, MetricsConfig
from trainer.config.metrics import SliceConfig
from trainer.distributed import Worker, on_all, on_main
from trainer.errors import ConfigError
from trainer.inputs import Dataset, file_order, make_loader, open_dataset
from trainer.metric.gauc import GroupedAUC
from trainer.metric.slices import Slicing

COUNTED_ROWS = 1_000_000
"""Rows in which the most frequent values of a column are looked for."""


@dataclass(frozen=True)
class EvaluationSet:
    """The rows to evaluate on.

    Attributes:
        name: valid, test, or a name under ``data.eval``.
        loader: Of this worker, in file order.
        slicings: How the columns of ``metrics.slices`` cut the rows.
    """

    name: str
    loader: BatchLoader
    slicings: tuple[Slicing, ...]

    def grouped_auc(self) -> GroupedAUC:
        """For the rows of this worker."""
        order = self.loader.order
        num_rows = order.steps_per_epoch * order.rows_per_lane_step * len(self.loader.lanes)
        return GroupedAUC(num_rows, null_key=NULL_KEY)


def carried_columns(config: MetricsConfig) -> tuple[CarriedColumn, ...]:
    """What batches have to bring along: the column of the GAUC, if there is one, and those of the slices."""
    groups = [CarriedColumn(config.gauc_column)] if config.gauc_column else []
    return (*groups, *(CarriedColumn(part.column, numeric=part.borders is not None) for part in config.slices))


def open_evaluation_data(name: str, data: DataConfig, metrics: MetricsConfig) -> Dataset:
    """Checks the files of an evaluation set. All ranks must call this; raises as :func:`open_dataset` does."""
    return open_dataset(data, name, carried=carried_columns(metrics))


def make_evaluation_set(
    name: str, dataset: Dataset, data: DataConfig, metrics: MetricsConfig, worker: Worker, *, global_batch_size: int
) -> EvaluationSet:
    """Makes the loader and looks for the values of the slices. All ranks must call this.

    Raises:
        ConfigError: A slice's values cannot be those of its column.
        DataError: The files cannot be read.
    """
    order = file_order(dataset, data, global_batch_size=global_batch_size)
    loader = on_all(lambda: make_loader(dataset, order, data, worker))
    return EvaluationSet(name, loader, on_main(lambda: tuple(_slicing(part, dataset.index) for part in metrics.slices)))


def _slicing(config: SliceConfig, index: DatasetIndex) -> Slicing:
    if config.borders is not None:
        return Slicing.by_borders(config.column, config.borders)
    values = config.values
    if values is None:
        values = frequent_values(index.row_groups, config.column, top=config.top or 1, max_rows=COUNTED_ROWS)
    names = [str(value) for value in values]
    return Slicing.by_values(config.column, names, _keys(config.column, values, index), null_key=NULL_KEY)


def _keys(column: str, values: list[object], index: DatasetIndex) -> list[int]:
    """The keys of values, which are taken to be of the column's type."""
    if not values:
        return []
    file = index.row_groups[0].file
    kind = file_schema(read_footer(file), file).field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    try:
        # By way of text, because Arrow takes a Python integer for one of int64, also where the column has uint64.
        typed = pa.array([str(value) for value in values] if pa.types.is_integer(kind) else values).cast(kind)
    except (pa.ArrowException, OverflowError) as cause:
        raise ConfigError(
            f"metrics.slices: '{column}': values is {values}, but the column holds {kind}; name values of that type."
        ) from cause
    return [int(key) for key in value_keys(typed, null_key=NULL_KEY)]
