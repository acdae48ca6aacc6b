"""The optimizer of each embedding table, and what its kernels can do: FBGEMM's fused ones, or torch's for replicas."""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
import torchrec
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from data.schema import Schema
from data.structured import suggestion
from trainer.config import OptimizerConfig, PrecisionConfig, ShardingConfig, SparseOptimizerConfig
from trainer.errors import ConfigError
from trainer.model.embeddings import TABLE_PREFIX

Settings = dict[str, SparseOptimizerConfig]
"""Of every table, by its name in the schema."""

TABLE_BYTES = {"fp32": 4, "fp16": 2}
"""Of a number in a table."""

# (TorchRec's class, by which its planner knows how many bytes the states take; the kernel)
_FUSED: dict[str, tuple[type[torch.optim.Optimizer], EmbOptimType]] = {
    "sgd": (torchrec.optim.SGD, EmbOptimType.EXACT_SGD),
    "adagrad": (torchrec.optim.Adagrad, EmbOptimType.EXACT_ADAGRAD),
    "rowwise_adagrad": (torchrec.optim.RowWiseAdagrad, EmbOptimType.EXACT_ROWWISE_ADAGRAD),
    "adam": (torchrec.optim.Adam, EmbOptimType.ADAM),
    "partial_rowwise_adam": (torchrec.optim.PartialRowWiseAdam, EmbOptimType.PARTIAL_ROWWISE_ADAM),
    # The planner would count one state of LAMB, which has two, as Adam has.
    "lamb": (torchrec.optim.Adam, EmbOptimType.LAMB),
    "partial_rowwise_lamb": (torchrec.optim.PartialRowWiseLAMB, EmbOptimType.PARTIAL_ROWWISE_LAMB),
}
_REPLICATED: dict[tuple[str, str], type[torch.optim.Optimizer]] = {
    ("sgd", "l2"): torch.optim.SGD,
    ("adagrad", "l2"): torch.optim.Adagrad,
    ("rowwise_adagrad", "l2"): torchrec.optim.RowWiseAdagrad,
    ("adam", "l2"): torch.optim.Adam,
    ("adam", "decoupled"): torch.optim.AdamW,
}
# (states of a number for each number of a row, states of one number for a whole row), all float32
_STATES = {
    "sgd": (0, 0),
    "adagrad": (1, 0),
    "rowwise_adagrad": (0, 1),
    "adam": (2, 0),
    "partial_rowwise_adam": (1, 1),
    "lamb": (2, 0),
    "partial_rowwise_lamb": (1, 1),
}
_ON_CPU = ("sgd", "adagrad", "rowwise_adagrad")
# Of FBGEMM's CUDA kernels; those of the CPU have none, and say nothing.
_FUSED_DECAY = {
    "sgd": (),
    "adagrad": (),
    "rowwise_adagrad": ("l2", "decoupled"),
    "adam": ("decoupled",),
    "partial_rowwise_adam": ("decoupled",),
    "lamb": ("decoupled",),
    "partial_rowwise_lamb": ("decoupled",),
}
_DECAY_MODES = {"l2": WeightDecayMode.L2, "decoupled": WeightDecayMode.DECOUPLE}


def table_settings(schema: Schema, config: OptimizerConfig) -> Settings:
    """The optimizer of every table: ``optimizer.sparse``, changed by the rules of ``optimizer.tables`` in turn.

    Raises:
        ConfigError: A rule matches no table.
    """
    names = [table.name for table in schema.tables()]
    for place, rule in enumerate(config.tables):
        if not any(fnmatchcase(name, rule.match) for name in names):
            raise ConfigError(
                f"optimizer.tables[{place}].match is '{rule.match}', which matches no table."
                f"{suggestion(rule.match, names)}"
            )
    return {name: _settings_of(name, config) for name in names}


def _settings_of(table: str, config: OptimizerConfig) -> SparseOptimizerConfig:
    rules = [rule.given() for rule in config.tables if fnmatchcase(table, rule.match)]
    return dataclasses.replace(config.sparse, **dict(ChainMap(*reversed(rules))))


def check_table_optimizers(
    settings: Settings, sharding: ShardingConfig, precision: PrecisionConfig, device_type: str
) -> None:
    """Refuses what the kernels would not do, some of it silently.

    Raises:
        ConfigError: The message names the table, what was asked for and what there is instead.
    """
    if precision.rounding == "stochastic" and device_type == "cpu":
        raise ConfigError(
            "precision.rounding is 'stochastic', but FBGEMM's CPU kernels round to the nearest, whatever they are "
            "told; use nearest or auto, or train on CUDA."
        )
    for table, config in settings.items():
        types = sharding.types_of(table)
        replicated, fused = "data_parallel" in types, types != ["data_parallel"]
        if precision.tables != "fp32" and replicated:
            raise ConfigError(
                f"precision.tables is '{precision.tables}', but torch's optimizers would round small steps of "
                f"replicated tables away, such as '{table}'; use precision.tables=fp32, or sharding without "
                "data_parallel."
            )
        if fused:
            _check_fused(table, config, device_type)
        if replicated:
            _check_replicated(table, config)


def _check_fused(table: str, config: SparseOptimizerConfig, device_type: str) -> None:
    name, mode = config.name, config.weight_decay_mode
    if device_type == "cpu" and name not in _ON_CPU:
        replicas = "replicate it (sharding=data_parallel), " if (name, mode) in _REPLICATED else ""
        raise ConfigError(
            f"the optimizer of table '{table}' is '{name}', which FBGEMM's CPU kernels do not have; use "
            f"{', '.join(_ON_CPU)}, {replicas}or train on CUDA."
        )
    if not config.weight_decay:
        return
    told = f"the weight_decay of table '{table}' is {config.weight_decay:g}"
    if config.weight_decay_rows == "all":
        raise ConfigError(
            f"{told}, over all rows, but a sharded table's optimizer sees the rows that a step looks up; use "
            "sharding=data_parallel, on CUDA weight_decay_rows=touched, or weight_decay=0."
        )
    if device_type == "cpu":
        raise ConfigError(
            f"{told}, which FBGEMM's CPU kernels leave out without a word; use sharding=data_parallel with "
            "weight_decay_rows=all, train on CUDA, or set weight_decay=0."
        )
    if mode not in _FUSED_DECAY[name]:
        able = [other for other, modes in _FUSED_DECAY.items() if mode in modes]
        raise ConfigError(
            f"{told}, '{mode}', which FBGEMM's kernel of '{name}' does not have; those of {', '.join(able)} have it. "
            f"'{name}' has {' and '.join(_FUSED_DECAY[name]) or 'no decay'}."
        )


def _check_replicated(table: str, config: SparseOptimizerConfig) -> None:
    name, mode = config.name, config.weight_decay_mode
    if (name, "l2") not in _REPLICATED:
        raise ConfigError(
            f"the optimizer of table '{table}' is '{name}', which only FBGEMM's CUDA kernels have, but the table may "
            f"be replicated; use {', '.join(known for known, kind in _REPLICATED if kind == 'l2')}, or sharding "
            "without data_parallel."
        )
    if not config.weight_decay:
        return
    told = f"the weight_decay of table '{table}' is {config.weight_decay:g}"
    if config.weight_decay_rows == "touched":
        raise ConfigError(
            f"{told}, over the touched rows, but the table may be replicated, and torch's optimizers step whole "
            "tables; use weight_decay_rows=all, or sharding without data_parallel."
        )
    if (name, mode) not in _REPLICATED:
        raise ConfigError(
            f"{told}, '{mode}', which torch's {name} does not have; use weight_decay_mode=l2, or name=adam."
        )


def fuse_optimizers(tables: EmbeddingBagCollection, settings: Settings, precision: PrecisionConfig) -> None:
    """Tells the (meta) tables which optimizers fused kernels run; must come before sharding."""
    for name, bag in tables.embedding_bags.items():
        config = settings[name.removeprefix(TABLE_PREFIX)]
        apply_optimizer_in_backward(_FUSED[config.name][0], bag.parameters(), _fused_settings(config, precision))


def _fused_settings(config: SparseOptimizerConfig, precision: PrecisionConfig) -> dict[str, Any]:
    # Tables whose settings are equal share a kernel: what an optimizer does not read is left out.
    settings: dict[str, Any] = {"optimizer": _FUSED[config.name][1], "lr": config.lr}
    if config.name != "sgd":
        settings["eps"] = config.eps
    if _has_betas(config):
        settings |= {"beta1": config.beta1, "beta2": config.beta2}
    if config.weight_decay and config.weight_decay_rows == "touched":
        settings["weight_decay"] = config.weight_decay
        if config.name == "rowwise_adagrad":
            settings["weight_decay_mode"] = _DECAY_MODES[config.weight_decay_mode]
    if precision.tables == "fp16":
        settings["stochastic_rounding"] = precision.rounding != "nearest"
    return settings


def table_optimizer(parameters: Iterable[torch.Tensor], config: SparseOptimizerConfig) -> torch.optim.Optimizer:
    """torch's optimizer of replicated tables with equal settings."""
    settings: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.name != "sgd":
        settings["eps"] = config.eps
    if _has_betas(config):
        settings["betas"] = (config.beta1, config.beta2)
    mode = config.weight_decay_mode if config.weight_decay else "l2"
    return _REPLICATED[config.name, mode](parameters, **settings)


def _has_betas(config: SparseOptimizerConfig) -> bool:
    return config.name.endswith(("adam", "lamb"))


def state_bytes(width: int, config: SparseOptimizerConfig) -> int:
    """Bytes of optimizer states for a table row of ``width`` floats."""
    full, _ = _STATES[config.name]
    return 4 * width * full + rowwise_state_bytes(config)


def rowwise_state_bytes(config: SparseOptimizerConfig) -> int:
    """Bytes of those states that are one number a row: FBGEMM holds them on the GPU, even where the row is not."""
    return 4 * _STATES[config.name][1]


def states_as_planned(width: int, config: SparseOptimizerConfig) -> float:
    """Optimizer states relative to the rows, as TorchRec's planner counts them (see ``_FUSED``)."""
    kind = _FUSED[config.name][0]
    if kind is torchrec.optim.SGD:
        return 0.0
    if kind is torchrec.optim.Adam:
        return 2.0
    return 1 / width if kind is torchrec.optim.RowWiseAdagrad else 1.0


def row_bytes(width: int, settings: Mapping[str, SparseOptimizerConfig], precision: PrecisionConfig) -> int:
    """Bytes of a table row of ``width`` numbers with its optimizer states, which are float32 in any case.

    Of the table whose states take the most.
    """
    return TABLE_BYTES[precision.tables] * width + max(state_bytes(width, config) for config in settings.values())
