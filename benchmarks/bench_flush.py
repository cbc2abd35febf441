"""The compiled flush beside the bare `send` of ready frames of the same size, over the same TCP sockets of one process.

Every symbol changes, then every client is served once: encoding, copying, framing and sending, with nothing of the
gateway around it. The two take turns; what is printed is the thread's own processor time of one frame.

Run: python benchmarks/bench_flush.py [--clients 3000] [--rounds 12]
"""

import argparse
import resource
import socket
import time
from typing import Any

import numpy as np
from machine import describe
from numba import njit

from fabric import native
from fabric.clock import SystemClock
from fabric.records import EVENT, KIND_NBBO, NBBO, empty, pack
from fabric.symbols import SymbolTable
from fabric.topology import GatewaySettings, Limits, Publisher, Source, Topology, Venue
from gateway import protocol
from gateway.fanout import Client, Fanout
from gateway.latest import Latest
from gateway.protocol_kernel import JSON
from nodes.exchanges.market import tickers

SYMBOLS = 5_000
EACH = 10
BATCH = 512
FRAME = 2_048
SIZE = 1_339  # of our frames of ten quotes


@njit(nogil=True, _nrt=False)
def send_ready(fds: Any, frames: Any, size: int) -> None:
    """One ready frame to each."""
    flags = np.int32(native.MSG_DONTWAIT | native.MSG_NOSIGNAL)
    for i in range(fds.size):
        native.send(np.int32(fds[i]), frames.ctypes.data + i * FRAME, size, flags)


@njit(nogil=True, _nrt=False)
def drain(fds: Any, buffer: Any) -> None:
    """Read everything that has come."""
    for i in range(fds.size):
        while np.int64(native.recv(np.int32(fds[i]), buffer.ctypes.data, buffer.size, np.int32(0x40))) > 0:
            pass


class Quiet:
    """A `fanout.Sink` that is never needed: the sockets take everything."""

    def write(self, data: bytes) -> None:
        raise AssertionError("a socket did not take a frame")

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(reason)

    def abort(self) -> None:
        raise AssertionError("a send failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    print(describe())
    count = options.clients
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * count + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    clock, limits, venues = SystemClock(), Limits(clients_max=count), (Venue("V", "IEX", "iex"),)
    symbols = SymbolTable(limits.symbols_max)
    latest = Latest(limits, venues, (Source(Publisher("nbbo", "", "", ("nbbo",)), ("",)),), symbols)
    settings = GatewaySettings("127.0.0.1", 0, ("",))
    fanout = Fanout(Topology("bench", (), venues, limits), settings, symbols, latest, clock)
    names = tickers(SYMBOLS)
    rows = empty(SYMBOLS, NBBO, KIND_NBBO)
    rows["symbol"] = [symbols.intern(name) for name in names]
    rows["ask_px"], rows["bid_size"], rows["ask_size"], rows["state"], rows["epoch"] = 185_020_000_000, 300, 100, 0, 1
    rows["bid_venue"] = rows["ask_venue"] = pack("V")

    def move(number: int) -> None:
        """Every symbol changes."""
        rows["seq"], rows["event_ns"] = number, clock.now_ns()
        rows["bid_px"] = 184 * 10**9 + (np.arange(SYMBOLS) + number) % 97 * 10**7
        for start in range(0, SYMBOLS, BATCH):
            batch = rows[start : start + BATCH].view(EVENT)
            latest.apply(batch, clock.now_ns())
            fanout.apply(batch)

    move(1)
    listening = socket.create_server(("127.0.0.1", 0), backlog=count)
    draw = np.random.default_rng(1)
    servers, peers = [], []
    for _ in range(count):
        peers.append(socket.create_connection(listening.getsockname()))
        server = listening.accept()[0]
        servers.append(server)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.setblocking(False)
        client = Client(Quiet(), server.fileno(), protocol.feeds(venues)["stream"], JSON, "client")
        assert fanout.add(client)
        fanout.subscribe(client, {"quotes": [names[i] for i in draw.choice(SYMBOLS, EACH, replace=False)]}, 100)
    fds, ends = (np.array([s.fileno() for s in some]) for some in (servers, peers))
    frames, buffer = np.zeros((count, FRAME), np.uint8), np.zeros(1 << 20, np.uint8)
    drain(ends, buffer)
    send_ready(fds[:0], frames, SIZE)
    bare_us, ours_us = [], []
    for number in range(2, options.rounds + 2):
        begun_ns = time.thread_time_ns()
        send_ready(fds, frames, SIZE)
        bare_us.append((time.thread_time_ns() - begun_ns) / count / 1e3)
        drain(ends, buffer)
        move(number)
        fanout._fan.wake[:count] = 0
        before = fanout.counters()["frames"]
        begun_ns = time.thread_time_ns()
        while fanout.flush(clock.monotonic_ns()):
            pass
        sent = fanout.counters()["frames"] - before
        ours_us.append((time.thread_time_ns() - begun_ns) / max(sent, 1) / 1e3)
        drain(ends, buffer)
    for name, found in (("bare send", bare_us), ("flush", ours_us)):
        print(f"{name}: {min(found):.1f} us a frame at best, {np.median(found):.1f} in the median")
    print(f"limit / ours: {min(bare_us) / min(ours_us):.2f} at best, {np.median(bare_us) / np.median(ours_us):.2f}")
    for one in (listening, *servers, *peers):
        one.close()


if __name__ == "__main__":
    main()
