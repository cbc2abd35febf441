"""What a bus peer may do to a running market at 50,000 messages a second: rubbish, monsters, lies, late arrival.

The rogue is a publisher that the topology places on another machine (127.0.0.2), where this test plays it; the market
beside it runs as processes, and must neither stop, nor lose, nor take what is wrong for a price.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from fabric import codec
from fabric import topology as topologies
from fabric.bus import Inbox
from fabric.clock import SECOND_NS, SystemClock
from fabric.launcher import Running
from fabric.machine import usage
from fabric.records import KIND_NBBO, KIND_QUOTE, NBBO, NULL, QUOTE, STATE_CROSSED, STATE_STALE, Rows, empty
from fabric.symbols import SymbolTable
from fabric.topology import Limits, Source, Topology
from topologies import free_range, product

pytestmark = pytest.mark.timeout(600)
RATE = int(os.environ.get("FABRIC_FAULT_RATE", "50000"))
READERS = ("nbbo-1", "nbbo-2", "web")
TEXT = """
venues: {{V: {{}}, N: {{}}}}
exchanges:
  exchange: {{to: [feed], rate: {rate}, symbols: 2000}}
feeds:
  feed: {{wire: iex-tops-1.6, venues: V, lines: ['udp://127.0.0.1:{line}']}}
  rogue: {{wire: nyse-pillar, venues: N, lines: ['udp://127.0.0.1:{rogue}'], host: far}}
shards: [A-L, M-Z 0-9]
processors:
  nbbo: {{run: nodes.nbbo:main, reads: [quote, trade, status], publishes: [nbbo]}}
gateways:
  web: {{port: {web}, reads: [nbbo, quote]}}
cache: {{server: off}}
hosts:
  near: {{address: 127.0.0.1}}
  far: {{address: 127.0.0.2, bind: 127.0.0.2}}
ports: {{base: {base}, span: 20}}
"""
BEAT_S = 0.5
PATIENCE_S = 30.0
"""For what only has to happen: a busy machine takes its time."""


class Rogue:
    """The publisher that misbehaves: plain sockets, frames by hand, a heartbeat while anybody waits."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", topology: Topology) -> None:
        publisher = topology.node("rogue").publishes
        assert publisher is not None
        self.socket, self.router = context.socket(zmq.XPUB), context.socket(zmq.ROUTER)
        for end, address in ((self.socket, publisher.endpoint), (self.router, publisher.snapshot_endpoint)):
            end.linger = 0
            end.bind(address)
        self.socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self.epoch, self.seqs = time.time_ns(), dict.fromkeys(("AAA", "ZZZ"), 0)
        self.bid_px = 7 * SECOND_NS
        self._beat_s = 0.0

    def say(self, topic: bytes, payload: bytes) -> None:
        self.socket.send_multipart([topic, payload])

    def quote(self, name: str, seq: int = 0, epoch: int = 0, **columns: int) -> int:
        """Send a bid, a cent above the one before, of what no other venue quotes.

        It has the next number in the rogue's own epoch, unless told otherwise.
        """
        self.seqs[name] = seq or self.seqs[name] + 1
        symbols, now_ns = SymbolTable(8), time.time_ns()
        rows = empty(1, QUOTE, KIND_QUOTE)
        rows["symbol"], rows["venue"] = symbols.intern(name), ord("N")
        rows["seq"], rows["epoch"] = self.seqs[name], epoch or self.epoch
        self.bid_px += 10_000_000
        rows["bid_px"], rows["bid_size"], rows["event_ns"], rows["recv_ns"] = self.bid_px, 100, now_ns, now_ns
        for column, value in columns.items():
            rows[column] = value
        for topic, payload in codec.encode(rows, symbols):
            self.say(topic, payload)
        return self.seqs[name]

    def beat(self) -> None:
        """The heartbeat, when it is due."""
        if time.monotonic() - self._beat_s > BEAT_S:
            self._beat_s = time.monotonic()
            beat = {"V": 1, "T": "node", "S": "rogue", "E": self.epoch, "O": 0, "heads": {}, "counters": {}}
            self.say(b"node.rogue|", msgpack.packb(beat))

    def joined(self, readers: int) -> None:
        """Wait until so many have subscribed, the heartbeat last."""
        deadline = time.monotonic() + PATIENCE_S
        while readers:
            assert time.monotonic() < deadline, f"{readers} have not come"
            if self.socket.poll(50):
                readers -= self.socket.recv() == b"\x01node.rogue|"
        self.beat()


class Market:
    """The running processes, the rogue beside them, and a bot that reads the NBBO."""

    def __init__(self, topology: Topology, launcher: Running, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        self.topology, self.launcher, self.rogue = topology, launcher, Rogue(context, topology)
        self.symbols = SymbolTable(20_000)
        shards = [p for p in topology.publishers() if "nbbo" in p.channels]
        sources = [Source(p, ("nbbo.A", "nbbo.Z")) for p in shards]
        self.inbox = Inbox(context, sources, self.symbols, Limits(), SystemClock())

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {node["name"]: node for node in self.launcher.status()["nodes"]}

    def count(self, counter: str) -> list[int]:
        """What each reader of the rogue counts."""
        nodes = self.nodes()
        return [nodes[name]["report"].get(counter, 0) for name in READERS]

    def turn(self) -> Rows:
        self.rogue.beat()
        rows = self.inbox.recv_batch(20)
        return rows[rows["kind"] == KIND_NBBO].copy().view(NBBO)

    def until(self, happened: Callable[[], bool], within_s: float = PATIENCE_S) -> float:
        start = time.monotonic()
        while not happened():
            assert time.monotonic() - start < within_s, f"not within {within_s} s: {self.nodes()}"
            self.turn()
        return time.monotonic() - start

    def undisturbed(self) -> None:
        """The market goes on: no process has ended, nothing of its own is lost, its prices are fresh."""
        nodes = self.nodes()
        assert all(node["restarts"] == 0 and node["ready"] for node in nodes.values())
        assert nodes["feed"]["report"]["kernel_drops"] == 0
        ages = []
        end = time.monotonic() + 1
        while time.monotonic() < end:
            rows = self.turn()
            live = rows[(rows["state"] & STATE_STALE == 0) & (rows["recv_ns"] != NULL)]
            ages += (time.time_ns() - live["recv_ns"]).tolist()[-20:]
        assert np.median(ages) < 1e9
        counters = self.inbox.counters()
        assert (counters["lost"], counters["bad_frames"]) == (0, 0)

    def heard(self, name: str, **columns: int) -> Rows:
        """A quote of the rogue's reaches the NBBO; what is said there."""
        self.rogue.quote(name, **columns)
        symbol = self.symbols.intern(name)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert time.monotonic() < deadline, f"no NBBO of {name}"
            rows = self.turn()
            rows = rows[(rows["symbol"] == symbol) & (rows["bid_px"] == self.rogue.bid_px)]
            if rows.size:
                return rows


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    folder: Path = tmp_path_factory.mktemp("bus")
    base = free_range(30)
    text = TEXT.format(rate=RATE, base=base, line=base + 25, rogue=base + 26, web=base + 27)
    topology = replace(topologies.load_text(text, "t.yaml", {}), here=("near",))
    with product(topology, folder) as launcher, zmq.Context() as context:
        made = Market(topology, launcher, context)
        with closing(made.inbox), closing(made.rogue.socket), closing(made.rogue.router):
            made.rogue.joined(len(READERS))
            made.until(lambda: min(made.count("accepted")) > 50_000, 30)
            yield made


def test_a_monster_costs_its_sender_the_connection_for_less_than_two_seconds(market: Market) -> None:
    """Fault 12 and bad input 20: stock libzmq never connects again after this."""
    market.heard("AAA")
    before = market.count("rebuilds")
    market.rogue.say(b"quote.AAA|N", bytes(market.topology.limits.message_bytes_max + 1))
    start = time.monotonic()
    market.rogue.joined(2)  # the shard of A, and the gateway; the other shard never asked for it
    assert time.monotonic() - start < 2.0
    market.heard("AAA")
    market.until(lambda: market.count("rebuilds") == [before[0] + 1, before[1], before[2] + 1])
    market.undisturbed()


GOOD = {"V": 1, "T": "quote", "S": "AAA", "N": 10**9, "E": 2**62, "O": 1, "bp": 7.0, "bs": 100, "t": 1}
RUBBISH = {
    "truncated": msgpack.packb(GOOD)[:-3],
    "trailing bytes": msgpack.packb(GOOD) + b"\0",
    "an extension": msgpack.packb(msgpack.ExtType(5, b"x")),
    "not a map": msgpack.packb([1, 2]),
    "a missing key": msgpack.packb({"V": 1, "T": "quote"}),
    "a wrong type": msgpack.packb({**GOOD, "bp": "dear"}),
    "not a number": msgpack.packb({**GOOD, "bp": float("nan")}),
    "infinite": msgpack.packb({**GOOD, "ap": float("-inf"), "as": 1}),
    "infinite, and above": msgpack.packb({**GOOD, "bp": float("inf")}),
    "a price of zero": msgpack.packb({**GOOD, "bp": 0.0}),
    "a negative price": msgpack.packb({**GOOD, "bp": -1.0}),
    "a negative size": msgpack.packb({**GOOD, "bs": -100}),
    "deep": b"\x91" * 5_000 + b"\xc0",
    "a huge array": b"\xdd\xff\xff\xff\xff",
    "a later version": msgpack.packb({**GOOD, "V": 99}),
    "empty": b"",
}


def test_rubbish_is_dropped_and_counted_and_what_follows_is_read(market: Market) -> None:
    """Bad input 18, 19, 20 and 21, a hundred of each, between sound quotes."""
    before, refused = market.count("bad_frames"), 100 * len(RUBBISH)
    for _ in range(100):
        for payload in RUBBISH.values():
            market.rogue.say(b"quote.ZZZ|N", payload)
        market.rogue.quote("ZZZ")
    market.heard("ZZZ")
    market.until(lambda: market.count("bad_frames") == [before[0], before[1] + refused, before[2] + refused])
    market.undisturbed()


def test_a_crossed_quote_of_one_venue_is_kept_and_flagged(market: Market) -> None:
    """Bad input 19: what a venue says is published and not repaired, and counted."""
    market.heard("ZZZ")
    before = market.count("crossed")
    (crossed, *_) = market.heard("ZZZ", ask_px=SECOND_NS, ask_size=100)
    assert (crossed["state"] & STATE_CROSSED, crossed["ask_px"]) == (STATE_CROSSED, SECOND_NS)
    (sound, *_) = market.heard("ZZZ")
    assert sound["state"] & STATE_CROSSED == 0
    market.until(lambda: market.count("crossed") == [before[0], before[1] + 1, before[2]])
    market.undisturbed()


def test_lies_about_numbers_and_times_are_counted_by_their_kind(market: Market) -> None:
    """Bad input 23 to 26, at the shard that reads A and at the gateway."""
    names = ("duplicates", "fenced", "gaps", "lost", "skew")
    market.heard("AAA")
    before = {name: market.count(name) for name in names}
    seq = market.rogue.seqs["AAA"]
    market.rogue.quote("AAA", seq=seq)
    market.rogue.quote("AAA", seq=seq + 100, epoch=market.rogue.epoch - 1)
    market.rogue.quote("AAA", seq=seq + 10)
    market.rogue.quote("AAA", event_ns=time.time_ns() + 60 * SECOND_NS)
    market.heard("AAA")
    wanted = {"duplicates": 1, "fenced": 1, "gaps": 1, "lost": 9, "skew": 1}
    for name in names:
        a, z, web = before[name]
        market.until(lambda name=name, a=a, z=z, web=web: (  # type: ignore[misc]
            market.count(name) == [a + wanted[name], z, web + wanted[name]]
        ))  # fmt: skip
    market.undisturbed()


def test_junk_on_the_port_of_a_publisher_costs_nothing(market: Market) -> None:
    """Bad input 29: rubbish, a frame of 2^40 bytes, a subscription of a megabyte, connections that say nothing."""
    endpoint = next(p.endpoint for p in market.topology.publishers() if p.name == "feed")
    port = int(endpoint.rpartition(":")[2])
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL".ljust(55, b"\0")
    ready = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03SUB"
    pid = market.nodes()["feed"]["pid"]
    used = usage(pid)
    assert used is not None
    junk = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        os.urandom(4_096),
        greeting + ready + b"\x02" + (1 << 40).to_bytes(8, "big"),
        greeting + ready + b"\x02" + (1 << 20).to_bytes(8, "big") + b"\x01" + bytes(1 << 20),
        b"",
    ]
    peers = []
    for what in junk * 20:
        peer = socket.create_connection(("127.0.0.1", port))
        peer.settimeout(5)
        peers.append(peer)
        try:
            peer.sendall(what)
        except OSError:
            continue  # it was cut while it still spoke
    market.undisturbed()
    grown = usage(pid)
    assert grown is not None
    assert grown.rss_bytes - used.rss_bytes < 32 << 20
    for peer, what in zip(peers, junk * 20, strict=True):
        with peer:
            if what:
                cut(peer)


def cut(peer: socket.socket) -> None:
    """Read until the other side has closed; it must."""
    try:
        while peer.recv(65_536):
            pass
    except ConnectionResetError:
        return


def test_who_joins_under_load_gets_each_value_once_and_in_order(market: Market) -> None:
    """Fault 13: the last values, then all that follows, and nothing older than they."""
    sources = [Source(p, ("nbbo.",)) for p in market.topology.publishers() if "nbbo" in p.channels]
    with zmq.Context() as context:
        for _ in range(5):
            last: dict[int, int] = {}
            with closing(Inbox(context, sources, SymbolTable(20_000), Limits(), SystemClock())) as inbox:
                end = time.monotonic() + 1.5
                while time.monotonic() < end or not inbox.ready():
                    market.rogue.beat()
                    rows = inbox.recv_batch(20)
                    rows = rows[rows["kind"] == KIND_NBBO]
                    for symbol, seq in zip(rows["symbol"].tolist(), rows["seq"].tolist(), strict=True):
                        assert seq == last.get(symbol, seq - 1) + 1
                        last[symbol] = seq
                counters = inbox.counters()
            assert len(last) >= 2_000
            assert (counters["lost"], counters["gaps"]) == (0, 0)
