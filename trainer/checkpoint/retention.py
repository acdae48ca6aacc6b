"""Which checkpoints are dropped once another one is committed."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from trainer.config import CheckpointConfig


def dropped_steps(
    committed: Iterable[int],
    config: CheckpointConfig,
    *,
    best: int | None,
    damaged: Collection[int] = (),
    in_use: int | None = None,
) -> list[int]:
    """The steps whose checkpoints no rule keeps, oldest first.

    Args:
        committed: All steps that have one; the newest was just written.
        config: ``keep_last`` and ``keep_every_steps``.
        best: The best evaluated step so far, if it is to be kept.
        damaged: Steps that were found damaged: they count for nothing.
        in_use: The step that the run would start from again.
    """
    steps = sorted(committed)
    good = [step for step in steps if step not in damaged]
    kept = {*good[-config.keep_last :], best, in_use}
    if config.keep_every_steps is not None:
        kept |= {step for step in good if step % config.keep_every_steps == 0}
    return [step for step in steps if step not in kept]
