"""What all ranks together have met in the data: rows that cannot be read, values that are not as declared."""

from __future__ import annotations

import logging
from dataclasses import fields

from data.counters import FeatureCounts
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


def feature_counts(stream: BatchStream) -> dict[str, int]:
    """Adds up what the ranks counted while decoding. All ranks must call this.

    Args:
        stream: Of this rank; see :meth:`BatchStream.counters` for which rows are counted.

    Returns:
        ``<counter>/<feature>`` to its count over all ranks; counters that stand at 0 are left out.
    """
    totals: dict[str, FeatureCounts] = {}
    for counters in gather(stream.counters()):
        for feature, counts in counters.items():
            totals[feature] = totals.get(feature, FeatureCounts()) + counts
    names = [field.name for field in fields(FeatureCounts) if field.name != "values"]
    found = {f"{name}/{feature}": getattr(counts, name) for feature, counts in totals.items() for name in names}
    return {key: count for key, count in found.items() if count}
