"""Which checkpoints stay."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.checkpoint.retention import dropped_steps
from trainer.config import CheckpointConfig

STEPS = range(10, 101, 10)


@pytest.mark.parametrize(
    ("rules", "state", "kept"),
    [
        ({"keep_last": 1}, {}, [100]),
        ({"keep_last": 3}, {}, [80, 90, 100]),
        ({"keep_last": 99}, {}, [*STEPS]),
        ({"keep_last": 1, "keep_every_steps": 40}, {}, [40, 80, 100]),
        ({"keep_last": 1}, {"best": 30}, [30, 100]),
        ({"keep_last": 2, "keep_every_steps": 50}, {"best": 20}, [20, 50, 90, 100]),
        ({"keep_last": 1}, {"in_use": 10}, [10, 100]),
        # What is damaged keeps nothing else from being kept, and is not kept itself.
        ({"keep_last": 2, "keep_every_steps": 90}, {"damaged": {90}}, [80, 100]),
    ],
)
def test_only_what_a_rule_keeps_stays(rules: dict[str, Any], state: dict[str, Any], kept: list[int]) -> None:
    config = CheckpointConfig(directory="checkpoints", **rules)
    dropped = dropped_steps(STEPS, config, **{"best": None, **state})
    assert dropped == [step for step in STEPS if step not in kept]
