"""How much memory the values of a data set take while Arrow decodes them, known from the Parquet footers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from data.schema import Schema

NUMBER_BYTES = 8
"""Of a number, or of a string's place in a dictionary."""

READING_BYTES = 26
"""Of a number while its row group is read, beside itself: measured, 10 to 25 for the growing and then cut buffers."""

TEXT_COPIES = 3
"""Of a dictionary's strings: in the table that finds them again, while that grows, and as the result."""

ENTRY_BYTES = 176
"""Of a dictionary, beside the string: measured, 15 to 171 with Arrow's hash table."""

LEAST_TEXT_BYTES = 5
"""Of a distinct string in the file: four for its length, and the string."""


@dataclass(frozen=True)
class DecodedSizes:
    """For each row, in the row groups where it is most.

    Attributes:
        num_bytes: By column; a column that is not there takes :data:`NUMBER_BYTES`.
        num_values: By column; more than one where it holds lists.
    """

    num_bytes: Mapping[str, float] = field(default_factory=dict)
    num_values: Mapping[str, float] = field(default_factory=dict)

    def of(self, columns: Sequence[str]) -> float:
        """Bytes that some columns take together for each row."""
        return sum(self.num_bytes.get(column, NUMBER_BYTES) for column in columns)


def decoded_sizes(footers: Sequence[pq.FileMetaData], schema: Schema) -> DecodedSizes:
    """Looks at the largest row group of each file: at all of them would take long where there are many.

    Args:
        footers: Of all files.
        schema: Which columns are read.
    """
    num_bytes = dict.fromkeys(schema.columns, float(NUMBER_BYTES))
    num_values = dict.fromkeys(schema.columns, 1.0)
    for footer in footers:
        groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        largest = max(groups, key=lambda group: group.num_rows, default=None)
        if largest is None or not largest.num_rows:
            continue
        for i in range(largest.num_columns):
            chunk = largest.column(i)
            # The path of a list goes on below its column: tags.list.element.
            for name in {chunk.path_in_schema, chunk.path_in_schema.partition(".")[0]} & num_bytes.keys():
                num_bytes[name] = max(num_bytes[name], _decoded_bytes(chunk) / largest.num_rows)
                num_values[name] = max(num_values[name], chunk.num_values / largest.num_rows)
    return DecodedSizes(num_bytes, num_values)


def _decoded_bytes(chunk: pq.ColumnChunkMetaData) -> int:
    """Of numbers, or of strings that are decoded into a dictionary, at most."""
    numbers = NUMBER_BYTES * chunk.num_values
    if chunk.physical_type != "BYTE_ARRAY":
        return numbers
    text = chunk.total_uncompressed_size
    return numbers + TEXT_COPIES * text + ENTRY_BYTES * min(chunk.num_values, text // LEAST_TEXT_BYTES)
