"""Everything that can befall a job on several hosts, and how it ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.cluster.lives import Count, count_rows
from tests.cluster.slow_disk import SlowDisk
from tests.cluster.stage import HEARTBEAT_S, Stage
from tests.launch.processes import ROOT

_NOTICED = re.compile(r"^error: |closing signal|failed \(exitcode|Rendezvous\w*Error", re.MULTILINE)
_STEP = re.compile(r"\bstep (\d+)/")
_LIFE = re.compile(r"\d+ ranks on cpu")


@dataclass
class Outcome:
    """How a fault ended.

    Attributes:
        what: In words.
        detected_s: From the fault until the first host said so; None if there was nothing to say.
        training_s: From the fault until a step after it was done; None if the job ended for good.
        count: Of the rows, once the run was complete; None if it could not be.
    """

    what: str
    detected_s: float | None = None
    training_s: float | None = None
    count: Count | None = None


class Incident:
    """The moment of a fault, and what is printed after it.

    Args:
        stage: With the running job.
        hosts: Those that are left.
    """

    def __init__(self, stage: Stage, hosts: list[int]) -> None:
        self._stage = stage
        self._hosts = hosts
        self._printed = {number: len(stage.agents[number].output()) for number in hosts}
        self.began = time.monotonic()

    def told(self) -> str:
        """What was printed since, on the hosts that are left."""
        return "".join(self._stage.agents[number].output()[self._printed[number] :] for number in self._hosts)

    def noticed(self) -> float:
        """Waits until someone says so; returns the seconds."""
        return self._stage.wait_for(lambda: _NOTICED.search(self.told()) is not None) - self.began

    def trains(self, *, anew: bool) -> float:
        """Waits for a step, after a new start or without one; returns the seconds."""

        def met() -> bool:
            told = self.told()
            begin = _LIFE.search(told)
            return _STEP.search(told, begin.end() if begin else 0) is not None and (begin is not None) == anew

        return self._stage.wait_for(met) - self.began


def worker_killed(stage: Stage) -> Outcome:
    """A worker dies; its host's torchrun and all others start their workers again."""
    stage.begin(elastic=False, restarts=1)
    stage.together()
    incident = Incident(stage, [0, 1])
    os.kill(stage.agents[1].workers()[-1], signal.SIGKILL)
    outcome = Outcome("all workers restart from the checkpoint", incident.noticed(), incident.trains(anew=True))
    return _to_the_end(stage, outcome)


def agent_killed(stage: Stage) -> Outcome:
    """A torchrun dies, and its workers with it; the other host goes on alone."""
    stage.begin(elastic=True, restarts=3)
    stage.together()
    incident = Incident(stage, [0])
    stage.agents[1].signal(signal.SIGKILL)
    outcome = Outcome(
        "its workers end with it; restart from the checkpoint on the host that is left",
        incident.noticed(),
        incident.trains(anew=True),
    )
    return _to_the_end(stage, outcome, [0])


def host_gone(stage: Stage) -> Outcome:
    """A host goes without a last packet; the other one goes on alone."""
    stage.begin(elastic=True, restarts=3)
    stage.together()
    incident = Incident(stage, [0])
    stage.agents[1].crash()
    outcome = Outcome(
        "restart from the checkpoint on the host that is left", incident.noticed(), incident.trains(anew=True)
    )
    return _to_the_end(stage, outcome, [0])


def host_gone_and_back(stage: Stage) -> Outcome:
    """A host goes without a last packet, and one of its name comes back; the job wants both."""
    stage.begin(elastic=False, restarts=3)
    stage.together()
    incident = Incident(stage, [0])
    stage.agents[1].crash()
    detected_s = incident.noticed()
    stage.network.boot(1)
    stage.enter(1)
    outcome = Outcome("waits for the host, then restarts from the checkpoint", detected_s, incident.trains(anew=True))
    return _to_the_end(stage, outcome)


def network_cut_short(stage: Stage) -> Outcome:
    """A host is cut off for 5 s, less than the heartbeat's timeout."""
    stage.begin(elastic=False, more=["distributed.heartbeat_timeout_s=20"])
    stage.together()
    incident = Incident(stage, [0, 1])
    stage.network.cut(1)
    stage.pause(5)
    incident_after = Incident(stage, [0, 1])
    stage.network.mend(1)
    incident_after.trains(anew=False)
    return _to_the_end(stage, Outcome("stands still, then continues", None, time.monotonic() - incident.began))


def network_cut_long(stage: Stage) -> Outcome:
    """A host is cut off for longer than the heartbeat's timeout."""
    stage.begin(elastic=True, restarts=3)
    stage.together()
    incident, cut_off = Incident(stage, [0]), Incident(stage, [1])
    stage.network.cut(1)
    detected_s, training_s = incident.noticed(), incident.trains(anew=True)
    cut_off.noticed()
    code = stage.agents[1].wait()
    assert code, stage.agents[1].output()
    what = "restart from the checkpoint on the side that has the rendezvous; the host that is cut off ends"
    return _to_the_end(stage, Outcome(what, detected_s, training_s), [0])


def bad_network(stage: Stage) -> Outcome:
    """Every packet between hosts takes 100 ms longer, and 1 % are lost."""
    stage.begin(elastic=False, more=["distributed.heartbeat_timeout_s=20"])
    stage.together()
    means = stage.network.disturb(delay_ms=100, loss_percent=1)
    incident = Incident(stage, [0, 1])
    stage.wait_for(lambda: len(_STEP.findall(incident.told())) > 1)
    training_s = (time.monotonic() - incident.began) / len(_STEP.findall(incident.told()))
    stage.network.calm()
    outcome = _to_the_end(stage, Outcome("", None, None))
    outcome.what = f"continues, {training_s:.1f} s a step ({means})"
    return outcome


def rendezvous_host_gone(stage: Stage) -> Outcome:
    """The host that keeps the rendezvous goes without a last packet; then a scheduler starts the job again."""
    stage.begin(elastic=False, restarts=3)
    stage.together()
    incident = Incident(stage, [1])
    stage.agents[0].crash()
    detected_s = incident.noticed()
    assert stage.agents[1].wait(), stage.agents[1].output()
    ended_s = time.monotonic() - incident.began
    stage.network.boot(0)
    stage.enter(0)
    stage.enter(1)
    again = Incident(stage, [])
    stage.wait_for(lambda: _STEP.search(stage.output()) is not None)
    training_s = ended_s + time.monotonic() - again.began
    what = f"the job ends on all hosts ({ended_s:.0f} s after the fault); started again, it continues"
    return _to_the_end(stage, Outcome(what, detected_s, training_s))


def slow_disk(stage: Stage) -> Outcome:
    """What one host writes to disk is slow."""
    reason = SlowDisk.why_not(stage.folder)
    if reason is not None:
        return Outcome(f"NOT RUN: {reason}")
    with SlowDisk(stage.folder, bytes_per_s=8192) as disk:
        stage.begin(elastic=False, more=["checkpoint.every_steps=19"], cgroup=disk.processes)
        outcome = _to_the_end(stage, Outcome(""))
    seconds = [float(each) for each in re.findall(r": saved .* in ([\d.]+) s", stage.output())]
    assert max(seconds) > 1, "the disk was not slow"
    outcome.what = f"continues; saves take up to {max(seconds):.1f} s, beside the training"
    return outcome


def other_code(stage: Stage) -> Outcome:
    """A host has another version of the source code."""
    copy = stage.folder / "trainer"
    shutil.copytree(ROOT / "trainer", copy)
    (copy / "loop.py").write_text((copy / "loop.py").read_text() + "\n", encoding="utf-8")
    return _refused(stage, "ShardFM's source code is", mounts={str(ROOT / "trainer"): str(copy)})


def other_data(stage: Stage) -> Outcome:
    """A host has another version of a file of the data: of the same size in rows, with other values."""
    path = max((stage.folder / "data" / "train").glob("*.parquet"), key=lambda path: path.stat().st_size)
    other = stage.folder / "other.parquet"
    table = pq.read_table(path)
    prices = pa.array([value + 1 for value in table.column("price").to_pylist()], table.schema.field("price").type)
    pq.write_table(table.set_column(table.schema.get_field_index("price"), "price", prices), other)
    return _refused(stage, f"data.train: {path}", mounts={str(path): str(other)})


def other_checkpoints(stage: Stage) -> Outcome:
    """A host sees a folder of its own where the others see the checkpoints."""
    run = stage.folder / "run"
    run.mkdir()
    return _refused(
        stage, f"checkpoint.directory={run}/checkpoints: on host-1 it is not the folder", mounts={str(run): "empty"}
    )


FAULTS: dict[str, tuple[str, Callable[[Stage], Outcome]]] = {
    "worker_killed": ("a worker killed", worker_killed),
    "agent_killed": ("a host's torchrun killed (`--nnodes=1:2`)", agent_killed),
    "host_gone": ("a host gone (`--nnodes=1:2`)", host_gone),
    "host_gone_and_back": ("a host gone and back (`--nnodes=2`)", host_gone_and_back),
    "network_cut_short": ("network cut for 5 s", network_cut_short),
    "network_cut_long": ("network cut for good (`--nnodes=1:2`)", network_cut_long),
    "bad_network": ("1 % of packets lost, 100 ms delay", bad_network),
    "rendezvous_host_gone": ("the rendezvous host gone", rendezvous_host_gone),
    "slow_disk": ("a slow disk on one host (8 kB/s)", slow_disk),
    "other_code": ("other code on one host", other_code),
    "other_data": ("other data on one host", other_data),
    "other_checkpoints": ("checkpoint folder not shared", other_checkpoints),
}


def _refused(stage: Stage, message: str, *, mounts: dict[str, str]) -> Outcome:
    """A job that must end on all hosts before it trains, with this message."""
    began = time.monotonic()
    stage.begin(elastic=False, mounts=mounts)
    codes = [agent.wait() for agent in stage.agents.values()]
    told = re.findall(r"^error: (.*)", stage.output(), re.MULTILINE)
    assert all(codes), stage.output()
    assert any(message in each for each in told), stage.output()
    assert not list((stage.folder / "records").iterdir()), "it trained"
    return Outcome("refused on all hosts before the first step, naming host and difference", time.monotonic() - began)


def _to_the_end(stage: Stage, outcome: Outcome, hosts: list[int] | None = None) -> Outcome:
    """Lets the job complete on the hosts that are left, and counts its rows."""
    for number in hosts if hosts is not None else list(stage.agents):
        code = stage.agents[number].wait()
        assert code == 0, stage.agents[number].output()
    outcome.count = count_rows(stage.folder / "records")
    return outcome


def run(name: str, folder: Path, *, by_command: bool = False) -> Outcome:
    """Makes hosts, starts the job, lets the fault happen and tells how it ended."""
    with Stage(folder, by_command=by_command) as stage:
        return FAULTS[name][1](stage)


__all__ = ["FAULTS", "HEARTBEAT_S", "Outcome", "run"]
