"""What FBGEMM's kernels are told by the way of sharding."""

from __future__ import annotations

from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode

from trainer.config import ShardingConfig
from trainer.sharding import Sharder


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
