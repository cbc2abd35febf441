"""The load generator's judgement: what it must count, and what it must find wrong."""

import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest

from benchmarks import load_kernel
from benchmarks.load_kernel import COUNTERS, Load

NAMES = ("AAPL", "BRK.B", "LONGESTNAME.A", "X")
NOW = datetime(2026, 3, 9, 14, 30, 15, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * 10**9
MONTH_NS = int(NOW.replace(day=1, hour=0, minute=0, second=0).timestamp()) * 10**9
ALWAYS = (0, 2**62)


def update(name: str, nanos: int, bid: str = "185.5", extra: str = "") -> str:
    return f'{{"T":"q","S":"{name}","bp":{bid},"bs":100,"c":[],"t":"2026-03-09T14:30:15.{nanos:09d}Z"{extra}}}'


def frame(payload: str, kind: int = 0x81) -> bytes:
    data = payload.encode()
    head = bytes((kind, len(data))) if len(data) < 126 else bytes((kind, 126)) + len(data).to_bytes(2, "big")
    return head + data


class Rig:
    """Two clients over real TCP, both with AAPL and LONGESTNAME.A."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.clients = [socket.create_connection(listening.getsockname()) for _ in range(2)]
            self.servers = [listening.accept()[0] for _ in range(2)]
        for client in self.clients:
            client.setsockopt(socket.SOL_SOCKET, 35, 1)
            client.setblocking(False)
        wanted = np.array([[0, 2], [0, 2]])
        self.load: Load = load_kernel.make(
            [client.fileno() for client in self.clients], wanted, NAMES, 1, np.arange(2), timed=1
        )

    def send(self, client: int, *frames: bytes) -> None:
        """Send, and sweep until it has come."""
        data = b"".join(frames)
        self.servers[client].sendall(data)
        sent = 0
        while sent == 0:
            sent = load_kernel.sweep(self.load, client, client + 1, MONTH_NS, *ALWAYS)

    def counts(self) -> dict[str, int]:
        found = dict(zip(COUNTERS, self.load.counters.tolist(), strict=True))
        return {
            name: count for name, count in found.items() if count and name not in ("reads", "bytes", "frames", "timed")
        }


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    for each in (*made.clients, *made.servers):
        each.close()


def test_updates_are_counted_with_their_time_and_what_they_replaced(rig: Rig) -> None:
    rig.send(0, frame(f"[{update('AAPL', 5)},{update('LONGESTNAME.A', 6)}]"))
    rig.send(0, frame("[" + update("AAPL", 7, extra=',"st":4,"k":12') + "]"))
    assert rig.counts() == {"updates": 3, "replaced": 12}
    assert rig.load.entries[0, 0]["last_ns"] == NOW_NS + 7
    assert rig.load.entries[0]["count"].tolist() == [2, 1]
    assert rig.load.fresh[: rig.load.fresh_ends[0]]["time_ns"].tolist() == [NOW_NS + 5, NOW_NS + 6, NOW_NS + 7]


def test_the_same_update_for_two_clients_is_two_and_kept_once(rig: Rig) -> None:
    for client in (0, 1):
        rig.send(client, frame("[" + update("AAPL", 5, extra=f',"k":{client + 1}') + "]"))
    assert rig.counts() == {"updates": 2, "replaced": 3}
    assert rig.load.fresh_ends[0] == 1


@pytest.mark.parametrize("second", [5, 4])
def test_what_comes_twice_or_goes_back_is_not_counted(rig: Rig, second: int) -> None:
    rig.send(0, frame(f"[{update('AAPL', 5)},{update('AAPL', second)}]"))
    assert rig.counts() == {"updates": 1, "repeated": 1}


def test_other_bytes_for_another_client_are_found(rig: Rig) -> None:
    rig.send(0, frame(f"[{update('AAPL', 5)}]"))
    rig.send(1, frame(f"[{update('AAPL', 5, bid='185.6')}]"))
    assert rig.counts() == {"updates": 1, "different": 1}


def test_a_symbol_that_nobody_asked_for_is_found(rig: Rig) -> None:
    rig.send(0, frame(f"[{update('BRK.B', 5)}]"))
    assert rig.counts() == {"foreign": 1}


@pytest.mark.parametrize("text", [update("NOSUCH", 5), '{"T":"q","S":"AAPL","bp":1}', '{"T":"q","S":"AAPL"'])
def test_what_is_no_update_is_torn(rig: Rig, text: str) -> None:
    rig.send(0, frame(text))
    assert rig.counts() == {"torn": 1}


@pytest.mark.parametrize("data", [frame("[]", 0xC1), frame("[]", 0x83), bytes((0x81, 0x82)) + bytes(6)])
def test_a_frame_that_cannot_be_ends_the_connection(rig: Rig, data: bytes) -> None:
    rig.send(0, data)
    assert rig.counts() == {"torn": 1, "closed": 1}
    assert rig.load.fds[0] == -1


def test_a_frame_may_come_in_pieces_between_others(rig: Rig) -> None:
    data = frame(f"[{update('AAPL', 1)}]") + frame(f"[{update('AAPL', 2)}]") + frame(f"[{update('AAPL', 3)}]")
    for at in range(0, len(data), 7):
        rig.send(0, data[at : at + 7])
    assert rig.counts()["updates"] == 3


def stamped(client: socket.socket, server: socket.socket) -> bool:
    """Whether the kernel stamps what comes to a client: it begins to a moment after it has been asked."""
    server.sendall(b"x")
    client.setblocking(True)
    _, ancillary, _, _ = client.recvmsg(1, 64)
    client.setblocking(False)
    return bool(ancillary)


def test_latency_is_from_the_update_s_time_to_the_kernel_s(rig: Rig) -> None:
    for _ in range(1_000):
        if stamped(rig.clients[0], rig.servers[0]):
            break
        time.sleep(0.01)  # the kernel tells nobody when it begins to stamp
    else:
        pytest.fail("the kernel stamps nothing")
    now_ns = time.time_ns()
    now = datetime.fromtimestamp(now_ns // 10**9, UTC)
    month_ns = int(now.replace(day=1, hour=0, minute=0, second=0).timestamp()) * 10**9
    ago_ns = now_ns - 250_000_000
    stamp = datetime.fromtimestamp(ago_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    text = f'{{"T":"q","S":"AAPL","bp":185.5,"bs":100,"ap":1,"as":1,"t":"{stamp}.{ago_ns % 10**9:09d}Z"}}'
    rig.servers[0].sendall(frame(text))
    while not load_kernel.sweep(rig.load, 0, 1, month_ns, *ALWAYS):
        pass
    low_ms, high_ms = (np.flatnonzero(rig.load.bins)[[0, -1]] * load_kernel.BIN_NS / 1e6).tolist()
    assert 250 <= low_ms == high_ms < 1_000


def test_only_what_comes_in_the_window_counts(rig: Rig) -> None:
    rig.servers[0].sendall(frame(f"[{update('AAPL', 5)}]"))
    while not load_kernel.sweep(rig.load, 0, 1, MONTH_NS, 2**61, 2**62):
        pass
    assert rig.counts() == {}
    rig.send(0, frame(f"[{update('AAPL', 6)}]"))
    rig.servers[0].sendall(frame("[" + update("AAPL", 9, extra=',"k":2') + "]"))
    while not load_kernel.sweep(rig.load, 0, 1, MONTH_NS, 0, 1):
        pass
    assert rig.counts() == {"updates": 1}
    found = rig.load.entries[0, 0]
    assert (found["first_ns"], found["until_ns"], found["last_ns"]) == (NOW_NS + 6, NOW_NS + 6, NOW_NS + 9)


def test_a_ping_is_answered_and_a_close_noted(rig: Rig) -> None:
    rig.send(0, frame("hi", 0x89))
    rig.servers[0].settimeout(5)
    assert rig.servers[0].recv(100) == bytes((0x8A, 0x82, 0, 0, 0, 0)) + b"hi"
    rig.send(0, bytes((0x88, 2)) + (1012).to_bytes(2, "big"))
    assert rig.load.close_codes.tolist() == [1012, 0]
    assert rig.counts() == {"pings": 1}
