"""What a host has for its workers: GPUs, cores, memory, limits, network interfaces."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
from pathlib import Path

import torch

from data.parquet import OPEN_FILES
from launch.doctor_report import Finding
from trainer.config.doctor import DoctorConfig
from trainer.distributed import Worker

_GIB = 1 << 30
_GROUPS = 6
"""Process groups of a job, each with a connection to every rank."""
_SPARE_FILES = 256
_SHM_BYTES = _GIB
_NIC_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def check_host(config: DoctorConfig, worker: Worker) -> list[Finding]:
    """Everything that can be known of a host without the others."""
    return [
        *_devices(worker),
        *_cores(config, worker),
        *_open_files(config, worker),
        *_memory(worker),
        *_interfaces(worker),
    ]


def _devices(worker: Worker) -> list[Finding]:
    driver = _driver()
    if worker.device.type == "cpu":
        if driver is None:
            return [Finding("ok", "device", "CPU; there is no NVIDIA GPU")]
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        told = f"the job computes on the CPU, but driver {driver} is here; torch is built for {built}"
        remedy = "Install requirements-gpu.txt, and a driver new enough for its CUDA; or say device=cpu on purpose."
        return [Finding("ok" if torch.cuda.is_available() else "warn", "device", told, remedy)]
    gpu = torch.cuda.get_device_properties(worker.device)
    free, total = torch.cuda.mem_get_info(worker.device)
    nccl = ".".join(map(str, torch.cuda.nccl.version()))
    told = f"{torch.cuda.device_count()} x {gpu.name}, CUDA {torch.version.cuda}, driver {driver or '?'}, NCCL {nccl}"
    memory = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    if free < 0.9 * total:
        remedy = "Something else holds GPU memory (nvidia-smi tells what): end it, or lower sharding.hbm_cap_gib."
        return [Finding("ok", "device", told), Finding("warn", "GPU memory", memory, remedy)]
    return [Finding("ok", "device", told), Finding("ok", "GPU memory", memory)]


def _cores(config: DoctorConfig, worker: Worker) -> list[Finding]:
    cores = len(os.sched_getaffinity(0))
    computing = torch.get_num_threads() if worker.device.type == "cpu" else 1
    wanted = worker.local_world_size * (computing + config.data.num_threads)
    told = f"{cores} cores for {worker.local_world_size} workers with {computing} threads that compute"
    told += f" and {config.data.num_threads} that decode"
    if worker.local_world_size * computing > cores:
        remedy = f"Set OMP_NUM_THREADS={max(1, cores // worker.local_world_size)}: threads that share cores are slow."
        return [Finding("warn", "cores", told, remedy)]
    if wanted > 2 * cores:
        return [Finding("warn", "cores", told, "Lower data.num_threads, or give the job more cores.")]
    return [Finding("ok", "cores", told)]


def _open_files(config: DoctorConfig, worker: Worker) -> list[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _GROUPS * worker.world_size + OPEN_FILES * config.data.num_threads + _SPARE_FILES
    told = f"{soft} open files allowed, about {needed} needed by each worker"
    if soft >= needed:
        return [Finding("ok", "open files", told)]
    remedy = f"Run `ulimit -n {2 * needed}` before torchrun"
    remedy += f" (the hard limit is {hard})." if hard >= needed else f"; the hard limit, {hard}, is too low as well."
    return [Finding("fail", "open files", told, remedy)]


def _memory(worker: Worker) -> list[Finding]:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    findings = [Finding("ok", "memory", f"{available / _GIB:.0f} GiB available to {worker.local_world_size} workers")]
    shm = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0
    told = f"{shm / _GIB:.2f} GiB of shared memory (/dev/shm)"
    if worker.device.type == "cuda" and shm < _SHM_BYTES:
        remedy = "NCCL moves data between the GPUs of a host through it: docker run --shm-size=8g, or an emptyDir of "
        remedy += "medium Memory at /dev/shm in Kubernetes."
        return [*findings, Finding("fail", "shared memory", told, remedy)]
    return [*findings, Finding("ok", "shared memory", told)]


def _interfaces(worker: Worker) -> list[Finding]:
    names = [name for _, name in socket.if_nameindex()]
    up = [name for name in names if name != "lo" and _is_up(name)]
    chosen = {variable: os.environ[variable] for variable in _NIC_VARIABLES if os.environ.get(variable)}
    told = f"up: {', '.join(up) or 'none but lo'}; " + (
        ", ".join(f"{variable}={value}" for variable, value in chosen.items()) or "none chosen"
    )
    unknown = [name for name in chosen.get("GLOO_SOCKET_IFNAME", "").split(",") if name and name not in names]
    if unknown:
        return [Finding("fail", "interfaces", told, f"GLOO_SOCKET_IFNAME names {unknown[0]}, which is not here.")]
    if worker.world_size > worker.local_world_size and len(up) > 1 and "GLOO_SOCKET_IFNAME" not in chosen:
        remedy = "Say which one reaches the other hosts: GLOO_SOCKET_IFNAME, and NCCL_SOCKET_IFNAME with GPUs."
        return [Finding("warn", "interfaces", told, remedy)]
    return [Finding("ok", "interfaces", told)]


def _is_up(name: str) -> bool:
    state = Path(f"/sys/class/net/{name}/operstate")
    return state.exists() and state.read_text().strip() in ("up", "unknown")


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.split()[0] if done.returncode == 0 and done.stdout.split() else None
