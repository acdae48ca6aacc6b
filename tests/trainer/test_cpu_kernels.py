"""What FBGEMM's CPU kernels leave out without a word, or lack: why it is refused; where one learns it, this fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
    WeightDecayMode,
)

ON_CPU = [EmbOptimType.EXACT_SGD, EmbOptimType.EXACT_ADAGRAD, EmbOptimType.EXACT_ROWWISE_ADAGRAD]
NOT_ON_CPU = [
    EmbOptimType.ADAM,
    EmbOptimType.PARTIAL_ROWWISE_ADAM,
    EmbOptimType.LAMB,
    EmbOptimType.PARTIAL_ROWWISE_LAMB,
]


def stepped(optimizer: EmbOptimType, *, num_steps: int = 3, gradient: float = 1.0, **settings: Any) -> torch.Tensor:
    """Rows [4, 8] that begin as 2, after steps on rows 0 and 1 (twice, by two samples of one row each)."""
    kernel = SplitTableBatchedEmbeddingBagsCodegen(
        [(4, 8, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=optimizer,
        learning_rate=0.125,
        device="cpu",
        **settings,
    )
    (rows,) = kernel.split_embedding_weights()
    rows.data.fill_(2.0)
    for _ in range(num_steps):
        pooled = kernel(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2, 3]))
        pooled.backward(torch.full_like(pooled, gradient))
    return rows.detach().clone()


@pytest.mark.parametrize("optimizer", ON_CPU)
@pytest.mark.parametrize("mode", [WeightDecayMode.NONE, WeightDecayMode.L2, WeightDecayMode.DECOUPLE])
def test_weight_decay_changes_nothing(optimizer: EmbOptimType, mode: WeightDecayMode) -> None:
    plain = stepped(optimizer)
    assert not torch.equal(plain[0], plain[2])
    assert torch.equal(stepped(optimizer, weight_decay=0.5, weight_decay_mode=mode), plain)


@pytest.mark.parametrize("optimizer", NOT_ON_CPU)
def test_adam_and_lamb_are_not_there(optimizer: EmbOptimType) -> None:
    with pytest.raises(AssertionError, match="is not supported in CPU mode"):
        stepped(optimizer)


def test_half_rows_are_rounded_to_the_nearest_and_small_steps_lost() -> None:
    half: dict[str, Any] = {"weights_precision": SparseType.FP16, "stochastic_rounding": True}
    # Between 1 and 2, float16 has steps of 2^-10; this is an eighth of that.
    rows = stepped(EmbOptimType.EXACT_SGD, num_steps=64, gradient=2.0**-10, **half)
    assert torch.equal(rows, torch.full_like(rows, 2.0))


def test_rows_in_bfloat16_are_not_there() -> None:
    with pytest.raises((RuntimeError, AssertionError), match=r"BFloat16|bfloat16|bf16"):
        stepped(EmbOptimType.EXACT_SGD, weights_precision=SparseType.BF16)


def test_gradients_are_clipped_sample_by_sample_before_they_are_summed_up() -> None:
    rows = stepped(EmbOptimType.EXACT_SGD, num_steps=1, gradient_clipping=True, max_gradient=0.5)
    assert rows[:, 0].tolist() == [2.0 - 0.125 * 0.5, 2.0 - 0.125 * (0.5 + 0.5), 2.0, 2.0]


@pytest.mark.parametrize("row", [4, -2, 2**40])
def test_a_lookup_refuses_a_row_that_is_not_there_without_a_check_before_it(row: int) -> None:
    kernel = SplitTableBatchedEmbeddingBagsCodegen(
        [(4, 8, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_SGD,
        device="cpu",
        bounds_check_mode=BoundsCheckMode.NONE,
    )
    with pytest.raises(RuntimeError, match=rf"Index 1 is out of bounds: {row}, range 0 to 4"):
        kernel(torch.tensor([0, row, 1]), torch.tensor([0, 1, 2, 3]))
