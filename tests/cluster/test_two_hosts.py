"""A job on two hosts is the job on one host, by IPv4 and by IPv6."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.cluster.agents import Agent, Start
from tests.cluster.conftest import MakeNetwork

pytestmark = pytest.mark.distributed

STEPS = 24


def demo(run_dir: Path, *more: str) -> list[str]:
    lengths = [f"max_steps={STEPS}", "logging.every_steps=1", "checkpoint.every_steps=1000"]
    # The sums of bf16 depend on where the rows of the tables lie.
    settings = ["experiment=adult", "device=cpu", "precision=fp32", f"run_dir={run_dir}"]
    return ["launch/train.py", *settings, *lengths, *more]


def losses(run_dir: Path) -> dict[int, float]:
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {event.step: event.value for event in events.Scalars("train/loss")}


def ranks_of_tables(run_dir: Path) -> set[str]:
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    (tag,) = [tag for tag in events.Tags()["tensors"] if "plan" in tag]
    plan = events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
    return {line.split("|")[4].strip() for line in plan.splitlines()[2:]}


def test_two_hosts_with_two_workers_train_like_one_host_with_four(make_network: MakeNetwork, tmp_path: Path) -> None:
    network = make_network(2)
    one, two = tmp_path / "one", tmp_path / "two"
    alone = Agent(network, 0, Start(demo(one), workers=4, nnodes="1"), folder=tmp_path / "logs-one")
    assert alone.wait() == 0, alone.output()
    start = Start(demo(two, "sharding.types=[table_row_wise]"), workers=2)
    agents = [Agent(network, number, start, folder=tmp_path / "logs-two") for number in range(2)]
    assert [agent.wait() for agent in agents] == [0, 0], agents[0].output() + agents[1].output()

    expected, reached = losses(one), losses(two)
    assert sorted(expected) == sorted(reached) == list(range(1, STEPS + 1))
    assert max(abs(expected[step] - reached[step]) for step in expected) < 1e-5
    # The rows of a table lie within a host, the tables on both: only who knows the hosts can plan so.
    assert ranks_of_tables(two) == {"0, 1", "2, 3"}


def test_copies_of_the_tables_lie_within_hosts(make_network: MakeNetwork, tmp_path: Path) -> None:
    network = make_network(2)
    groups = ["sharding.group_size=2", "sharding.types=[row_wise]", "max_steps=2"]
    agents = [
        Agent(network, number, Start(demo(tmp_path / "run", *groups), workers=2), folder=tmp_path / "logs")
        for number in range(2)
    ]
    assert [agent.wait() for agent in agents] == [0, 0], agents[0].output() + agents[1].output()
    assert ranks_of_tables(tmp_path / "run") == {"0, 1"}  # of the first copy; the other one is on the ranks 2 and 3


def test_hosts_that_have_ipv6_alone_train(make_network: MakeNetwork, tmp_path: Path) -> None:
    network = make_network(2, ipv6_only=True)
    start = Start(demo(tmp_path / "run", "max_steps=2"))
    agents = [Agent(network, number, start, folder=tmp_path / "logs") for number in range(2)]
    assert [agent.wait() for agent in agents] == [0, 0], agents[0].output() + agents[1].output()
    assert "2 ranks on cpu" in agents[0].output()
