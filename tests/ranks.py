"""Runs a function on several real gloo processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from trainer.config import TrainConfig
from trainer.distributed import Worker, process_group, worker_from_environment
from trainer.logging.console import set_up_logging
from trainer.loop import Result, train

_TIMEOUT_S = 120.0

# A server that has the libraries loaded forks each rank at once, where a spawned rank takes seconds.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["torchrec", "launch.train"])


def run_ranks(world_size: int, function: Callable[..., Any], *arguments: Any, device: str = "cpu") -> list[Any]:
    """Calls ``function(worker, *arguments)`` in each of ``world_size`` processes of one gloo group.

    Args:
        world_size: Processes.
        function: At the top level of a module, so that it can be pickled.
        arguments: Picklable.
        device: Of the workers.

    Returns:
        What each rank returned; an exception that a rank raised stands in its place.
    """
    port = free_port()
    # A process that is forked from one with the libraries cannot use CUDA: they have looked for it as they were loaded.
    starter = context if device == "cpu" else multiprocessing.get_context("spawn")
    outcomes: list[Connection] = []
    processes = []
    for rank in range(world_size):
        receiver, sender = starter.Pipe(duplex=False)
        arguments_of_rank = (sender, rank, world_size, port, device, function, arguments)
        processes.append(starter.Process(target=_run_rank, args=arguments_of_rank))
        processes[-1].start()
        sender.close()
        outcomes.append(receiver)
    try:
        return [_receive(outcome) for outcome in outcomes]
    finally:
        for process in processes:
            process.kill()
            process.join()


def results_of(outcomes: list[Any]) -> list[Any]:
    """The results, if no rank failed."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


def _receive(outcome: Connection) -> Any:
    assert outcome.poll(_TIMEOUT_S), f"a rank has not answered within {_TIMEOUT_S:g} s"
    return pickle.loads(outcome.recv_bytes())


def _run_rank(
    outcome: Connection,
    rank: int,
    world_size: int,
    port: int,
    device: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    worker: Worker = worker_from_environment(device)
    set_up_logging(worker)
    try:
        with process_group(worker, timeout_s=60):
            result = function(worker, *arguments)
    except Exception as error:  # an outcome like any other: some tests want it
        error.add_note(traceback.format_exc())
        result = error
    outcome.send_bytes(pickle.dumps(result))  # tensors by value: the process that would share them ends
    # As a worker of a job does, the process ends here, and so cuts its connections to the others.
    os._exit(0)


def train_listening(worker: Worker, config: TrainConfig) -> tuple[Result, list[str]]:
    """The result, and what was logged as a warning."""
    warnings: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warnings.append(record.getMessage())

    logging.getLogger("trainer").addHandler(Collect(logging.WARNING))
    return train(config, worker), warnings


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
