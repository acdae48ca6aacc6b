"""Hosts for the tests, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Protocol

import pytest

from tests.cluster.network import Network, why_not


class MakeNetwork(Protocol):
    """See :class:`Network`."""

    def __call__(self, num_hosts: int, *, ipv6_only: bool = False) -> Network: ...


@pytest.fixture
def make_network() -> Iterator[MakeNetwork]:
    """Makes a network with as many hosts as it is asked for."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with ExitStack() as networks:

        def make(num_hosts: int, *, ipv6_only: bool = False) -> Network:
            return networks.enter_context(Network(num_hosts, ipv6_only=ipv6_only))

        yield make
