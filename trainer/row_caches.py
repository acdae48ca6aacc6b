"""Caches of table rows on the GPU (the kernel ``fused_uvm_caching``), where they need help beside a train pipeline.

A prefetching pipeline locks the lines of a batch when it fetches its rows, and the backward pass of the batch unlocks
them. Where there is no backward pass, nothing does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen as Kernel


@contextmanager
def without_locks(kernels: Iterable[Kernel]) -> Iterator[None]:
    """Lets lookups within the block fetch rows as ever, without locking them."""
    locking = [kernel for kernel in kernels if kernel.lock_cache_line]
    for kernel in locking:
        kernel.lock_cache_line = False
    try:
        yield
    finally:
        for kernel in locking:
            kernel.lock_cache_line = True


def unlock_last_lookup(kernels: Iterable[Kernel]) -> None:
    """Unlocks the rows of a forward pass that has no backward pass; must come before the next forward pass."""
    for kernel in kernels:
        if kernel.lock_cache_line and kernel.lxu_cache_weights.numel():
            if kernel.prefetch_stream is not None:
                torch.cuda.current_stream().wait_stream(kernel.prefetch_stream)
            torch.ops.fbgemm.lxu_cache_locking_counter_decrement(
                kernel.lxu_cache_locking_counter, kernel.lxu_cache_locations
            )


def forget_cached_rows(kernels: Iterable[Kernel]) -> None:
    """Empties the caches after rows were loaded into main memory, past them."""
    for kernel in kernels:
        kernel.reset_cache_states()
