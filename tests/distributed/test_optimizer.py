"""The dense optimizer starts as torch's own would, and learns what the schedule says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.ranks import results_of, run_ranks
from trainer.config import DENSE_OPTIMIZERS, TrainConfig
from trainer.distributed import Worker
from trainer.job import build
from trainer.model.ctr import CTRModel
from trainer.table_kernels import table_kernels

pytestmark = pytest.mark.distributed


def first_steps(worker: Worker, config: TrainConfig) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Two steps of the dense optimizer with known gradients, beside torch's own with the same ones."""
    job = build(config, worker)
    wrapped = job.assembled.model.module
    model = wrapped.module if hasattr(wrapped, "module") else wrapped
    assert isinstance(model, CTRModel)
    ours = list(model.head_sum.parameters())
    theirs = [p.detach().clone().requires_grad_() for p in ours]
    names = {
        "sgd": torch.optim.SGD,
        "adagrad": torch.optim.Adagrad,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    dense = config.optimizer.dense
    fused = True if dense.name in ("adam", "adamw") else None
    plain = names[dense.name](theirs, lr=dense.lr, weight_decay=dense.weight_decay, fused=fused)
    generator = torch.Generator().manual_seed(0)
    for step in range(2):
        job.optimizers.set_learning_rates(step)
        job.optimizers.combined.zero_grad()
        for a, b in zip(ours, theirs, strict=True):
            gradient = torch.randn(a.shape, generator=generator)
            a.grad, b.grad = gradient, gradient.clone()
        job.optimizers.combined.step()
        plain.step()
    return [p.detach().clone() for p in ours], [p.detach() for p in theirs]


@pytest.mark.parametrize("name", DENSE_OPTIMIZERS)
def test_dense_optimizer_steps_like_torch_from_the_first_step_on(
    name: str, make_config: Callable[..., TrainConfig]
) -> None:
    config = make_config(optimizer={"dense": {"name": name, "lr": 0.01, "weight_decay": 0.1}})
    ((ours, theirs),) = results_of(run_ranks(1, first_steps, config))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def clipped_step(worker: Worker, configs: list[TrainConfig]) -> list[tuple[float, int]]:
    """A step of rate 1 from known gradients; how far it is from torch's own clipping, and parameters of tables."""
    outcomes = []
    for config in configs:
        job = build(config, worker)
        parameters = job.optimizers.combined.params
        theirs = [p.detach().clone().requires_grad_() for p in parameters.values()]
        generator = torch.Generator().manual_seed(0)
        for a, b in zip(parameters.values(), theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        dense = config.optimizer.dense
        if dense.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(theirs, dense.max_grad_norm)
        if dense.max_grad_value is not None:
            torch.nn.utils.clip_grad_value_(theirs, dense.max_grad_value)
        job.optimizers.combined.step()
        torch.optim.SGD(theirs, lr=1.0).step()
        far = max(float((a - b).detach().abs().max()) for a, b in zip(parameters.values(), theirs, strict=True))
        outcomes.append((far, sum(".embedding_bags." in name for name in parameters)))
    return outcomes


def test_norm_and_values_are_those_of_the_dense_part_and_replicated_tables_together(
    make_config: Callable[..., TrainConfig],
) -> None:
    sgd = {"name": "sgd", "lr": 1.0}
    limits: list[dict[str, float]] = [{"max_grad_norm": 0.5}, {"max_grad_value": 0.25}]
    configs = [
        make_config(sharding={"types": ["data_parallel"]}, optimizer={"sparse": sgd, "dense": {**sgd, **limit}})
        for limit in limits
    ]
    for far, num_tables in results_of(run_ranks(1, clipped_step, configs))[0]:
        assert far < 1e-6
        assert num_tables == 4


def counted_steps(worker: Worker, config: TrainConfig) -> list[tuple[int, int]]:
    """What FBGEMM's kernels count after two steps, an evaluation, and one more step."""
    job = build(config, worker)
    pipeline = job.pipeline()
    counts = []
    with job.train_loader.batches(0, 3) as batches:
        for step in range(3):
            pipeline.step(batches)
            if step == 1:
                with (
                    pipeline.detached() as plain,
                    torch.no_grad(),
                    job.eval_sets["test"].loader.batches(0, 2) as others,
                ):
                    plain.eval()
                    for batch in others:
                        plain(batch)
                    plain.train()
            counts += [(int(kernel.iter), int(kernel.iter_cpu)) for kernel in table_kernels(job.assembled.model)]
    return counts


def test_an_evaluation_is_no_step_of_the_tables_optimizers(make_config: Callable[..., TrainConfig]) -> None:
    # Adam, on CUDA, corrects its bias by this count; on CPU it is row-wise Adagrad's kernel that counts.
    config = make_config(sharding={"types": ["table_wise"]}, optimizer={"sparse": {"name": "rowwise_adagrad"}})
    (counts,) = results_of(run_ranks(1, counted_steps, config))
    # Of two kernels: tables with sums and with means.
    assert counts == [(1, 1), (1, 1), (2, 2), (2, 2), (3, 3), (3, 3)]


def refused(worker: Worker, config: TrainConfig) -> None:
    build(config, worker)


def test_an_optimizer_that_the_device_lacks_is_refused_on_every_rank(make_config: Callable[..., TrainConfig]) -> None:
    for error in run_ranks(2, refused, make_config(optimizer={"tables": [{"match": "user", "name": "lamb"}]})):
        assert "the optimizer of table 'user' is 'lamb', which FBGEMM's CPU kernels do not have" in str(error)


def test_tables_that_fit_nowhere_are_refused_with_remedies(make_config: Callable[..., TrainConfig]) -> None:
    (error,) = run_ranks(1, refused, make_config(sharding={"ddr_cap_gib": 1e-6}))
    assert "sharding: no plan fits 4 tables onto 1 ranks" in str(error)
    assert "use more ranks" in str(error)
