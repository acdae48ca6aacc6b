"""What holds a training up, in a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.timing.breakdown import Breakdown, FloatArray
from trainer.timing.stages import STEP_STAGES, WAITS, Stage

_STANDSTILLS = (Stage.DATA_WAIT, Stage.CHECKPOINT, Stage.LOGGING)


@dataclass(frozen=True)
class Verdict:
    """The largest part of what the slowest rank does in a step.

    Attributes:
        kind: ``data``, ``checkpoint``, ``straggler``, ``network``, ``logging`` or ``compute``.
        text: A line for people.
    """

    kind: str
    text: str


def judge(breakdown: Breakdown) -> Verdict:
    """Names what to change first.

    The rank that waits least for others is the one that they wait for, so its time is looked at: for its
    data, for checkpoints, in exchanges (on this rank the network's own time; one that is alone has nobody to
    exchange with), in computing what the others compute as well, and in computing beyond that (a straggler).
    """
    waits = WAITS if len(breakdown.ms) > 1 else ()
    computing = tuple(stage for stage in STEP_STAGES if stage not in (*waits, *_STANDSTILLS))
    rank, step_ms = breakdown.slowest_rank, breakdown.step_ms
    own: dict[Stage, FloatArray] = {stage: breakdown.of(stage) for stage in STEP_STAGES}
    excess = {stage: _excess(breakdown, stage, rank) for stage in computing}
    lag_ms = max(0.0, min(sum(excess.values()), breakdown.lag_ms))
    shares = {
        "data": own[Stage.DATA_WAIT][rank],
        "checkpoint": own[Stage.CHECKPOINT][rank],
        "logging": own[Stage.LOGGING][rank],
        "network": sum(own[stage][rank] for stage in waits),
        "straggler": lag_ms,
        "compute": sum(own[stage][rank] for stage in computing) - lag_ms,
    }
    kind = max(shares, key=lambda name: shares[name])
    of = f"{shares[kind]:.3g} ms of {step_ms:.3g} ms"
    late_at = _words(max(excess, key=lambda stage: excess[stage]))
    where = _largest(waits if kind == "network" else computing, breakdown, rank)
    told = {
        "data": f"data-bound: rank {rank} waits {of}",
        "checkpoint": f"checkpoint-bound: training stands still for saves {of}",
        "logging": f"logging-bound: rank {rank} writes figures {of}",
        "network": f"network-bound: exchanges take {of}, most of it {where}",
        "straggler": f"rank {rank} is slow: the others wait {of} for its {late_at}",
        "compute": f"compute-bound: {of}, most of it {where}",
    }
    return Verdict(kind, told[kind])


def _excess(breakdown: Breakdown, stage: Stage, rank: int) -> float:
    others = np.delete(breakdown.of(stage), rank)
    return float(breakdown.of(stage)[rank] - others.mean()) if others.size else 0.0


def _largest(stages: Sequence[Stage], breakdown: Breakdown, rank: int) -> str:
    stage = max(stages, key=lambda stage: breakdown.of(stage)[rank])
    return f"{_words(stage)} ({breakdown.of(stage)[rank]:.3g} ms)"


def _words(stage: Stage) -> str:
    return stage.value.replace("_", " ")
