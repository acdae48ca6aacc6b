"""Avazu's click-through-rate logs (Kaggle, 2014): ten days of mobile advertisements, CSV with a header.

``hour`` is YYMMDDHH. Kaggle's ``test`` has no ``click`` column and cannot be used; split ``train`` by time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from omegaconf import MISSING

from data.errors import DataError
from data.prepare.delimited import Layout
from data.prepare.source.base import Column
from data.prepare.text import TextSource
from data.structured import suggestion

STRINGS = (
    *("site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"),
    *("device_id", "device_ip", "device_model"),
)
INTEGERS = ("C1", "banner_pos", "device_type", "device_conn_type", *(f"C{n}" for n in range(14, 22)))


@dataclass
class AvazuConfig:
    """``files``: ``train``, plain or gzip."""

    files: Any = MISSING


class Avazu(TextSource):
    """Reads Avazu's lines; ``hour`` gives the hour of the day and the day of the week, too."""

    Config = AvazuConfig

    def __init__(self, config: AvazuConfig) -> None:
        super().__init__(config.files, header=True)
        names = self.header(self.files[0]).split(",")
        for name in ("click", "hour", *STRINGS, *INTEGERS):
            if name not in names:
                raise DataError(
                    f"{self.files[0]}, line 1: column '{name}' is missing in the header; give Avazu's labelled "
                    f"`train` file, or use source=csv.{suggestion(name, names)}"
                )
        self._names = names

    @cached_property
    def layout(self) -> Layout:
        """The fields in the header's order; unknown ones as text."""
        types = {"click": pa.int8(), "hour": pa.int32()} | dict.fromkeys(INTEGERS, pa.int32())
        fields = {name: types.get(name, pa.string()) for name in self._names}
        return Layout(fields, ",", label="click", required=("hour",))

    def columns(self) -> list[Column]:
        """All but ``id``; categories throughout, and ``hour`` to split by."""
        names = (*STRINGS, *INTEGERS, "hour_of_day", "day_of_week")
        return [Column("click", "label"), Column("hour", "extra"), *(Column(name, "categorical") for name in names)]

    def derive(self, table: pa.Table) -> pa.Table:
        """Adds ``hour_of_day`` (0 .. 23) and ``day_of_week`` (0 is Monday); null where hour is no such time."""
        text = pc.utf8_lpad(table["hour"].cast(pa.string()), 8, padding="0")
        time = pc.strptime(text, format="%y%m%d%H", unit="s", error_is_null=True)
        table = table.append_column("hour_of_day", pc.hour(time).cast(pa.int8()))
        table = table.append_column("day_of_week", pc.day_of_week(time).cast(pa.int8()))
        return table.select([column.name for column in self.columns()])
