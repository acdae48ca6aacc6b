"""Single checks of the doctor: releases, clocks, and the table."""

from __future__ import annotations

import dataclasses
import time

import pytest

from launch.doctor_network import check_clocks
from launch.doctor_report import Finding, merged, num_failed, table
from launch.doctor_versions import SUPPORTED, check_versions
from tests.launch.processes import ROOT
from tests.ranks import results_of, run_ranks
from trainer.distributed import Worker
from trainer.provenance import versions

PINNED = {"python": "3.11.7", "torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}


def statuses(**changes: str) -> list[tuple[str, str]]:
    found = {**PINNED, **{name.replace("_", "-"): version for name, version in changes.items()}}
    return [(finding.status, finding.check) for finding in check_versions(found)]


def test_releases_that_were_built_together_are_fine_and_others_are_not() -> None:
    assert check_versions(versions())[0].status == "ok"
    assert statuses() == [("ok", "versions")]
    assert statuses(torch="2.12.1", torchrec="1.7.0", fbgemm_gpu_cpu="1.7.0") == [("ok", "versions")]
    for changes in ({"torch": "2.12.0"}, {"torchrec": "1.7.0"}, {"fbgemm_gpu_cpu": "1.7.0"}, {"torchrec": ""}):
        assert statuses(**changes) == [("fail", "versions")]
    assert ("fail", "builds") in statuses(fbgemm_gpu="1.8.0")


def test_the_readme_lists_the_supported_releases() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for trio in SUPPORTED:
        assert f"| {trio.torch} | {trio.torchrec} | {trio.fbgemm} |" in readme
    requirements = (ROOT / "requirements-gpu.txt").read_text(encoding="utf-8")
    for name, release in (("torch", SUPPORTED[0].torch), ("fbgemm-gpu", SUPPORTED[0].fbgemm)):
        assert f"\n{name}=={release}" in requirements


def clock_ahead(worker: Worker) -> list[Finding]:
    of_two_hosts = dataclasses.replace(worker, local_rank=0, local_world_size=1)
    return check_clocks(of_two_hosts, 1.0, lambda: time.time() + 7.0 * worker.rank)


@pytest.mark.distributed
def test_a_clock_that_is_ahead_is_told_by_how_much() -> None:
    first, second = results_of(run_ranks(2, clock_ahead))
    assert [finding.status for finding in first + second] == ["ok", "warn"]
    assert second[0].told.startswith(("+7.0 s", "+6.9 s"))


def test_the_table_has_alike_findings_once_and_the_worst_of_a_check_first() -> None:
    findings = [
        Finding("ok", "cores", "8", host="a"),
        Finding("ok", "cores", "8", host="b"),
        Finding("fail", "cores", "1", "Get more.", host="c"),
    ]
    lines = table(merged(findings)).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["fail", "cores", "c", "1"],
        ["->", "Get", "more."],
        ["ok", "cores", "a,", "b", "8"],
    ]
    assert num_failed(findings) == 1
