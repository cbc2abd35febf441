"""How late an NBBO is: from the exchange's packet to a SUB, at the default load, beside a bare two-hop ZeroMQ ping.

Starts the topology (default: ours, without gateway and cache), joins as a bot with a SUB on every `nbbo.` and
measures for each NBBO: since t1 (its packet was received by the feed) and since t (the exchange's scheduled
send time, so that a late sender counts as late). In the same seconds, under the same load, a relay of two
plain pyzmq PUB/SUB hops in two more processes carries 200 stamps a second: the floor that any two hops have here.

Run: python benchmarks/bench_path.py [--seconds 20] [--topology topology.yaml] [--linger-us 500]
"""

import argparse
import multiprocessing
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import zmq
from machine import describe, percentiles

from fabric import topology as topologies
from fabric.bus import Inbox
from fabric.clock import SystemClock
from fabric.control import RunFolder
from fabric.launcher import running
from fabric.records import KIND_NBBO
from fabric.symbols import SymbolTable
from fabric.topology import Limits, Source, Topology

PING_HZ = 200
PINGS = ("tcp://127.0.0.1:26510", "tcp://127.0.0.1:26511")


def ping() -> None:
    """First hop: a stamp every 5 ms."""
    with zmq.Context() as context, context.socket(zmq.PUB) as out:
        out.bind(PINGS[0])
        while True:
            out.send_multipart([b"ping", time.time_ns().to_bytes(8, "little")])
            time.sleep(1 / PING_HZ)


def relay() -> None:
    """Second hop: passes on what it gets."""
    with zmq.Context() as context, context.socket(zmq.SUB) as source, context.socket(zmq.PUB) as out:
        source.subscribe(b"")
        source.connect(PINGS[0])
        out.bind(PINGS[1])
        while True:
            out.send_multipart(source.recv_multipart())


def listen(results: "multiprocessing.Queue[list[int]]", seconds: float) -> None:
    """The end of the ping: how late each stamp came."""
    late: list[int] = []
    with zmq.Context() as context, context.socket(zmq.SUB) as source:
        source.subscribe(b"")
        source.connect(PINGS[1])
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if source.poll(100):
                late.append(time.time_ns() - int.from_bytes(source.recv_multipart()[1], "little"))
    results.put(late)


def without_doors(topology: Topology, linger_us: int | None) -> Topology:
    """The topology's path to the NBBO alone."""
    nodes = tuple(node for node in topology.nodes if node.role in ("feed", "exchange", "processor"))
    limits = topology.limits if linger_us is None else replace(topology.limits, linger_ns=linger_us * 1_000)
    return replace(topology, nodes=nodes, limits=limits)


def measure(topology: Topology, seconds: float) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Milliseconds since t1 and since t of each NBBO, and the reader's counters."""
    symbols = SymbolTable(topology.limits.symbols_max)
    sources = [Source(p, ("nbbo.",)) for p in topology.publishers() if "nbbo" in p.channels]
    since_packet, since_exchange = [], []
    with zmq.Context[zmq.Socket[bytes]]() as context:
        inbox = Inbox(context, sources, symbols, Limits(), SystemClock())
        warm = time.monotonic() + 3.0
        end = warm + seconds
        while time.monotonic() < end:
            rows = inbox.recv_batch(100)
            now = time.time_ns()
            rows = rows[rows["kind"] == KIND_NBBO]
            if time.monotonic() > warm and rows.size:
                since_packet.append(now - rows["recv_ns"])
                since_exchange.append(now - rows["event_ns"])
        counters = inbox.counters()
        inbox.close()
    return np.concatenate(since_packet) / 1e6, np.concatenate(since_exchange) / 1e6, counters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--topology", default="topology.yaml")
    parser.add_argument("--linger-us", type=int)
    options = parser.parse_args()
    topology = without_doors(topologies.load(options.topology), options.linger_us)
    processes = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[list[int]] = processes.Queue()
    helpers = [
        processes.Process(target=ping, daemon=True),
        processes.Process(target=relay, daemon=True),
        processes.Process(target=listen, args=(results, options.seconds + 3.0), daemon=True),
    ]
    with tempfile.TemporaryDirectory() as folder, running(topology, RunFolder(Path(folder)), timeout_s=300) as launcher:
        for helper in helpers:
            helper.start()
        since_packet, since_exchange, counters = measure(topology, options.seconds)
        pings = np.array(results.get(timeout=30)) / 1e6
        status = launcher.status()
    print(describe())
    rate = since_packet.size / options.seconds
    print(f"{rate:,.0f} NBBO/s for {options.seconds:.0f} s; lost {counters['lost']}, gaps {counters['gaps']}")
    for node in status["nodes"]:
        if node["role"] == "exchange":
            late = node["report"]
            print("exchange:", {name: late[name] for name in sorted(late) if "late" in name or "rate" in name})
    print(f"{'ms':32}{'p50':>8}{'p99':>8}{'p99.9':>8}")
    floor = percentiles(pings)
    for what, values in (
        ("bare two-hop ping", pings),
        ("packet received to NBBO", since_packet),
        ("scheduled at exchange to NBBO", since_exchange),
    ):
        p = percentiles(values)
        ratios = " ".join(f"{a / b:6.1f}" for a, b in zip(p, floor, strict=True))
        print(f"{what:32}{p[0]:8.2f}{p[1]:8.2f}{p[2]:8.2f}   x ping: {ratios}")
    for helper in helpers:
        helper.terminate()


if __name__ == "__main__":
    main()
