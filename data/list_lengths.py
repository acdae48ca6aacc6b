"""How many values the lists of a data set hold, seen in some of its row groups."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from data.damage import DamageError
from data.parquet import RowGroup, read_row_group
from data.schema import Schema

logger = logging.getLogger(__name__)

SAMPLED_ROW_GROUPS = 8


def mean_list_lengths(row_groups: Sequence[RowGroup], schema: Schema) -> dict[str, float]:
    """The mean number of values that a row has of each feature of lists, as far as ``max_length`` lets them count.

    Reads nothing but the lists, of row groups evenly spread over the data set; nothing at all if there are no lists.

    Args:
        row_groups: Of the data set.
        schema: Its features.

    Returns:
        By feature; without those of which no sampled row group could be read, which training has its own policy for.
    """
    if not schema.multi_hot:
        return {}
    step = max(1, len(row_groups) // SAMPLED_ROW_GROUPS)
    values = dict.fromkeys((feature.name for feature in schema.multi_hot), 0)
    num_rows = 0
    for group in row_groups[::step][:SAMPLED_ROW_GROUPS]:
        try:
            table = read_row_group(group, columns=sorted({f.source for f in schema.multi_hot}), dictionaries=[])
        except DamageError as error:
            logger.warning("left out of the lists' mean length: %s", error)
            continue
        num_rows += table.num_rows
        for feature in schema.multi_hot:
            values[feature.name] += _num_values(table[feature.source], feature.max_length)
    return {name: count / num_rows for name, count in values.items()} if num_rows else {}


def _num_values(lists: pa.ChunkedArray, max_length: int) -> int:
    lengths = pc.min_element_wise(pc.list_value_length(lists), max_length, skip_nulls=False)
    return int(pc.sum(lengths).as_py() or 0)
