"""Packets over real UDP sockets on loopback."""

import select
import socket
from contextlib import closing

import numpy as np
import pytest

from fabric.errors import UnavailableError
from fabric.topology import FaultSettings
from nodes.exchanges.faults import Faults
from nodes.exchanges.sender import Sender


def listener(family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(2.0)
    made.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
    return made


def packets(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Packets of different lengths, each full of its own number."""
    return np.repeat(np.arange(count, dtype=np.uint8)[:, None], 1_400, axis=1), np.arange(100, 100 + count)


def test_every_line_gets_every_packet_whole_and_in_order():
    buffer, lengths = packets(5)
    with listener() as first, listener() as second:
        with closing(Sender((first.getsockname(), second.getsockname()), buffer, lengths)) as sender:
            sender.send(0, 2, 0)
            sender.send(2, 3, 0)
            buffer[:], lengths[:] = 77, 40
            sender.send(0, 1, 0)
        for line in (first, second):
            got = [line.recv(2_000) for _ in range(4)]
            assert got == [b"\0" * 100, b"\1" * 101, b"\2" * 102, b"\x4d" * 40]
        assert sender.refused == 0


def test_a_line_can_be_ipv6_and_can_be_a_name():
    buffer, lengths = packets(1)
    with listener(socket.AF_INET6) as six, listener() as four:
        lines = (six.getsockname()[:2], ("localhost", four.getsockname()[1]))
        with closing(Sender(lines, buffer, lengths)) as sender:
            sender.send(0, 1, 0)
        assert six.recv(2_000) == b"\0" * 100
        assert sender.refused == 0


def test_nobody_listening_is_no_error():
    buffer, lengths = packets(5)
    with listener() as gone:
        address = gone.getsockname()
    with closing(Sender((address,), buffer, lengths)) as sender:
        for _ in range(3):
            sender.send(0, 5, 0)
        assert sender.refused == 0


def test_a_packet_that_is_refused_costs_only_itself():
    buffer, lengths = np.zeros((3, 70_000), np.uint8), np.array([10, 70_000, 20])  # the longest UDP payload is 65,507
    with listener() as line, closing(Sender((line.getsockname(),), buffer, lengths)) as sender:
        sender.send(0, 3, 0)
        assert [len(line.recv(2_000)) for _ in range(2)] == [10, 20]
        assert sender.refused == 1


def test_what_a_fault_holds_back_leaves_when_its_time_has_come():
    buffer, lengths = packets(3)
    faults = Faults(FaultSettings(delay_ns=5_000), "AB", 1, 0)
    with (
        listener() as a,
        listener() as b,
        closing(Sender((a.getsockname(), b.getsockname()), buffer, lengths, faults)) as sender,
    ):
        sender.send(0, 3, 1_000)
        assert [len(a.recv(2_000)) for _ in range(3)] == [100, 101, 102]
        sender.send(0, 0, 5_999)
        b.setblocking(False)
        with pytest.raises(BlockingIOError):
            b.recv(2_000)
        sender.send(0, 0, 6_000)
        assert [len(b.recv(2_000)) for _ in range(3)] == [100, 101, 102]
        assert sender.counters()["delayed"] == 3
        assert sender.counters()["refused"] == 0


def test_a_packet_comes_behind_those_that_overtake_it_however_long_they_take():
    buffer, lengths = packets(200)
    faults = Faults(FaultSettings(reorder=8, lines="A"), "AB", 1, 0)
    with (
        listener() as a,
        listener() as b,
        closing(Sender((a.getsockname(), b.getsockname()), buffer, lengths, faults)) as sender,
    ):
        for first in range(0, 200, 4):  # two of eight come with the next call, and the last few with none
            sender.send(first, first + 4, first * 1_000_000_000)
        came = []
        while select.select([a], [], [], 0.1)[0]:
            came.append(len(a.recv(2_000)) - 100)
        assert [len(b.recv(2_000)) - 100 for _ in range(200)] == list(range(200))
    overtaken = [sum(earlier > number for earlier in came[:i]) for i, number in enumerate(came)]
    assert len(came) == len(set(came)) > 190
    assert 4 < max(overtaken) <= 8, "of the window, no more"
    assert sum(count > 0 for count in overtaken) > 100
    assert not sender.holding


def test_a_host_without_an_address_is_named():
    with pytest.raises(UnavailableError, match=r"line udp://nowhere\.invalid:1: "):
        Sender((("127.0.0.1", 9), ("nowhere.invalid", 1)), *packets(1))


def test_close_twice():
    sender = Sender((("127.0.0.1", 9),), *packets(1))
    sender.close()
    sender.close()
