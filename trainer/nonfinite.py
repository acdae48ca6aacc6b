"""A loss that is not finite: found on all ranks before the backward pass, told with its rows, never trained on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from data.loader import BatchLoader
from data.places import Place, describe_lanes, places_of_step
from trainer.checkpoint.bucket import Location
from trainer.config import TrainConfig
from trainer.distributed import gather
from trainer.errors import ShardFMError
from trainer.model.ctr import Outputs
from trainer.model.loss_scale import LossScale
from trainer.row_caches import unlock_last_lookup
from trainer.table_kernels import table_kernels

logger = logging.getLogger(__name__)


class NonFiniteError(ShardFMError):
    """The loss of a step is not finite; the same error on every rank."""


class FiniteCheck:
    """Whether the loss of a step is finite on every rank.

    The tables' optimizer runs inside the backward pass, on rows of all ranks: so the answer has to be
    there before the first kernel of the backward pass, and the same everywhere.

    What it costs: among several ranks one all-reduce of two floats a step, under way while the next batch's input dist
    is waited for. On CPU that is all. On CUDA the host also waits, once a step, for the end of the forward
    pass (for an event, so that copies and input dists on other streams go on); the device then idles for
    as long as the host needs to launch the first kernels of the backward pass.

    Args:
        device: Where the loss is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._found = torch.zeros(2, pin_memory=device.type == "cuda")
        self._work: dist.Work | None = None
        self._copied: torch.cuda.Event | None = None

    def begin(self, loss: torch.Tensor, overflow: torch.Tensor | None = None) -> None:
        """Starts the exchange. All ranks must call this, once a step, after the forward pass.

        Args:
            loss: float [].
            overflow: Whether gradients that are known by then overflowed, float [1], 1 or 0.
        """
        failed = torch.isfinite(loss.detach()).logical_not().to(torch.float32).reshape(1)
        found = torch.cat([failed, torch.zeros_like(failed) if overflow is None else overflow])
        alone = dist.get_world_size() == 1
        self._work = None if alone else dist.all_reduce(found, dist.ReduceOp.MAX, async_op=True)
        if self._device.type != "cuda":
            self._found = found
            return
        if self._work is not None:
            self._work.wait()  # the stream waits, not the host
        self._found.copy_(found, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record()

    def result(self) -> tuple[bool, bool]:
        """Whether the loss given to :meth:`begin` is not finite, and the gradients overflowed, on some rank."""
        if self._copied is not None:
            self._copied.synchronize()
        elif self._work is not None:
            self._work.wait()
        failed, overflowed = self._found.tolist()
        return bool(failed), bool(overflowed)


class ForwardState:
    """What a forward pass changes by itself, kept to be put back: a step that is not taken leaves no trace.

    These are the dense modules' buffers (running statistics) and the step counts of FBGEMM's optimizers,
    which count forward passes. Small, and nothing at all for most models.

    Args:
        model: Sharded.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kernels = table_kernels(model)
        # Module by module, because TorchRec's own buffers() would give the tables' optimizer states, too.
        self._live = [b for module in model.modules() for b in module._buffers.values() if b is not None]
        self._live += [kernel.iter for kernel in self._kernels]
        self._kept = [torch.empty_like(buffer) for buffer in self._live]
        self._kept_counts = [0] * len(self._kernels)

    def keep(self) -> None:
        """Takes note of the state; does not wait for the device."""
        if self._live:
            torch._foreach_copy_(self._kept, self._live)
        self._kept_counts = [int(kernel.iter_cpu.item()) for kernel in self._kernels]

    @torch.no_grad()
    def put_back(self) -> None:
        """Brings back what :meth:`keep` saw."""
        if self._live:
            torch._foreach_copy_(self._live, self._kept)
        for kernel, count in zip(self._kernels, self._kept_counts, strict=True):
            kernel.iter_cpu.fill_(count)
        unlock_last_lookup(self._kernels)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """The state stays what it is, whatever is computed in the block."""
        self.keep()
        yield
        self.put_back()


class NonFinitePolicy:
    """What becomes of steps whose loss is not finite: the end of the job, or a step that is not taken.

    Args:
        config: ``on_nonfinite`` and ``max_nonfinite_steps``.
        loader: Of the training rows; tells where they lie.
        num_skipped: Steps of the run that were not taken before this process.

    Attributes:
        num_skipped: Steps of the run that were not taken.
    """

    def __init__(self, config: TrainConfig, loader: BatchLoader, *, num_skipped: int) -> None:
        self._config = config
        self._loader = loader
        self.num_skipped = num_skipped

    def refuse(self, step: int, outputs: Outputs, checkpoint: Location | None) -> None:
        """Tells a step that was not taken, and lets the job go on or not. All ranks must call this.

        Args:
            step: Steps completed before it.
            outputs: Of this rank.
            checkpoint: The newest one, for the replay.

        Raises:
            NonFiniteError: The policy is to raise, or the budget is used up.
        """
        told = self._tell(step, outputs, checkpoint)
        if self._config.on_nonfinite == "raise":
            raise NonFiniteError(f"{told}\nNothing of this step was trained on. on_nonfinite=skip would leave it out.")
        self.num_skipped += 1
        budget = self._config.max_nonfinite_steps
        if self.num_skipped > budget:
            raise NonFiniteError(
                f"{told}\nThis is step {self.num_skipped} that is left out for this reason, more than "
                f"max_nonfinite_steps allows ({budget})."
            )
        if dist.get_rank() == 0:
            logger.warning("%s\nThe step is left out (%d of %d).", told, self.num_skipped, budget)

    def overflowed(self, step: int, scale: LossScale | None) -> None:
        """Lets a step go by whose gradients overflowed float16, unless no smaller scale is left.

        Args:
            step: Steps completed before it.
            scale: After the step.

        Raises:
            NonFiniteError: The gradients overflow without a scale; on every rank.
        """
        assert scale is not None, "only scaled gradients are looked at"
        if scale.value < 1:
            raise NonFiniteError(
                f"step {step + 1}: the gradients overflow float16, and the scale of the loss is down to 1. Nothing of "
                "this step was trained on. Use precision=bf16 or fp32, or lower learning rates."
            )
        if dist.get_rank() == 0:
            logger.info("step %d: gradients overflow; left out, the loss is scaled by %g now", step + 1, scale.value)

    def _tell(self, step: int, outputs: Outputs, checkpoint: Location | None) -> str:
        """The message, the same on every rank. All ranks must call this."""
        loader, order = self._loader, self._loader.order
        damaged = {damage.place for damage in loader.damage}
        places = places_of_step(loader.index, order, step, loader.lanes, left_out=damaged)
        reports = gather((places, _rows_to_blame(outputs[0], places, loader)))
        to_blame = [(rank, place) for rank, (_, blamed) in enumerate(reports) for place in blamed]
        epoch = order.locate(step)[0]
        told = f"epoch {epoch + 1}, step {step + 1}: the loss is not finite."
        if to_blame:
            rank, place = to_blame[0]
            told += f" Rows with such a logit: {len(to_blame)}, the first on rank {rank}: {place}."
        told += f"\nRows of the step:\n{describe_lanes([place for found, _ in reports for place in found])}"
        source = f"checkpoint={checkpoint}" if checkpoint else f"run_dir={self._config.run_dir}"
        return f"{told}\nLook at them with: python launch/replay.py {source} step={step + 1}"


def _rows_to_blame(logits_B: torch.Tensor, places: list[Place], loader: BatchLoader) -> list[Place]:
    """The rows whose logits are not finite."""
    finite = torch.isfinite(logits_B).tolist()
    blamed = []
    for number, lane in enumerate(loader.lanes):
        of_lane = [place for place in places if place.lane == lane]
        first = number * loader.order.rows_per_lane_step  # padding ends each lane's part of the batch
        blamed += [place for row, place in enumerate(of_lane) if not finite[first + row]]
    return blamed
