"""How late a quote is: from the exchange's packet to a raw SUB, beside a bare UDP-to-ZeroMQ forwarder.

A sender plays NASDAQ: the market model's packets of TotalView-ITCH in MoldUDP64, made beforehand, sent at their times
to lines A and B of a real feed node and, in the same seconds, to a forwarder, a plain Python loop that reads a datagram
and publishes it as it is. Each packet's time of sending is noted just before its first copy leaves. One reader, a plain
pyzmq SUB, has both: when it gets a quote it looks at the clock, and afterwards (``X``, the exchange's own number) finds
the packet that carried it. So ours is network, framing, arbitration, decoding, book, encoding and bus; the forwarder is
network and bus alone, one message a packet where ours is one a quote. The last line of ours is from the feed's own
stamp of receipt, ``t1``.

Run: python benchmarks/bench_feed.py [--seconds 20] [--rate 50000] [--symbols 5000]
"""

import argparse
import multiprocessing
import socket
import tempfile
import time
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path

import msgpack
import numpy as np
import zmq
from machine import describe, percentiles

from fabric import topology as topologies
from fabric.control import RunFolder
from fabric.launcher import running
from fabric.topology import FeedSettings, NodeSpec
from nodes.exchanges.market import Market
from nodes.exchanges.nasdaq import ItchEncoder

NODE = "nasdaq"
FORWARDER = ("127.0.0.1", 26_520)
FORWARDED = "tcp://127.0.0.1:26521"
HEADER_BYTES = 20
TICK_NS = 2_000_000
WARM_S = 3.0  # the opening, and what wakes up with it, is left out


def forward() -> None:
    """Publish each datagram."""
    with zmq.Context() as context, context.socket(zmq.PUB) as out, socket.socket(type=socket.SOCK_DGRAM) as line:
        out.sndhwm = 0
        out.bind(FORWARDED)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        line.bind(FORWARDER)
        while True:
            out.send(line.recv(2_048))


def listen(endpoint: str, stop: Event, results: "multiprocessing.Queue[tuple[np.ndarray, np.ndarray]]") -> None:
    """Note when each quote and each forwarded packet came; afterwards, which: (number, came, t1) and (number, came)."""
    quotes: list[tuple[int, bytes]] = []
    packets: list[tuple[int, bytes]] = []
    poller = zmq.Poller()
    with zmq.Context() as context, context.socket(zmq.SUB) as bus, context.socket(zmq.SUB) as bare:
        for source, address, topic in ((bus, endpoint, b"quote."), (bare, FORWARDED, b"")):
            source.rcvhwm = 0
            source.subscribe(topic)
            source.connect(address)
            poller.register(source, zmq.POLLIN)
        while not stop.is_set():
            for source, _ in poller.poll(50):
                into = quotes if source is bus else packets
                for _ in range(256):
                    try:
                        payload = source.recv_multipart(zmq.NOBLOCK)[-1]
                    except zmq.Again:
                        break
                    into.append((time.time_ns(), payload))
    found = []
    last: dict[str, int] = {}
    for came_ns, payload in quotes:
        quote = msgpack.unpackb(payload)
        if (
            last.get(quote["S"]) != quote["N"] and quote["X"] is not None
        ):  # not one that was repeated for who comes late
            found.append((quote["X"], came_ns, quote["t1"]))
        last[quote["S"]] = quote["N"]
    bare_found = [(int.from_bytes(payload[10:18], "big"), came_ns) for came_ns, payload in packets]
    results.put((np.array(found, np.int64), np.array(bare_found, np.int64)))


def make(symbols: int, rate: float, seconds: float, start_ns: int) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Packets, when each is due, and the number of each one's first message."""
    market = Market(symbols, seed=1, start_ns=start_ns, rate=rate, venue="Q", by_orders=True, renumbers=True)
    encoder = ItchEncoder(market.names, session=1, grid_ns=start_ns, tick_ns=TICK_NS)
    packets: list[bytes] = []
    due: list[int] = []
    while (events := market.take(start_ns + round(seconds * 1e9))).size:
        taken = 0
        while taken < events.size:
            taken, made = encoder.encode(events, taken)
            packets += [encoder.packets[i, : encoder.lengths[i]].tobytes() for i in range(made)]
            due += encoder.due_ns[:made].tolist()
    return packets, np.array(due), np.array([int.from_bytes(packet[10:18], "big") for packet in packets])


def send(packets: list[bytes], due_ns: np.ndarray, lines: list[tuple[str, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Send each packet to all lines when it is due; the times of sending, and how late each was, in ns."""
    sent_ns = np.zeros(len(packets), np.int64)
    with socket.socket(type=socket.SOCK_DGRAM) as out:
        for i, (packet, due) in enumerate(zip(packets, due_ns.tolist(), strict=True)):
            if (ahead := due - time.time_ns()) > 200_000:
                time.sleep(ahead / 1e9)
            sent_ns[i] = time.time_ns()
            for line in lines:
                out.sendto(packet, line)
    return sent_ns, sent_ns - due_ns


def feed_alone(node: NodeSpec) -> tuple[NodeSpec, list[tuple[str, int]]]:
    """The feed node, and where its lines listen."""
    assert isinstance(node.settings, FeedSettings)
    return node, list(node.settings.lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=50_000.0)
    parser.add_argument("--symbols", type=int, default=5_000)
    options = parser.parse_args()
    topology = topologies.load("topology.yaml")
    node, lines = feed_alone(next(node for node in topology.nodes if node.name == NODE))
    topology = replace(topology, nodes=(node,))
    endpoint = next(publisher.endpoint for publisher in topology.publishers() if publisher.name == NODE)
    processes = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[tuple[np.ndarray, np.ndarray]] = processes.Queue()
    stop = processes.Event()
    helpers = [
        processes.Process(target=forward, daemon=True),
        processes.Process(target=listen, args=(endpoint, stop, results), daemon=True),
    ]
    with tempfile.TemporaryDirectory() as folder, running(topology, RunFolder(Path(folder)), timeout_s=300) as launcher:
        for helper in helpers:
            helper.start()
        make(options.symbols, options.rate, 0.1, time.time_ns())  # compiles what it needs
        began = time.monotonic()
        make(options.symbols, options.rate, 2.0, time.time_ns())
        needed_s = (time.monotonic() - began) / 2.0 * (WARM_S + options.seconds)
        start_ns = time.time_ns() + round((5.0 + 2.0 * needed_s) * 1e9)
        packets, due_ns, first = make(options.symbols, options.rate, WARM_S + options.seconds, start_ns)
        assert time.time_ns() < start_ns, "too slow to make the packets before they are due"
        sent_ns, late_ns = send(packets, due_ns, [*lines, FORWARDER])
        time.sleep(1.0)  # what is on its way
        stop.set()
        quotes, forwarded = results.get(timeout=120)
        report = launcher.status()["nodes"][0]["report"]
    for helper in helpers:
        helper.terminate()

    print(describe())
    warm_ns = start_ns + round(WARM_S * 1e9)
    sent_of_quote = sent_ns[np.searchsorted(first, quotes[:, 0], side="right") - 1]
    sent_of_packet = sent_ns[np.searchsorted(first, forwarded[:, 0])]
    measured = sent_of_quote > warm_ns
    lost = len(packets) - forwarded.shape[0]
    print(
        f"ITCH, {options.symbols:,} symbols, {first[-1] / (WARM_S + options.seconds):,.0f} messages/s in "
        f"{len(packets) / (WARM_S + options.seconds):,.0f} packets/s on two lines, "
        f"{measured.sum() / options.seconds:,.0f} quotes/s for {options.seconds:.0f} s"
    )
    print(
        f"sender late by p50 {np.median(late_ns) / 1e6:.2f}, p99 {np.percentile(late_ns, 99) / 1e6:.2f} ms; "
        f"feed: kernel drops {report['kernel_drops']}, gaps {report['gaps']}, lost {report['lost']}; "
        f"forwarder lost {lost}"
    )
    print(f"{'ms':36}{'p50':>8}{'p99':>8}{'p99.9':>8}")
    came, received = quotes[measured, 1], quotes[measured, 2]
    bare = (forwarded[:, 1] - sent_of_packet)[sent_of_packet > warm_ns] / 1e6
    floor = percentiles(bare)
    for what, values in (
        ("bare UDP-to-ZeroMQ forwarder", bare),
        ("packet sent to quote on a SUB", (came - sent_of_quote[measured]) / 1e6),
        ("packet received to quote on a SUB", (came - received) / 1e6),
    ):
        p = percentiles(values)
        ratios = " ".join(f"{a / b:6.1f}" for a, b in zip(p, floor, strict=True))
        print(f"{what:36}{p[0]:8.2f}{p[1]:8.2f}{p[2]:8.2f}   x forwarder: {ratios}")


if __name__ == "__main__":
    main()
