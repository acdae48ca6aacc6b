"""Every head: the shared contract, and its formula against loops in float64."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import pytest
import torch

from trainer.model.fields import Fields
from trainer.model.head import head_configs, known_heads
from trainer.model.head.base import Head, Shape
from trainer.model.step_context import StepContext

B, M, D = 5, 4, 3
Vectors = list[list[float]]


def make_head(name: str, **settings: Any) -> Head:
    torch.manual_seed(1)
    config = head_configs({name: settings})[name]
    return known_heads()[name](config, Shape(M, D), StepContext(0, [0])).double()


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    first_order_BM = torch.randn(B, M, dtype=torch.float64, generator=generator)
    vectors_BMD = torch.randn(B, M, D, dtype=torch.float64, generator=generator)
    return first_order_BM.requires_grad_(), vectors_BMD.requires_grad_()


def fields(first_order_BM: torch.Tensor, vectors_BMD: torch.Tensor) -> Fields:
    """All fields sparse."""
    return Fields(first_order_BM, vectors_BMD, torch.empty(len(vectors_BMD), 0, dtype=torch.float64))


def fields_with_dense_columns(
    w_BF: torch.Tensor, v_BFD: torch.Tensor, x_BN: torch.Tensor, w_N: torch.Tensor, v_ND: torch.Tensor
) -> tuple[Fields, Fields]:
    """Three sparse features, brought in another order, and a dense column; and the same multiplied out."""
    brought = [1, 2, 0]  # no swap: where a feature stands is not which one stands there
    kept_apart = Fields(w_BF[:, brought], v_BFD[:, brought], x_BN, w_N, v_ND, places=torch.tensor([2, 0, 1]))
    first_order_BM = torch.cat([w_BF, x_BN * w_N], 1)
    return kept_apart, fields(first_order_BM, torch.cat([v_BFD, x_BN.unsqueeze(2) * v_ND], 1))


def affine(layer: torch.nn.Linear, units: list[float]) -> list[float]:
    rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [sum(w * u for w, u in zip(row, units, strict=True)) + bias for row, bias in rows]


def relu_network(head: Head, units: list[float]) -> float:
    *hidden, output = [layer for layer in head.modules() if isinstance(layer, torch.nn.Linear)]
    assert [layer.out_features for layer in hidden] == [400, 400, 400]
    for layer in hidden:
        units = [max(0.0, u) for u in affine(layer, units)]
    return affine(output, units)[0]


def inner(v: Vectors) -> list[float]:
    return [sum(a * b for a, b in zip(v[i], v[j], strict=True)) for i, j in combinations(range(M), 2)]


def outer(v: Vectors) -> list[float]:
    return [sum(v[i][a] * v[j][b] for i, j in product(range(M), repeat=2)) for a, b in product(range(D), repeat=2)]


def flat(v: Vectors) -> list[float]:
    return [x for vector in v for x in vector]


def assert_follows(head: Head, formula: Any) -> None:
    first_order_BM, vectors_BMD = inputs()
    expected = [formula(w, v) for w, v in zip(first_order_BM.tolist(), vectors_BMD.tolist(), strict=True)]
    assert head(fields(first_order_BM, vectors_BMD)).tolist() == pytest.approx(expected)


def test_all_files_are_discovered() -> None:
    assert sorted(known_heads()) == [
        *("cin", "cross", "dnn", "fm", "inner_product", "linear", "outer_product", "products")
    ]


@pytest.mark.parametrize("name", sorted(known_heads()))
class TestContract:
    def test_gives_one_logit_per_sample(self, name: str) -> None:
        assert make_head(name)(fields(*inputs())).shape == (B,)

    def test_samples_do_not_see_each_other(self, name: str) -> None:
        head, (first_order_BM, vectors_BMD) = make_head(name), inputs()
        alone = torch.cat([head(fields(first_order_BM[b : b + 1], vectors_BMD[b : b + 1])) for b in range(B)])
        torch.testing.assert_close(head(fields(first_order_BM, vectors_BMD)), alone)

    def test_gradients_match_finite_differences(self, name: str) -> None:
        head = make_head(name)
        assert torch.autograd.gradcheck(lambda *parts: head(fields(*parts)), inputs())

    def test_dense_columns_kept_apart_count_as_multiplied_out(self, name: str) -> None:
        head, generator = make_head(name), torch.Generator().manual_seed(3)
        shapes = [(B, 3), (B, 3, D), (B, 1), (1,), (1, D)]
        parts = [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]
        logits, gradients = [], []
        for seen in fields_with_dense_columns(*parts):
            logits.append(head(seen))
            wanted = [*parts, *head.parameters()]
            gradients.append(torch.autograd.grad(logits[-1].square().sum(), wanted, allow_unused=True))
        torch.testing.assert_close(logits[0], logits[1])
        for apart, multiplied in zip(*gradients, strict=True):
            assert (apart is None) == (multiplied is None)
            if apart is not None:
                torch.testing.assert_close(apart, multiplied)

    def test_the_same_seed_builds_the_same_head(self, name: str) -> None:
        a, b = make_head(name).state_dict(), make_head(name).state_dict()
        assert all(torch.equal(a[key], b[key]) for key in a)

    def test_reads_what_it_says_it_reads_and_no_more(self, name: str) -> None:
        head, parts = make_head(name), inputs()
        head(fields(*parts)).sum().backward()
        reads = head.reads(head_configs({name: {}})[name])
        assert [part.grad is not None for part in parts] == [reads.first_order, reads.vectors]


def test_linear_adds_the_first_order_terms_and_the_bias() -> None:
    head = make_head("linear")
    head.load_state_dict({"bias": torch.tensor(0.25)})
    assert_follows(head, lambda w, v: 0.25 + sum(w))


@pytest.mark.parametrize("rows_in_cache", [1024, 2])
def test_fm_is_the_sum_of_the_inner_products_of_all_pairs(rows_in_cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.model.head.fm._ROWS_IN_CACHE", rows_in_cache)
    assert_follows(make_head("fm"), lambda w, v: sum(inner(v)))


def test_dnn_is_a_chain_of_affine_maps_and_relus() -> None:
    head = make_head("dnn")
    assert_follows(head, lambda w, v: relu_network(head, flat(v)))


def test_dnn_takes_the_first_order_weights_as_fnn_does() -> None:
    head = make_head("dnn", first_order=True)
    assert_follows(head, lambda w, v: relu_network(head, w + flat(v)))


def test_inner_product_network_sees_embeddings_and_inner_products() -> None:
    head = make_head("inner_product")
    assert_follows(head, lambda w, v: relu_network(head, flat(v) + inner(v)))


def test_outer_product_network_sees_embeddings_and_summed_outer_products() -> None:
    head = make_head("outer_product")
    assert_follows(head, lambda w, v: relu_network(head, flat(v) + outer(v)))


def test_products_network_sees_both() -> None:
    head = make_head("products")
    assert_follows(head, lambda w, v: relu_network(head, flat(v) + inner(v) + outer(v)))


@pytest.mark.parametrize("rank", [None, 2])
def test_cross_multiplies_the_input_into_every_layer(rank: int | None) -> None:
    head = make_head("cross", depth=2, rank=rank)
    *_, output = [layer for layer in head.modules() if isinstance(layer, torch.nn.Linear)]

    def formula(w: list[float], v: Vectors) -> float:
        x0 = x = torch.tensor(flat(v), dtype=torch.float64)
        for number in range(2):
            parts = dict(head.named_parameters(prefix=""))
            at = f"layers.{number}"
            matrix = parts[f"{at}.weight"] if rank is None else parts[f"{at}.1.weight"] @ parts[f"{at}.0.weight"]
            bias = parts[f"{at}.bias"] if rank is None else parts[f"{at}.1.bias"]
            x = torch.stack([x0[n] * (matrix[n] @ x + bias[n]) + x[n] for n in range(M * D)])
        return affine(output, x.tolist())[0]

    assert_follows(head, formula)


def test_cin_compresses_the_products_of_feature_maps() -> None:
    head = make_head("cin", maps=[3, 2])
    weights = [parameter.tolist() for name, parameter in head.named_parameters() if name.startswith("weights")]
    (output,) = [layer for layer in head.modules() if isinstance(layer, torch.nn.Linear)]

    def formula(w: list[float], v: Vectors) -> float:
        maps, pooled = v, []
        for weight in weights:
            maps = [
                [sum(row[i][j] * maps[i][d] * v[j][d] for i in range(len(maps)) for j in range(M)) for d in range(D)]
                for row in weight
            ]
            pooled += [sum(feature_map) for feature_map in maps]
        return affine(output, pooled)[0]

    assert_follows(head, formula)
