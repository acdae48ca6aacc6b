"""The stages of TorchRec's train pipeline, told to a clock."""

from __future__ import annotations

from typing import Any

import torch

from trainer.timing.clock import StageClock
from trainer.timing.hooks import watch_backward, watch_model
from trainer.timing.stages import Stage


class TimedStages:
    """Comes before a train pipeline among the bases of a class, and does what the pipeline does, on the clock.

    The pipeline's own order stays: ids of the next batch are sent (input dist), a further batch is read (data
    wait) and copied, forward pass, the next batch's ids are received, backward pass, optimizer.
    """

    clock: StageClock

    def watch(self, model: torch.nn.Module, clock: StageClock) -> None:
        """Sets the clock; must come before the first step."""
        self.clock = clock
        watch_model(model, clock)

    def copy_batch_to_gpu(self, *arguments: Any) -> Any:
        """Reads and copies a batch."""
        with self.clock.during(Stage.COPY):
            return super().copy_batch_to_gpu(*arguments)  # type: ignore[misc]

    def start_sparse_data_dist(self, *arguments: Any) -> Any:
        """Sends how many ids go where."""
        with self.clock.during(Stage.INPUT_DIST):
            return super().start_sparse_data_dist(*arguments)  # type: ignore[misc]

    def wait_sparse_data_dist(self, *arguments: Any) -> Any:
        """Sends the ids."""
        with self.clock.during(Stage.INPUT_DIST):
            return super().wait_sparse_data_dist(*arguments)  # type: ignore[misc]

    def _wait_for_batch(self, *arguments: Any) -> Any:
        with self.clock.during(Stage.COPY):
            return super()._wait_for_batch(*arguments)  # type: ignore[misc]

    def _backward(self, losses: torch.Tensor) -> None:
        with self.clock.during(Stage.DENSE_BACKWARD):
            watch_backward(losses, self.clock)
            super()._backward(losses)  # type: ignore[misc]
        # What follows, until the batch is done with.
        self.clock.switch(Stage.OPTIMIZER)

    def dequeue_batch(self) -> None:
        """Ends the step of a batch."""
        super().dequeue_batch()  # type: ignore[misc]
        self.clock.switch(Stage.REST)
