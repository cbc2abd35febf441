"""Messages a second through the bus, beside a compiled loop of bare libzmq that moves the same frames.

One publisher process, one subscriber process, loopback TCP, two frames a message. The bare pair sends ready bytes
and copies what comes; ours numbers, stamps, encodes, sends, keeps the last row of each topic, and on the other side
judges every number and decodes every payload into rows. The two take turns in one run; each moves MESSAGES in
batches, and the subscriber's clock decides. Nothing may be lost on either: what came is counted against what was sent.

Run: python benchmarks/bench_bus.py
"""

import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import zmq
from machine import describe

from fabric import codec
from fabric.bus import Inbox, Outbox
from fabric.clock import SystemClock
from fabric.compiled import lean_kernel
from fabric.native import (
    ZMQ_DONTWAIT,
    ZMQ_SNDMORE,
    memcpy,
    zmq_msg_data,
    zmq_msg_init,
    zmq_msg_recv,
    zmq_msg_size,
    zmq_send,
)
from fabric.records import KIND_QUOTE, PRICE_UNIT, QUOTE, Rows, empty, pack
from fabric.symbols import SymbolTable
from fabric.topology import Limits, Publisher, Source

SYMBOLS, BATCH, MESSAGES, ROUNDS = 5_000, 1_000, 500_000, 5
LIMITS = Limits(queue_max=2 * MESSAGES)
PORTS = (26_500, 26_501, 26_502)
PUBLISHER = Publisher(
    "bench", f"tcp://127.0.0.1:{PORTS[0]}", f"tcp://127.0.0.1:{PORTS[1]}", ("quote", "trade", "status"), venues="V"
)
BARE = f"tcp://127.0.0.1:{PORTS[2]}"


@lean_kernel
def bare_send(socket: int, data: Any, ends: Any) -> None:
    base = data.ctypes.data
    start = 0
    for i in range(ends.shape[0]):
        zmq_send(socket, base + start, ends[i, 0] - start, ZMQ_SNDMORE | ZMQ_DONTWAIT)
        zmq_send(socket, base + ends[i, 0], ends[i, 1] - ends[i, 0], ZMQ_DONTWAIT)
        start = ends[i, 1]


@lean_kernel
def bare_receive(socket: int, message: Any, scratch: Any, limit: int) -> int:
    pointer, base = message.ctypes.data, scratch.ctypes.data
    zmq_msg_init(pointer)
    for n in range(limit):
        for _ in range(2):
            if zmq_msg_recv(pointer, socket, ZMQ_DONTWAIT) < 0:
                return n
            memcpy(base, zmq_msg_data(pointer), zmq_msg_size(pointer))
    return limit


def quotes(symbols: SymbolTable) -> Rows:
    rng = np.random.default_rng(1)
    rows = empty(BATCH, QUOTE, KIND_QUOTE)
    ids = np.array([symbols.intern(f"S{i}") for i in range(SYMBOLS)])
    rows["symbol"], rows["venue"] = ids[rng.integers(0, SYMBOLS, BATCH)], ord("V")
    rows["bid_px"] = rng.integers(1, 50_000, BATCH) * PRICE_UNIT // 100
    rows["ask_px"], rows["bid_size"], rows["ask_size"] = rows["bid_px"] + PRICE_UNIT // 100, 100, 200
    rows["condition"], rows["tape"] = pack("R"), pack("C")
    rows["event_ns"] = rows["recv_ns"] = time.time_ns()
    rows["exchange_seq"] = np.arange(BATCH)
    return rows


def publish(orders: Connection) -> None:
    """The publisher process: sends MESSAGES each time it is told how."""
    with zmq.Context[zmq.Socket[bytes]]() as context:
        symbols = SymbolTable(LIMITS.symbols_max)
        outbox = Outbox(context, PUBLISHER, symbols, LIMITS, SystemClock(), epoch=time.time_ns(), stamp="feed_ns")
        bare = context.socket(zmq.PUB)
        bare.setsockopt(zmq.SNDHWM, LIMITS.queue_max)
        bare.bind(BARE)
        rows = quotes(symbols)
        data, ends = codec.lay_out(codec.encode(rows, symbols))
        bare_send(int(bare.underlying), data, ends[:0])
        while True:
            while not orders.poll(0.005):
                outbox.tick()
            order = orders.recv()
            for _ in range(MESSAGES // BATCH):
                if order == "ours":
                    outbox.send(rows)
                elif order == "bare":
                    bare_send(int(bare.underlying), data, ends)
            if order == "stop":
                break
        outbox.close()
        bare.close(linger=0)


def main() -> None:
    context_of_processes = multiprocessing.get_context("spawn")
    orders, far_end = context_of_processes.Pipe()
    publisher = context_of_processes.Process(target=publish, args=(far_end,))
    publisher.start()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    symbols = SymbolTable(LIMITS.symbols_max)
    inbox = Inbox(context, [Source(PUBLISHER, ("quote.",))], symbols, LIMITS, SystemClock())
    bare = context.socket(zmq.SUB)
    bare.setsockopt(zmq.RCVHWM, LIMITS.queue_max)
    bare.subscribe("quote.")
    bare.connect(BARE)
    message, scratch = np.zeros(64, np.uint8), np.zeros(4_096, np.uint8)
    bare_receive(int(bare.underlying), message, scratch, 1)
    while not inbox.ready():
        inbox.recv_batch(20)
    time.sleep(1)  # the bare pair has no greeting that could be awaited

    def ours() -> float:
        orders.send("ours")
        got, started = 0, 0.0
        while got < MESSAGES:
            rows = inbox.recv_batch(1_000)
            started = started or time.perf_counter()
            got += int((rows["kind"] == KIND_QUOTE).sum())
        return MESSAGES / (time.perf_counter() - started) / 1e6

    def plain() -> float:
        orders.send("bare")
        got, started = 0, 0.0
        while got < MESSAGES:
            bare.poll(1_000)
            started = started or time.perf_counter()
            got += bare_receive(int(bare.underlying), message, scratch, LIMITS.batch_max)
        return MESSAGES / (time.perf_counter() - started) / 1e6

    print(describe())
    print(f"{MESSAGES} messages of two frames a round, M/s:  bare libzmq   through the bus   ratio")
    pairs = [(plain(), ours()) for _ in range(ROUNDS)]
    for limit, rate in pairs:
        print(f"{'':40}{limit:12.2f}{rate:16.2f}{rate / limit:8.2f}")
    limit, rate = np.median(pairs, axis=0)
    lost = inbox.counters()["lost"]
    print(f"{'median':40}{limit:12.2f}{rate:16.2f}{rate / limit:8.2f}   lost {lost}")
    orders.send("stop")
    publisher.join()
    inbox.close()
    bare.close(linger=0)
    context.term()
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", os.pathsep.join(sys.path))
    main()
