"""Runs a function on several real gloo processes."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from trainer.distributed import Worker, process_group, worker_from_environment
from trainer.logging.console import set_up_logging

_TIMEOUT_S = 120.0

# A server that has the libraries loaded forks each rank at once, where a spawned rank takes seconds.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torchrec", "trainer.loop"])


def run_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Calls ``function(worker, *arguments)`` in each of ``world_size`` processes of one gloo group.

    Args:
        world_size: Processes.
        function: At the top level of a module, so that it can be pickled.
        arguments: Picklable.

    Returns:
        What each rank returned; an exception that a rank raised stands in its place.
    """
    with ProcessPoolExecutor(world_size, mp_context=_context) as pool:
        port = _free_port()
        calls = [pool.submit(_run_rank, rank, world_size, port, function, arguments) for rank in range(world_size)]
        return [call.result(timeout=_TIMEOUT_S) for call in calls]


def results_of(outcomes: list[Any]) -> list[Any]:
    """The results, if no rank failed."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


def _run_rank(rank: int, world_size: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    worker: Worker = worker_from_environment("cpu")
    set_up_logging(worker)
    try:
        with process_group(worker, timeout_s=60):
            return function(worker, *arguments)
    except Exception as error:  # an outcome like any other: some tests want it
        error.add_note(traceback.format_exc())
        return error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
