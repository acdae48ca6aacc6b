"""Which row groups a data set has, and how many rows each: read from the Parquet footers alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data.damage import Damage, DamageError, DamagePolicy
from data.decoded_size import DecodedSizes, decoded_sizes
from data.errors import DataError
from data.files import DataFile, local_file
from data.footer_cache import FooterCache, cache_key
from data.parquet import RowGroup, file_schema, pack_footer, read_footer, unpack_footer
from data.schema import Schema

SHARED_FOOTER_BYTES = 64 * 2**20
"""Up to so many bytes of footers travel with the index; of larger data sets each rank reads what it needs."""

FileFooter = tuple[DataFile, pq.FileMetaData]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetIndex:
    """All row groups of a data set, in file order (files by name).

    Attributes:
        row_groups: In file order.
        fingerprint: A hash of the files' names (relative to their common folder), sizes and row counts:
            equal wherever the same files lie.
        left_out: Files that cannot be used and are not in the index.
        sizes: What the values take when they are decoded.
    """

    row_groups: tuple[RowGroup, ...]
    fingerprint: str
    left_out: tuple[Damage, ...] = ()
    sizes: DecodedSizes = field(default_factory=DecodedSizes)

    @cached_property
    def row_counts(self) -> npt.NDArray[np.int64]:
        """Rows of each row group, int64 [number of row groups]."""
        return np.array([group.num_rows for group in self.row_groups], np.int64)

    @property
    def num_rows(self) -> int:
        """Rows of the whole data set."""
        return int(self.row_counts.sum())

    @property
    def num_files(self) -> int:
        """Files with at least one row group."""
        return len({group.path for group in self.row_groups})


def build_index(
    files: Sequence[DataFile | str],
    schema: Schema,
    *,
    policy: DamagePolicy | None = None,
    cache: FooterCache | None = None,
    num_threads: int = 16,
) -> DatasetIndex:
    """Reads all footers and checks each file's columns against the schema and against each other.

    Args:
        files: From :func:`data.files.resolve_files`, or paths on this machine.
        schema: What the columns have to be.
        policy: What to do about files that cannot be used; None raises.
        cache: Where to look for footers first, and to leave them.
        num_threads: Footers read at a time.

    Raises:
        DamageError: A footer cannot be read.
        DataError: A column does not fit, more is damaged than may be skipped, or there are no rows at all.
        StorageError: The storage cannot be reached.
    """
    policy = policy or DamagePolicy()
    found = [local_file(file) if isinstance(file, str) else file for file in files]
    footers, unreadable = _read_footers(found, cache, policy, num_threads)
    fitting, unfit = _check_files(footers, schema, policy)
    row_groups = tuple(
        RowGroup(file, i, footer.row_group(i).num_rows)
        for file, footer in _with_footers(fitting)
        for i in range(footer.num_row_groups)
    )
    left_out = _estimate_rows(unreadable, found, footers) + unfit
    for damage in left_out:
        logger.warning("leaving out about %d rows: %s", damage.num_rows, damage)
    index = DatasetIndex(
        row_groups,
        _fingerprint([file for file, _ in fitting], row_groups),
        tuple(left_out),
        decoded_sizes([footer for _, footer in fitting], schema),
    )
    policy.check(left_out, num_rows=index.num_rows + sum(damage.num_rows for damage in left_out))
    if index.num_rows == 0:
        reason = f" Left out: {left_out[0]}" if left_out else ""
        raise DataError(f"{found[0].name} ... ({len(found)} files): there is not a single row in them.{reason}")
    return index


def _read_footers(
    files: Sequence[DataFile], cache: FooterCache | None, policy: DamagePolicy, num_threads: int
) -> tuple[list[FileFooter], list[Damage]]:
    known = cache.load() if cache else {}

    def read(file: DataFile) -> pq.FileMetaData | DamageError:
        packed = known.get(cache_key(file))
        try:
            return unpack_footer(packed) if packed else read_footer(file)
        except DamageError as damage:
            if not policy.skip:
                raise
            return damage

    with ThreadPoolExecutor(num_threads, thread_name_prefix="footers") as pool:
        outcomes = list(zip(files, pool.map(read, files), strict=True))
    footers = [(file, outcome) for file, outcome in outcomes if not isinstance(outcome, DamageError)]
    if cache and any(cache_key(file) not in known for file, _ in footers):
        cache.store({cache_key(file): pack_footer(footer) for file, footer in footers})
    return footers, [outcome.damage for _, outcome in outcomes if isinstance(outcome, DamageError)]


def _check_files(
    footers: Sequence[FileFooter], schema: Schema, policy: DamagePolicy
) -> tuple[list[FileFooter], list[Damage]]:
    fitting: list[FileFooter] = []
    unfit: list[Damage] = []
    expected: dict[str, tuple[str, str]] = {}
    for bare, footer in footers:
        try:
            file = _with_partitions(bare, schema)
            columns = file_schema(footer, file)
            schema.check_file(columns, file.name)
            _check_alike(columns, file.name, schema, expected)
        except DataError as cause:
            if not policy.skip:
                raise
            unfit.append(Damage(bare.name, None, footer.num_rows, str(cause).removeprefix(f"{bare.name}: ")))
        else:
            fitting.append((file, footer))
    return fitting, unfit


def _with_partitions(file: DataFile, schema: Schema) -> DataFile:
    """The partition columns that the schema names, as numbers where it needs numbers, else as text.

    Not by their values: a split in which all of them look like numbers would be hashed otherwise than
    another one.
    """
    numeric = {schema.label, schema.weight, *(dense.source for dense in schema.dense)}
    numeric |= {sparse.source for sparse in schema.sparse if sparse.kind in ("id", "bucketize", "log_square")}
    numeric |= {carried.column for carried in schema.carried if carried.numeric}
    named = {name: value for name, value in file.partitions.items() if name in schema.columns}
    try:
        typed = {name: _number(value) if name in numeric else value for name, value in named.items()}
    except pa.ArrowInvalid as cause:
        raise DataError(
            f"{file.name}: a directory's value is no number ({cause}), but the schema needs one; mend the schema or "
            "rename the directory."
        ) from cause
    return dataclasses.replace(file, partitions=typed)


def _number(text: pa.Scalar) -> pa.Scalar:
    try:
        return text.cast(pa.int64())
    except pa.ArrowInvalid:
        return text.cast(pa.float64())


def _check_alike(columns: pa.Schema, name: str, schema: Schema, expected: dict[str, tuple[str, str]]) -> None:
    """Refuses a column that holds text in one file and numbers in another: the same value would mean two rows.

    Wider and narrower integers, and plain, large and dictionary-encoded strings, are alike.
    """
    for column in schema.columns:
        kind = "text" if _holds_text(columns.field(column).type) else "numbers"
        kind_before, file_before = expected.setdefault(column, (kind, name))
        if kind != kind_before:
            raise DataError(
                f"{name}: column '{column}' holds {kind}, but {kind_before} in {file_before}; write both alike."
            )


def _holds_text(kind: pa.DataType) -> bool:
    while hasattr(kind, "value_type"):  # of a list or a dictionary
        kind = kind.value_type
    return not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _with_footers(footers: Sequence[FileFooter]) -> list[FileFooter]:
    packed = [pack_footer(footer) for _, footer in footers]
    if sum(map(len, packed)) > SHARED_FOOTER_BYTES:
        return list(footers)
    return [
        (dataclasses.replace(file, footer=one), footer) for (file, footer), one in zip(footers, packed, strict=True)
    ]


def _estimate_rows(damages: Sequence[Damage], files: Sequence[DataFile], footers: Sequence[FileFooter]) -> list[Damage]:
    """Gives files without a readable footer as many rows as their size is worth in the other files."""
    sizes = {file.name: file.size for file in files}
    num_bytes = sum(file.size for file, _ in footers)
    rows_per_byte = sum(footer.num_rows for _, footer in footers) / num_bytes if num_bytes else 0.0
    return [dataclasses.replace(d, num_rows=math.ceil(sizes[d.file] * rows_per_byte)) for d in damages]


def _fingerprint(files: Sequence[DataFile], row_groups: Sequence[RowGroup]) -> str:
    paths = [posixpath.join("/", file.path) if file.storage.uri else os.path.abspath(file.path) for file in files]
    root = posixpath.commonpath([posixpath.dirname(path) for path in paths]) if paths else ""
    sizes = [(posixpath.relpath(path, root), file.size) for path, file in zip(paths, files, strict=True)]
    rows = [group.num_rows for group in row_groups]
    return hashlib.sha256(json.dumps([sizes, rows]).encode()).hexdigest()[:16]
