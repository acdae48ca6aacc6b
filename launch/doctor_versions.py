"""Whether the libraries fit together, and are the same everywhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from launch.doctor_report import Finding

_IMPORT_S = 300


@dataclass(frozen=True)
class Trio:
    """Releases that were built together; by their first two numbers."""

    torch: str
    torchrec: str
    fbgemm: str


SUPPORTED = (Trio("2.13", "1.8", "1.8"), Trio("2.12", "1.7", "1.7"), Trio("2.11", "1.6", "1.6"))
"""The first one is pinned in the requirements and tested; the code keeps to what the others offer, too."""


def check_versions(found: Mapping[str, str]) -> list[Finding]:
    """Looks whether torch, torchrec and fbgemm-gpu are of one trio, and of one build.

    Args:
        found: From :func:`trainer.provenance.versions`.
    """
    trio = Trio(_release(found.get("torch")), _release(found.get("torchrec")), _release(_fbgemm(found)))
    told = f"torch {found.get('torch', 'missing')}, torchrec {found.get('torchrec', 'missing')}, fbgemm-gpu "
    told += f"{_fbgemm(found) or 'missing'}, pyarrow {found.get('pyarrow', 'missing')}, Python {found['python']}"
    remedy = "Install requirements-gpu.txt or requirements-cpu.txt as it stands, with --no-deps; supported together: "
    remedy += "; ".join(f"torch {t.torch}, torchrec {t.torchrec} and fbgemm-gpu {t.fbgemm}" for t in SUPPORTED)
    if trio not in SUPPORTED:
        return [Finding("fail", "versions", f"{told}: not known to work together", f"{remedy}.")]
    findings = [Finding("ok", "versions", told)]
    if "fbgemm-gpu" in found and "fbgemm-gpu-cpu" in found:
        told = "fbgemm-gpu and fbgemm-gpu-cpu are both installed, under one import name"
        findings.append(Finding("fail", "builds", told, "Uninstall both, then install the one that fits this host."))
    elif torch.cuda.is_available() and "fbgemm-gpu-cpu" in found:
        told = "torch sees a GPU, but fbgemm-gpu is the CPU build"
        findings.append(Finding("fail", "builds", told, "Install requirements-gpu.txt, or train with device=cpu."))
    return findings


def check_imports() -> list[Finding]:
    """Loads the compiled libraries in a process of its own: one that does not fit torch's ABI fails there."""
    program = "import torch, fbgemm_gpu, torchrec; torch.ops.fbgemm.asynchronous_complete_cumsum(torch.tensor([1, 2]))"
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=_IMPORT_S)
    except subprocess.TimeoutExpired:
        told = f"still loading after {_IMPORT_S} s"
        return [Finding("fail", "libraries", told, "Put the environment on a faster disk.")]
    if done.returncode == 0:
        return [Finding("ok", "libraries", "fbgemm-gpu and torchrec load, and an operator runs")]
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    remedy = "Builds of different releases do not load together: install the pinned requirements anew."
    return [Finding("fail", "libraries", lines[-1], remedy)]


def _fbgemm(found: Mapping[str, str]) -> str:
    return found.get("fbgemm-gpu") or found.get("fbgemm-gpu-cpu") or ""


def _release(version: str | None) -> str:
    return ".".join((version or "").split("+")[0].split(".")[:2])
