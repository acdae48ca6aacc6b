"""An id that has no row, which the data never lets through, would end the job; it is not trained as another one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.ranks import results_of, run_ranks
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.job import build
from trainer.table_kernels import table_kernels

pytestmark = pytest.mark.distributed


def rows_before_and_after(worker: Worker, config: TrainConfig) -> tuple[str, bool]:
    """What a step says whose first id is beyond every table, and whether it left the tables as they were."""
    job = build(config, worker)
    tables = [rows for kernel in table_kernels(job.assembled.model) for rows in kernel.split_embedding_weights()]
    before = [rows.detach().clone() for rows in tables]
    with job.train_loader.batches(0, 1) as batches:
        (batch,) = batches
    batch.sparse.values()[0] = 2**30
    with pytest.raises(RuntimeError) as error:
        job.pipeline().step(iter([batch]))
    return str(error.value), all(torch.equal(a, b) for a, b in zip(before, tables, strict=True))


def test_a_row_that_is_not_there_ends_the_step(make_config: Callable[..., TrainConfig]) -> None:
    ((said, untouched),) = results_of(
        run_ranks(1, rows_before_and_after, make_config(sharding={"types": ["table_wise"]}))
    )
    assert "is out of bounds: 1073741824, range 0 to" in said
    assert untouched
