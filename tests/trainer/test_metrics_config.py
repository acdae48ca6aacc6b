"""What may be asked of metrics and evaluation sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.trainer.test_config import composed
from trainer.config import EvaluateConfig, MetricsConfig, TrainConfig, to_config
from trainer.errors import ConfigError

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"metrics": {"threshold": 1.0}}, "metrics.threshold is 1.0, but must be between 0 and 1"),
    ({"metrics": {"window_steps": 0}}, "metrics.window_steps is 0, but must be at least 1"),
    ({"metrics": {"slices": [{"column": "site"}]}}, "metrics.slices: 'site' is {}, but must be given by one of"),
    ({"metrics": {"slices": [{"column": "site", "top": 0}]}}, "metrics.slices: 'site': top is 0"),
    ({"metrics": {"slices": [{"column": "s", "values": [1, "1"]}]}}, "'s': values is [1, '1'], but must be different"),
    ({"metrics": {"slices": [{"column": "p", "borders": [2, 1]}]}}, "'p': borders is [2.0, 1.0], but must be a rising"),
    ({"metrics": {"slices": [{"column": "p", "top": 1}] * 2}}, "metrics.slices is ['p', 'p'], but must be a list of"),
    ({"monitor": {"metric": "gauc"}}, "monitor.metric is 'gauc', but must be another one, unless metrics.gauc_column"),
    ({"monitor": {"set": "vaild"}}, "monitor.set is 'vaild', which is unknown. Known names: test."),
    ({"data": {"eval": {"test": "x"}}}, "data.eval is ['test'], but must be of other names"),
    ({"data": {"eval": {"a/b": "x"}}}, "data.eval is {'a/b': 'x'}, but must be null, or names of letters"),
    ({"data": {"eval": {"day": None}}}, "data.eval.day is None, but must be a path, a glob"),
    ({"data": {"test": None}}, "data.test is None, but must be given, if data.valid and data.eval are not"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_makes_no_sense_is_refused(
    changes: dict[str, Any], message: str, make_config: Callable[..., TrainConfig]
) -> None:
    with pytest.raises(ConfigError) as error:
        make_config(**changes)
    assert message in str(error.value)


def test_all_of_it_can_be_given_on_the_command_line() -> None:
    config = composed(
        "metrics.gauc_column=user",
        "metrics.slices=[{column: site, top: 20}, {column: hour, borders: [6, 12]}]",
        "data.eval={yesterday: day-1, mobile: [a, b]}",
        "monitor.set=mobile",
        "monitor.metric=gauc",
    )
    assert [(part.column, part.top, part.borders) for part in config.metrics.slices] == [
        ("site", 20, None),
        ("hour", None, [6.0, 12.0]),
    ]
    assert config.data.evaluation_sets == ["test", "yesterday", "mobile"]
    assert config.data.files_of("mobile") == ["a", "b"]


def test_an_evaluation_may_ask_for_other_metrics_than_its_run() -> None:
    asked = {"gauc_column": "user", "slices": [{"column": "site", "top": 20}]}
    config = to_config({"checkpoint_path": "x", "metrics": asked}, EvaluateConfig)
    assert isinstance(config.metrics, MetricsConfig)
    assert (config.metrics.gauc_column, config.metrics.slices[0].top) == ("user", 20)
    with pytest.raises(ConfigError, match="metrics: unknown key 'gauc'"):
        to_config({"checkpoint_path": "x", "metrics": {"gauc": "user"}}, EvaluateConfig)
