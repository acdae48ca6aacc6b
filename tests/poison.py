"""A row that makes the loss of a chosen step NaN, though every value of it is finite."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from data.places import Place, places_of_step
from trainer.config import TrainConfig
from trainer.inputs import read_dataset, training_order


def poison(config: TrainConfig, step: int, lanes: Sequence[int]) -> Place:
    """Gives a row that these lanes serve in a step (counted from 0) a price whose square, in the FM, is infinite."""
    dataset = read_dataset(config.data, "train")
    order = training_order(dataset, config.data, global_batch_size=config.global_batch_size, seed=config.seed)
    place = places_of_step(dataset.index, order, step, lanes)[1]
    file = pq.ParquetFile(place.group.path)
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    table = file.read()
    prices = table.column("price").to_numpy().copy()
    prices[sum(sizes[: place.group.index]) + place.row] = 3e38
    table = table.set_column(table.column_names.index("price"), "price", pa.array(prices))
    pq.write_table(table, place.group.path, row_group_size=max(sizes))
    return place
