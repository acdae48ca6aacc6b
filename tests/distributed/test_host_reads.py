"""In a training step the host reads what it must know to go on, and nothing else: the rest runs ahead of a device."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from launch.bench_contenders import Training
from tests.host_reads import HostReads
from tests.ranks import results_of, run_ranks
from trainer.config import TrainConfig
from trainer.distributed import Worker
from trainer.job import build

pytestmark = pytest.mark.distributed

logger = logging.getLogger(__name__)

STEPS = 4

INPUT_DIST = {"start_sparse_data_dist", "wait_sparse_data_dist", "dist_init"}
"""TorchRec's exchange of ids: a batch ahead, and on a stream of its own."""

OF_HOST_TENSORS = {"keep", "_generate_vbe_metadata", "step", "_backward"}
"""What lies in main memory, whatever the device: counters of steps, widths of tables, and the learning rates that
FBGEMM's kernels for CPUs take from a tensor."""


def reads_of_steps(worker: Worker, config: TrainConfig) -> Counter[tuple[str, ...]]:
    """How often the host read a value in some steps, after the first ones, by callers."""
    training = Training(build(config, worker), config.precision.dense, "memory")
    training(3)
    with HostReads() as reads:
        training(STEPS)
    training.close()
    return reads.places


@pytest.mark.parametrize(
    ("world_size", "changes"),
    [
        (1, {"model": {"heads": {"linear": {}, "dnn": {"norm": "batch", "dropout": 0.2, "layers": [8, 8]}}}}),
        (2, {"sharding": {"types": ["row_wise"]}, "precision": {"dense": "fp16"}}),
        (2, {"sharding": {"types": ["data_parallel"]}, "optimizer": {"dense": {"max_grad_norm": 1.0}}}),
        (2, {"on_nonfinite": "ignore"}),
    ],
)
def test_the_host_reads_ids_to_exchange_and_whether_the_loss_is_finite(
    world_size: int, changes: dict[str, Any], make_config: Callable[..., TrainConfig]
) -> None:
    for rank, reads in enumerate(results_of(run_ranks(world_size, reads_of_steps, make_config(**changes)))):
        others = Counter[str]()
        for callers, times in sorted(reads.items()):
            logger.info("rank %d of %d: %g a step by %s", rank, world_size, times / STEPS, " < ".join(callers[:4]))
            if not INPUT_DIST & set(callers) and callers[0] not in OF_HOST_TENSORS:
                others[" < ".join(callers[:2])] += times
        looks = changes.get("on_nonfinite") != "ignore"
        assert others == ({"result < _may_step": STEPS} if looks else {})
