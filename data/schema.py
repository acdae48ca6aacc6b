"""``schema.yaml``: what the columns of a data set mean.

::

    label: click                    # 0 or 1
    weight: sample_weight           # optional: what the row counts in loss and metrics, 0 or more
    dense:
      - {name: price, transform: log1p, mean: 2.1, std: 0.8}     # standardized log(1 + price)
      - {name: age, clip: [0, 100], fill: 35}                    # a null counts as 35 ...
      - {name: hour, on_null: error}                             # ... or stops the job
    sparse:
      # Integers that are table rows already. A null and an id beyond the table take row 0.
      - {name: user_id, kind: id, num_embeddings: 500000, default: 0, on_invalid: default}
      # Strings or integers, hashed. Another seed collides other values.
      - {name: site, kind: hash, num_embeddings: 10000, seed: 1}
      # The values of a file beside schema.yaml, one a line; the rest shares row 1.
      - {name: country, kind: vocabulary, vocabulary: country.txt}
      # A number by the borders of its buckets, or by Criteo's rule floor(ln(x)^2) for counts.
      - {name: hour_bucket, column: hour, kind: bucketize, borders: [6, 12, 18]}
      - {name: visits, kind: log_square, num_embeddings: 300}
      # A list per row: at most 8 of its values count, and their embeddings are averaged.
      - {name: genres, kind: hash, num_embeddings: 1000, max_length: 8, pooling: mean}
      # A list per row with a weight for each value in a list of the same length; summed up.
      - {name: interests, kind: id, num_embeddings: 900, max_length: 20, weights: interest_weights}
      # Two columns or more, hashed together.
      - {name: site_x_country, kind: cross, columns: [site, country], num_embeddings: 100000}
      # Features that name one table share its embeddings.
      - {name: seen, kind: id, num_embeddings: 7000, table: item}
      - {name: bought, kind: id, num_embeddings: 7000, table: item}

:mod:`data.features` tells each key in full.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
from omegaconf import MISSING

from data.arrow_types import check_number, check_sparse
from data.carried import CarriedColumn
from data.errors import DataError
from data.features import DenseFeature, SparseFeature
from data.storage import read_bytes
from data.structured import parsed_yaml, structured, suggestion
from data.vocabulary import Vocabulary, load_vocabulary

_parse = partial(structured, error=DataError)

__all__ = ["DenseFeature", "Schema", "SparseFeature", "Table", "load_schema", "parse_schema"]


@dataclass(frozen=True)
class Table:
    """An embedding table and the features that share it."""

    name: str
    num_embeddings: int
    pooling: str
    features: tuple[str, ...]


@dataclass(frozen=True)
class Schema:
    """The columns of a data set. Build one with :func:`load_schema` or :func:`parse_schema`.

    Attributes:
        label: Column of the labels.
        weight: Column of the sample weights, None if every row counts 1.
        dense: The dense features.
        sparse: The sparse features.
        vocabularies: By feature, of those of kind vocabulary.
        carried: Columns that come along with the features. They are not declared in ``schema.yaml``, but
            asked for by who reads the data, and no part of what the schema describes.
    """

    label: str
    weight: str | None
    dense: list[DenseFeature]
    sparse: list[SparseFeature]
    vocabularies: dict[str, Vocabulary] = field(default_factory=dict, repr=False)
    carried: tuple[CarriedColumn, ...] = ()

    def __post_init__(self) -> None:
        if not self.sparse:
            raise DataError("sparse: the list is empty; a model of this kind needs at least one sparse feature.")
        names = self.feature_names
        for name in names:
            if names.count(name) > 1:
                raise DataError(
                    f"feature '{name}' is declared {names.count(name)} times; give each a name of its own "
                    "and point `column` at the shared column."
                )
        self.tables()

    @cached_property
    def one_hot(self) -> list[SparseFeature]:
        """Sparse features with exactly one value per row, in the schema's order."""
        return [feature for feature in self.sparse if not feature.multi_hot]

    @cached_property
    def multi_hot(self) -> list[SparseFeature]:
        """Sparse features with a list of values per row, in the schema's order."""
        return [feature for feature in self.sparse if feature.multi_hot]

    @cached_property
    def weighted_bags(self) -> bool:
        """Whether some feature weighs the values of its lists; then all values carry a weight."""
        return any(feature.weights for feature in self.sparse)

    @cached_property
    def sparse_keys(self) -> list[str]:
        """The keys of every KeyedJaggedTensor made from this schema: one-hot features, then multi-hot."""
        return [feature.name for feature in (*self.one_hot, *self.multi_hot)]

    @cached_property
    def feature_names(self) -> list[str]:
        """All features, dense and then sparse, in the schema's order."""
        return [feature.name for feature in self.dense] + [feature.name for feature in self.sparse]

    @cached_property
    def columns(self) -> list[str]:
        """The Parquet columns to read, each once."""
        sources = [d.source for d in self.dense] + [column for s in self.sparse for column in s.sources]
        sources += [carried.column for carried in self.carried]
        return list(dict.fromkeys([self.label, *([self.weight] if self.weight else []), *sources]))

    @cached_property
    def id_dtype(self) -> type[np.int32] | type[np.int64]:
        """Of table rows in memory and in batches: int32 if it can count the rows of all tables together.

        Together, because FBGEMM numbers the rows of the tables of one kernel one after the other.
        """
        total = sum(table.num_embeddings for table in self.tables())
        return np.int32 if total <= np.iinfo(np.int32).max else np.int64

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything declared, the vocabularies' values included; equal for equal schemas."""
        return hashlib.sha256(json.dumps(self.described(), sort_keys=True).encode()).hexdigest()[:16]

    def described(self) -> dict[str, Any]:
        """All that is declared as plain values, features by name, and a hash of each vocabulary."""
        return {
            "label": self.label,
            "weight": self.weight,
            "dense": {feature.name: dataclasses.asdict(feature) for feature in self.dense},
            "sparse": {feature.name: dataclasses.asdict(feature) for feature in self.sparse},
            "vocabularies": {name: vocabulary.fingerprint for name, vocabulary in self.vocabularies.items()},
        }

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
            DataError: A declared column is missing, is there twice or has a type that its kind cannot take.
        """
        names = Counter(columns.names)
        for name in self.columns:
            if not names[name]:
                raise DataError(
                    f"{path}: column '{name}' ({self._role(name)}) is missing.{suggestion(name, columns.names)}"
                )
            if names[name] > 1:
                raise DataError(
                    f"{path}: column '{name}' ({self._role(name)}) is there {names[name]} times; write the file anew "
                    "with a name of its own for each column."
                )
        check_number(columns, path, self.label, "the label")
        if self.weight:
            check_number(columns, path, self.weight, "the sample weight")
        for dense in self.dense:
            check_number(columns, path, dense.source, f"dense feature '{dense.name}'")
        for sparse in self.sparse:
            check_sparse(columns, path, sparse)
        for carried in self.carried:
            carried.check(columns, path)

    def _role(self, column: str) -> str:
        roles = ["the label"] if column == self.label else []
        roles += ["the sample weight"] if column == self.weight else []
        roles += [f"dense feature '{d.name}'" for d in self.dense if d.source == column]
        roles += [f"sparse feature '{s.name}'" for s in self.sparse if column in s.sources]
        roles += [c.role for c in self.carried if c.column == column]
        return ", ".join(roles)


@dataclass
class _Document:
    """The keys of a ``schema.yaml``; the elements of the lists are converted one by one."""

    label: str = MISSING
    weight: str | None = None
    dense: list[Any] = field(default_factory=list)
    sparse: list[Any] = field(default_factory=list)


def parse_schema(
    values: Any, *, where: str, folder: str | os.PathLike[str] = "", read: Callable[[str], bytes] = read_bytes
) -> Schema:
    """A schema from plain values (a parsed YAML document).

    Args:
        values: Maps label, weight, dense and sparse to what they are.
        where: Names the values in messages.
        folder: Where the paths of vocabularies start, a path or a URI.
        read: Gets the bytes of a path or URI.

    Raises:
        DataError: An unknown key, a wrong type, or something impossible.
    """
    if not isinstance(values, dict):
        raise DataError(f"{where}: holds {values!r}, but must map label, dense and sparse to their columns.")
    filled = {key: value for key, value in values.items() if value is not None or key == "label"}
    document = structured(_Document, filled, where=where, error=DataError)
    dense = [_parse(DenseFeature, d, where=f"{where}: dense[{i}]") for i, d in enumerate(document.dense)]
    sparse = [_parse(SparseFeature, s, where=f"{where}: sparse[{i}]") for i, s in enumerate(document.sparse)]
    try:
        vocabularies = {
            f.name: load_vocabulary(os.path.join(folder, f.vocabulary), read) for f in sparse if f.vocabulary
        }
        sparse = [_sized(feature, vocabularies.get(feature.name)) for feature in sparse]
        return Schema(document.label, document.weight, dense, sparse, vocabularies)
    except DataError as cause:
        raise DataError(f"{where}: {cause}") from cause


def load_schema(path: str | os.PathLike[str], *, read: Callable[[str], bytes] = read_bytes) -> Schema:
    """Reads and checks a ``schema.yaml`` and the vocabularies that it names.

    Args:
        path: The file, or its URI (without a query, if vocabularies lie beside it).
        read: Gets the bytes of a path or URI.

    Raises:
        DataError: A file cannot be read, is not YAML, has a key twice, or declares something impossible.
    """
    try:
        text = read(os.fspath(path))
    except OSError as cause:
        raise DataError(
            f"{path}: cannot read the schema ({cause.strerror or cause}); "
            "set data.schema to the schema.yaml of the data."
        ) from cause
    values = parsed_yaml(text, where=str(path), error=DataError)
    return parse_schema(values, where=str(path), folder=os.path.dirname(path), read=read)


def _sized(feature: SparseFeature, vocabulary: Vocabulary | None) -> SparseFeature:
    """The feature with as many table rows as its vocabulary needs, or as it declares, if that is more."""
    if vocabulary is None:
        return feature
    if 0 < feature.num_embeddings < vocabulary.num_embeddings:
        raise DataError(
            f"feature '{feature.name}': num_embeddings is {feature.num_embeddings}, but its vocabulary "
            f"{vocabulary.path} needs {vocabulary.num_embeddings} rows; leave it out or raise it."
        )
    return dataclasses.replace(feature, num_embeddings=feature.num_embeddings or vocabulary.num_embeddings)
