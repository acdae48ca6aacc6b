"""What all ranks together have skipped because it cannot be read."""

from __future__ import annotations

import logging

from data.loader import BatchLoader, BatchStream
from trainer.distributed import gather, on_main

logger = logging.getLogger(__name__)


def total_skipped_rows(loader: BatchLoader, stream: BatchStream) -> int:
    """Adds up the damaged rows of all ranks. All ranks must call this.

    Args:
        loader: Knows the policy and what is damaged.
        stream: Knows what was skipped on this rank.

    Returns:
        Rows that were padding in the stream's batches so far, over all ranks.

    Raises:
        DataError: Together they lost more than ``data.max_skipped_rows``, though none did on its own.
    """
    policy = loader.options.damage
    if not policy.skip:
        return 0
    reports = gather((stream.skipped_rows, loader.damage))
    damages = [damage for _, found in reports for damage in found]
    on_main(lambda: policy.check(damages, num_rows=loader.total_rows))
    total = sum(skipped for skipped, _ in reports)
    if total:
        logger.warning("%d rows skipped so far, for %d damages", total, len({damage.place for damage in damages}))
    return total
