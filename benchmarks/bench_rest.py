"""REST requests a second of one gateway process, beside the least that Tornado can answer: a "hello world".

Both are Tornado servers in a process of their own, asked by the same client over the same number of connections that
stay open, a request on each as soon as the last is answered, in turns so that what else the machine does falls on
both. Beside requests by the clock stand those by the server's own processor time, which a busy machine bends less.
Ours is the real application with a bus that is quiet: the quote of one symbol, of 100 symbols, candles, and the same
with an API key, whose user and address are both counted in the table that processes share.

Run: python benchmarks/bench_rest.py [--seconds 2] [--rounds 3]
"""

import argparse
import asyncio
import logging
import multiprocessing
import os
import selectors
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from machine import describe

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from tornado.httpserver import HTTPServer  # noqa: E402
from tornado.web import Application, RequestHandler  # noqa: E402

from fabric import keys  # noqa: E402
from fabric.topology import Access, Plan  # noqa: E402
from gateway_rig import free_port, running  # noqa: E402

CONNECTIONS = 16
NO_LIMIT = 1_000_000
SYMBOLS = [f"S{number}" for number in range(60)]


class Hello(RequestHandler):
    def get(self) -> None:
        self.finish("Hello, world")


def serve_hello(said: Connection) -> None:
    async def serve() -> None:
        port = free_port()
        server = HTTPServer(Application([(r"/", Hello)]))
        server.listen(port, "127.0.0.1")
        said.send((port, ""))
        await asyncio.get_running_loop().run_in_executor(None, said.recv)

    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    asyncio.run(serve())


def serve_ours(said: Connection, with_key: bool) -> None:
    async def serve() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "keys.json"
            key, secret = keys.make("bench", "full", time.time_ns())
            keys.add(path, key)
            access = Access(str(path), plans=(Plan(requests=NO_LIMIT),)) if with_key else Access()
            table = Path(folder) / "limits.table"
            async with running(access=access, table=table, address_requests=NO_LIMIT) as rig:
                rig.put(*(rig.nbbo(name) for name in SYMBOLS), rig.bars(SYMBOLS[0], 50, 10**18))
                await rig.taken()
                said.send((rig.port, f"{key.id}.{secret}" if with_key else ""))
                await asyncio.get_running_loop().run_in_executor(None, said.recv)

    asyncio.run(serve())


@contextmanager
def server(target: object, *arguments: object) -> Iterator[tuple[int, str, int]]:
    """Port, key and process id of a server."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=target, args=(there, *arguments))  # type: ignore[arg-type]
    process.start()
    port, key = here.recv()
    try:
        yield port, key, process.pid or 0
    finally:
        here.send(None)
        process.join(10)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(port: int, request: bytes, seconds: float) -> int:
    """Answers with 200 in so many seconds, a closed loop on each connection."""
    selector = selectors.DefaultSelector()
    for _ in range(CONNECTIONS):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(request)
        selector.register(sock, selectors.EVENT_READ, bytearray())
    count, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        for ready, _ in selector.select(0.1):
            sock, held = ready.fileobj, ready.data
            assert isinstance(sock, socket.socket)
            held += sock.recv(1 << 17)
            head_end = held.find(b"\r\n\r\n")
            if head_end < 0:
                continue
            head = bytes(held[:head_end]).lower()
            assert head.startswith(b"http/1.1 200"), head
            at = head.index(b"content-length:") + 15
            length = int(head[at : head.find(b"\r\n", at) if b"\r\n" in head[at:] else None])
            if len(held) >= head_end + 4 + length:
                held.clear()
                count += 1
                sock.sendall(request)
    for ready in list(selector.get_map().values()):
        selector.unregister(ready.fileobj)
        ready.fileobj.close()  # type: ignore[union-attr]
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description="REST beside a Tornado hello world")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(describe())
    with server(serve_hello) as hello, server(serve_ours, False) as ours, server(serve_ours, True) as guarded:
        cases = {
            "hello world": (hello, "/"),
            "/quotes/{symbol}": (ours, "/quotes/S1"),
            "/quotes?symbols= (60)": (ours, "/quotes?symbols=" + ",".join(SYMBOLS)),
            "/candles/{symbol} (50)": (ours, "/candles/S0"),
            "/v2/stocks/quotes/latest": (ours, "/v2/stocks/quotes/latest?symbols=S1"),
            "/quotes/{symbol} with a key": (guarded, "/quotes/S1"),
        }
        answers = dict.fromkeys(cases, 0)
        used = dict.fromkeys(cases, 0.0)
        best = dict.fromkeys(cases, 0.0)
        for _ in range(options.rounds):
            for name, ((port, key, pid), path) in cases.items():
                header = f"X-API-Key: {key}\r\n" if key else ""
                request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{header}\r\n".encode()
                before = cpu_s(pid)
                count = load(port, request, options.seconds)
                used[name] += cpu_s(pid) - before
                answers[name] += count
                best[name] = max(best[name], count / options.seconds)
        base, base_cpu = best["hello world"], answers["hello world"] / used["hello world"]
        print(f"{'':30}{'requests/s':>12}{'ratio':>7}{'per CPU s':>12}{'ratio':>7}")
        for name in cases:
            per_cpu = answers[name] / used[name]
            print(f"{name:30}{best[name]:12,.0f}{best[name] / base:7.2f}{per_cpu:12,.0f}{per_cpu / base_cpu:7.2f}")


if __name__ == "__main__":
    main()
