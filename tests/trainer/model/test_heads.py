"""Every head: the shared contract, and its formula against loops in float64."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from trainer.model.dropout import DropoutStream
from trainer.model.head import head_configs, known_heads
from trainer.model.head.base import Head, Shape

B, M, D = 5, 4, 3


def make_head(name: str) -> Head:
    torch.manual_seed(1)
    config = head_configs({name: {}})[name]
    return known_heads()[name](config, Shape(M, D), DropoutStream(0, [0])).double()


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    first_order_BM = torch.randn(B, M, dtype=torch.float64, generator=generator)
    vectors_BMD = torch.randn(B, M, D, dtype=torch.float64, generator=generator)
    return first_order_BM.requires_grad_(), vectors_BMD.requires_grad_()


def test_all_files_are_discovered() -> None:
    assert sorted(known_heads()) == ["dnn", "fm", "linear"]


@pytest.mark.parametrize("name", sorted(known_heads()))
class TestContract:
    def test_gives_one_logit_per_sample(self, name: str) -> None:
        assert make_head(name)(*inputs()).shape == (B,)

    def test_samples_do_not_see_each_other(self, name: str) -> None:
        head, (first_order_BM, vectors_BMD) = make_head(name), inputs()
        alone = torch.cat([head(first_order_BM[b : b + 1], vectors_BMD[b : b + 1]) for b in range(B)])
        torch.testing.assert_close(head(first_order_BM, vectors_BMD), alone)

    def test_gradients_match_finite_differences(self, name: str) -> None:
        assert torch.autograd.gradcheck(make_head(name), inputs())

    def test_the_same_seed_builds_the_same_head(self, name: str) -> None:
        a, b = make_head(name).state_dict(), make_head(name).state_dict()
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_linear_adds_the_first_order_terms_and_the_bias() -> None:
    head, (first_order_BM, vectors_BMD) = make_head("linear"), inputs()
    head.load_state_dict({"bias": torch.tensor(0.25)})
    expected = [0.25 + sum(row) for row in first_order_BM.tolist()]
    assert head(first_order_BM, vectors_BMD).tolist() == pytest.approx(expected)


def test_fm_is_the_sum_of_the_inner_products_of_all_pairs() -> None:
    head, (first_order_BM, vectors_BMD) = make_head("fm"), inputs()
    x = vectors_BMD.tolist()
    pairs = list(combinations(range(M), 2))
    expected = [sum(x[b][i][d] * x[b][j][d] for i, j in pairs for d in range(D)) for b in range(B)]
    assert head(first_order_BM, vectors_BMD).tolist() == pytest.approx(expected)


def test_dnn_is_a_chain_of_affine_maps_and_relus() -> None:
    head, (first_order_BM, vectors_BMD) = make_head("dnn"), inputs()
    linears = [layer for layer in head.modules() if isinstance(layer, torch.nn.Linear)]
    assert [layer.out_features for layer in linears] == [400, 400, 400, 1]
    expected = []
    for b in range(B):
        units = vectors_BMD[b].flatten().tolist()
        for number, layer in enumerate(linears):
            rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            units = [sum(w * u for w, u in zip(row, units, strict=True)) + bias for row, bias in rows]
            if number < len(linears) - 1:
                units = [max(0.0, u) for u in units]
        expected.append(units[0])
    assert head(first_order_BM, vectors_BMD).tolist() == pytest.approx(expected)
