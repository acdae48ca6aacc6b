"""One training step after the other, with the next batches already on their way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import PrefetchTrainPipelineSparseDist, TrainPipelineSparseDist
from torchrec.optim.keyed import KeyedOptimizer

from data.batch import Batch
from trainer.model.ctr import Outputs
from trainer.model.loss_scale import LossScale
from trainer.nonfinite import FiniteCheck, ForwardState
from trainer.row_caches import without_locks
from trainer.table_kernels import table_kernels
from trainer.timing.clock import StageClock
from trainer.timing.hooks import watch_backward
from trainer.timing.pipeline import TimedStages
from trainer.timing.stages import Stage


class GuardedPipeline(TimedStages, TrainPipelineSparseDist[Batch, Outputs]):
    """TorchRec's pipeline, which takes no step where the loss is not finite, or gradients overflow, on some rank."""

    def __init__(
        self,
        model: DistributedModelParallel,
        optimizer: KeyedOptimizer,
        device: torch.device,
        clock: StageClock,
        loss_scale: LossScale | None,
        check_finite: bool,
    ) -> None:
        super().__init__(model, optimizer, device, execute_all_batches=True, custom_model_fwd=self._checked_forward)
        self.watch(model, clock)
        self._check = FiniteCheck(device) if check_finite else None
        self.forward_state = ForwardState(model)
        self._loss_scale = loss_scale
        self.took_step = True
        self.overflowed = False

    def _checked_forward(self, batch: Batch) -> tuple[Any, Outputs]:
        self.forward_state.keep()
        with self.clock.during(Stage.DENSE_FORWARD):
            loss, outputs = self._model(batch)
        if self._check is not None:
            with self.clock.during(Stage.SYNC):
                self._check.begin(loss, self._loss_scale.overflow if self._loss_scale else None)
        return loss, outputs

    def _backward(self, losses: torch.Tensor) -> None:
        if self._may_step():
            super()._backward(losses)

    def _may_step(self) -> bool:
        if self._check is None:
            return True
        with self.clock.during(Stage.SYNC):
            failed, overflowed = self._check.result()
        self.took_step, self.overflowed = not failed and not overflowed, overflowed and not failed
        if self._loss_scale is not None and not failed:
            self._loss_scale.step_done(overflowed=overflowed)
        if not self.took_step:
            # The optimizer's step that follows finds no gradients, and so changes nothing.
            self.forward_state.put_back()
        return self.took_step


class DeferredLoss:
    """Stands for a loss until it is summed up for its backward pass.

    TorchRec's prefetching pipeline has no place for a decision between its forward pass, the fetching of the next
    batch's rows that is started after it, and its backward pass, ``torch.sum(losses, dim=0).backward()``.

    Args:
        decide: Called when the loss is used; what it returns takes the loss's place.
    """

    def __init__(self, decide: Callable[[], torch.Tensor]) -> None:
        self._decide = decide

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls a function of torch with what was decided."""
        return function(*(a._decide() if isinstance(a, DeferredLoss) else a for a in args), **(kwargs or {}))


class DeferringPipeline(GuardedPipeline):
    """The same guard for a pipeline whose backward pass cannot be overridden."""

    def _checked_forward(self, batch: Batch) -> tuple[Any, Outputs]:
        loss, outputs = super()._checked_forward(batch)
        return DeferredLoss(lambda: self._decided(loss)), outputs

    def _decided(self, loss: torch.Tensor) -> torch.Tensor:
        if self._may_step():
            watch_backward(loss, self.clock)
            self.clock.switch(Stage.DENSE_BACKWARD)
            return loss
        # The backward pass of a leaf reaches neither tables nor dense parameters.
        return torch.zeros_like(loss, requires_grad=True)

    def _backward(self, losses: Any) -> None:
        torch.sum(losses, dim=0).backward()

    def progress(self, dataloader_iter: Iterator[Batch]) -> Outputs:
        """A step; on the clock, the optimizer counts to what came before it."""
        outputs: Outputs = super().progress(dataloader_iter)
        self.clock.switch(Stage.REST)
        return outputs


class PrefetchingPipeline(DeferringPipeline, PrefetchTrainPipelineSparseDist[Batch, Outputs]):
    """Fetches the rows of the next batch from main memory into the GPU's caches during a step, on CUDA alone.

    A lookup beside the pipeline, as in an evaluation, would take the rows that were fetched for a batch in flight:
    there may be none by then.
    """


class TrainPipeline:
    """Copy, input dist and compute of successive batches overlapped, by TorchRec.

    On CUDA the stages run on side streams; on CPU they run one after the other, in the same order and
    with the same results. This is the only place that knows of the pipeline.

    Args:
        model: Sharded.
        optimizer: Steps the dense parameters (the tables' step is in their backward pass).
        device: Where the model is.
        clock: Is told what a step is at; None for one that nobody looks at.
        loss_scale: Of the model; follows the steps.
        check_finite: Whether a step may be left out; if not, the host never waits for the outcome of a forward pass.
        prefetch: Whether the next batch's rows are fetched into caches during a step, on CUDA alone. The iterator
            of batches has then to end before :meth:`detached`, and another one to go on after it.
    """

    def __init__(
        self,
        model: DistributedModelParallel,
        optimizer: KeyedOptimizer,
        device: torch.device,
        clock: StageClock | None = None,
        loss_scale: LossScale | None = None,
        *,
        check_finite: bool = True,
        prefetch: bool = False,
    ) -> None:
        self._model = model
        self._kernels = table_kernels(model)
        pipeline = PrefetchingPipeline if prefetch else GuardedPipeline
        self._pipeline = pipeline(model, optimizer, device, clock or StageClock(device), loss_scale, check_finite)
        self._checked = False

    def step(self, batches: Iterator[Batch]) -> tuple[Outputs, bool]:
        """Takes one optimizer step. All ranks must call this, equally often.

        Args:
            batches: Where the next batches are pulled from, ahead of their step.

        Returns:
            The outputs of the batch, and whether it was trained on: where the loss is not finite, or gradients
            overflow, on some rank, no rank is, and tables, dense parameters and optimizer states are what they were.
        """
        outputs: Outputs = self._pipeline.progress(batches)
        if not self._checked:
            # TorchRec leaves out what it cannot trace, silently, and with it the overlap.
            assert len(self._pipeline._pipelined_modules) == 1, "the embedding lookup is not pipelined"
            self._checked = True
        return outputs, self._pipeline.took_step

    @property
    def overflowed(self) -> bool:
        """Whether the newest step was not taken for gradients that overflowed float16 alone."""
        return self._pipeline.overflowed

    @contextmanager
    def detached(self) -> Iterator[DistributedModelParallel]:
        """The model for direct calls; called while the pipeline holds it, it would give wrong values.

        Batches in flight are kept for the next :meth:`step`. What is computed meanwhile is not training: the steps
        that FBGEMM's optimizers count, by which Adam corrects its bias, are those of before.
        """
        self._pipeline.detach()
        with without_locks(self._kernels), self._pipeline.forward_state.kept():
            yield self._model
        self._pipeline.attach(self._model)


@contextmanager
def evaluation_pipeline(
    model: DistributedModelParallel, device: torch.device
) -> Iterator[Callable[[Iterator[Batch]], Iterator[tuple[Outputs, torch.Tensor | None]]]]:
    """Copy, input dist and compute of successive batches overlapped, as in training, for a model that only looks.

    Within the block the pipeline holds the model.

    Args:
        model: Sharded, in evaluation mode, and not held by another pipeline.
        device: Where it is.

    Yields:
        What gives the outputs of batches, and the columns that each carries. All ranks must pull equally often.
    """
    nothing_to_step = torch.optim.SGD([torch.zeros(0, requires_grad=True)])
    pipeline = TrainPipelineSparseDist[Batch, Outputs](model, nothing_to_step, device, execute_all_batches=True)

    def outputs_of(batches: Iterator[Batch]) -> Iterator[tuple[Outputs, torch.Tensor | None]]:
        carried: deque[torch.Tensor | None] = deque()  # of the batches in the pipeline

        def entering() -> Iterator[Batch]:
            for batch in batches:
                carried.append(batch.carried)
                yield batch

        entrance = entering()
        while True:
            try:
                outputs = pipeline.progress(entrance)
            except StopIteration:
                return
            yield outputs, carried.popleft()

    yield outputs_of
    pipeline.detach()
