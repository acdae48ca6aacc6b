"""Columns that come along with the features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from data.carried import NULL_KEY, CarriedColumn, frequent_values
from data.errors import DataError
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.inputs import file_order, make_loader, read_dataset, training_order

ROW, SITE, PRICE = CarriedColumn("row_id"), CarriedColumn("site"), CarriedColumn("price", numeric=True)


def test_equal_values_have_equal_keys_whatever_their_type() -> None:
    words = ["b", None, "a", "b", ""]
    plain = SITE.encode(pa.array(words))
    for kind in (pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
        np.testing.assert_array_equal(SITE.encode(pa.array(words).cast(kind)), plain)
    assert len(set(plain.tolist())) == 4
    assert plain[1] == NULL_KEY
    integers = [3, None, -1, 0]
    for kind in (pa.int8(), pa.int64()):
        assert SITE.encode(pa.array(integers, kind)).tolist() == [3, NULL_KEY, -1, 0]


def test_numbers_are_carried_as_they_are() -> None:
    carried = PRICE.encode(pa.array([1.5, None, -2.0]))
    np.testing.assert_array_equal(carried.view(np.float64), [1.5, np.nan, -2.0])


@pytest.mark.parametrize("shuffled", [False, True])
def test_they_stay_with_their_rows(make_config: Callable[..., TrainConfig], shuffled: bool) -> None:
    config = make_config()
    dataset = read_dataset(config.data, "train", carried=(PRICE, ROW))
    if shuffled:
        order = training_order(dataset, config.data, global_batch_size=16, seed=3)
    else:
        order = file_order(dataset, config.data, global_batch_size=16)
    loader = make_loader(dataset, order, config.data, Worker(1, 2, 1, 2, torch.device("cpu")))
    rows: list[int] = []
    with loader.batches(0, order.steps_per_epoch) as batches:
        for batch in batches:
            assert batch.carried is not None
            real = batch.weights > 0
            prices, ids = batch.carried[0].view(torch.float64), batch.carried[1]
            # Both are features, too: what the model sees of a row is what is carried of it.
            assert batch.sparse["row_id"].values().tolist() == ids[real].tolist()
            assert torch.equal(prices.nan_to_num(0.0).float()[real], batch.dense[:, 0][real])
            assert not batch.carried[:, ~real].any()
            rows += ids[real].tolist()
    assert len(rows) == len(set(rows)) > 50


def test_they_are_no_part_of_what_a_schema_says(make_config: Callable[..., TrainConfig]) -> None:
    plain, carrying = (read_dataset(make_config().data, "train", carried=c).schema for c in ((), (SITE,)))
    assert (plain.described(), plain.fingerprint) == (carrying.described(), carrying.fingerprint)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            CarriedColumn("usr"),
            r"column 'usr' \(a column that metrics are asked for by\) is missing\. Did you mean 'user'",
        ),
        (CarriedColumn("tags"), "column 'tags' has type list.* needs an integer, a boolean or a string"),
        (CarriedColumn("price"), "column 'price' has type double, but .* needs an integer, a boolean or a string"),
        (CarriedColumn("site", numeric=True), "column 'site' has type string, but .* needs a number"),
    ],
)
def test_a_column_that_cannot_be_carried_is_named(
    make_config: Callable[..., TrainConfig], column: CarriedColumn, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_dataset(make_config().data, "test", carried=(column,))


def test_the_most_frequent_values_come_first(make_config: Callable[..., TrainConfig], click_log: Path) -> None:
    groups = read_dataset(make_config().data, "train").index.row_groups
    rows = pa.parquet.read_table(click_log / "train").column("site").drop_null().to_pylist()
    expected = sorted(set(rows), key=lambda value: (-rows.count(value), value))
    assert frequent_values(groups, "site", top=9, max_rows=10**6) == expected
    assert frequent_values(groups, "site", top=2, max_rows=10**6) == expected[:2]
    assert set(frequent_values(groups, "site", top=9, max_rows=20)) <= set(expected)
    assert dataclasses.asdict(SITE) == {"column": "site", "numeric": False}
