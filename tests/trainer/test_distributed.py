"""A worker's place in the job, by the variables of the launcher."""

from __future__ import annotations

import re

import pytest

from trainer.distributed import worker_from_environment
from trainer.errors import LauncherError

TORCHRUN = {
    **{"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
}
OF_ONE_PROCESS_A_HOST = {name: value for name, value in TORCHRUN.items() if not name.startswith("LOCAL")}


def place_in(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> tuple[int, int, int, int]:
    """Rank, world size, and those on the host."""
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    worker = worker_from_environment("cpu")
    return worker.rank, worker.world_size, worker.local_rank, worker.local_world_size


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        (TORCHRUN, (3, 4, 1, 2)),
        (OF_ONE_PROCESS_A_HOST, (3, 4, 0, 1)),
        ({}, (0, 1, 0, 1)),
        ({"WORLD_SIZE": "1"}, (0, 1, 0, 1)),
        ({"MASTER_ADDR": "host-0", "MASTER_PORT": "29500"}, (0, 1, 0, 1)),  # of a pod, beside its job
    ],
)
def test_the_place_is_what_the_launcher_says(
    variables: dict[str, str], place: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place_in(monkeypatch, variables) == place


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "4"}, "RANK is not set, but has to be set where WORLD_SIZE=4 is; start the workers with torch"),
        ({"RANK": "0"}, "WORLD_SIZE is not set, but has to be set where RANK is"),
        ({**TORCHRUN, "MASTER_ADDR": ""}, "MASTER_ADDR is not set, but has to be set where RANK is"),
        ({**TORCHRUN, "MASTER_PORT": "x"}, "MASTER_PORT is 'x', but has to be an integer"),
        ({**TORCHRUN, "MASTER_PORT": "70000"}, "MASTER_PORT is 70000, but has to be a port"),
        ({**TORCHRUN, "RANK": "x"}, "RANK is 'x', but has to be an integer"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK is -1, but has to be 0 or more and below WORLD_SIZE, which is 4"),
        ({**TORCHRUN, "WORLD_SIZE": "2"}, "RANK is 3, but has to be 0 or more and below WORLD_SIZE, which is 2"),
        ({**TORCHRUN, "WORLD_SIZE": "0"}, "WORLD_SIZE is 0, but has to be at least 1"),
        ({"LOCAL_WORLD_SIZE": "2"}, "LOCAL_RANK is not set, but has to be set where LOCAL_WORLD_SIZE=2 is"),
        ({**OF_ONE_PROCESS_A_HOST, "LOCAL_RANK": "1"}, "0 or more and below LOCAL_WORLD_SIZE, which is not set"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "8"}, "LOCAL_WORLD_SIZE is 8, but has to be at most WORLD_SIZE=4"),
    ],
)
def test_a_place_outside_the_job_is_refused(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LauncherError, match=re.escape(message)):
        place_in(monkeypatch, variables)
