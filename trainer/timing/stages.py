"""The stages that the time of training is told in."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """What the main thread, or on CUDA the stream that computes, is at; each moment belongs to exactly one."""

    DATA_WAIT = "data_wait"
    """No batch is ready."""
    COPY = "copy"
    """A batch on its way to the device, as far as something waits for it."""
    INPUT_DIST = "input_dist"
    """Ids on their way to the ranks that hold their rows."""
    LOOKUP = "lookup"
    """Rows of tables, read and pooled."""
    OUTPUT_DIST = "output_dist"
    """Pooled rows on their way back, and in the backward pass their gradients."""
    DENSE_FORWARD = "dense_forward"
    """Heads and loss."""
    DENSE_BACKWARD = "dense_backward"
    """Gradients of heads and loss."""
    TABLE_UPDATE = "table_update"
    """The backward pass of the lookup, with the tables' optimizer in it."""
    ALL_REDUCE = "all_reduce"
    """The dense part's gradients, as far as the backward pass does not hide them."""
    OPTIMIZER = "optimizer"
    """Of the dense part."""
    SYNC = "sync"
    """Agreement of the ranks on what comes next: is the loss finite, is somebody told to stop, what to report."""
    METRICS = "metrics"
    """Sums of the training metrics."""
    CHECKPOINT = "checkpoint"
    """Training stands still for a save."""
    LOGGING = "logging"
    """Rank 0 writes figures."""
    REST = "rest"
    """Everything else."""
    EVALUATION = "evaluation"
    """Training stands still for an evaluation; no part of a step."""


WAITS = (Stage.INPUT_DIST, Stage.OUTPUT_DIST, Stage.ALL_REDUCE, Stage.SYNC)
"""Where a rank waits for others: what it takes here beyond the network's own time is the slowest rank's doing."""

STEP_STAGES = tuple(stage for stage in Stage if stage is not Stage.EVALUATION)
"""What adds up to a step."""
