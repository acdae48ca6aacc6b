"""What befalls a job on several hosts ends in the documented way, and every row counts once.

These are the faults that only several hosts show; ``make chaos`` runs them all, with torchrun as a command.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.faults import run
from tests.cluster.network import why_not

pytestmark = [pytest.mark.distributed, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]


@pytest.mark.parametrize("fault", ["host_gone", "network_cut_long"])
def test_the_job_goes_on_without_a_host_that_is_gone_or_cut_off(fault: str, tmp_path: Path) -> None:
    outcome = run(fault, tmp_path / "stage")
    assert outcome.count is not None
    assert (outcome.count.lost, outcome.count.repeated) == (0, 0)
    # On both hosts, and then from a checkpoint on one of them.
    assert [world_size for _, world_size in outcome.count.lives][-2:] == [2, 1]
    assert outcome.count.lives[-1][0] > 0


@pytest.mark.parametrize("fault", ["other_code", "other_data"])
def test_hosts_that_differ_are_refused_before_the_first_step(fault: str, tmp_path: Path) -> None:
    assert "refused on all hosts" in run(fault, tmp_path / "stage").what
