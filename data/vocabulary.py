"""The values that a feature of kind vocabulary knows, and the table rows that they take."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import DataError
from data.hashing import UInt64Array, fnv1a_64
from data.storage import read_bytes

K = TypeVar("K", np.uint64, np.int64)

OOV_ROW = 1
"""The table row of a value that the vocabulary does not hold."""

FIRST_ROW = 2
"""The table row of the vocabulary's first value; row 0 is for nulls."""


@dataclass(frozen=True)
class Vocabulary:
    """Distinct values in the order of their rows.

    Attributes:
        path: Where they were read from, for messages.
        values: Arrow strings.
    """

    path: str
    values: pa.Array

    @property
    def num_embeddings(self) -> int:
        """Rows of a table for it: the values, nulls and everything else."""
        return len(self.values) + FIRST_ROW

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the values and their order."""
        digest = hashlib.sha256()
        for value in self.values.to_pylist():
            digest.update(value.encode() + b"\n")
        return digest.hexdigest()[:16]

    def rows_of(self, values: pa.Array) -> npt.NDArray[np.int64]:
        """Table rows of distinct values, ``OOV_ROW`` for those that it does not hold.

        Args:
            values: Strings or integers; nulls take any row.

        Returns:
            int64 [len(values)].

        Raises:
            DataError: The values are integers, but the vocabulary holds something else.
        """
        if pa.types.is_integer(values.type):
            filled = pc.fill_null(values, 0).to_numpy(zero_copy_only=False)
            known, rows_of_known = self._integers
            rows = _found(known, rows_of_known, filled.astype(known.dtype))
            if (filled.dtype == np.uint64) == (known.dtype == np.uint64):
                return rows
            # Of 64 bits with a sign and of those without, the same number is meant only below 2**63.
            return np.where(filled.astype(np.int64) >= 0, rows, OOV_ROW)
        rows = _found(*self._hashes, fnv1a_64(values))
        if not len(self.values):
            return rows
        # Equal hashes are no proof: what was found must be the value itself.
        listed = self.values.take(pa.array(np.maximum(rows - FIRST_ROW, 0)))
        same = pc.fill_null(pc.equal(listed, values.cast(self.values.type)), False).to_numpy(zero_copy_only=False)
        return np.where(same, rows, OOV_ROW)

    @cached_property
    def _hashes(self) -> tuple[UInt64Array, npt.NDArray[np.int64]]:
        return _sorted(fnv1a_64(self.values))

    @cached_property
    def _integers(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """As int64, or as uint64 where one of them needs that."""
        try:
            with suppress(pa.ArrowInvalid):
                return _sorted(self.values.cast(pa.int64()).to_numpy())
            return _sorted(self.values.cast(pa.uint64()).to_numpy())
        except pa.ArrowInvalid as cause:
            raise DataError(
                f"{self.path}: the column holds integers, but the vocabulary something else ({cause}); "
                "prepare the vocabulary from this column."
            ) from cause


def _sorted(keys: npt.NDArray[K]) -> tuple[npt.NDArray[K], npt.NDArray[np.int64]]:
    order = np.argsort(keys, kind="stable")
    return keys[order], order + FIRST_ROW


def _found(known: npt.NDArray[K], rows: npt.NDArray[np.int64], keys: npt.NDArray[K]) -> npt.NDArray[np.int64]:
    """The row of each key by binary search among the known ones."""
    if not len(known):
        return np.full(len(keys), OOV_ROW, np.int64)
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[places] == keys, rows[places], OOV_ROW)


def load_vocabulary(path: str | os.PathLike[str], read: Callable[[str], bytes] = read_bytes) -> Vocabulary:
    """Reads a vocabulary: UTF-8, one value a line, an empty line being the empty string.

    A byte order mark and the carriage returns of Windows' line ends are no part of the values.

    Args:
        path: The file, or its URI.
        read: Gets the bytes of a path or URI.

    Raises:
        DataError: The file cannot be read, is not UTF-8, mixes line ends, or holds a value twice.
    """
    try:
        text = read(os.fspath(path)).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as cause:
        raise DataError(f"{path}: cannot read the vocabulary ({cause}); prepare the data anew.") from cause
    windows = text.count("\r\n")
    if windows not in (0, text.count("\n")):
        raise DataError(f"{path}: some lines end in a carriage return, others do not; give all the same line ends.")
    lines = (text.replace("\r\n", "\n") if windows else text).removesuffix("\n").split("\n")
    values = pa.array([] if lines == [""] else lines, pa.large_string())
    if len(values.unique()) < len(values):
        seen: set[str] = set()
        twice = next(line for line in lines if line in seen or seen.add(line))  # type: ignore[func-returns-value]
        raise DataError(f"{path}: '{twice}' stands in the vocabulary twice; every value needs one line.")
    return Vocabulary(str(path), values)
