"""Which Arrow types a feature can take, checked against the footer of a Parquet file."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from data.errors import DataError
from data.features import SparseFeature


def check_number(columns: pa.Schema, path: str, column: str, role: str) -> None:
    """Checks that a column holds plain numbers.

    Raises:
        DataError: It holds something else.
    """
    kind = columns.field(column).type
    if not is_number(_element(kind)) or is_list(kind):
        _refuse(path, column, kind, role, "a number or a boolean")


def check_hashable(columns: pa.Schema, path: str, column: str, role: str) -> None:
    """Checks that a column holds plain integers, booleans or strings.

    Raises:
        DataError: It holds something else.
    """
    kind = columns.field(column).type
    if not _is_hashable(_element(kind)) or is_list(kind):
        _refuse(path, column, kind, role, "an integer, a boolean or a string")


def check_sparse(columns: pa.Schema, path: str, feature: SparseFeature) -> None:
    """Checks that the columns of a sparse feature hold what its kind and its ``max_length`` say.

    Raises:
        DataError: One of them does not.
    """
    role = f"sparse feature '{feature.name}' of kind {feature.kind}"
    accepts, rule = _RULES[feature.kind]
    for column in feature.columns or [feature.source]:
        kind = columns.field(column).type
        if feature.multi_hot != is_list(kind):
            remedy = "set max_length above 1" if is_list(kind) else "set max_length to 1"
            if feature.columns:
                remedy = "a cross takes no lists"
            raise DataError(
                f"{path}: column '{column}' has type {kind}, but {role} declares "
                f"max_length {feature.max_length}; {remedy}."
            )
        if not accepts(_element(kind)):
            _refuse(path, column, kind, role, rule)
    if feature.weights:
        kind = columns.field(feature.weights).type
        if not is_list(kind) or not is_number(_element(kind)):
            _refuse(path, feature.weights, kind, f"the weights of {role}", "a list of numbers")


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds a list in each row."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_number(kind: pa.DataType) -> bool:
    """Whether values of this type are numbers, or booleans."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_hashable(kind: pa.DataType) -> bool:
    return is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def _is_listed(kind: pa.DataType) -> bool:
    return is_text(kind) or pa.types.is_integer(kind)


_RULES: dict[str, tuple[Callable[[pa.DataType], bool], str]] = {
    "id": (pa.types.is_integer, "an integer"),
    "hash": (_is_hashable, "an integer or a string"),
    "vocabulary": (_is_listed, "an integer or a string"),
    "bucketize": (is_number, "a number"),
    "log_square": (is_number, "a number"),
    "cross": (_is_hashable, "an integer or a string"),
}


def _element(kind: pa.DataType) -> pa.DataType:
    """The type of the values themselves: below a list, below a dictionary."""
    if is_list(kind):
        kind = kind.value_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _refuse(path: str, column: str, kind: pa.DataType, role: str, rule: str) -> None:
    raise DataError(f"{path}: column '{column}' has type {kind}, but {role} needs {rule}; mend the schema or the file.")
