"""The load generator: some thousands of WebSocket clients in one process, which one core sweeps in a circle.

Connects at a given pace, subscribes what a seed says, reads for a while, and prints one JSON line for each stage:
``connected`` when all are subscribed, ``begun`` and ``ended`` around the window that counts, and ``result``. What is
checked stands in `load_kernel`. `bench_gateway` drives it; by hand:

    python benchmarks/load.py --port 8080 --clients 1000 --symbols-each 10 --seconds 10
"""

import argparse
import base64
import gc
import json
import os
import resource
import socket
import struct
import sys
import time
from datetime import UTC, datetime
from typing import Any, Final

import load_kernel
import numpy as np
import numpy.typing as npt

from nodes.exchanges.market import tickers

SO_TIMESTAMPNS: Final = 35
BATCH: Final = 100
"""Connections that are opened together."""
SETTLE_S: Final = 3.0
"""From the last subscription to the window: snapshots are through, cohorts are spread."""


def wanted_by(clients: int, each: int, symbols: int, spread: str, seed: int) -> npt.NDArray[np.int64]:
    """Which symbols each client subscribes: ``uniform``, or ``zipf`` as the simulated market's own popularity."""
    draw = np.random.default_rng(seed)
    weight = np.ones(symbols) if spread == "uniform" else 1.0 / (np.arange(symbols) + 11.0)
    cumulated = np.cumsum(weight / weight.sum())
    wanted = np.empty((clients, each), np.int64)
    for client in range(clients):
        chosen: dict[int, None] = {}
        while len(chosen) < each:
            for symbol in np.searchsorted(cumulated, draw.random(2 * each)).tolist():
                chosen[min(symbol, symbols - 1)] = None
        wanted[client] = list(chosen)[:each]
    return wanted


def masked(payload: bytes, kind: int = 1) -> bytes:
    """A client's frame, under a mask of zeros."""
    size = len(payload)
    head = bytes((0x80 | kind, 0x80 | size)) if size < 126 else struct.pack("!BBH", 0x80 | kind, 0x80 | 126, size)
    return head + bytes(4) + payload


def subscribe(dialect: str, names: list[str], interval_ms: int) -> bytes:
    """What asks for the quotes of some symbols."""
    if dialect == "nats":
        lines = ['CONNECT {"verbose":false,"pedantic":false,"tls_required":false}']
        lines += [f"SUB q.{name.replace('.', '/')} {number}" for number, name in enumerate(names, 1)]
        return masked("".join(f"{line}\r\n" for line in lines).encode(), kind=2)
    request = {"action": "subscribe", "quotes": names, "interval_ms": interval_ms}
    return masked(json.dumps(request, separators=(",", ":")).encode())


def connect(host: str, port: int, receive_bytes: int) -> socket.socket:
    """One connection whose upgrade has been asked for. Clients come from several addresses: one has 28,000 ports."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    if receive_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.settimeout(60)
    client.connect((host, port))
    key = base64.b64encode(os.urandom(16)).decode()
    client.sendall(
        f"GET /stream HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    return client


def upgraded(client: socket.socket) -> bytes:
    """Wait for the answer; what came after it."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = client.recv(4096)
        if not piece:
            raise ConnectionError(f"closed during the handshake: {answer[:80]!r}")
        answer += piece
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(f"no upgrade: {head[:80]!r}")
    return rest


def say(stage: str, **what: Any) -> None:
    print(json.dumps({"stage": stage, **what}), flush=True)


class Generator:
    """All connections, and what has been counted on them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.names = tickers(options.symbols)
        self.wanted = wanted_by(options.clients, options.symbols_each, options.symbols, options.spread, options.seed)
        self.sockets: list[socket.socket] = []
        reading = options.clients - options.stalled  # the last ``--stalled`` clients do not
        order = np.random.default_rng(options.seed).permutation(reading)
        self.timed = -(-reading // options.timed_every)
        self.load = load_kernel.make(
            [-1] * options.clients, self.wanted, self.names, options.checked_every, order, self.timed
        )
        self.turn = 0
        now = datetime.now(UTC)
        month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        self.month_ns = int(month.timestamp()) * 1_000_000_000
        self.late_ns: list[int] = []

    def open(self) -> None:
        """Connect and subscribe, ``--pace`` a second at most, reading from those that are connected meanwhile."""
        options = self.options
        started = time.monotonic()
        while len(self.sockets) < options.clients:
            first = len(self.sockets)
            count = min(BATCH, options.clients - first)
            batch = [connect(options.host, options.port, options.receive_bytes) for _ in range(count)]
            for row, client in enumerate(batch, first):
                rest = upgraded(client)
                asked = [self.names[symbol] for symbol in self.wanted[row].tolist()]
                client.sendall(subscribe(options.dialect, asked, options.interval_ms))
                client.setblocking(False)
                self.load.tails[row, : len(rest)] = np.frombuffer(rest, np.uint8)
                self.load.tail_sizes[row] = len(rest)
                self.load.fds[row] = client.fileno()
            self.sockets += batch
            self.sweep_all(2**62, 2**62)
            while (ahead := len(self.sockets) / options.pace - (time.monotonic() - started)) > 0:
                time.sleep(min(ahead, 0.05))
                self.sweep(2**62, 2**62)

    def sweep_all(self, from_ns: int, to_ns: int) -> None:
        """One round over everyone who reads."""
        load_kernel.sweep(self.load, 0, self.load.order.size, self.month_ns, from_ns, to_ns)

    def sweep(self, from_ns: int, to_ns: int) -> None:
        """One round over the timed clients, and over one part in ``--parts`` of the others."""
        parts, others = self.options.parts, self.load.order.size - self.timed
        first = self.timed + others * self.turn // parts
        self.turn += 1
        stop = self.timed + others * self.turn // parts
        self.turn %= parts
        load_kernel.sweep(self.load, 0, self.timed, self.month_ns, from_ns, to_ns)
        load_kernel.sweep(self.load, first, stop, self.month_ns, from_ns, to_ns)

    def run(self, until_s: float, from_ns: int, to_ns: int) -> None:
        """Rounds at ``--sweep-ms``, to a time of the monotonic clock; notes how late each begins."""
        period_s = self.options.sweep_ms / 1_000
        due_s = time.monotonic()
        while (now_s := time.monotonic()) < until_s:
            if now_s < due_s:
                time.sleep(due_s - now_s)
            now_s = time.monotonic()
            self.late_ns.append(int((now_s - due_s) * 1e9))
            if now_s - due_s > period_s:
                due_s = now_s
            self.sweep(from_ns, to_ns)
            due_s += period_s

    def result(self) -> dict[str, Any]:
        """All figures."""
        load, options = self.load, self.options
        counters = dict(zip(load_kernel.COUNTERS, load.counters.tolist(), strict=True))
        codes, numbers = np.unique(load.close_codes[load.close_codes > 0], return_counts=True)
        late_ms = np.array(self.late_ns or [0]) / 1e6
        quiet = int(np.count_nonzero(load.entries["count"][: options.clients - options.stalled] == 0))
        return {
            "clients": options.clients,
            "seconds": options.seconds,
            **counters,
            "quiet": quiet,  # subscriptions that got nothing in the window
            "close_codes": dict(zip(codes.tolist(), numbers.tolist(), strict=True)),
            "latency_ms": percentiles(load.bins),
            "latency_ms_max": round(float(load.extremes[1]) / 1e6, 1) if load.bins.any() else None,
            "negative": int(load.extremes[0] < 0),
            "sweep_late_ms_p99": round(float(np.percentile(late_ms, 99)), 1),
            "cpu_s": time.process_time(),
        }

    def save(self, path: str) -> None:
        """The bytes that were kept, and the counts by subscription, for who has the publisher's log."""
        rows, size = self.load.fresh_ends.tolist()
        np.savez(
            path,
            fresh=self.load.fresh[:rows],
            text=self.load.fresh_bytes[:size],
            entries=self.load.entries[: self.options.clients - self.options.stalled],
        )


def percentiles(bins: npt.NDArray[np.int64]) -> list[float]:
    """p50, p99 and p99.9 of a histogram, as the upper ends of their bins, in milliseconds."""
    if not bins.any():
        return [0.0, 0.0, 0.0]
    below = np.cumsum(bins)
    ranks = np.searchsorted(below, np.array([0.5, 0.99, 0.999]) * below[-1]) + 1
    return [float(rank) * load_kernel.BIN_NS / 1e6 for rank in ranks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--symbols-each", type=int, default=10)
    parser.add_argument("--symbols", type=int, default=5_000, help="of the simulated market")
    parser.add_argument("--spread", choices=("uniform", "zipf"), default="uniform")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--interval-ms", type=int, default=100)
    parser.add_argument("--dialect", choices=("stream", "nats"), default="stream")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--settle", type=float, default=SETTLE_S)
    parser.add_argument("--pace", type=float, default=1_000.0, help="connections a second")
    parser.add_argument("--sweep-ms", type=float, default=50.0, help="between two rounds over the timed clients")
    parser.add_argument("--timed-every", type=int, default=10, help="latency is measured on one client in so many")
    parser.add_argument("--parts", type=int, default=8, help="a round asks one in so many of the others")
    parser.add_argument("--begin-at", type=float, default=0.0, help="connect nobody before this time (Unix)")
    parser.add_argument("--stalled", type=int, default=0, help="clients that never read")
    parser.add_argument("--receive-bytes", type=int, default=0, help="SO_RCVBUF of each client; 0: the system's")
    parser.add_argument("--checked-every", type=int, default=10, help="keep what one symbol in so many said")
    parser.add_argument("--save", default="", help="where to")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = options.clients + 64
    if hard < needed:
        sys.exit(f"{options.clients} clients need {needed} file descriptors, the hard limit is {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    generator = Generator(options)
    generator.sweep_all(0, 0)  # compile
    say("ready")
    time.sleep(max(0.0, options.begin_at - time.time()))
    started = time.monotonic()
    generator.open()
    say("connected", seconds=round(time.monotonic() - started, 1))
    gc.freeze()
    gc.disable()
    generator.run(time.monotonic() + options.settle, 2**62, 2**62)
    generator.late_ns.clear()
    generator.sweep_all(2**62, 2**62)  # what comes before the window is no part of it
    load_kernel_cpu = time.process_time()
    from_ns = time.time_ns()
    to_ns = from_ns + int(options.seconds * 1e9)
    say("begun", from_ns=from_ns, to_ns=to_ns)
    generator.run(time.monotonic() + options.seconds, from_ns, to_ns)
    generator.sweep_all(from_ns, to_ns)
    cpu_s = time.process_time() - load_kernel_cpu
    say("ended")
    if options.save:
        generator.save(options.save)
    say("result", **generator.result() | {"cpu_s": round(cpu_s, 2)})


if __name__ == "__main__":
    main()
