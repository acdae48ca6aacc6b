"""One training step after the other, with the next batches already on their way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.keyed import KeyedOptimizer

from data.batch import Batch
from trainer.model.ctr import Outputs


class TrainPipeline:
    """Copy, input dist and compute of successive batches overlapped, by TorchRec.

    On CUDA the stages run on side streams; on CPU they run one after the other, in the same order and
    with the same results. This is the only place that knows of the pipeline.

    Args:
        model: Sharded.
        optimizer: Steps the dense parameters (the tables' step is in their backward pass).
        device: Where the model is.
    """

    def __init__(self, model: DistributedModelParallel, optimizer: KeyedOptimizer, device: torch.device) -> None:
        self._model = model
        self._pipeline: TrainPipelineSparseDist[Batch, Outputs] = TrainPipelineSparseDist(
            model, optimizer, device, execute_all_batches=True
        )
        self._checked = False

    def step(self, batches: Iterator[Batch]) -> Outputs:
        """Takes one optimizer step. All ranks must call this, equally often.

        Args:
            batches: Where the next batches are pulled from, ahead of their step.

        Returns:
            The outputs of the batch that was trained on.
        """
        outputs: Outputs = self._pipeline.progress(batches)
        if not self._checked:
            # TorchRec leaves out what it cannot trace, silently, and with it the overlap.
            assert len(self._pipeline._pipelined_modules) == 1, "the embedding lookup is not pipelined"
            self._checked = True
        return outputs

    @contextmanager
    def detached(self) -> Iterator[DistributedModelParallel]:
        """The model for direct calls; called while the pipeline holds it, it would give wrong values.

        Batches in flight are kept for the next :meth:`step`.
        """
        self._pipeline.detach()
        yield self._model
        self._pipeline.attach(self._model)
