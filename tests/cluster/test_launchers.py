"""The launchers come down to the right torchrun commands, pass signals on, and their manifests fit the schemas."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from launch.cluster.render import manifests, render
from tests.cluster.conftest import MakeNetwork
from tests.launch.processes import ROOT
from trainer.checkpoint import storage
from trainer.ending import PREEMPTED_EXIT_CODE
from trainer.errors import ConfigError

pytestmark = pytest.mark.distributed

FOLDER = ROOT / "launch" / "cluster"
SCRIPTS = [*sorted(FOLDER.glob("*.sh")), FOLDER / "slurm.sbatch"]
KUBERNETES = "1.37"
DEADLINE_S = 150


def environment(**variables: str) -> dict[str, str]:
    cluster = ("SLURM", "PET_", "RDZV", "NNODES", "NPROC", "MAX_RESTARTS", "JOB_COMPLETION_INDEX", "DRY_RUN")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(cluster)}
    return {**clean, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


def output(*command: str, **variables: str) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment(**variables), capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_the_scripts_are_sound_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck"):
        checked = subprocess.run(["shellcheck", "--shell=bash", str(script)], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout


def test_a_dry_run_under_slurm_prints_the_final_commands() -> None:
    slurm = {"SLURM_JOB_ID": "12345", "SLURM_NNODES": "4", "SLURM_GPUS_ON_NODE": "8", "SLURM_NODEID": "0"}
    told = output("bash", str(FOLDER / "slurm.sbatch"), "a=[1,2]", DRY_RUN="1", HEAD="host-0", **slurm)
    srun, torchrun = told.splitlines()
    assert srun.startswith("srun --nodes=4 --ntasks=4 --ntasks-per-node=1 --kill-on-bad-exit=0 bash ")
    assert torchrun.split()[1:] == [
        *("-m", "torch.distributed.run", "--nnodes=4", "--nproc_per_node=8", "--rdzv_backend=c10d"),
        *("--rdzv_endpoint=host-0:32345", "--rdzv_id=12345-0", "--rdzv_conf=is_host=true", "--max-restarts=3"),
        *("launch/train.py", "a=\\[1\\,2\\]"),
    ]


def test_a_dry_run_over_a_list_of_hosts_prints_what_each_host_is_told(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("# two\nhost-0 fd77::1\nhost-1\n")
    told = output(str(FOLDER / "hosts.sh"), str(tmp_path / "hosts"), "a=b c", DRY_RUN="1", NPROC_PER_NODE="8")
    for expected in ("RDZV_ENDPOINT=\\[fd77::1\\]:29500", "HOST_INDEX=1", "LOCAL_ADDR=host-1", "NNODES=2", "a=b\\ c"):
        assert expected in told
    assert re.findall(r"^# ssh .*", told, re.MULTILINE) == [f"# ssh -o BatchMode=yes host-{i} bash -s" for i in (0, 1)]


def test_what_is_not_set_is_left_to_torchrun_and_to_kubeflow() -> None:
    told = output("bash", str(FOLDER / "run_host.sh"), "launch/train.py", DRY_RUN="1")
    assert told.split()[1:] == ["-m", "torch.distributed.run", "launch/train.py"]


def test_slurm_s_signal_saves_a_checkpoint_and_requeues_the_job(tmp_path: Path) -> None:
    """Slurm's own commands are stood in for: srun runs what it is given, scontrol writes down what it is told."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "srun").write_text('#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n')
    (tools / "scontrol").write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/scontrol\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "HEAD": "127.0.0.1", "PORT": "0", "TMPDIR": str(tmp_path)}
    variables = environment(PATH=f"{tools}:{os.environ['PATH']}", WORKERS="1", **slurm)
    long = ["epochs=2000", "eval_every_epochs=2000", "logging.every_steps=1", "checkpoint.every_steps=100000"]
    arguments = ["experiment=adult", "device=cpu", f"run_dir={tmp_path}/run", *long]
    with open(tmp_path / "log", "wb") as log:
        command = ["bash", str(FOLDER / "slurm.sbatch"), *arguments]
        job = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log)
    try:
        wait_for_step(job, tmp_path / "log")
        job.send_signal(signal.SIGUSR1)
        assert job.wait(DEADLINE_S) == 0, (tmp_path / "log").read_text()
    finally:
        job.kill()
    assert "SIGTERM: saved" in (tmp_path / "log").read_text()
    assert (tmp_path / "scontrol").read_text() == "requeue 7\n"
    assert len(storage.committed(tmp_path / "run" / "checkpoints")) == 1


def test_a_list_of_hosts_trains_and_stops_together_after_a_checkpoint(
    make_network: MakeNetwork, tmp_path: Path
) -> None:
    """The hosts are namespaces, which ``ip netns exec`` reaches where ssh would."""
    network = make_network(2)
    (tmp_path / "hosts").write_text("".join(f"{host.namespace} {host.ipv4}\n" for host in network.hosts))
    exports = "GLOO_SOCKET_IFNAME=eth0"
    variables = environment(SSH="ip netns exec", NPROC_PER_NODE="1", EXPORTS=exports, RDZV_CONF="join_timeout=100")
    long = ["epochs=2000", "eval_every_epochs=2000", "logging.every_steps=1", "checkpoint.every_steps=100000"]
    arguments = ["experiment=adult", "device=cpu", f"run_dir={tmp_path}/run", *long]
    with open(tmp_path / "log", "wb") as log:
        command = [str(FOLDER / "hosts.sh"), str(tmp_path / "hosts"), *arguments]
        job = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log)
    try:
        wait_for_step(job, tmp_path / "log")
        job.send_signal(signal.SIGTERM)
        assert job.wait(DEADLINE_S) == PREEMPTED_EXIT_CODE, (tmp_path / "log").read_text()
    finally:
        job.kill()
    told = (tmp_path / "log").read_text()
    assert "2 ranks on cpu" in told
    assert told.count("SIGTERM: saved") == 1
    assert len(storage.committed(tmp_path / "run" / "checkpoints")) == 1


@pytest.mark.parametrize("name", manifests())
def test_a_manifest_fits_the_schemas_of_kubernetes(name: str) -> None:
    arguments = ["experiment=criteo_1tb", "sharding.types=[row_wise]", "name=it's"]
    documents = list(yaml.safe_load_all(render(name, ["nodes=4", "gpus=2"], arguments)))
    for document in documents:
        if document["kind"] != "PyTorchJob":
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    pods = documents[-1]["spec"]
    if documents[-1]["kind"] == "PyTorchJob":
        # Of the operator's own resource there is no published schema at hand; what it holds is a pod like any other.
        assert pods["elasticPolicy"]["maxReplicas"] == pods["pytorchReplicaSpecs"]["Worker"]["replicas"] == 4
        pods = pods["pytorchReplicaSpecs"]["Worker"]
        kubernetes_validate.validate(pod(pods["template"]), KUBERNETES, strict=True)
    (container,) = pods["template"]["spec"]["containers"]
    assert container["args"] == arguments
    assert container["command"] == ["bash", "launch/cluster/run_host.sh", "launch/train.py"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert pods["template"]["spec"]["terminationGracePeriodSeconds"] > 60
    assert pods["template"]["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": "shardfm"}


def test_the_job_s_pods_meet_at_the_name_that_the_service_gives_the_first() -> None:
    service, job = yaml.safe_load_all(render("job", ["name=ctr", "nodes=4", "port=1234"], []))
    variables = {each["name"]: each.get("value") for each in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert variables["RDZV_ENDPOINT"] == "ctr-0.ctr.default.svc:1234"
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"] == "ctr"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert variables["NNODES"] == str(job["spec"]["completions"]) == "4"


def test_unknown_manifests_and_values_are_named() -> None:
    with pytest.raises(ConfigError, match=r"no manifest 'jop'.*job"):
        render("jop", [], [])
    with pytest.raises(ConfigError, match=r"'noodes=4' is no key=value of values.yaml.*nodes"):
        render("job", ["noodes=4"], [])


@pytest.mark.parametrize("change", ["nodes=x", "nodes=0", "nodes=", "nodes=true", "gpus=-1", "workers=0", "port=1.5"])
def test_a_manifest_is_not_filled_with_numbers_that_are_none(change: str) -> None:
    key, _, value = change.partition("=")
    with pytest.raises(ConfigError, match=f"{key} is '{value}', but must be a whole number of at least [01]"):
        render("job", [change], [])


def test_a_manifest_is_not_filled_with_what_is_no_yaml() -> None:
    with pytest.raises(ConfigError, match=r"volume is '\{', but must be YAML"):
        render("job", ["volume={"], [])
    assert render("job", ["gpus=2", "workers=null"], []) == render("job", ["gpus=2", "workers=2"], [])


def test_the_image_is_made_of_what_is_there() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert {"launch", "trainer", "data", "configs"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    (entry,) = [yaml.safe_load(line.removeprefix("ENTRYPOINT ")) for line in lines if line.startswith("ENTRYPOINT")]
    assert (ROOT / entry[-1]).is_file()


def pod(template: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}


def wait_for_step(job: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(DEADLINE_S * 20):
        if re.search(r"\bstep 3/", log.read_text(errors="replace")):
            return
        try:
            job.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        break
    pytest.fail(log.read_text(errors="replace"))
