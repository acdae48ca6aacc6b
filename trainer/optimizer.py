"""The optimizers: FBGEMM's inside the backward pass for sharded tables, torch's for all that is replicated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torchrec
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from trainer.config import DenseOptimizerConfig, OptimizerConfig, PrecisionConfig, ShardingConfig, SparseOptimizerConfig
from trainer.errors import ConfigError
from trainer.lr_schedule import lr_factor

_SPARSE: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rowwise_adagrad": torchrec.optim.RowWiseAdagrad,
    "adam": torch.optim.Adam,
}
TABLE_BYTES = {"fp32": 4, "fp16": 2}
"""Of a number in a table."""

_DENSE: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def check_sparse_optimizer(
    config: SparseOptimizerConfig, sharding: ShardingConfig, precision: PrecisionConfig, device: torch.device
) -> None:
    """Refuses what the kernels would not do, some of it silently.

    Raises:
        ConfigError: The optimizer does not run in the backward pass of the device's kernels, or leaves
            out the weight decay.
    """
    if precision.tables != "fp32" and "data_parallel" in sharding.types:
        raise ConfigError(
            f"precision.tables is '{precision.tables}', but torch's optimizers would round small steps of replicated "
            "tables away; use precision.tables=fp32, or sharding without data_parallel."
        )
    if sharding.replicates_all:
        return
    if config.name == "adam" and device.type == "cpu":
        raise ConfigError(
            "optimizer.sparse.name is 'adam', which FBGEMM's CPU kernels do not have; use adagrad, rowwise_adagrad "
            "or sgd, replicate the tables (sharding=data_parallel), or train on CUDA."
        )
    if config.weight_decay:
        raise ConfigError(
            f"optimizer.sparse.weight_decay is {config.weight_decay:g}, but decay of whole tables needs the gradients "
            f"of whole tables, which sharding.types={sharding.types} never form; use sharding=data_parallel, or "
            "optimizer.sparse.weight_decay=0."
        )


def fuse_sparse_optimizer(tables: nn.Module, config: SparseOptimizerConfig) -> None:
    """Tells the (meta) tables which optimizer fused kernels run; must come before sharding."""
    settings = {key: value for key, value in _sparse_settings(config).items() if key != "weight_decay"}
    apply_optimizer_in_backward(_SPARSE[config.name], tables.parameters(), settings)


def state_bytes(width: int, config: SparseOptimizerConfig) -> int:
    """Bytes of optimizer states for a table row of ``width`` floats."""
    return {"sgd": 0, "adagrad": 4 * width, "rowwise_adagrad": 4, "adam": 8 * width}[config.name]


def row_bytes(width: int, config: SparseOptimizerConfig, precision: PrecisionConfig) -> int:
    """Bytes of a table row of ``width`` numbers with its optimizer states, which are float32 in any case."""
    return TABLE_BYTES[precision.tables] * width + state_bytes(width, config)


class Optimizers:
    """All optimizers of a sharded model, driven by one learning-rate schedule.

    The factors and first-order weights of the dense columns are embeddings, too: they take the dense
    optimizer's steps, and the tables' weight decay.

    Args:
        model: Sharded, its tables with a fused optimizer.
        config: Names, rates, clipping and schedule.
        total_steps: That the schedule spans.

    Attributes:
        sparse_name: Of the tables' optimizer, fused or replicated.
        fused: Of the sharded tables; stepped by their backward pass.
        replicated: Of the tables under ``data_parallel``, by torch; None if there are none.
        dense: Of everything else, by torch.
        combined: All of them, with the gradients of ``replicated`` and ``dense`` clipped to one norm.
    """

    def __init__(self, model: DistributedModelParallel, config: OptimizerConfig, *, total_steps: int) -> None:
        self._config = config
        self._total_steps = total_steps
        parameters = dict(in_backward_optimizer_filter(model.named_parameters()))
        tables = {name: p for name, p in parameters.items() if ".embedding_bags." in name}
        rest = {name: p for name, p in parameters.items() if name not in tables}
        self.sparse_name = config.sparse.name
        self.fused: KeyedOptimizer = model.fused_optimizer
        self.dense: KeyedOptimizer = KeyedOptimizerWrapper(rest, lambda _: _dense_optimizer(rest, config))
        self.replicated: KeyedOptimizer | None = None
        if tables:
            self.replicated = KeyedOptimizerWrapper(tables, lambda p: _table_optimizer(p, config.sparse))
        unfused: KeyedOptimizer = CombinedOptimizer([o for o in (self.dense, self.replicated) if o is not None])
        _materialize_state(unfused)
        if config.dense.max_grad_norm is not None:
            unfused = GradientClippingOptimizer(
                unfused, clipping=GradientClipping.NORM, max_gradient=config.dense.max_grad_norm
            )
        self.combined = CombinedOptimizer([self.fused, unfused])

    def learning_rates(self, step: int, *, factor: float = 1.0) -> dict[str, float]:
        """The rates of a step: a pure function, so that a resumed run needs nothing restored.

        Args:
            step: 0 .. total_steps - 1.
            factor: What evaluations led to (see :class:`trainer.monitor.Monitor`).
        """
        factor *= lr_factor(self._config.schedule, step, self._total_steps)
        return {"sparse": self._config.sparse.lr * factor, "dense": self._config.dense.lr * factor}

    def set_learning_rates(self, step: int, *, factor: float = 1.0) -> None:
        """Sets the rates of a step; must come before its forward pass, for the fused kernels to see it."""
        rates = self.learning_rates(step, factor=factor)
        for side, optimizer in (("sparse", self.fused), ("sparse", self.replicated), ("dense", self.dense)):
            for group in optimizer.param_groups if optimizer else ():
                group["lr"] = rates[side]


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
    optimizer.zero_grad()


def _dense_optimizer(parameters: dict[str, nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    embeddings = {name for name in parameters if ".fields." in f".{name}"}
    dense: DenseOptimizerConfig = config.dense
    groups = [
        {"params": [p for name, p in parameters.items() if name not in embeddings], "weight_decay": dense.weight_decay},
        {
            "params": [parameters[name] for name in sorted(embeddings)],
            "weight_decay": config.sparse.weight_decay,
        },
    ]
    return _DENSE[dense.name](groups, lr=dense.lr)  # type: ignore[call-arg]


def _table_optimizer(parameters: Iterable[torch.Tensor], config: SparseOptimizerConfig) -> torch.optim.Optimizer:
    return _SPARSE[config.name](parameters, **_sparse_settings(config))


def _sparse_settings(config: SparseOptimizerConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.name != "sgd":
        settings["eps"] = config.eps
    return settings
