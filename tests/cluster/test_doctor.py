"""The doctor on two hosts: all is well on healthy ones; what is wrong is named with host and remedy, and fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cluster.agents import Agent, Start
from tests.cluster.conftest import MakeNetwork
from tests.cluster.network import Network
from tests.launch.processes import ROOT, run_python
from trainer.ending import USER_ERROR_EXIT_CODE

pytestmark = pytest.mark.distributed

QUICK = ["message_mib=[0.25,4]", "write_mib=4", "min_write_mb_per_s=0.001"]


class Examined:
    """The doctor's findings, by check.

    Args:
        told: What it printed.
    """

    def __init__(self, told: str) -> None:
        self.told = told
        lines = re.findall(r"^(ok|warn|fail) +(\S.*?)  +(.*(?:\n {8,}.*)*)", told, re.MULTILINE)
        self.findings = [(status, check, " ".join(text.split())) for status, check, text in lines]

    def of(self, check: str) -> list[tuple[str, str]]:
        return [(status, text) for status, name, text in self.findings if name == check]

    def failed(self) -> set[str]:
        return {check for status, check, _ in self.findings if status == "fail"}


def examine(
    network: Network,
    folder: Path,
    *more: str,
    mounts: dict[str, str] | None = None,
    environment: dict[str, str] | None = None,
) -> tuple[list[int | None], Examined]:
    """Runs the doctor on all hosts; the last one has more mounts and variables."""
    script = ["launch/doctor.py", "experiment=adult", "device=cpu", f"run_dir={folder}/run", *QUICK, *more]
    start, last = Start(script), len(network.hosts) - 1
    agents = [
        Agent(
            network,
            number,
            start,
            folder=folder / "logs",
            mounts=mounts if number == last else None,
            environment=environment if number == last else None,
        )
        for number in range(len(network.hosts))
    ]
    codes = [agent.wait() for agent in agents]
    return codes, Examined(agents[0].output())


def test_two_healthy_hosts_may_start_and_their_bandwidths_reach_the_planner(
    make_network: MakeNetwork, tmp_path: Path
) -> None:
    cluster = tmp_path / "conf" / "cluster" / "mine.yaml"
    codes, examined = examine(make_network(2), tmp_path, f"cluster_out={cluster}")
    assert codes == [0, 0], examined.told
    assert examined.failed() == set()
    expected = {"versions", "libraries", "device", "cores", "open files", "memory", "shared memory", "interfaces"}
    expected |= {"hosts alike", "collectives", "clock", "links", "all-to-all", "all-reduce", "checkpoint directory"}
    expected |= {"checkpoint speed", "data.train", "data sample", "ids", "data.test"}
    assert expected <= {check for _, check, _ in examined.findings}, examined.told
    assert all(text.startswith("host-0, host-1 ") for _, text in examined.of("versions") + examined.of("libraries"))

    schema = f"data.schema={ROOT / 'data/samples/adult/schema.yaml'}"
    overrides = ["experiment=adult", schema, "cluster=mine", "data.lanes=8"]
    planned = run_python("launch/plan.py", f"--config-dir={tmp_path}/conf", *overrides)
    assert planned.exit_code == 0, planned.stderr
    assert "mine" in planned.stdout


def test_every_fault_of_a_host_is_named_with_its_remedy(make_network: MakeNetwork, tmp_path: Path) -> None:
    """At once: another release of torchrec, a slow link, a directory that is read-only, a damaged shard."""
    network = make_network(2)
    network.throttle(1, mbit_per_s=80)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    other = tmp_path / "packages" / "torchrec-1.5.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torchrec\nVersion: 1.5.0\n")
    shard = ROOT / "data" / "samples" / "adult" / "train-00002.parquet"
    damaged = tmp_path / "damaged.parquet"
    content = bytearray(shard.read_bytes())
    content[-200:-100] = bytes(100)  # of the footer
    damaged.write_bytes(content)
    codes, examined = examine(
        network,
        tmp_path,
        mounts={str(tmp_path / "run"): "ro", str(shard): str(damaged)},
        environment={"PYTHONPATH": f"{tmp_path / 'packages'}:{ROOT}"},
    )
    assert all(codes), examined.told
    (unfit,) = [text for status, text in examined.of("versions") if status == "fail"]
    assert unfit.startswith("host-1 torch 2.")
    assert "torchrec 1.5.0" in unfit
    assert "-> Install requirements-gpu.txt or requirements-cpu.txt" in unfit
    assert "version of torchrec is" in examined.of("hosts alike")[0][1]
    ((status, text),) = examined.of("links")
    assert (status, text.partition(":")[0]) == ("fail", "- host-1 -> host-0"), examined.told
    assert "ethtool" in text
    ((status, text),) = examined.of("checkpoint directory")
    assert status == "fail"
    assert "cannot be written on host-1" in text
    assert "-> Mount it for writing there" in text
    ((status, text),) = examined.of("data.train")
    assert status == "fail"
    assert "train-00002.parquet" in text
    assert examined.failed() == {"versions", "hosts alike", "links", "checkpoint directory", "data.train"}


def test_a_library_that_does_not_load_is_told_by_its_own_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "fbgemm_gpu"
    package.mkdir()
    (package / "__init__.py").write_text('raise OSError("fbgemm_gpu_py.so: undefined symbol: _ZN2at4_ops5zeros")\n')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run_python("launch/doctor.py", "experiment=adult", "device=cpu")
    assert done.exit_code == USER_ERROR_EXIT_CODE, done.stderr
    examined = Examined(done.stdout)
    ((status, text),) = examined.of("libraries")
    assert status == "fail"
    assert "OSError: fbgemm_gpu_py.so: undefined symbol: _ZN2at4_ops5zeros" in text
    assert "-> Builds of different releases do not load together" in text
