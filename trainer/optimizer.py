"""The optimizers: FBGEMM's inside the backward pass for sharded tables, torch's for all that is replicated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from trainer.config import DenseOptimizerConfig, OptimizerConfig, SparseOptimizerConfig
from trainer.lr_schedule import lr_factor
from trainer.model.embeddings import table_of_parameter
from trainer.table_optimizer import Settings, table_optimizer

_DENSE: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


class Optimizers:
    """All optimizers of a sharded model, driven by one learning-rate schedule.

    The factors and first-order weights of the dense columns are embeddings, too: they take the dense
    optimizer's steps, and the tables' weight decay where it is that of all rows.

    Args:
        model: Sharded, its tables with fused optimizers.
        config: Of the dense part; clipping and schedule.
        settings: Of each table.
        total_steps: That the schedule spans.

    Attributes:
        settings: Of each table.
        fused: Of the sharded tables; stepped by their backward pass.
        replicated: Of the tables under ``data_parallel``, by torch; None if there are none.
        dense: Of everything else, by torch.
        combined: All of them, with the gradients of ``replicated`` and ``dense`` clipped together.
    """

    def __init__(
        self, model: DistributedModelParallel, config: OptimizerConfig, settings: Settings, *, total_steps: int
    ) -> None:
        self._config = config
        self._total_steps = total_steps
        parameters = dict(in_backward_optimizer_filter(model.named_parameters()))
        tables = {name: p for name, p in parameters.items() if table_of_parameter(name) is not None}
        rest = {name: p for name, p in parameters.items() if name not in tables}
        self.settings = settings
        self.fused: KeyedOptimizer = model.fused_optimizer
        self.dense: KeyedOptimizer = KeyedOptimizerWrapper(rest, lambda _: _dense_optimizer(rest, config))
        self.replicated = _replicated_optimizer(tables, settings) if tables else None
        unfused: KeyedOptimizer = CombinedOptimizer([o for o in (self.dense, self.replicated) if o is not None])
        _materialize_state(unfused)
        self.combined = CombinedOptimizer([self.fused, _clipped(unfused, config.dense)])
        self._base_rates = [
            *_table_rates(self.fused, settings),
            *(_table_rates(self.replicated, settings) if self.replicated else []),
            *((group, config.dense.lr) for group in self.dense.param_groups),
        ]

    def learning_rates(self, step: int, *, factor: float = 1.0) -> dict[str, float]:
        """The rates of a step: a pure function, so that a resumed run needs nothing restored.

        ``sparse``, of the tables without a rule; ``tables_0`` and on, of each rule with a rate; ``dense``.

        Args:
            step: 0 .. total_steps - 1.
            factor: What evaluations led to (see :class:`trainer.monitor.Monitor`).
        """
        factor *= self._factor(step)
        rules = {f"tables_{n}": rule.lr for n, rule in enumerate(self._config.tables) if rule.lr is not None}
        rates = {"sparse": self._config.sparse.lr, **rules, "dense": self._config.dense.lr}
        return {name: rate * factor for name, rate in rates.items()}

    def set_learning_rates(self, step: int, *, factor: float = 1.0) -> None:
        """Sets the rates of a step; must come before its forward pass, for the fused kernels to see it."""
        factor *= self._factor(step)
        for group, rate in self._base_rates:
            group["lr"] = rate * factor

    def _factor(self, step: int) -> float:
        return lr_factor(self._config.schedule, step, self._total_steps)


def _table_rates(optimizer: KeyedOptimizer, settings: Settings) -> list[tuple[dict[str, Any], float]]:
    """The groups of parameters with their base rates; the tables of a group, a kernel's, have equal settings."""
    tables = {id(parameter): table_of_parameter(name) for name, parameter in optimizer.params.items()}
    rates = []
    for group in optimizer.param_groups:
        (rate,) = {settings[tables[id(parameter)] or ""].lr for parameter in group["params"]}
        rates.append((group, rate))
    return rates


def _replicated_optimizer(tables: Mapping[str, nn.Parameter], settings: Settings) -> KeyedOptimizer:
    """One of torch's for each kind of settings."""
    kinds: list[tuple[SparseOptimizerConfig, dict[str, nn.Parameter]]] = []
    for name, parameter in tables.items():
        config = settings[table_of_parameter(name) or ""]
        members = next((members for known, members in kinds if known == config), None)
        if members is None:
            kinds.append((config, members := {}))
        members[name] = parameter
    return CombinedOptimizer(
        [KeyedOptimizerWrapper(members, lambda p, kind=config: table_optimizer(p, kind)) for config, members in kinds]
    )


def _clipped(optimizer: KeyedOptimizer, config: DenseOptimizerConfig) -> KeyedOptimizer:
    if config.max_grad_norm is not None:
        return GradientClippingOptimizer(optimizer, clipping=GradientClipping.NORM, max_gradient=config.max_grad_norm)
    if config.max_grad_value is not None:
        return GradientClippingOptimizer(optimizer, clipping=GradientClipping.VALUE, max_gradient=config.max_grad_value)
    return optimizer


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
    dense, sparse = config.dense, config.sparse
    groups = [
        {"params": [p for name, p in parameters.items() if name not in embeddings], "weight_decay": dense.weight_decay},
        {
            "params": [parameters[name] for name in sorted(embeddings)],
            "weight_decay": sparse.weight_decay if sparse.weight_decay_rows == "all" else 0.0,
        },
    ]
    # In one kernel, where torch's default on CPU takes a dozen for each parameter. Its fused Adagrad came to CUDA late.
    fused = True if dense.name in ("adam", "adamw") else None
    return _DENSE[dense.name](groups, lr=dense.lr, fused=fused)  # type: ignore[call-arg]
