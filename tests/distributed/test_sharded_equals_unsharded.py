"""Two ranks, forward and three optimizer steps, against an independent single-process reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from data.batch import Batch
from tests.checkpoints import tensors_of
from tests.ranks import results_of, run_ranks
from tests.reference import Ids, ReferenceDeepFM, log_loss
from trainer.checkpoint import state
from trainer.checkpoint.canonical import model_state
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.job import build

pytestmark = pytest.mark.distributed

STEPS = 3
TOLERANCE = 1e-5
# An eps well above rounding: Adagrad's first step is lr * g / (|g| + eps), which for a smaller one turns the last
# bit of a gradient that cancels to zero into a whole learning rate, in any float32 implementation.
SPARSE: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "lr": 0.5},
    "adagrad": {"name": "adagrad", "lr": 0.1, "eps": 1e-2},
    "adam": {"name": "adam", "lr": 0.1, "eps": 1e-2, "weight_decay": 0.05},
}
TORCH: dict[str, Any] = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam}
DENSE = {"name": "sgd", "lr": 0.5}


@dataclass
class Step:
    """What a rank saw in a step: its rows (padding left out) and their logits."""

    ids: Ids
    dense: torch.Tensor
    labels: torch.Tensor
    logits: torch.Tensor


def rows_of(batch: Batch) -> tuple[Ids, torch.Tensor, torch.Tensor]:
    real = batch.weights > 0
    keep = real.nonzero().flatten().tolist()
    ids: Ids = {}
    for key in ("site", "user", "row_id", "tags"):
        jagged = batch.sparse[key]
        offsets, values = jagged.offsets().tolist(), jagged.values().tolist()
        ids[key] = [values[offsets[b] : offsets[b + 1]] for b in keep]
    return ids, batch.dense[real].double(), batch.labels[real].double()


def train_and_record(worker: Worker, config: TrainConfig, folder: str, first_step: int) -> list[Step]:
    job = build(config, worker)
    state.write(model_state(job.assembled.model).tensors, Path(folder, "before"))
    pipeline = job.pipeline()
    steps: list[Step] = []
    with (
        job.train_loader.batches(first_step, first_step + STEPS) as batches,
        job.train_loader.batches(first_step, first_step + STEPS) as copies,
    ):
        for step in range(first_step, first_step + STEPS):
            job.optimizers.set_learning_rates(step)
            (logits, _, weights), _ = pipeline.step(batches)
            ids, dense, labels = rows_of(next(copies))
            steps.append(Step(ids, dense, labels, logits[weights > 0].double()))
    state.write(model_state(job.assembled.model).tensors, Path(folder, "after"))
    return steps


def reference_from(tensors: dict[str, torch.Tensor], config: TrainConfig) -> ReferenceDeepFM:
    D = config.model.embedding_dim
    tables = {name.split("/")[1]: t.double() for name, t in tensors.items() if name.startswith("tables/")}
    linears = sorted({name.rsplit(".", 1)[0] for name in tensors if "heads.dnn" in name})
    reference = ReferenceDeepFM(
        factors={name: table[:, :D].clone() for name, table in tables.items()},
        first_order={name: table[:, D].clone() for name, table in tables.items()},
        mean_pooled={"tags"},
        dense_factors=tensors["dense/fields.dense_vectors"].double(),
        dense_first_order=tensors["dense/fields.dense_weights"].double(),
        bias=tensors["dense/head_sum.heads.linear.bias"].double(),
        layers=[(tensors[f"{name}.weight"].double(), tensors[f"{name}.bias"].double()) for name in linears],
    )
    for parameter in reference.parameters():
        parameter.requires_grad_()
    return reference


def step_reference(
    reference: ReferenceDeepFM,
    optimizers: list[torch.optim.Optimizer],
    parts: list[Step],
    global_batch_size: int,
    *,
    tolerance: float = TOLERANCE,
) -> None:
    """One step on the global batch, and the comparison of its logits with what the ranks saw."""
    ids = {f: [rows for part in parts for rows in part.ids[f]] for f in parts[0].ids}
    dense, labels = torch.cat([p.dense for p in parts]), torch.cat([p.labels for p in parts])
    logits = reference.logits(ids, dense)
    torch.testing.assert_close(torch.cat([p.logits for p in parts]), logits.detach(), atol=tolerance, rtol=0)
    for optimizer in optimizers:
        optimizer.zero_grad()
    (log_loss(logits, labels) * len(labels) / global_batch_size).backward()
    for optimizer in optimizers:
        optimizer.step()


@pytest.mark.parametrize(
    ("sharding", "optimizer"),
    [
        ("table_wise", "adagrad"),
        ("row_wise", "sgd"),
        ("data_parallel", "adagrad"),
        ("data_parallel", "adam"),
    ],
)
def test_two_ranks_match_the_reference(
    sharding: str, optimizer: str, make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = make_config(sharding={"types": [sharding]}, optimizer={"sparse": SPARSE[optimizer], "dense": DENSE})
    # The last three steps of the first epoch, padding in the last of them among them.
    first_step = 6
    ranks: list[list[Step]] = results_of(run_ranks(2, train_and_record, config, str(tmp_path), first_step))
    reference = reference_from(tensors_of(tmp_path / "before"), config)
    sparse = {key: value for key, value in SPARSE[optimizer].items() if key != "name"}
    # The vectors of dense columns take the dense optimizer's steps and the tables' decay.
    fields, dense = reference.dense()[:2], reference.dense()[2:]
    optimizers: list[torch.optim.Optimizer] = [
        TORCH[optimizer](reference.tables(), **sparse),
        torch.optim.SGD(fields, lr=0.5, weight_decay=sparse.get("weight_decay", 0)),
        torch.optim.SGD(dense, lr=0.5),
    ]
    for step in range(STEPS):
        step_reference(reference, optimizers, [rank[step] for rank in ranks], config.global_batch_size)

    trained = reference_from(tensors_of(tmp_path / "after"), config)
    untouched = reference_from(tensors_of(tmp_path / "before"), config)
    for ours, expected in zip(trained.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, atol=TOLERANCE, rtol=0)
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), untouched.parameters(), strict=True))
