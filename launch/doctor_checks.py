"""The doctor's round: this host, then what all hosts share, then the table."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import yaml
from hydra.core.config_store import ConfigStore

from launch.cli import command
from launch.doctor_host import check_host
from launch.doctor_network import Bandwidth, check_clocks, check_collectives, measure
from launch.doctor_report import Finding, merged, num_failed, table
from launch.doctor_storage import check_checkpoints, check_data
from launch.doctor_versions import check_versions
from launch.outputs import check_file
from trainer.agreement import check_hosts_alike
from trainer.cluster import detected_cluster
from trainer.config.doctor import DoctorConfig
from trainer.distributed import Worker, gather, on_main, process_group, worker_from_environment
from trainer.errors import ConfigError
from trainer.logging.console import set_up_logging
from trainer.provenance import versions


def start(libraries: Sequence[Finding]) -> None:
    """Composes the config and runs all checks.

    Args:
        libraries: What was found of the compiled libraries, before they were loaded here.
    """
    # The config is a training run's, with keys of its own: train.yaml finds it under the name of its schema.
    ConfigStore.instance().store(name="train_schema", node=DoctorConfig)
    command("doctor", DoctorConfig, partial(run, libraries=libraries))


def run(config: DoctorConfig, *, libraries: Sequence[Finding]) -> None:
    """Checks this host, then joins the other ranks and checks what they share.

    Args:
        config: The training run, and how closely to look.
        libraries: See :func:`start`.

    Raises:
        ConfigError: Something failed; the table says what. Or ``cluster_out`` cannot be written.
    """
    worker = worker_from_environment(config.device)
    set_up_logging(worker)
    alone = _of_host(config, worker, libraries) if worker.local_rank == 0 else []
    try:
        with process_group(worker, timeout_s=config.connect_timeout_s):
            if config.cluster_out is not None:
                cluster_out = Path(config.cluster_out)
                on_main(lambda: check_file("cluster_out", cluster_out))
            findings, bandwidth = _together(config, worker, alone)
            if worker.is_main:
                print(table(findings), flush=True)
                if config.cluster_out is not None:
                    _write_cluster(Path(config.cluster_out), worker, bandwidth)
    except (RuntimeError, OSError) as cause:
        # What is known of this host may well be the reason.
        if worker.local_rank == 0:
            told = f"the ranks did not come together, or lost each other: {cause}"
            remedy = "Look at the other hosts, at names and ports, at firewalls, and at GLOO_SOCKET_IFNAME."
            print(
                table(merged([*alone, Finding("fail", "process group", told, remedy, socket.gethostname())])),
                flush=True,
            )
        raise
    if num_failed(findings):
        raise ConfigError(f"{num_failed(findings)} checks failed; mend them before the job starts.")


def _of_host(config: DoctorConfig, worker: Worker, libraries: Sequence[Finding]) -> list[Finding]:
    findings = [*check_versions(versions()), *libraries, *check_host(config, worker)]
    return [dataclasses.replace(finding, host=socket.gethostname()) for finding in findings]


def _together(config: DoctorConfig, worker: Worker, alone: list[Finding]) -> tuple[list[Finding], Bandwidth]:
    """All that needs the others; what a rank found, all ranks know in the end. All ranks must call this."""
    shared = [*_alike(config, worker), *check_collectives(worker), *check_clocks(worker, config.max_clock_difference_s)]
    bandwidth = Bandwidth(None, None, ())
    if worker.world_size > 1:
        bandwidth = measure(config, worker)
    shared += [*bandwidth.findings, *check_checkpoints(config, worker), *check_data(config, worker)]
    told = [finding for findings in gather([*alone, *shared]) for finding in findings]
    return merged(told), bandwidth


def _alike(config: DoctorConfig, worker: Worker) -> list[Finding]:
    try:
        check_hosts_alike(config, worker)
    except ConfigError as difference:
        told, _, remedy = str(difference).partition(". ")
        return [Finding("fail", "hosts alike", told, remedy)]
    return [Finding("ok", "hosts alike", "same source code, packages, kind of device and command line on all ranks")]


def _write_cluster(path: Path, worker: Worker, bandwidth: Bandwidth) -> None:
    """The cluster as ``launch/plan.py cluster=...`` takes it, with what was measured in place of what is usual."""
    cluster = dataclasses.replace(detected_cluster(worker), name=path.stem)
    cluster.ddr_gib, cluster.hbm_gib = round(cluster.ddr_gib, 1), round(cluster.hbm_gib, 1)
    if bandwidth.intra_node is not None:
        cluster.intra_node_gb_per_s = float(f"{bandwidth.intra_node / 1e9:.3g}")
    if bandwidth.inter_node is not None:
        cluster.inter_node_gb_per_s = float(f"{bandwidth.inter_node / 1e9:.3g}")
    head = f"# Measured by launch/doctor.py on {cluster.nodes} hosts with {cluster.ranks_per_node} ranks each.\n"
    path.write_text(head + yaml.safe_dump(dataclasses.asdict(cluster), sort_keys=False), encoding="utf-8")
    print(f"\ncluster: {path}", flush=True)
