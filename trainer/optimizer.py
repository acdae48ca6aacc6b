"""The optimizers: FBGEMM's inside the backward pass for the tables, torch's for the rest."""

from __future__ import annotations

from typing import Any

import torch
import torchrec
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from trainer.config import DenseOptimizerConfig, OptimizerConfig, SparseOptimizerConfig
from trainer.errors import ConfigError
from trainer.lr_schedule import lr_factor

_SPARSE: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rowwise_adagrad": torchrec.optim.RowWiseAdagrad,
    "adam": torch.optim.Adam,
}
_DENSE: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def fuse_sparse_optimizer(tables: nn.Module, config: SparseOptimizerConfig, device: torch.device) -> None:
    """Tells the (meta) tables which optimizer their kernels run; must come before sharding.

    Raises:
        ConfigError: The device's kernels do not have this optimizer.
    """
    if config.name == "adam" and device.type == "cpu":
        raise ConfigError(
            "optimizer.sparse.name is 'adam', which FBGEMM's CPU kernels do not have; "
            "use adagrad, rowwise_adagrad or sgd, or train on CUDA."
        )
    settings: dict[str, Any] = {"lr": config.lr}
    if config.name != "sgd":
        settings["eps"] = config.eps
    apply_optimizer_in_backward(_SPARSE[config.name], tables.parameters(), settings)


class Optimizers:
    """Both optimizers of a sharded model, driven by one learning-rate schedule.

    Args:
        model: Sharded, its tables with a fused optimizer.
        config: Names, rates, clipping and schedule.
        total_steps: That the schedule spans.
    """

    def __init__(self, model: DistributedModelParallel, config: OptimizerConfig, *, total_steps: int) -> None:
        self._config = config
        self._total_steps = total_steps
        self.sparse = model.fused_optimizer
        self.dense = KeyedOptimizerWrapper(
            dict(in_backward_optimizer_filter(model.named_parameters())), lambda p: _dense(p, config.dense)
        )
        _materialize_state(self.dense)
        clipped = self.dense
        if config.dense.max_grad_norm is not None:
            clipped = GradientClippingOptimizer(
                self.dense, clipping=GradientClipping.NORM, max_gradient=config.dense.max_grad_norm
            )
        self.combined = CombinedOptimizer([self.sparse, clipped])

    def learning_rates(self, step: int) -> dict[str, float]:
        """The rates of a step: a pure function, so that a resumed run needs nothing restored."""
        factor = lr_factor(self._config.schedule, step, self._total_steps)
        return {"sparse": self._config.sparse.lr * factor, "dense": self._config.dense.lr * factor}

    def set_learning_rates(self, step: int) -> None:
        """Sets the rates of a step; must come before its forward pass, for the fused kernels to see it."""
        rates = self.learning_rates(step)
        for group in self.sparse.param_groups:
            group["lr"] = rates["sparse"]
        for group in self.dense.param_groups:
            group["lr"] = rates["dense"]


def _materialize_state(optimizer: KeyedOptimizer) -> None:
    """Brings the lazily made state into being, all zeros as a fresh one starts.

    Without it, loading a checkpoint would drop the moments silently. TorchRec's ``init_state`` takes a
    step to get there, which would decay the weights and count as Adam's first: so it takes it at rate 0,
    and what it counted is zeroed.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.init_state()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                value.zero_()


def _dense(parameters: list[torch.Tensor], config: DenseOptimizerConfig) -> torch.optim.Optimizer:
    return _DENSE[config.name](parameters, lr=config.lr, weight_decay=config.weight_decay)  # type: ignore[call-arg]
