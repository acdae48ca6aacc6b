"""Row layout, and fields in an order that does not depend on the sharding plan."""

from __future__ import annotations

import math

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedTensor

from trainer.model.embeddings import FieldVectors, LookedUpRows, RowLayout
from trainer.model.fields import Fields


@pytest.mark.parametrize(("factors", "width"), [(1, 4), (3, 4), (7, 8), (8, 12), (15, 16), (16, 20), (128, 132)])
def test_rows_hold_factors_and_weight_padded_to_four(factors: int, width: int) -> None:
    assert RowLayout(factors, first_order=True).width == width


def test_rows_hold_nothing_that_no_head_reads() -> None:
    assert RowLayout(16, first_order=False).width == 16
    assert RowLayout(0, first_order=True).width == 4


def fields(keys: list[str], values_BK: torch.Tensor) -> Fields:
    torch.manual_seed(0)
    module = FieldVectors(num_dense=1, layout=RowLayout(2, first_order=True), std=1.0)
    rows = LookedUpRows(["a", "b"], max_gradients=[math.inf, math.inf], world_size=1)
    assert module.dense_weights is not None
    assert module.dense_vectors is not None
    with torch.no_grad():
        module.dense_weights.fill_(10.0)
        module.dense_vectors.copy_(torch.tensor([[100.0, 1000.0]]))
    found: Fields = module(rows(KeyedTensor(keys, [4, 4], values_BK)), torch.tensor([[0.5]]))
    return found


def test_fields_come_in_canonical_order_whatever_the_plan() -> None:
    a, b = torch.tensor([1.0, 2.0, 3.0, 0.0]), torch.tensor([4.0, 5.0, 6.0, 0.0])
    for keys, values in ((["a", "b"], torch.cat([a, b])), (["b", "a"], torch.cat([b, a]))):
        found = fields(keys, values.unsqueeze(0))
        assert found.first_order_BM.tolist() == [[3.0, 6.0, 5.0]]
        assert found.vectors_BMD.tolist() == [[[1.0, 2.0], [4.0, 5.0], [50.0, 500.0]]]


def test_gradients_of_rows_stay_within_the_limits_of_their_feature() -> None:
    values_BK = torch.zeros(2, 8, requires_grad=True)
    rows = LookedUpRows(["a", "b"], max_gradients=[0.5, math.inf], world_size=2)
    # The lookup brings b first; the loss is that of two ranks together, averaged later on.
    gradient_BFR = torch.tensor([[[8.0, -8.0, 0.1, 0.0], [-9.0, 0.9, 1.5, 0.0]], [[7.0] * 4, [2.0, 3.0, 4.0, -5.0]]])
    rows_BFR, places = rows(KeyedTensor(["b", "a"], [4, 4], values_BK))
    assert places.tolist() == [1, 0]
    rows_BFR.backward(gradient_BFR)
    assert values_BK.grad is not None
    assert values_BK.grad.tolist() == [
        [*[8.0, -8.0, pytest.approx(0.1), 0.0], *[-1.0, pytest.approx(0.9), 1.0, 0.0]],
        [*[7.0] * 4, *[1.0, 1.0, 1.0, -1.0]],
    ]
