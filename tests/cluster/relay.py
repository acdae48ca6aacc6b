"""A switch in software that delays and loses frames, for kernels that have no netem.

It reads whole Ethernet frames from the ports of a switch and writes each to the other ports, later or never.
"""

from __future__ import annotations

import array
import fcntl
import heapq
import itertools
import multiprocessing
import os
import random
import select
import socket
import struct
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from tests.cluster.namespaces import enter_network

_ALL_FRAMES = 3
_FRAME_BYTES = 65536
_SIOCETHTOOL = 0x8946
# Receive and transmit checksums, scatter-gather, segmentation by the device, by the kernel, and on receive.
_SWITCHES = (0x15, 0x17, 0x19, 0x1F, 0x24, 0x2C)


class Relay:
    """A process that joins the ports; :meth:`close` ends it.

    Args:
        namespace: Where the ports are.
        ports: Their interfaces.
        delay_s: Of every frame.
        loss: The share of frames that are dropped.
    """

    def __init__(self, namespace: str, ports: Sequence[str], *, delay_s: float, loss: float) -> None:
        context = multiprocessing.get_context("fork")
        ready, told = context.Pipe(duplex=False)
        self._process: BaseProcess = context.Process(
            target=_relay, args=(namespace, list(ports), delay_s, loss, told), daemon=True
        )
        self._process.start()
        assert ready.poll(30), "the relay did not start"

    def close(self) -> None:
        """Ends the relay."""
        self._process.kill()
        self._process.join()


def without_offloads(namespace: str, interface: str) -> None:
    """Has an interface send frames as they would be on a wire."""
    process = multiprocessing.get_context("fork").Process(target=_switch_off, args=(namespace, interface))
    process.start()
    process.join()
    assert process.exitcode == 0


def _switch_off(namespace: str, interface: str) -> None:
    enter_network(namespace)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for switch in _SWITCHES:
            value = array.array("B", struct.pack("II", switch, 0))
            request = struct.pack("16sP", interface.encode(), value.buffer_info()[0])
            fcntl.ioctl(control, _SIOCETHTOOL, request)


def _relay(namespace: str, ports: list[str], delay_s: float, loss: float, told: Connection) -> None:
    enter_network(namespace)
    sockets = []
    for port in ports:
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_FRAMES))
        packets.bind((port, _ALL_FRAMES))
        packets.setblocking(False)
        sockets.append(packets)
    told.send_bytes(b"ready")
    draw, numbers = random.Random(0), itertools.count()
    due: list[tuple[float, int, int, bytes]] = []
    while os.getppid() != 1:
        wait_s = min(1.0, max(0.0, due[0][0] - time.monotonic())) if due else 1.0
        for source in select.select(sockets, [], [], wait_s)[0]:
            frame, (_, _, direction, *_) = source.recvfrom(_FRAME_BYTES)
            if direction == socket.PACKET_OUTGOING or draw.random() < loss:
                continue
            heapq.heappush(due, (time.monotonic() + delay_s, next(numbers), sockets.index(source), frame))
        while due and due[0][0] <= time.monotonic():
            _, _, source_number, frame = heapq.heappop(due)
            for number, target in enumerate(sockets):
                if number != source_number:
                    _send(target, frame)


def _send(target: socket.socket, frame: bytes) -> None:
    try:
        target.send(frame)
    except OSError:  # a full queue or a host that is off: the frame is lost, as it would be
        return
