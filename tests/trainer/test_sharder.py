"""What FBGEMM's kernels are told, and the planner may fill."""

from __future__ import annotations

import pytest
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torchrec.distributed.planner import Topology

from trainer.config import ShardingConfig
from trainer.sharding import Reservation, Sharder


def told(device_type: str, *, prefetch: bool = False, kernels: tuple[str, ...] = ("fused",)) -> dict[str, object]:
    return Sharder(ShardingConfig(kernels=list(kernels), prefetch=prefetch), device_type).fused_params or {}


def test_ids_are_checked_ahead_where_the_kernels_do_not_look_themselves() -> None:
    assert told("cpu") == {"bounds_check_mode": BoundsCheckMode.NONE}
    assert told("cuda") == {}


def test_a_cache_is_counted_unless_rows_are_fetched_ahead() -> None:
    kernels = ("fused", "fused_uvm_caching")
    assert told("cuda", kernels=kernels) == {"gather_uvm_cache_stats": True}
    # A lookup would take the counter, which the next batch's fetching sets back, for its own.
    assert told("cuda", kernels=kernels, prefetch=True) == {"prefetch_pipeline": True}


@pytest.mark.parametrize(("device_type", "room"), [("cpu", (0, 750 - 100)), ("cuda", (300 - 100, 750))])
def test_a_share_of_each_memory_is_kept_free_and_of_its_own_what_else_is_there(
    device_type: str, room: tuple[int, int]
) -> None:
    hosts = Topology(world_size=2, compute_device=device_type, hbm_cap=400, ddr_cap=1000)
    left = Reservation(0.25, 100).reserve(hosts, 1, torch.nn.Module(), [])
    assert [(device.storage.hbm, device.storage.ddr) for device in left.devices] == [room] * 2
