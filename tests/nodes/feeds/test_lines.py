"""UDP lines over loopback."""

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from fabric.errors import UnavailableError
from nodes.feeds import lines_kernel
from nodes.feeds.lines import PACKET_BYTES_MAX, PACKETS_MAX, Lines, kernel_drops
from nodes.feeds.wire import Packets


@pytest.fixture
def sender() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        yield sock


def opened(*addresses: tuple[str, int], interface: str = "") -> Lines:
    return Lines(addresses, [interface] * len(addresses))


@pytest.fixture
def lines() -> Iterator[Lines]:
    with closing(opened(("127.0.0.1", 0), ("127.0.0.1", 0))) as lines:
        yield lines


def bytes_of(packets: Packets) -> list[bytes]:
    buffer, offsets, lengths, _, _ = packets
    return [
        buffer[offset : offset + length].tobytes()
        for offset, length in zip(offsets.tolist(), lengths.tolist(), strict=True)
    ]


def test_packets_of_all_lines_in_one_batch(lines: Lines, sender: socket.socket) -> None:
    for i, address in enumerate(lines.addresses):
        for part in (b"a", b"", b"long " * 300):
            sender.sendto(bytes([i]) + part, address)
    assert lines.wait(1_000)
    packets = lines.receive(now_ns=42)
    assert bytes_of(packets) == [bytes([i]) + part for i in (0, 1) for part in (b"a", b"", b"long " * 300)]
    assert packets.recv_ns.tolist() == [42] * 6
    assert packets.lines.tolist() == [0, 0, 0, 1, 1, 1]
    counts = lines.counters()
    assert (counts["udp_packets"], counts["udp_bytes"]) == (6, 2 * (2 + 1 + 1_501))
    assert counts["kernel_drops"] == counts["udp_truncated"] == counts["udp_errors"] == 0


def test_packets_gather_on_a_busy_line_only(sender: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("nodes.feeds.lines.time.sleep", slept.append)
    monkeypatch.setattr("nodes.feeds.lines.time.monotonic_ns", lambda: 12_250_000_000)
    with closing(Lines([("127.0.0.1", 0)], gather_ns=10**9)) as lines:
        sender.sendto(b"first", lines.addresses[0])
        assert lines.wait(1_000)
        assert not slept  # after a silence nothing is added
        assert lines.wait(1_000)
        assert slept == [0.75]  # up to the next multiple


def test_nothing_there(lines: Lines) -> None:
    assert not lines.wait(0)
    assert lines.receive(0).offsets.size == 0


def test_more_than_one_batch_stays_for_the_next(lines: Lines, sender: socket.socket) -> None:
    for i in range(PACKETS_MAX // 2 + 5):
        sender.sendto(i.to_bytes(2, "big"), lines.addresses[0])
    sender.sendto(b"B", lines.addresses[1])
    first = bytes_of(lines.receive(0))
    assert lines.wait(1_000)
    second = bytes_of(lines.receive(0))
    assert (len(first), len(second)) == (PACKETS_MAX // 2 + 1, 5)
    assert first.pop() == b"B", "a flood on one line leaves room for the other"
    assert [int.from_bytes(part, "big") for part in first + second] == list(range(PACKETS_MAX // 2 + 5))


def test_a_datagram_longer_than_a_slot_is_cut_and_counted(lines: Lines, sender: socket.socket) -> None:
    sender.sendto(bytes(PACKET_BYTES_MAX + 1), lines.addresses[0])
    sender.sendto(b"next", lines.addresses[0])
    assert lines.wait(1_000)
    assert list(map(len, bytes_of(lines.receive(0)))) == [PACKET_BYTES_MAX, 4]
    assert lines.counters()["udp_truncated"] == 1


@pytest.mark.parametrize("interface", ["127.0.0.1", "lo"])
def test_multicast(interface: str, sender: socket.socket) -> None:
    with closing(opened(("239.255.77.7", 0), interface=interface)) as joined:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sender.sendto(b"to the group", joined.addresses[0])
        assert joined.wait(1_000)
        assert bytes_of(joined.receive(0)) == [b"to the group"]


def test_what_the_kernel_drops_is_counted(sender: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as small:
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        small.bind(("127.0.0.1", 0))
        for _ in range(200):
            sender.sendto(bytes(1_000), small.getsockname())
        small.setblocking(False)
        received = 0
        while True:
            try:
                small.recv(2_000)
            except BlockingIOError:
                break
            received += 1
        assert kernel_drops([small]) == 200 - received > 0


def test_a_failing_socket_tells_its_errno() -> None:
    import numpy as np

    headers, _ = lines_kernel.new_headers(np.zeros((1, 1), np.uint8))
    assert lines_kernel.receive(-1, headers, 0, np.zeros(1, np.int64), np.zeros(1, np.int64)) == -9  # EBADF


def test_a_taken_port_and_a_bad_host_are_named(lines: Lines) -> None:
    host, port = lines.addresses[0]
    with pytest.raises(UnavailableError, match=f"udp://{host}:{port}: another program has this port"):
        opened((host, port))
    with pytest.raises(UnavailableError, match=r"udp://239.0.0.1:0@nothing: "):
        opened(("239.0.0.1", 0), interface="nothing")
    with pytest.raises(UnavailableError, match=r"udp://192.0.2.1:5: "):
        opened(("192.0.2.1", 5))
