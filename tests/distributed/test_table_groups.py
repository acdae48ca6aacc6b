"""2D parallelism: two groups of two ranks, each with a copy of the tables, against a reference with two copies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import tensors_of
from tests.distributed.test_sharded_equals_unsharded import STEPS, TOLERANCE, Step, reference_from, step_reference
from tests.distributed.test_sharding_matrix import (
    DENSE,
    FIRST_STEP,
    SPARSE,
    RowWiseAdagrad,
    reference_optimizers,
    train_all,
)
from tests.ranks import results_of, run_ranks
from tests.reference import ReferenceDeepFM, log_loss
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.table_groups import TableGroups, table_groups

pytestmark = pytest.mark.distributed

Make = Callable[..., TrainConfig]

GROUPS = 2
COLUMNS = 8
"""Of a row: nothing is cut by columns."""


def in_groups(make_config: Make, sharding: str, optimizer: str, **more: Any) -> TrainConfig:
    return make_config(
        sharding={"types": [sharding], "group_size": 2, **more},
        optimizer={"sparse": SPARSE[optimizer], "dense": DENSE},
    )


class Copies:
    """A reference for each group: its own tables, and the dense part of all."""

    def __init__(self, reference: ReferenceDeepFM, config: TrainConfig) -> None:
        self._references = [reference, copy.deepcopy(reference)]
        name = config.optimizer.sparse.name
        self._tables = [reference_optimizers(r, name, "table_wise")[0] for r in self._references]
        self._dense = [torch.optim.SGD(r.dense(), lr=0.5) for r in self._references]
        self._config = config

    def step(self, groups: list[list[Step]]) -> None:
        """Each group's tables by its own rows, as if they were all; the dense part by all."""
        for reference, parts in zip(self._references, groups, strict=True):
            ids = {f: [rows for part in parts for rows in part.ids[f]] for f in parts[0].ids}
            dense, labels = torch.cat([p.dense for p in parts]), torch.cat([p.labels for p in parts])
            logits = reference.logits(ids, dense)
            seen = torch.cat([p.logits for p in parts])
            torch.testing.assert_close(seen, logits.detach(), atol=TOLERANCE, rtol=0)
            for parameter in reference.parameters():
                parameter.grad = torch.zeros_like(parameter)
            (log_loss(logits, labels) * len(labels) / self._config.global_batch_size).backward()
            for table in reference.tables():
                assert table.grad is not None
                table.grad *= GROUPS
        for together in zip(*(r.dense() for r in self._references), strict=True):
            total = torch.stack([p.grad for p in together if p.grad is not None]).sum(0)
            for parameter in together:
                parameter.grad = total.clone()
        for optimizer in (*self._tables, *self._dense):
            optimizer.step()

    @torch.no_grad()
    def average(self) -> ReferenceDeepFM:
        """Rows and accumulators."""
        for tables in zip(*(r.tables() for r in self._references), strict=True):
            mean = torch.stack(tables).mean(0)
            for table in tables:
                table.copy_(mean)
        first, second = self._tables
        if isinstance(first, RowWiseAdagrad):
            for sums in zip(first._sums, second._sums, strict=True):
                mean = (sums[0][0] + sums[1][0]) / 2
                sums[0][0], sums[1][0] = mean, mean.clone()
        elif isinstance(first, torch.optim.Adagrad):
            for a, b in zip(first.state.values(), second.state.values(), strict=True):
                a["sum"] = (a["sum"] + b["sum"]) / 2
                b["sum"] = a["sum"].clone()
        return self._references[0]


def test_one_step_of_sgd_in_groups_is_the_step_of_the_whole_batch(make_config: Make, tmp_path: Path) -> None:
    configs = {name: in_groups(make_config, name, "sgd") for name in ("table_wise", "row_wise", "column_wise")}
    ranks = results_of(run_ranks(4, train_all, configs, str(tmp_path)))
    for name, config in configs.items():
        assert ranks[0][name][0] == {name}
        reference = reference_from(tensors_of(tmp_path / name / "before"), config)
        optimizers = reference_optimizers(reference, "sgd", name)
        for step in range(STEPS):
            step_reference(reference, optimizers, [rank[name][1][step] for rank in ranks], config.global_batch_size)
        assert_close(tmp_path / name / "after", config, reference)


def test_groups_under_adagrad_and_longer_apart_are_what_is_written_of_them(make_config: Make, tmp_path: Path) -> None:
    cases = {
        "adagrad": in_groups(make_config, "row_wise", "adagrad"),
        "rowwise_adagrad": in_groups(make_config, "table_wise", "rowwise_adagrad"),
        # Averaged after global steps 6 and 9, the first and the last of the three here.
        "apart": in_groups(make_config, "row_wise", "sgd", average_every_steps=3),
    }
    ranks = results_of(run_ranks(4, train_all, cases, str(tmp_path)))
    for name, config in cases.items():
        reference = reference_from(tensors_of(tmp_path / name / "before"), config)
        copies = Copies(reference, config)
        for step in range(STEPS):
            seen = [rank[name][1][step] for rank in ranks]
            copies.step([seen[:2], seen[2:]])
            if (FIRST_STEP + step + 1) % config.sharding.average_every_steps == 0:
                reference = copies.average()
        assert_close(tmp_path / name / "after", config, reference)


def assert_close(path: Path, config: TrainConfig, reference: ReferenceDeepFM) -> None:
    trained = reference_from(tensors_of(path), config)
    for ours, expected in zip(trained.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("group_size", "world_size", "ranks_per_node", "groups"),
    [
        (None, 16, 8, TableGroups(16, 1)),
        (8, 16, 8, TableGroups(8, 2)),
        (4, 16, 8, TableGroups(4, 4)),
        (16, 32, 8, TableGroups(16, 2)),
        (8, 2, 2, TableGroups(2, 1)),
    ],
)
def test_groups_take_whole_hosts_or_equal_parts_of_one(
    group_size: int | None, world_size: int, ranks_per_node: int, groups: TableGroups, make_config: Make
) -> None:
    config = make_config(sharding={"group_size": group_size}).sharding
    assert table_groups(config, world_size=world_size, ranks_per_node=ranks_per_node) == groups


@pytest.mark.parametrize(
    ("group_size", "world_size", "ranks_per_node", "message"),
    [
        (8, 12, 4, "sharding.group_size is 8, but the job's 12 ranks are no multiple of it; use one of 1, 2, 3, 4, 6"),
        (6, 24, 4, "a group takes whole hosts, or an equal part of one; use a multiple of 4, or one of 1, 2, 4."),
    ],
)
def test_groups_that_cut_hosts_or_leave_ranks_over_are_refused(
    group_size: int, world_size: int, ranks_per_node: int, message: str, make_config: Make
) -> None:
    config = make_config(sharding={"group_size": group_size}).sharding
    with pytest.raises(ConfigError) as error:
        table_groups(config, world_size=world_size, ranks_per_node=ranks_per_node)
    assert message in str(error.value)
