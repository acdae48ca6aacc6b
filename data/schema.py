"""``schema.yaml``: what the columns of a data set mean, and whether a Parquet file has them.

::

    label: click                    # 0 or 1
    weight: sample_weight           # optional
    dense:
      - {name: price, transform: log1p, mean: 2.1, std: 0.8, fill: 0}
    sparse:
      - {name: site, kind: hash, num_embeddings: 10000}
      - {name: user_id, kind: id, num_embeddings: 500000}
      - {name: hour_bucket, column: hour, kind: bucketize, borders: [6, 12, 18]}
      - {name: genres, kind: hash, num_embeddings: 1000, max_length: 8, pooling: mean}
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import yaml
from omegaconf import MISSING

from data.errors import DataError
from data.structured import structured, suggestion

POOLINGS = ("sum", "mean")
TRANSFORMS = ("none", "log1p")
KINDS = ("id", "hash", "bucketize")


@dataclass(frozen=True)
class DenseFeature:
    """A number per row: ``(transform(clip(x)) - mean) / std``; a null becomes ``fill`` before that.

    ``log1p`` is sign(x) * log(1 + |x|), defined for negative values, too.
    """

    name: str = MISSING
    column: str = ""
    fill: float = 0.0
    clip: list[float] | None = None
    transform: str = "none"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        _check(self.transform in TRANSFORMS, self.name, "transform", self.transform, f"one of {TRANSFORMS}")
        _check(self.std > 0 and math.isfinite(self.std), self.name, "std", self.std, "a number above 0")
        _check(
            self.clip is None or (len(self.clip) == 2 and self.clip[0] <= self.clip[1]),
            self.name,
            "clip",
            self.clip,
            "[lowest, highest]",
        )

    @property
    def source(self) -> str:
        """The Parquet column that the feature is read from."""
        return self.column or self.name


@dataclass(frozen=True)
class SparseFeature:
    """A category per row, or a list of them (``max_length`` above 1), looked up in an embedding table.

    ``kind`` says how a value becomes a table row:

    - ``id``: the integer itself, checked against ``num_embeddings``; a null takes row ``default``.
    - ``hash``: integers or strings, hashed to rows 1 .. num_embeddings - 1; a null takes row 0.
    - ``bucketize``: a number, by ``borders``: row 1 + the number of borders <= value; a null takes row 0.
      ``num_embeddings`` follows from the borders.
    """

    name: str = MISSING
    column: str = ""
    kind: str = MISSING
    num_embeddings: int = 0
    pooling: str = "sum"
    max_length: int = 1
    seed: int = 0
    default: int | None = None
    borders: list[float] | None = None
    table: str = ""

    def __post_init__(self) -> None:
        _check(self.kind in KINDS, self.name, "kind", self.kind, f"one of {KINDS}")
        _check(self.pooling in POOLINGS, self.name, "pooling", self.pooling, f"one of {POOLINGS}")
        _check(self.max_length >= 1, self.name, "max_length", self.max_length, "1 (one value) or more (a list)")
        _check(
            (self.borders is not None) == (self.kind == "bucketize"),
            self.name,
            "borders",
            self.borders,
            "given for kind bucketize, and for no other kind",
        )
        if self.borders is not None:
            rising = all(a < b for a, b in zip(self.borders, self.borders[1:], strict=False))
            _check(bool(self.borders) and rising, self.name, "borders", self.borders, "a rising list of numbers")
            rows = len(self.borders) + 2
            _check(
                self.num_embeddings in (0, rows),
                self.name,
                "num_embeddings",
                self.num_embeddings,
                f"left out or {rows} (the borders + 2)",
            )
            object.__setattr__(self, "num_embeddings", rows)
        least = 2 if self.kind == "hash" else 1
        _check(self.num_embeddings >= least, self.name, "num_embeddings", self.num_embeddings, f"{least} or more")
        _check(
            self.default is None or (self.kind == "id" and 0 <= self.default < self.num_embeddings),
            self.name,
            "default",
            self.default,
            "a row of the table, for kind id",
        )
        if not self.table:
            object.__setattr__(self, "table", self.name)
        _check(
            re.fullmatch(r"[A-Za-z0-9_-]+", self.table) is not None,
            self.name,
            "table",
            self.table,
            "letters, digits, '_' and '-' (set table: where the feature's name has others)",
        )

    @property
    def source(self) -> str:
        """The Parquet column that the feature is read from."""
        return self.column or self.name

    @property
    def multi_hot(self) -> bool:
        """Whether a row holds a list of values."""
        return self.max_length > 1


@dataclass(frozen=True)
class Table:
    """An embedding table and the features that share it."""

    name: str
    num_embeddings: int
    pooling: str
    features: tuple[str, ...]


@dataclass(frozen=True)
class Schema:
    """The columns of a data set. Build one with :func:`load_schema` or :func:`parse_schema`."""

    label: str = MISSING
    weight: str | None = None
    dense: list[DenseFeature] = field(default_factory=list)
    sparse: list[SparseFeature] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.sparse:
            raise DataError("sparse: the list is empty; a model of this kind needs at least one sparse feature.")
        names = [d.name for d in self.dense] + [s.name for s in self.sparse]
        for name in names:
            if names.count(name) > 1:
                raise DataError(
                    f"feature '{name}' is declared {names.count(name)} times; give each a name of its own "
                    "and point `column` at the shared column."
                )
        self.tables()

    @property
    def one_hot(self) -> list[SparseFeature]:
        """Sparse features with exactly one value per row, in the schema's order."""
        return [feature for feature in self.sparse if not feature.multi_hot]

    @property
    def multi_hot(self) -> list[SparseFeature]:
        """Sparse features with a list of values per row, in the schema's order."""
        return [feature for feature in self.sparse if feature.multi_hot]

    @property
    def sparse_keys(self) -> list[str]:
        """The keys of every KeyedJaggedTensor made from this schema: one-hot features, then multi-hot."""
        return [feature.name for feature in (*self.one_hot, *self.multi_hot)]

    @property
    def columns(self) -> list[str]:
        """The Parquet columns to read, each once."""
        sources = [d.source for d in self.dense] + [s.source for s in self.sparse]
        return list(dict.fromkeys([self.label, *([self.weight] if self.weight else []), *sources]))

    @property
    def fingerprint(self) -> str:
        """A hash of everything declared; equal for equal schemas."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def tables(self) -> list[Table]:
        """The embedding tables, in the order of their first feature."""
        tables: dict[str, Table] = {}
        for feature in self.sparse:
            new = Table(feature.table, feature.num_embeddings, feature.pooling, (feature.name,))
            old = tables.get(feature.table)
            if old is None:
                tables[feature.table] = new
                continue
            if (old.num_embeddings, old.pooling) != (new.num_embeddings, new.pooling):
                raise DataError(
                    f"feature '{feature.name}': table '{feature.table}' has {old.num_embeddings} rows and "
                    f"pooling {old.pooling} for '{old.features[0]}', but {new.num_embeddings} and {new.pooling} "
                    "here; features that share a table must agree."
                )
            tables[feature.table] = dataclasses.replace(old, features=(*old.features, feature.name))
        return list(tables.values())

    def check_file(self, columns: pa.Schema, path: str) -> None:
        """Compares the declared columns with a Parquet file's.

        Args:
            columns: The file's Arrow schema.
            path: The file, for messages.

        Raises:
            DataError: A declared column is missing or has a type that its kind cannot take.
        """
        for name in self.columns:
            if name not in columns.names:
                raise DataError(
                    f"{path}: column '{name}' ({self._role(name)}) is missing.{suggestion(name, columns.names)}"
                )
        _check_type(columns, path, self.label, "the label", _is_number, "a number or a boolean")
        if self.weight:
            _check_type(columns, path, self.weight, "the sample weight", _is_number, "a number")
        for dense in self.dense:
            _check_type(columns, path, dense.source, f"dense feature '{dense.name}'", _is_number, "a number")
        for sparse in self.sparse:
            self._check_sparse(columns, path, sparse)

    def _check_sparse(self, columns: pa.Schema, path: str, feature: SparseFeature) -> None:
        role = f"sparse feature '{feature.name}' of kind {feature.kind}"
        accepts, rule = {
            "id": (_is_integer, "an integer"),
            "hash": (_is_hashable, "an integer or a string"),
            "bucketize": (_is_number, "a number"),
        }[feature.kind]
        kind = columns.field(feature.source).type
        if feature.multi_hot != _is_list(kind):
            remedy = "set max_length above 1" if _is_list(kind) else "set max_length to 1"
            raise DataError(
                f"{path}: column '{feature.source}' has type {kind}, but {role} declares "
                f"max_length {feature.max_length}; {remedy}."
            )
        _check_type(columns, path, feature.source, role, accepts, rule)

    def _role(self, column: str) -> str:
        roles = ["the label"] if column == self.label else []
        roles += ["the sample weight"] if column == self.weight else []
        roles += [f"dense feature '{d.name}'" for d in self.dense if d.source == column]
        roles += [f"sparse feature '{s.name}'" for s in self.sparse if s.source == column]
        return ", ".join(roles)


def parse_schema(values: Any, *, where: str) -> Schema:
    """A schema from plain values (a parsed YAML document); ``where`` names them in messages.

    Raises:
        DataError: An unknown key, a wrong type, or something impossible.
    """
    if not isinstance(values, dict):
        raise DataError(f"{where}: holds {values!r}, but must map label, dense and sparse to their columns.")
    # The lists' elements on their own first, so that a message says which one is wrong.
    for section, feature in (("dense", DenseFeature), ("sparse", SparseFeature)):
        elements = values.get(section) or []
        for position, element in enumerate(elements if isinstance(elements, list) else []):
            structured(feature, element, where=f"{where}: {section}[{position}]", error=DataError)
    return structured(Schema, values, where=where, error=DataError)


def load_schema(path: str | os.PathLike[str]) -> Schema:
    """Reads and checks a ``schema.yaml``.

    Raises:
        DataError: The file cannot be read, is not YAML, or declares something impossible.
    """
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except OSError as cause:
        raise DataError(
            f"{path}: cannot read the schema ({cause.strerror}); set data.schema to the schema.yaml of the data."
        ) from cause
    except yaml.YAMLError as cause:
        raise DataError(f"{path}: not valid YAML: {' '.join(str(cause).split())}") from cause
    return parse_schema(values, where=str(path))


def _check(ok: bool, feature: str, key: str, value: object, rule: str) -> None:
    if not ok:
        raise DataError(f"feature '{feature}': {key} is {value!r}, but must be {rule}.")


def _check_type(columns: pa.Schema, path: str, column: str, role: str, accepts: Any, rule: str) -> None:
    kind = columns.field(column).type
    element = kind.value_type if _is_list(kind) or pa.types.is_dictionary(kind) else kind
    wrong_shape = _is_list(kind) and "sparse" not in role
    if wrong_shape or not accepts(element):
        raise DataError(
            f"{path}: column '{column}' has type {kind}, but {role} needs {rule}; mend the schema or the file."
        )


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_integer(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _is_hashable(kind: pa.DataType) -> bool:
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return text or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
