"""What makes a plan fit, tried step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from data.schema import Schema
from launch.plan_estimate import estimate
from launch.plan_figures import Estimate
from trainer.config.plan import PlanConfig
from trainer.errors import ConfigError

_SMALL_RESERVE = 0.05
_MORE_NODES = (2, 4, 8, 16)


@dataclass(frozen=True)
class Rung:
    """One change and what became of it.

    Attributes:
        name: What was changed.
        overrides: The keys that change it.
        result: The plan; None if the planner found none.
        problem: Why there is none.
    """

    name: str
    overrides: str
    result: Estimate | None
    problem: str = ""

    @property
    def fits(self) -> bool:
        """Whether the plan fits."""
        return self.result is not None and self.result.fits

    def figures(self) -> dict[str, Any]:
        """As plain values."""
        step_ms = None if self.result is None else self.result.step_ms
        return {"rung": self.name, "overrides": self.overrides, "fits": self.fits, "step_ms": step_ms}


def climb(config: PlanConfig, schema: Schema, lengths: Mapping[str, float] | None = None) -> list[Rung]:
    """Tries less reserve, UVM caching and half-precision rows, each on top of the last, and more hosts alone.

    Hosts are doubled until the plan fits; all other rungs are tried in any case, to be compared.
    """
    rungs = []
    for name, overrides, changed in _changes(config):
        rungs.append(_try(name, overrides, changed, schema, lengths))
    for factor in _MORE_NODES:
        nodes = factor * config.cluster.nodes
        cluster = dataclasses.replace(config.cluster, nodes=nodes)
        changed = dataclasses.replace(config, cluster=cluster)
        ranks = f"{cluster.world_size:,} ranks"
        rungs.append(_try(ranks, f"cluster.nodes={nodes}", changed, schema, lengths))
        if rungs[-1].fits:
            break
    return rungs


def _changes(config: PlanConfig) -> Iterator[tuple[str, str, PlanConfig]]:
    yield "as configured", "", config
    if config.sharding.reserved_fraction > _SMALL_RESERVE:
        sharding = dataclasses.replace(config.sharding, reserved_fraction=_SMALL_RESERVE)
        config = dataclasses.replace(config, sharding=sharding)
        yield "less reserve", f"sharding.reserved_fraction={_SMALL_RESERVE}", config
    if config.cluster.device == "cuda" and "fused_uvm_caching" not in config.sharding.kernels:
        kernels = [*config.sharding.kernels, "fused_uvm_caching"]
        config = dataclasses.replace(config, sharding=dataclasses.replace(config.sharding, kernels=kernels))
        yield "+ UVM caching", f"sharding.kernels=[{','.join(kernels)}]", config
    if config.precision.tables != "fp16":
        half = dataclasses.replace(config.precision, tables="fp16")
        yield "+ half-precision rows", "precision.tables=fp16", dataclasses.replace(config, precision=half)


def _try(name: str, overrides: str, config: PlanConfig, schema: Schema, lengths: Mapping[str, float] | None) -> Rung:
    try:
        return Rung(name, overrides, estimate(config, schema, lengths))
    except ConfigError as cause:
        return Rung(name, overrides, None, str(cause))
