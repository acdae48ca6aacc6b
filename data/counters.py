"""How often the values of a feature were not what the table expects."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureCounts:
    """What was met while decoding one feature.

    Attributes:
        values: Values seen: the rows, or the elements of all lists after truncation.
        nulls: Nulls among them, NaN included.
        out_of_vocabulary: Values that the vocabulary does not hold.
        out_of_range: Ids outside the table, whatever ``on_invalid`` made of them.
        truncated_lists: Lists that were cut to ``max_length``.
    """

    values: int = 0
    nulls: int = 0
    out_of_vocabulary: int = 0
    out_of_range: int = 0
    truncated_lists: int = 0

    def __add__(self, other: FeatureCounts) -> FeatureCounts:
        return FeatureCounts(
            self.values + other.values,
            self.nulls + other.nulls,
            self.out_of_vocabulary + other.out_of_vocabulary,
            self.out_of_range + other.out_of_range,
            self.truncated_lists + other.truncated_lists,
        )
