"""Inbox and Outbox over real sockets on loopback: joins, losses, restarts, silence and rubbish, with a manual clock."""

import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

import naive_journal
from fabric import bus_kernel, codec, keys
from fabric import journal_kernel as jk
from fabric.bus import Inbox, Outbox, local_endpoint
from fabric.clock import SECOND_NS, ManualClock, SystemClock
from fabric.errors import FabricError, UnavailableError
from fabric.journal import Cursor, Journal, Query, records
from fabric.journal import segments as segments_of
from fabric.records import (
    CHANNELS,
    GAP,
    KIND_GAP,
    KIND_LINK,
    KIND_NBBO,
    KIND_QUOTE,
    KIND_TRADE,
    LINK,
    NBBO,
    QUOTE,
    TRADE,
    Rows,
    empty,
)
from fabric.symbols import SymbolTable
from fabric.topology import Curve, JournalSettings, Limits, Publisher, Source
from support import free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 10.0
BEAT_STEP_NS = 10_000_000
NAMES = ["AAPL", "AMZN", "BRK.B", "MSFT", "X"]


def bound(make: Callable[[], Outbox]) -> Outbox:
    """A publisher at the address of one that has just been closed: libzmq lets go of it in a thread of its own."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return make()
        except UnavailableError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


class Joined:
    """A publisher of quotes and trades of venue V, and readers of it; every test's clock is the same."""

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", clock: ManualClock, limits: Limits | None = None
    ) -> None:
        pub, router = free_port(), free_port()
        self.context, self.clock = context, clock
        self.same_host = False
        self.curve: Curve | None = None
        """Keys of the readers."""
        self.limits = limits or Limits(symbols_max=64, batch_max=4_096, queue_max=50_000)
        self.publisher = Publisher(
            "feed",
            f"tcp://127.0.0.1:{pub}",
            f"tcp://127.0.0.1:{router}",
            ("quote", "trade", "status", "nbbo"),
            venues="V",
        )
        self.symbols = SymbolTable(64)
        self.epoch = 0
        self.outbox: Outbox | None = None
        self.inboxes: list[Inbox] = []

    def publish(self, *, epoch: int | None = None, **options: Any) -> Outbox:
        self.epoch = epoch or self.epoch + 1
        make = partial(
            Outbox, self.context, self.publisher, self.symbols, self.limits, self.clock,
            epoch=self.epoch, stamp="feed_ns", **options,
        )  # fmt: skip
        self.outbox = bound(make)
        return self.outbox

    def die(self) -> None:
        assert self.outbox is not None
        self.outbox.close()
        self.outbox = None

    def read(self, *topics: str, publisher: Publisher | None = None) -> "Reader":
        reader = Reader(self, Source(publisher or self.publisher, topics or ("quote.", "trade.", "nbbo.")))
        self.inboxes.append(reader.inbox)
        return reader

    def joined(self, *topics: str) -> "Reader":
        """A reader that has heard its publisher and has its last values."""
        reader = self.read(*topics)
        reader.until(reader.inbox.ready)
        return reader

    def quotes(self, *names: str, **columns: int) -> Rows:
        rows = empty(len(names), QUOTE, KIND_QUOTE)
        rows["symbol"], rows["venue"] = [self.symbols.intern(name) for name in names], ord("V")
        rows["bid_px"], rows["bid_size"] = 100_000_000_000, 100
        rows["event_ns"] = self.clock.now_ns()
        for name, value in columns.items():
            rows[name] = value
        return rows

    def trades(self, *names: str) -> Rows:
        rows = empty(len(names), TRADE, KIND_TRADE)
        rows["symbol"], rows["venue"] = [self.symbols.intern(name) for name in names], ord("V")
        rows["price"], rows["size"], rows["event_ns"] = 100_000_000_000, 100, self.clock.now_ns()
        return rows

    def close(self) -> None:
        for inbox in self.inboxes:
            inbox.close()
        if self.outbox:
            self.outbox.close()


class Reader:
    """An inbox that remembers what it has read."""

    def __init__(self, joined: Joined, *sources: Source) -> None:
        self.joined = joined
        self.symbols = SymbolTable(64)
        self.inbox = Inbox(
            joined.context, sources, self.symbols, joined.limits, joined.clock, same_host=joined.same_host,
            curve=joined.curve,
        )  # fmt: skip
        self.rows: list[np.void] = []

    def turn(self, step_ns: int = 1_000_000) -> None:
        if self.joined.outbox:
            self.joined.outbox.tick()
        self.rows.extend(self.inbox.recv_batch(5).copy())
        self.pass_time(step_ns)

    def pass_time(self, step_ns: int) -> None:
        """Let time pass, but no more than really does while a log is asked: its thread answers by no test's clock."""
        asking = any(link.repair is not None for link in self.inbox._links)
        self.joined.clock.advance(min(step_ns, 1_000_000) if asking else step_ns)

    def until(self, happened: Callable[[], bool], step_ns: int = 1_000_000) -> None:
        """``step_ns`` passes on the clock in each turn: more of it where the next heartbeat is waited for."""
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            assert time.monotonic() < deadline, f"never happened; {self.inbox.counters()}"
            self.turn(step_ns)

    def kinds(self) -> list[int]:
        return [int(row["kind"]) for row in self.rows]

    def seqs(self, kind: int, name: str) -> list[int]:
        symbol = self.symbols.find(name)
        return [int(row["seq"]) for row in self.rows if row["kind"] == kind and row["symbol"] == symbol]

    def links(self) -> list[int]:
        return [int(np.atleast_1d(row).view(LINK)["up"][0]) for row in self.rows if row["kind"] == KIND_LINK]

    def gaps(self) -> list[tuple[str, int, int]]:
        found = [np.atleast_1d(row).view(GAP)[0] for row in self.rows if row["kind"] == KIND_GAP]
        return [(self.symbols.name(int(g["symbol"])), int(g["gap_from"]), int(g["gap_to"])) for g in found]

    def counter(self, name: str) -> int:
        return self.inbox.counters()[name]

    def compares(self) -> bool:
        """Whether a second heartbeat has come, so that it can compare what has come with what was said."""
        link = self.inbox._links[0]
        return link.based or link.owed > 0


@pytest.fixture
def bus(context: "zmq.Context[zmq.Socket[bytes]]", clock: ManualClock) -> Iterator[Joined]:
    joined = Joined(context, clock)
    yield joined
    joined.close()


def test_what_is_sent_arrives_in_order_with_numbers_epoch_and_stamp(bus: Joined) -> None:
    out = bus.publish(epoch=7)
    reader = bus.joined()
    out.send(bus.quotes("AAPL", "MSFT", "AAPL"))
    out.send(bus.trades("AAPL"))
    reader.until(lambda: len(reader.rows) == 5)
    got = [
        (int(r["kind"]), reader.symbols.name(int(r["symbol"])), int(r["seq"]), int(r["position"]))
        for r in reader.rows[1:]
    ]
    assert got == [
        (KIND_QUOTE, "AAPL", 1, 1),
        (KIND_QUOTE, "MSFT", 1, 2),
        (KIND_QUOTE, "AAPL", 2, 3),
        (KIND_TRADE, "AAPL", 1, 4),
    ]
    assert {int(r["epoch"]) for r in reader.rows[1:]} == {7}
    assert all(int(r["feed_ns"]) > 0 and int(r["proc_ns"]) < 0 for r in reader.rows[1:])
    assert reader.links() == [1]


def test_a_prefix_gets_its_symbols_and_a_bar_ends_the_name(bus: Joined) -> None:
    out = bus.publish()
    letter, exact = bus.joined("quote.A"), bus.joined("quote.A|")
    out.send(bus.quotes("A", "AAPL", "BRK.B", "AMZN"))
    letter.until(lambda: letter.kinds().count(KIND_QUOTE) == 3)
    exact.until(lambda: exact.kinds().count(KIND_QUOTE) == 1)
    assert letter.symbols.names() == ["", "A", "AAPL", "AMZN"]
    assert exact.symbols.names() == ["", "A"]


def test_a_late_joiner_has_the_last_values_first_and_no_trades(bus: Joined) -> None:
    out = bus.publish()
    out.send(bus.quotes("AAPL", "AAPL", "MSFT"))
    out.send(bus.trades("AAPL"))
    reader = bus.joined()
    reader.until(lambda: reader.kinds().count(KIND_QUOTE) == 2)
    assert reader.seqs(KIND_QUOTE, "AAPL") == [2]
    assert reader.seqs(KIND_TRADE, "AAPL") == []


def test_a_snapshot_of_many_values_comes_in_chunks(
    context: "zmq.Context[zmq.Socket[bytes]]", clock: ManualClock
) -> None:
    bus = Joined(context, clock, Limits(symbols_max=2_000, batch_max=100))
    bus.symbols = SymbolTable(2_000)
    out = bus.publish()
    names = [f"S{i}" for i in range(1_500)]
    out.send(bus.quotes(*names))
    reader = bus.read()
    reader.symbols = SymbolTable(2_000)
    reader.inbox.close()
    reader.inbox = Inbox(context, [Source(bus.publisher, ("quote.",))], reader.symbols, bus.limits, clock)
    bus.inboxes[-1] = reader.inbox
    reader.until(lambda: reader.kinds().count(KIND_QUOTE) == 1_500)
    assert sorted(reader.symbols.names()[1:]) == sorted(names)
    bus.close()


def test_joining_during_load_misses_doubles_and_reverses_nothing(bus: Joined) -> None:
    """Fault 13: snapshot, then live; per symbol the numbers go up by one from the first."""
    out = bus.publish()
    rng = random.Random(1)
    for _ in range(200):
        out.send(bus.quotes(*rng.choices(NAMES, k=50)))
    reader = bus.read()
    sent = 0

    def flow() -> bool:
        nonlocal sent
        out.send(bus.quotes(*rng.choices(NAMES, k=50)))
        sent += 1
        return reader.inbox.ready() and sent > 400

    reader.until(flow)
    heads = {
        name: int(out.values.rows[out.values.layout[KIND_QUOTE, 0] + bus.symbols.find(name) * 2 + 1, 3])
        for name in NAMES
    }
    reader.until(lambda: all(reader.seqs(KIND_QUOTE, name)[-1:] == [heads[name]] for name in NAMES))
    for name in NAMES:
        numbers = reader.seqs(KIND_QUOTE, name)
        assert numbers == list(range(numbers[0], heads[name] + 1))
    assert reader.counter("lost") == reader.counter("gaps") == 0


def test_a_silent_state_is_sent_again_within_its_time_and_counted_as_refresh(bus: Joined) -> None:
    out = bus.publish()
    reader = bus.joined()
    out.send(bus.quotes("AAPL"))
    out.send(bus.trades("AAPL"))
    reader.until(lambda: reader.kinds().count(KIND_TRADE) == 1)
    for _ in range(600):  # twelve seconds of the manual clock
        bus.clock.advance(19_000_000)
        reader.turn()
    reader.until(lambda: reader.counter("refresh") >= 2)
    assert out.counters()["refreshed"] in (2, 3)  # in each 5 s, and never the trade
    assert reader.seqs(KIND_QUOTE, "AAPL") == [1]
    assert reader.counter("duplicates") == 0


def test_the_refresh_brings_a_value_to_a_raw_subscriber_within_five_seconds(bus: Joined) -> None:
    out = bus.publish()
    out.send(bus.quotes("AAPL"))
    with bus.context.socket(zmq.SUB) as raw:
        raw.setsockopt(zmq.LINGER, 0)
        raw.subscribe("quote.AAPL|")
        raw.connect(bus.publisher.endpoint)
        time_of_last = bus.clock.monotonic_ns()
        deadline = time.monotonic() + PATIENCE_S
        while not raw.poll(1):
            assert time.monotonic() < deadline
            bus.clock.advance(20_000_000)
            out.tick()
        topic, payload = raw.recv_multipart()
    assert topic == b"quote.AAPL|V"
    assert msgpack.unpackb(payload)["N"] == 1
    assert bus.clock.monotonic_ns() - time_of_last > 0


@pytest.mark.parametrize("same_host", [False, True], ids=["tcp", "unix"])
def test_a_restart_under_a_new_epoch_is_told_before_its_first_value(bus: Joined, same_host: bool) -> None:
    """Fault 8: the numbers go back to 1, and nothing of it is taken for a duplicate."""
    bus.same_host = same_host
    out = bus.publish(epoch=10)
    reader = bus.joined()
    out.send(bus.quotes("AAPL", "AAPL", "AAPL"))
    reader.until(lambda: reader.kinds().count(KIND_QUOTE) == 3)
    bus.die()
    reader.until(lambda: reader.links() == [1, 0])
    out = bus.publish(epoch=11)
    out.send(bus.quotes("AAPL"))
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL") == [1, 2, 3, 1])
    assert reader.links() == [1, 0, 1]
    assert reader.kinds()[-2:] == [KIND_LINK, KIND_QUOTE]
    assert (reader.counter("duplicates"), reader.counter("lost"), reader.counter("restarts_seen")) == (0, 0, 1)


def test_nodes_of_one_machine_meet_on_a_unix_socket_and_bots_on_the_port(bus: Joined) -> None:
    out = bus.publish()
    name = local_endpoint(bus.publisher.endpoint).removeprefix("ipc://")

    def connections() -> int:
        return sum(line.split()[-1] == name for line in Path("/proc/net/unix").read_text().splitlines()) - 1

    bot = bus.joined()
    assert connections() == 0
    bus.same_host = True
    node = bus.joined()
    assert connections() == 1
    out.send(bus.quotes("AAPL"))
    bot.until(lambda: bot.seqs(KIND_QUOTE, "AAPL") == [1])
    node.until(lambda: node.seqs(KIND_QUOTE, "AAPL") == [1])
    assert local_endpoint("tcp://10.0.0.1:5500") == ""
    assert local_endpoint("tcp://127.0.0.1:*") == ""


def test_an_older_epoch_is_fenced(bus: Joined) -> None:
    """Bad input 25: a publisher that should be dead changes nothing."""
    out = bus.publish(epoch=10)
    reader = bus.joined()
    out.send(bus.quotes("AAPL"))
    reader.until(lambda: reader.kinds().count(KIND_QUOTE) == 1)
    bus.die()
    reader.until(lambda: reader.links() == [1, 0])
    out = bus.publish(epoch=9)
    out.send(bus.quotes("AAPL", "MSFT"))
    reader.until(lambda: reader.counter("fenced") >= 1)
    assert reader.kinds().count(KIND_QUOTE) == 1
    assert reader.links() == [1, 0]


class Wire:
    """A publisher written by hand: whatever frames a test wants, on a plain XPUB and a deaf ROUTER."""

    def __init__(self, bus: Joined) -> None:
        self.socket = bus.context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(bus.publisher.endpoint)

    def joined(self, reader: Reader) -> None:
        """Wait until the reader's last subscription, that of the heartbeat, has arrived."""
        while True:
            assert self.socket.poll(5_000)
            if self.socket.recv() == b"\x01node.feed|":
                break
        reader.until(lambda: reader.inbox._links[0].socket is not None and reader.turn() is None)

    def quote(self, seq: int, epoch: int = 1, name: str = "AAPL", **more: Any) -> None:
        symbols = SymbolTable(8)
        rows = empty(1, QUOTE, KIND_QUOTE)
        rows["symbol"], rows["venue"], rows["seq"], rows["epoch"] = symbols.intern(name), ord("V"), seq, epoch
        for column, value in more.items():
            rows[column] = value
        ((topic, payload),) = codec.encode(rows, symbols)
        self.socket.send_multipart([topic, payload])

    def send(self, *frames: bytes) -> None:
        self.socket.send_multipart(list(frames))

    def beat(self, head: int, epoch: int = 1, channel: str = "quote", **lags_ns: int) -> None:
        """``lags_ns``: how far it is behind each publisher that it reads."""
        beat = {
            "V": 1,
            "T": "node",
            "S": "feed",
            "E": epoch,
            "O": head,
            "heads": {channel: {"A": head}},
            "counters": {},
            "links": [{"publisher": name, "lag_ns": lag_ns} for name, lag_ns in lags_ns.items()],
        }
        self.send(b"node.feed|", msgpack.packb(beat))


@pytest.fixture
def wire(bus: Joined) -> Iterator[Wire]:
    made = Wire(bus)
    yield made
    made.socket.close()


def test_a_gap_is_counted_told_with_its_range_and_the_newest_value_follows(bus: Joined, wire: Wire) -> None:
    """Bad input 24."""
    reader = bus.read()
    wire.joined(reader)
    for seq in (1, 2, 7):
        wire.quote(seq)
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL") == [1, 2, 7])
    assert reader.gaps() == [("AAPL", 3, 6)]
    assert reader.kinds()[-2:] == [KIND_GAP, KIND_QUOTE]
    assert (reader.counter("lost"), reader.counter("gaps")) == (4, 1)


def test_a_duplicate_is_dropped_and_told_apart_from_a_refresh(bus: Joined, wire: Wire) -> None:
    """Bad input 23."""
    reader = bus.read()
    wire.joined(reader)
    for seq in (1, 2, 2, 1):
        wire.quote(seq)
    reader.until(lambda: reader.counter("duplicates") == 2)
    for _ in range(2):
        reader.turn()
        bus.clock.advance(2 * SECOND_NS)
        wire.beat(head=2)
    wire.quote(2)
    reader.until(lambda: reader.counter("refresh") == 1)
    assert reader.seqs(KIND_QUOTE, "AAPL") == [1, 2]
    assert reader.counter("duplicates") == 2


def test_a_loss_at_the_very_end_of_a_stream_is_told_by_the_heartbeat(bus: Joined, wire: Wire) -> None:
    """Fault 11: what a full queue dropped last shows by the heads, before any other message comes."""
    reader = bus.read("quote.", "trade.")
    wire.joined(reader)
    wire.quote(1)
    wire.beat(head=1)
    reader.until(lambda: reader.counter("links_up") == 1 and reader.kinds().count(KIND_QUOTE) == 1)
    wire.beat(head=4)  # three more were sent, and none has come
    reader.until(lambda: reader.counter("lost") == 3)
    reader.until(lambda: KIND_GAP in reader.kinds())
    wire.quote(4)  # the last of them after all: two are lost for good
    wire.beat(head=4)
    reader.until(lambda: reader.counter("lost") == 2)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ((b"quote.AAPL|V",), "frames"),
        ((b"quote.AAPL|V", b"\x80", b"more"), "frames"),
        ((b"quote." + b"A" * 200 + b"|V", b"\x80"), "too_long"),
        ((b"quote.AAPL|V", b"\xc1" * 10_000), "too_long"),
        ((b"quote.AAPL|V", b"not a map"), "not_a_map"),
        ((b"quote.AAPL|V", b"\xde"), "truncated"),
        ((b"quote.AAPL", b"\x80"), "bad_topic"),
        ((b"quote.AAPL|V", b"\x80"), "missing_key"),
        ((b"quote.AAPL|V", b"\xdd\xff\xff\xff\xff"), "not_a_map"),
        ((b"node.feed|", b"\xc1"), "wrong_type"),
        ((b"node.feed|", msgpack.packb({"E": "x"})), "wrong_type"),
        ((b"node.feed|", msgpack.packb([1])), "wrong_type"),
    ],
)
def test_a_bad_frame_is_dropped_counted_and_what_follows_is_read(
    bus: Joined, wire: Wire, frames: tuple[bytes, ...], reason: str
) -> None:
    """Bad input 18, 20 and 21."""
    reader = bus.read("")
    wire.joined(reader)
    wire.quote(1)
    wire.send(*frames)
    wire.quote(2)
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL") == [1, 2])
    assert reader.inbox.bad_frames() == {reason: 1}
    assert reader.counter("gaps") == 0


def test_one_line_is_logged_for_many_bad_frames(bus: Joined, wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    bus.clock.advance(60 * SECOND_NS)
    reader = bus.read("")
    wire.joined(reader)
    for _ in range(500):
        wire.send(b"quote.AAPL|V", b"rubbish")
    reader.until(lambda: reader.counter("bad_frames") == 500)
    bus.clock.advance(SECOND_NS)
    reader.turn()
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["feed: bad frame (not_a_map) dropped; payload begins 72756262697368"]


def test_a_frame_beyond_the_bound_costs_its_sender_the_connection_and_the_socket_is_built_anew(
    bus: Joined, wire: Wire
) -> None:
    """Fault 12: stock libzmq never connects again after this."""
    reader = bus.read()
    wire.joined(reader)
    wire.quote(1)
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL") == [1])
    wire.send(b"quote.AAPL|V", bytes(bus.limits.message_bytes_max + 1))
    reader.until(lambda: reader.counter("rebuilds") == 1)
    wire.joined(reader)
    wire.quote(2)
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL") == [1, 2])


def test_a_silent_publisher_is_stale_after_its_time_and_back_with_its_first_word(bus: Joined, wire: Wire) -> None:
    reader = bus.read()
    wire.joined(reader)
    wire.beat(head=0)
    reader.until(lambda: reader.links() == [1])
    bus.clock.advance(bus.limits.stale_after_ns - SECOND_NS)
    reader.turn()
    assert reader.links() == [1]
    bus.clock.advance(2 * SECOND_NS)
    reader.until(lambda: reader.links() == [1, 0])
    wire.joined(reader)  # on a new connection: what the old one would deliver late is thrown away
    wire.beat(head=0)
    reader.until(lambda: reader.links() == [1, 0, 1])
    assert reader.counter("rebuilds") == 1


def test_a_reader_that_was_away_throws_its_backlog_away_and_learns_the_last_values(bus: Joined) -> None:
    """Fault 11 and I2: after a stop nothing old is taken for live, and what was missed is counted."""
    out = bus.publish()
    reader = bus.joined()
    out.send(bus.quotes("AAPL"))
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL") == [1])
    for _ in range(100):
        out.send(bus.quotes("AAPL"))
    bus.clock.advance(10 * SECOND_NS)  # this reader was stopped meanwhile
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL")[-1] == 101)
    assert reader.seqs(KIND_QUOTE, "AAPL") == [1, 101]
    assert reader.links() == [1, 0, 1]
    assert reader.gaps() == [("AAPL", 2, 100)]
    assert reader.counter("lost") == 99


@pytest.mark.parametrize("step", ["wait", "drain"])
def test_a_reader_that_was_stopped_inside_a_call_throws_its_backlog_away(
    bus: Joined, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Fault 23: a signal handler, or the kernel, may stop a process between any two instructions."""
    out = bus.publish()
    reader = bus.joined()
    out.send(bus.quotes("AAPL"))
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL") == [1])
    stops = 1
    whole = getattr(bus_kernel, step)

    def stopped(*arguments: Any) -> Any:
        nonlocal stops
        found = whole(*arguments)
        if stops and reader.counter("received") > 0:
            stops = 0
            for _ in range(100):
                out.send(bus.quotes("AAPL"))
            bus.clock.advance(10 * SECOND_NS)
        return found

    monkeypatch.setattr(bus_kernel, step, stopped)
    out.send(bus.quotes("AAPL"))
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL")[-1] == 102)
    assert reader.seqs(KIND_QUOTE, "AAPL") in ([1, 102], [1, 2, 102])  # the second was read before the stop, or not
    assert reader.counter("rebuilds") == 1


def test_a_step_of_the_wall_clock_makes_nothing_stale(bus: Joined, wire: Wire) -> None:
    """Fault 34: ages and timeouts are monotonic."""
    reader = bus.read()
    wire.joined(reader)
    wire.beat(head=0)
    reader.until(lambda: reader.links() == [1])
    for offset in (5 * SECOND_NS, -10 * SECOND_NS, 3_600 * SECOND_NS):
        bus.clock.step(offset)
        for _ in range(5):
            reader.turn()
    assert reader.links() == [1]


def test_a_stamp_from_the_future_is_kept_and_counted(bus: Joined, wire: Wire) -> None:
    """Bad input 26."""
    reader = bus.read()
    wire.joined(reader)
    wire.quote(1, event_ns=bus.clock.now_ns() + 60 * SECOND_NS)
    wire.quote(2, event_ns=bus.clock.now_ns())
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL") == [1, 2])
    assert reader.counter("skew") == 1


def test_two_publishers_are_read_side_by_side_and_one_that_dies_disturbs_only_itself(
    bus: Joined, context: "zmq.Context[zmq.Socket[bytes]]", clock: ManualClock
) -> None:
    other = Joined(context, clock)
    other.publisher = replace(other.publisher, name="other")
    bus.publish()
    out = other.publish()
    reader = Reader(bus, Source(bus.publisher, ("quote.",)), Source(other.publisher, ("quote.",)))
    bus.inboxes.append(reader.inbox)

    def both() -> bool:
        out.tick()
        return reader.inbox.ready()

    reader.until(both)
    bus.die()
    reader.until(lambda: not reader.inbox.up(0))
    out.send(other.quotes("MSFT"))
    reader.until(lambda: reader.kinds().count(KIND_QUOTE) == 1)
    assert reader.inbox.up(1)
    other.close()


def test_a_publisher_refuses_what_is_not_its_own_and_what_cannot_be_carried(bus: Joined) -> None:
    out = bus.publish()
    reader = bus.joined()
    foreign = bus.quotes("AAPL")
    foreign["venue"] = ord("Q")
    out.send(foreign)
    out.send(bus.quotes("AAPL", bid_px=3_000_000 * 10**9))
    out.send(bus.quotes("AAPL"))
    reader.until(lambda: reader.kinds().count(KIND_QUOTE) == 1)
    assert (out.counters()["not_ours"], out.counters()["refused"]) == (1, 1)
    assert reader.seqs(KIND_QUOTE, "AAPL") == [1]


def test_a_taken_port_is_named(bus: Joined) -> None:
    bus.publish()
    with pytest.raises(UnavailableError, match=f"feed: cannot bind {bus.publisher.endpoint}"):
        Outbox(bus.context, bus.publisher, bus.symbols, bus.limits, bus.clock, epoch=1, stamp="feed_ns")


def test_a_lossless_publisher_waits_for_a_slow_reader(
    context: "zmq.Context[zmq.Socket[bytes]]", clock: ManualClock
) -> None:
    bus = Joined(context, clock, Limits(symbols_max=64, queue_max=100))
    out = bus.publish(lossless=True)
    with context.socket(zmq.SUB) as raw:
        raw.setsockopt(zmq.RCVHWM, 10)
        raw.setsockopt(zmq.LINGER, 0)
        raw.subscribe("nbbo.")
        raw.subscribe("node.feed|")
        raw.connect(bus.publisher.endpoint)
        while not raw.poll(10):
            out.tick()
            clock.advance(20_000_000)
        assert raw.recv_multipart()[0] == b"node.feed|"
        rows = empty(20_000, NBBO, KIND_NBBO)
        rows["symbol"] = bus.symbols.intern("AAPL")
        got: list[int] = []
        import threading

        def read() -> None:
            while len(got) < rows.size:
                topic, payload = raw.recv_multipart()
                if topic.startswith(b"nbbo."):
                    got.append(msgpack.unpackb(payload)["N"])

        thread = threading.Thread(target=read)
        thread.start()
        out.send(rows)
        thread.join(30)
        assert got == list(range(1, rows.size + 1))
    bus.close()


def test_junk_on_the_ports_hurts_nobody(bus: Joined) -> None:
    """Bad input 29: HTTP, random bytes, half a greeting, a frame of 2**40 bytes, a subscription too long."""
    out = bus.publish()
    reader = bus.joined()
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(16) + bytes(32)
    huge = greeting + b"\x02" + (2**40).to_bytes(8, "big") + b"x" * 1_000
    for junk in (b"GET / HTTP/1.1\r\n\r\n", random.Random(3).randbytes(4_096), greeting[:11], huge):
        for endpoint in (bus.publisher.endpoint, bus.publisher.snapshot_endpoint):
            with socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])), timeout=5) as peer:
                peer.sendall(junk)
                reader.turn()
    with bus.context.socket(zmq.SUB) as greedy:
        greedy.setsockopt(zmq.LINGER, 0)
        greedy.connect(bus.publisher.endpoint)
        greedy.subscribe(b"x" * 4_096)  # a megabyte would overflow the stack of libzmq in this very process
        for _ in range(20):
            reader.turn()
    out.send(bus.quotes("AAPL"))
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL") == [1])
    assert reader.counter("gaps") == 0


def test_the_snapshot_router_answers_a_raw_dealer_and_explains_itself(bus: Joined) -> None:
    out = bus.publish(epoch=5)
    out.send(bus.quotes("AAPL", "AMZN", "MSFT"))
    with bus.context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(bus.publisher.snapshot_endpoint)
        dealer.send_multipart([b"1", b"last", b"quote.A"])
        assert dealer.poll(5_000)
        request, summary, *frames = dealer.recv_multipart()
        assert (request, frames[::2]) == (b"1", [b"quote.AAPL|V", b"quote.AMZN|V"])
        assert msgpack.unpackb(summary)["E"] == 5
        assert msgpack.unpackb(frames[1])["bp"] == 100.0
        for bad in ([b"2"], [b"2", b"first", b"quote."], [b"2", b"last"], [b"2", b"last", *[b"q"] * 4_097]):
            dealer.send_multipart(bad)
            assert dealer.poll(5_000)
            assert "a request is" in msgpack.unpackb(dealer.recv_multipart()[1])["error"]


def test_batching_bounds_what_one_call_returns(context: "zmq.Context[zmq.Socket[bytes]]", clock: ManualClock) -> None:
    bus = Joined(context, clock, Limits(symbols_max=64, batch_max=64, queue_max=50_000))
    out = bus.publish()
    reader = bus.joined()
    out.send(bus.quotes(*["AAPL"] * 1_000))
    sizes = []
    deadline = time.monotonic() + PATIENCE_S
    while sum(sizes) < 1_000 and time.monotonic() < deadline:
        sizes.append(reader.inbox.recv_batch(50).size)
    assert sum(sizes) == 1_000
    assert max(sizes) <= 64 + 256
    bus.close()


def test_messages_behind_a_heartbeat_are_not_compared_with_it(bus: Joined, wire: Wire) -> None:
    """What a reader drained in one go with the heartbeat but came after it must not move the baseline."""
    reader = bus.read("quote.")
    wire.joined(reader)
    seq = 0
    for head in (0, 50, 100):
        wire.beat(head=head)
        for _ in range(50):
            seq += 1
            wire.quote(seq)
    wire.beat(head=150)
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL")[-1:] == [150])
    for _ in range(20):
        reader.turn()
    assert reader.counter("lost") == 0


def test_after_a_silence_in_the_same_epoch_the_last_values_come_again_once(bus: Joined) -> None:
    """I4: a reader that held them for stale must get quiet symbols back, though their numbers have not moved."""
    out = bus.publish()
    reader = bus.joined()
    out.send(bus.quotes("AAPL", "MSFT"))
    out.send(bus.trades("AAPL"))
    reader.until(lambda: len(reader.rows) == 4)
    bus.clock.advance(bus.limits.stale_after_ns + SECOND_NS)
    for _ in range(200):  # nothing of the publisher: its loop does not turn
        if reader.links() == [1, 0]:
            break
        bus.clock.advance(50_000_000)
        reader.rows.extend(reader.inbox.recv_batch(1).copy())
    assert reader.links() == [1, 0]
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL") == [1, 1] and reader.seqs(KIND_QUOTE, "MSFT") == [1, 1])
    assert reader.links() == [1, 0, 1]
    for _ in range(20):
        reader.turn()
    assert reader.seqs(KIND_QUOTE, "AAPL") == [1, 1]
    assert reader.seqs(KIND_TRADE, "AAPL") == [1]
    assert reader.counter("lost") == 0


def test_a_snapshot_that_overtakes_a_backlog_is_no_gap(bus: Joined) -> None:
    """A late joiner finds its own queue behind the snapshot: nothing of that may be skipped."""
    out = bus.publish()
    reader = bus.read()
    for _ in range(200):  # the subscription arrives, the greeting and the first values queue up
        bus.clock.advance(5_000_000)
        out.tick()
        out.send(bus.quotes(*NAMES))
        time.sleep(0.001)
    reader.until(reader.inbox.ready)
    out.send(bus.quotes(*NAMES))
    head = out.counters()["published"] // len(NAMES)
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL")[-1:] == [head])
    for name in NAMES:
        numbers = reader.seqs(KIND_QUOTE, name)
        assert numbers == list(range(numbers[0], head + 1))
    assert (reader.counter("lost"), reader.counter("gaps")) == (0, 0)


# With a log: what is lost on the way is brought from there, in order


@pytest.fixture
def logged(
    context: "zmq.Context[zmq.Socket[bytes]]", clock: ManualClock, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Joined]:
    """A publisher that keeps a log, and queues so short that a burst does not fit. Its readers have all over sockets,
    or with the parameter "memory" read the log in place.
    """
    joined = Joined(context, clock, Limits(symbols_max=64, batch_max=4_096, queue_max=1_000))
    joined.same_host = getattr(request, "param", "socket") == "memory"
    settings = JournalSettings(str(tmp_path), sync_ns=5_000_000, in_place=joined.same_host)
    joined.publisher = replace(joined.publisher, journal=settings)
    yield joined
    joined.close()


both_ways = pytest.mark.parametrize("logged", ["socket", "memory"], indirect=True)


def ask_log(bus: Joined, query: dict[str, int], *prefixes: bytes) -> tuple[dict[str, Any], bytes]:
    """The last summary and all records of one request, as a reader with nothing but ZeroMQ gets them."""
    with bus.context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(bus.publisher.snapshot_endpoint)
        dealer.send_multipart([b"1", b"log", msgpack.packb(query), *prefixes])
        got = b""
        while True:
            assert dealer.poll(5_000)
            number, summary, *rest = dealer.recv_multipart()
            assert number == b"1"
            answer = msgpack.unpackb(summary)
            got += b"".join(rest)
            if not answer["more"]:
                return answer, got


def test_the_log_is_read_from_a_position_and_an_instant_and_by_prefix(logged: Joined) -> None:
    out = logged.publish(epoch=4)
    with logged.context.socket(zmq.SUB) as raw:
        raw.setsockopt(zmq.LINGER, 0)
        raw.subscribe("")
        raw.connect(logged.publisher.endpoint)
        while not raw.poll(5):
            out.tick()
            logged.clock.advance(20_000_000)
        assert raw.recv_multipart()[0] == b"node.feed|"
        for _ in range(10):
            out.send(logged.quotes("AAPL", "MSFT"))
            out.send(logged.trades("AAPL"))
            logged.clock.advance(SECOND_NS)
        live = [raw.recv_multipart() for _ in range(30)]
    summary, got = ask_log(logged, {"from": 1})
    found = naive_journal.records(got, 0)
    assert [[topic, payload] for *_, topic, payload in found] == live  # byte for byte
    assert {epoch for _, epoch, *_ in found} == {4}
    assert [summary[key] for key in ("count", "first", "last", "next", "holes")] == [30, 1, 30, None, 0]
    assert summary["checksum"] == naive_journal.crc32c(got)
    summary, got = ask_log(logged, {"from": 4, "to": 9}, b"trade.", b"quote.M")
    assert [position for position, *_ in naive_journal.records(got, 0)] == [5, 6, 8, 9]
    instant = found[12][2]
    summary, got = ask_log(logged, {"at": instant}, b"trade.")
    assert [position for position, *_ in naive_journal.records(got, 0)] == list(range(15, 31, 3))
    assert "integers" in ask_log(logged, {"from": "x"})[0]["error"]  # type: ignore[dict-item]
    assert ask_log(logged, {"from": 31})[0]["count"] == 0


def test_a_publisher_without_a_log_says_so(bus: Joined) -> None:
    bus.publish()
    assert "keeps no log" in ask_log(bus, {"from": 1})[0]["error"]


def test_a_long_part_of_the_log_comes_by_several_requests_at_the_rate_that_is_allowed(logged: Joined) -> None:
    settings = logged.publisher.journal
    assert settings is not None
    logged.publisher = replace(logged.publisher, journal=replace(settings, serve_bytes=8 << 20))
    out = logged.publish()
    for _ in range(30):
        out.send(logged.trades(*["AAPL"] * 1_000))
    began, first, count = time.monotonic(), 1, 0
    while first is not None:
        summary, got = ask_log(logged, {"from": first})
        assert len(got) <= 4 << 20
        count, first = count + summary["count"], summary["next"]
    assert count == 30_000
    assert time.monotonic() - began > 0.5  # 6 MB, of which one at once


@both_ways
def test_a_burst_that_no_queue_holds_comes_whole_and_in_order(logged: Joined) -> None:
    """300,000 messages at once to a reader that takes none of them meanwhile: stock PUB/SUB loses most of them.

    Each symbol is in order. A hole shows with the next message of its topic, so those of other topics may come before.
    """
    out = logged.publish()
    reader = logged.joined()
    one = logged.quotes(*NAMES * 200)
    for _ in range(300):
        out.send(one)
    got: list[np.ndarray[Any, Any]] = []
    deadline = time.monotonic() + 40
    while sum(rows.shape[0] for rows in got) < 300_000:
        began = time.monotonic()
        assert began < deadline, reader.inbox.counters()
        out.tick()
        rows = reader.inbox.recv_batch(5)
        assert not (rows["kind"] == KIND_GAP).any()
        got.append(np.stack([rows["symbol"], rows["seq"], rows["position"]], 1)[rows["kind"] == KIND_QUOTE])
        logged.clock.advance(int((time.monotonic() - began) * SECOND_NS))  # for the log answers in real time
    every = np.concatenate(got)
    assert np.array_equal(np.sort(every[:, 2]), np.arange(1, 300_001))
    for symbol in np.unique(every[:, 0]):
        assert np.array_equal(every[every[:, 0] == symbol, 1], np.arange(1, 60_001))
    counters = reader.inbox.counters()
    assert (counters["lost"], counters["gaps"], counters["duplicates"]) == (0, 0, 0)
    if logged.same_host:
        assert counters["repairs"] == 0
    else:
        assert counters["repaired"] > 200_000


def test_without_the_log_the_same_burst_loses_and_says_so(bus: Joined) -> None:
    """The check above can fail."""
    bus.limits = Limits(symbols_max=64, batch_max=4_096, queue_max=1_000)
    out = bus.publish()
    reader = bus.joined()
    for _ in range(20):
        out.send(bus.quotes(*NAMES * 1_000))
    reader.until(lambda: reader.counter("lost") + reader.counter("accepted") >= 100_000, BEAT_STEP_NS)
    assert reader.counter("lost") > 50_000


@pytest.mark.parametrize("logged", ["memory"], indirect=True)
def test_what_is_read_in_place_is_picked_by_prefix_and_not_sent_over_the_socket(logged: Joined) -> None:
    out = logged.publish()
    reader = logged.joined("quote.A", "trade.MSFT|")
    logged.inboxes[0]._links[0].socket.unsubscribe("more.feed|")
    out.send(logged.quotes(*NAMES))
    out.send(logged.trades(*NAMES))
    reader.until(lambda: len(reader.rows) == 4)
    assert reader.seqs(KIND_QUOTE, "AAPL") == reader.seqs(KIND_QUOTE, "AMZN") == reader.seqs(KIND_TRADE, "MSFT") == [1]
    assert (reader.counter("lost"), reader.counter("duplicates"), reader.counter("bad_frames")) == (0, 0, 0)


@pytest.mark.parametrize("logged", ["memory"], indirect=True)
def test_word_to_readers_in_place_is_no_bad_frame_to_who_subscribes_everything(logged: Joined) -> None:
    out = logged.publish()
    logged.same_host = False
    reader = logged.joined("")
    out.send(logged.quotes("AAPL"))
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL") == [1])
    received = reader.counter("received")
    reader.until(lambda: reader.counter("received") > received, BEAT_STEP_NS)
    assert reader.counter("bad_frames") == 0


@pytest.mark.parametrize("logged", ["memory"], indirect=True)
@pytest.mark.parametrize("at_once", [1, 30], ids=["along", "behind"])
def test_a_log_that_is_read_in_place_goes_on_from_segment_to_segment(logged: Joined, at_once: int) -> None:
    assert logged.publisher.journal is not None
    settings = replace(logged.publisher.journal, bytes_max=32 << 20)  # segments of a megabyte, 3,600 quotes
    logged.publisher = replace(logged.publisher, journal=settings)
    out = logged.publish()
    reader = logged.joined("quote.")
    for _ in range(30 // at_once):
        for _ in range(at_once):
            out.send(logged.quotes(*NAMES * 200))
        sent = out.position
        reader.until(lambda sent=sent: reader.counter("accepted") == sent)
    assert out._journal is not None
    assert len(out._journal.listing()) == 5
    for name in NAMES:
        assert reader.seqs(KIND_QUOTE, name) == list(range(1, 6_001))
    names = ("lost", "gaps", "duplicates", "repairs", "rebuilds")
    assert [reader.counter(name) for name in names] == [0] * 5


@pytest.mark.parametrize("logged", ["memory"], indirect=True)
def test_a_log_that_has_no_room_is_left_for_the_socket(logged: Joined, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 31: the feed goes on, and so do those who read its log."""
    assert logged.publisher.journal is not None
    settings = replace(logged.publisher.journal, bytes_max=32 << 20)
    logged.publisher = replace(logged.publisher, journal=settings)
    out = logged.publish()
    reader = logged.joined("trade.")
    out.send(logged.trades("AAPL"))
    reader.until(lambda: reader.counter("accepted") == 1)
    assert out._journal is not None

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(out._journal, "_allocate", full)
    while not out.counters()["log_unlogged"]:
        out.send(logged.trades(*["AAPL"] * 100))
    while not reader.counter("rebuilds"):
        out.send(logged.trades("AAPL"))
        reader.turn(BEAT_STEP_NS)
    reader.until(reader.inbox.ready)
    out.send(logged.trades("MSFT"))
    reader.until(lambda: reader.seqs(KIND_TRADE, "MSFT") == [1])
    assert reader.links() == [1, 0, 1]


@pytest.mark.parametrize("logged", ["memory"], indirect=True)
def test_a_log_that_is_not_where_it_should_be_is_left_for_the_socket(logged: Joined, tmp_path: Path) -> None:
    out = logged.publish()
    assert logged.publisher.journal is not None
    away = replace(logged.publisher, journal=replace(logged.publisher.journal, folder=str(tmp_path / "elsewhere")))
    reader = logged.read(publisher=away)
    reader.until(lambda: reader.inbox.ready() and reader.counter("rebuilds") == 1)
    out.send(logged.quotes("AAPL"))
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL") == [1])


def test_a_loss_at_the_end_of_a_burst_is_filled_after_the_next_heartbeat(logged: Joined) -> None:
    out = logged.publish()
    reader = logged.joined("trade.")
    for _ in range(4):
        out.send(logged.trades(*["AAPL"] * 2_500))
    reader.until(lambda: reader.counter("accepted") == 10_000, BEAT_STEP_NS)
    assert reader.seqs(KIND_TRADE, "AAPL") == list(range(1, 10_001))
    assert (reader.counter("lost"), reader.counter("gaps")) == (0, 0)


def test_a_reader_of_one_symbol_fills_its_gap_too(logged: Joined) -> None:
    out = logged.publish()
    reader = logged.joined("quote.AAPL|")
    for _ in range(4):
        out.send(logged.quotes(*NAMES * 1_000))
    reader.until(lambda: reader.counter("accepted") >= 1_000)
    out.send(logged.quotes("AAPL"))
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL") == list(range(1, 4_002)))
    assert reader.counter("lost") == 0


def unsent(bus: Joined, *names: str) -> None:
    """What a publisher that is killed has logged, and libzmq has not sent: as if it had been published."""
    settings = bus.publisher.journal
    assert settings is not None
    rows = bus.trades(*names)
    log = Journal(Path(settings.folder) / bus.publisher.name, settings, bus.clock, bus.epoch)
    rows["epoch"], rows["position"] = bus.epoch, log.position + 1 + np.arange(rows.size)
    rows["seq"] = 3 + np.arange(rows.size)
    data, ends = codec.lay_out(codec.encode(rows, bus.symbols))
    assert jk.append_all(log.state, data, ends, 0, bus.epoch, bus.clock.now_ns(), 1) == rows.size
    log.close()


@both_ways
def test_what_a_killed_publisher_had_logged_and_not_sent_comes_before_its_new_epoch(logged: Joined) -> None:
    out = logged.publish(epoch=10)
    reader = logged.joined()
    out.send(logged.trades("AAPL", "AAPL"))
    out.send(logged.quotes("MSFT"))
    reader.until(lambda: reader.counter("accepted") == 3)
    logged.die()
    reader.until(lambda: reader.links() == [1, 0])
    unsent(logged, *["AAPL"] * 3)
    out = logged.publish(epoch=11)
    out.send(logged.trades("AAPL", "MSFT"))  # before this reader has found it again
    reader.until(lambda: reader.seqs(KIND_TRADE, "MSFT") == [1])
    assert reader.seqs(KIND_TRADE, "AAPL") == [1, 2, 3, 4, 5, 1]
    trades = [row for row in reader.rows if row["kind"] == KIND_TRADE]
    assert [(int(r["epoch"]), int(r["position"])) for r in trades] == [
        (10, 1), (10, 2), (10, 4), (10, 5), (10, 6), (11, 7), (11, 8)
    ]  # fmt: skip
    assert reader.links() == [1, 0, 1, 0, 1]
    assert (reader.counter("lost"), reader.counter("fenced")) == (0, 0)


@both_ways
def test_a_log_whose_end_a_power_cut_took_is_gone_on_with_under_its_new_epoch(logged: Joined) -> None:
    """Positions come again, with other messages: the epoch tells them apart."""
    out = logged.publish(epoch=10)
    reader = logged.joined("trade.")
    out.send(logged.trades(*["AAPL"] * 5))
    reader.until(lambda: reader.counter("accepted") == 5)
    logged.die()
    reader.until(lambda: reader.links() == [1, 0])
    settings = logged.publisher.journal
    assert settings is not None
    for segment in segments_of(Path(settings.folder) / "feed"):
        segment.path.unlink()
    out = logged.publish(epoch=11)
    out.send(logged.trades("MSFT", "MSFT"))  # before this reader has found it again
    reader.until(lambda: reader.seqs(KIND_TRADE, "MSFT") == [1, 2])
    assert reader.seqs(KIND_TRADE, "AAPL") == [1, 2, 3, 4, 5]
    out.send(logged.trades("MSFT"))
    reader.until(lambda: reader.seqs(KIND_TRADE, "MSFT") == [1, 2, 3])
    assert reader.inbox.positions() == {"feed": (11, 3)}


@both_ways
def test_a_reader_that_was_away_catches_up_trades_and_takes_no_old_quote_for_a_live_one(logged: Joined) -> None:
    """I2 and fault 11: quotes of the outage are told as a gap, trades are all there."""
    out = logged.publish()
    reader = logged.joined()
    out.send(logged.quotes("AAPL"))
    out.send(logged.trades("AAPL"))
    reader.until(lambda: reader.counter("accepted") == 2)
    for _ in range(100):
        out.send(logged.quotes("AAPL"))
        out.send(logged.trades("AAPL"))
    logged.clock.advance(10 * SECOND_NS)
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL")[-1] == 101)
    assert reader.seqs(KIND_QUOTE, "AAPL") == [1, 101]
    assert reader.seqs(KIND_TRADE, "AAPL") == list(range(1, 102))
    assert reader.gaps() == [("AAPL", 2, 100)]


@both_ways
def test_a_reader_that_wants_all_gets_the_outage_whole(logged: Joined) -> None:
    out = logged.publish()
    reader = logged.joined()
    reader.inbox.close()
    reader.inbox = logged.inboxes[-1] = Inbox(
        logged.context, reader.inbox.sources, reader.symbols, logged.limits, logged.clock, complete=True,
        same_host=logged.same_host,
    )  # fmt: skip
    reader.until(reader.inbox.ready)
    out.send(logged.quotes("AAPL"))
    reader.until(lambda: reader.counter("accepted") == 1)
    for _ in range(100):
        out.send(logged.quotes("AAPL"))
    logged.clock.advance(10 * SECOND_NS)
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL")[-1] == 101)
    assert reader.seqs(KIND_QUOTE, "AAPL") == list(range(1, 102))
    assert reader.gaps() == []


@pytest.mark.parametrize("repair_max", [0, 100], ids=["none", "short"])
def test_a_gap_beyond_the_bound_is_told_as_lost(logged: Joined, repair_max: int) -> None:
    logged.limits = replace(logged.limits, repair_max=repair_max)
    out = logged.publish()
    reader = logged.joined("quote.")
    reader.until(reader.compares, BEAT_STEP_NS)
    for _ in range(4):
        out.send(logged.quotes(*["AAPL"] * 2_500))
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL")[-1:] == [10_000], BEAT_STEP_NS)
    reader.until(lambda: reader.counter("lost") + reader.counter("accepted") == 10_000, BEAT_STEP_NS)
    assert reader.counter("lost") > 0
    assert reader.counter("repaired") <= repair_max


def test_what_the_log_has_forgotten_is_told_as_lost_and_the_rest_comes(logged: Joined) -> None:
    out = logged.publish()
    reader = logged.joined("quote.")
    for _ in range(4):
        out.send(logged.quotes(*["AAPL"] * 2_500))
    assert out._journal is not None
    (segment,) = out._journal.listing()
    with segment.path.open("r+b") as file:  # some hundred records, of which some have to come from the log
        for at in range(20_000, segment.end, 20_000):
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))
    reader.until(lambda: reader.counter("lost") + reader.counter("accepted") == 10_000, BEAT_STEP_NS)
    seen = reader.seqs(KIND_QUOTE, "AAPL")
    missing = sorted(set(range(1, 10_001)) - set(seen))
    assert seen == sorted(seen)
    assert 0 < len(missing) == reader.counter("lost") <= 110
    assert [n for _, first, last in reader.gaps() for n in range(first, last + 1)] == missing
    assert reader.counter("repaired") > 1_000


@pytest.mark.parametrize("channel", ["quote", "trade"])
def test_a_log_that_does_not_answer_costs_trust_at_once_and_trades_only_late(
    bus: Joined, wire: Wire, channel: str
) -> None:
    """A machine that is too busy to answer for seconds loses no trade by it, and shows nobody an old price."""
    reader = bus.read(f"{channel}.")
    wire.joined(reader)
    kind = CHANNELS[channel]

    def beat(head: int) -> None:
        beat = {"V": 1, "T": "node", "S": "feed", "E": 1, "O": head, "log": 1, "heads": {}, "counters": {}}
        wire.send(b"node.feed|", msgpack.packb(beat))

    def say(seq: int) -> None:
        if channel == "quote":
            wire.quote(seq, position=seq)
        else:
            rows = empty(1, TRADE, KIND_TRADE)
            rows["symbol"], rows["venue"], rows["seq"], rows["position"] = 1, ord("V"), seq, seq
            rows["epoch"] = 1
            symbols = SymbolTable(8)
            symbols.intern("AAPL")
            ((topic, payload),) = codec.encode(rows, symbols)
            wire.send(topic, payload)

    beat(head=0)
    reader.until(lambda: reader.links() == [1])
    for seq in (1, 5, 6):
        say(seq)
    for _ in range(100):
        reader.turn()
        bus.clock.advance(50_000_000)  # a deaf log does not answer by any clock
        if reader.links() == [1, 0]:
            break
    waited_ns = bus.clock.monotonic_ns()
    assert reader.seqs(kind, "AAPL") == [1]
    assert reader.gaps() == [], "told as stale, not as lost"
    beat(head=6)
    while reader.links() != [1, 0, 1]:
        reader.turn()
        bus.clock.advance(50_000_000)
        assert bus.clock.monotonic_ns() - waited_ns < 60 * SECOND_NS
    late_ns = bus.clock.monotonic_ns() - waited_ns
    assert (late_ns > 5 * SECOND_NS) == (channel == "trade"), "only a trade is waited for"
    assert [name for name, _, _ in reader.gaps()] == ([""] if channel == "trade" else [])
    say(7)
    reader.until(lambda: reader.seqs(kind, "AAPL") == [1, 7])
    assert reader.gaps()[-1] == ("AAPL", 2, 6)
    assert reader.counter("lost") == 5


@both_ways
def test_a_later_reader_goes_on_where_an_earlier_one_left_off(logged: Joined) -> None:
    out = logged.publish(epoch=3)
    reader = logged.joined()
    out.send(logged.trades("AAPL", "MSFT"))
    reader.until(lambda: reader.counter("accepted") == 2)
    left_off = reader.inbox.positions()
    reader.inbox.close()
    logged.inboxes.remove(reader.inbox)
    out.send(logged.trades("AAPL", "MSFT", "AAPL"))
    logged.die()
    out = logged.publish(epoch=4)
    out.send(logged.trades("AAPL"))
    reader = Reader(logged, Source(logged.publisher, ("trade.",)))
    logged.inboxes.append(reader.inbox)
    reader.inbox.resume(left_off)
    reader.until(reader.inbox.ready)
    out.send(logged.trades("X"))
    reader.until(lambda: reader.seqs(KIND_TRADE, "X") == [1])
    trades = [row for row in reader.rows if row["kind"] == KIND_TRADE]
    assert [int(row["position"]) for row in trades] == [3, 4, 5, 6, 7]
    assert reader.inbox.positions() == {"feed": (4, 7)}


@both_ways
def test_a_reader_knows_how_far_behind_it_is(logged: Joined) -> None:
    logged.limits = Limits(symbols_max=64, batch_max=64, queue_max=50_000)
    out = logged.publish()
    reader = logged.joined("trade.")
    out.send(logged.trades("AAPL"))
    reader.until(lambda: reader.counter("accepted") == 1)
    reader.until(reader.compares, BEAT_STEP_NS)
    for _ in range(20):
        out.send(logged.trades(*["AAPL"] * 500))
    logged.clock.advance(3 * SECOND_NS // 2)
    reader.inbox._check(logged.clock.monotonic_ns())  # asks
    assert reader.inbox._links[0].dealer.poll(5_000)
    reader.inbox.recv_batch(5)  # and what waits on the way is more than the 64 that it takes at once
    assert reader.counter("lag") > 9_000
    _, waited_ns = reader.inbox.lags()["feed"]
    assert waited_ns >= SECOND_NS
    reader.until(lambda: reader.counter("accepted") == 10_001)
    logged.clock.advance(3 * SECOND_NS // 2)
    reader.until(lambda: reader.inbox.lags()["feed"] == (0, 0), BEAT_STEP_NS)


@both_ways
@pytest.mark.parametrize("catches_up", [True, False])
def test_a_backlog_is_told_when_it_has_stood_for_two_looks(
    logged: Joined, caplog: pytest.LogCaptureFixture, catches_up: bool
) -> None:
    """Who lets a burst gather and takes it whole, as the history does, is not behind."""
    caplog.set_level("WARNING")
    logged.limits = Limits(symbols_max=64, batch_max=64, queue_max=50_000)
    out = logged.publish()
    reader = logged.joined("trade.")
    out.send(logged.trades("AAPL"))
    reader.until(lambda: reader.counter("accepted") == 1)
    reader.until(reader.compares, BEAT_STEP_NS)
    for wanted in (1_501, 3_001):
        for _ in range(3):
            out.send(logged.trades(*["AAPL"] * 500))
        logged.clock.advance(3 * SECOND_NS // 2)
        reader.inbox._check(logged.clock.monotonic_ns())  # asks
        assert reader.inbox._links[0].dealer.poll(5_000)
        reader.inbox._read_snapshot(reader.inbox._links[0], logged.clock.monotonic_ns())
        assert reader.counter("lag") >= 1_000
        while catches_up and reader.counter("accepted") < wanted:
            reader.turn()
    told = [record for record in caplog.records if "messages (" in record.getMessage()]
    assert len(told) == (0 if catches_up else 1)


@both_ways
@pytest.mark.parametrize(("topic", "gives_up"), [("quote.", True), ("trade.", False)])
def test_a_reader_that_is_too_slow_takes_no_old_price_for_a_live_one(
    logged: Joined, topic: str, gives_up: bool
) -> None:
    """Fault 10 and I2: late trades are still true, so who reads nothing else gets them all."""
    logged.limits = Limits(symbols_max=64, batch_max=64, queue_max=50_000)
    out = logged.publish()
    reader = logged.joined(topic)
    make = logged.quotes if gives_up else logged.trades
    out.send(make("AAPL"))
    reader.until(lambda: reader.counter("accepted") == 1)
    reader.until(reader.compares, BEAT_STEP_NS)
    for _ in range(20):
        out.send(make(*["AAPL"] * 500))
    for _ in range(60):  # six seconds, 64 messages in each turn
        reader.turn(SECOND_NS // 10)
        time.sleep(0.005)  # for the answer of the thread that says how far the publisher is
    kind = KIND_QUOTE if gives_up else KIND_TRADE
    reader.until(lambda: reader.seqs(kind, "AAPL")[-1] == 10_001)
    assert (reader.counter("rebuilds") > 0) == gives_up
    assert (len(reader.seqs(kind, "AAPL")) < 10_001) == gives_up
    assert reader.counter("lost") == 10_001 - len(reader.seqs(kind, "AAPL"))
    assert bool(reader.gaps()) == gives_up


def test_what_a_publisher_says_while_it_is_behind_itself_is_stale_though_it_comes(bus: Joined, wire: Wire) -> None:
    """Fault 10 and I2, one hop on: a slow processor's prices come in time and are old."""
    reader = bus.read()
    wire.joined(reader)
    wire.beat(head=0)
    wire.quote(1)
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL") == [1])
    wire.beat(head=1, feed=bus.limits.stale_after_ns)
    wire.quote(2)
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL") == [1, 2])
    assert reader.links() == [1]
    wire.beat(head=2, other=0, feed=bus.limits.stale_after_ns + 1)
    reader.until(lambda: reader.links() == [1, 0])
    for seq in (3, 4):
        wire.quote(seq)
        wire.beat(head=seq, feed=bus.limits.stale_after_ns + seq)
    reader.until(lambda: reader.inbox.heartbeat(0) is not None and reader.seqs(KIND_QUOTE, "AAPL") == [1, 2, 3, 4])
    reader.turn()
    assert reader.links() == [1, 0], "its values do not bring it back"
    assert not reader.inbox.up(0)
    wire.beat(head=4, feed=0)
    reader.until(lambda: reader.links() == [1, 0, 1])
    wire.quote(4)  # as its snapshot and its repetitions say it
    wire.quote(5)
    reader.until(lambda: reader.seqs(KIND_QUOTE, "AAPL") == [1, 2, 3, 4, 4, 5])
    assert (reader.counter("lost"), reader.counter("rebuilds"), reader.counter("duplicates")) == (0, 0, 0)


def test_who_reads_no_prices_does_not_mind_that_a_publisher_is_behind(bus: Joined, wire: Wire) -> None:
    reader = bus.read("trade.")
    wire.joined(reader)
    wire.beat(head=0)
    reader.until(lambda: reader.links() == [1])
    wire.beat(head=0, feed=60 * SECOND_NS)
    reader.until(lambda: not reader.inbox._links[0].messages < 2)
    assert reader.inbox.up(0)


PUBLISHER = """
import sys
import time
import zmq
from fabric.bus import Outbox
from fabric.clock import SystemClock
from fabric.records import KIND_TRADE, TRADE, empty
from fabric.symbols import SymbolTable
from fabric.topology import Curve, JournalSettings, Limits, Publisher
pub, router, folder, epoch = sys.argv[1:]
journal = JournalSettings(folder, bytes_max=1 << 30)
publisher = Publisher("feed", pub, router, ("quote", "trade", "status"), venues="V", journal=journal)
symbols = SymbolTable(64)
limits = Limits(symbols_max=64)
out = Outbox(zmq.Context(), publisher, symbols, limits, SystemClock(), epoch=int(epoch), stamp="feed_ns")
rows = empty(200, TRADE, KIND_TRADE)
rows["symbol"], rows["venue"] = symbols.intern("AAPL"), ord("V")
rows["price"], rows["size"], rows["event_ns"] = 100_000_000_000, 100, 1
while True:
    out.send(rows)
    out.tick()
    time.sleep(0.004)
"""


def test_over_kills_of_its_publisher_a_reader_has_each_logged_trade_once_and_in_order(
    context: "zmq.Context[zmq.Socket[bytes]]", clock: ManualClock, tmp_path: Path
) -> None:
    """Conservation through kill -9 at random instants: what is in the log is what the reader got."""
    rng = random.Random(8)
    bus = Joined(context, clock)
    publisher = bus.publisher
    reader = Inbox(context, [Source(publisher, ("trade.",))], SymbolTable(64), Limits(symbols_max=64), SystemClock())
    got: list[np.ndarray[Any, Any]] = []

    def turn() -> None:
        rows = reader.recv_batch(5)
        assert not (rows["kind"] == KIND_GAP).any()
        got.append(np.stack([rows["symbol"], rows["position"]], 1)[rows["kind"] == KIND_TRADE])

    arguments = [publisher.endpoint, publisher.snapshot_endpoint, str(tmp_path)]
    for epoch in range(1, 4):
        with subprocess.Popen([sys.executable, "-c", PUBLISHER, *arguments, str(epoch)], cwd=ROOT) as process:
            deadline = time.monotonic() + 3 * PATIENCE_S
            target = sum(map(len, got)) + rng.randint(1, 30_000)
            while sum(map(len, got)) < target:
                turn()
                assert time.monotonic() < deadline, reader.counters()
            process.kill()
    segments = segments_of(tmp_path / "feed")
    held = [record[0] for record in records(Cursor(lambda: segments, Query()))]
    final = Outbox(
        context, replace(publisher, journal=JournalSettings(str(tmp_path), bytes_max=1 << 30)), SymbolTable(64),
        Limits(symbols_max=64), SystemClock(), epoch=4, stamp="feed_ns",
    )  # fmt: skip
    deadline = time.monotonic() + 3 * PATIENCE_S
    while not any((rows[:, 1] == held[-1]).any() for rows in got):
        assert time.monotonic() < deadline, (reader.counters(), held[-1])
        final.tick()
        turn()
    every = np.concatenate(got)
    assert np.array_equal(np.sort(every[:, 1]), np.arange(every[:, 1].min(), held[-1] + 1))
    assert all((np.diff(every[every[:, 0] == symbol, 1]) > 0).all() for symbol in np.unique(every[:, 0]))
    assert held[-1] > 0
    assert (reader.counters()["lost"], reader.counters()["gaps"]) == (0, 0)
    reader.close()
    final.close()


# CURVE keys.


@pytest.fixture
def locked(bus: Joined, tmp_path: Path) -> Joined:
    """A publisher that lets in its own host and one bot, whose secret key is in `bot.key`."""
    public, bot = keys.make_curve(tmp_path / "node.key"), keys.make_curve(tmp_path / "bot.key")
    bus.curve = Curve(str(tmp_path / "node.key"), public, (public, bot))
    bus.publisher = replace(bus.publisher, curve=bus.curve)
    return bus


def raw(joined: Joined, kind: int, server: str, pair: tuple[bytes, bytes] | None) -> "zmq.Socket[bytes]":
    """A SUB to the publisher or a DEALER to its ROUTER, with nothing but pyzmq."""
    socket = joined.context.socket(kind)
    if pair is not None:
        socket.curve_serverkey = server.encode()
        socket.curve_publickey, socket.curve_secretkey = pair
    if kind == zmq.SUB:
        socket.subscribe("node.")
        socket.connect(joined.publisher.endpoint)
    else:
        socket.connect(joined.publisher.snapshot_endpoint)
        socket.send_multipart([b"1", b"head"])
    return socket


def test_readers_with_known_keys_get_everything(locked: Joined) -> None:
    out = locked.publish()
    out.send(locked.quotes("AAPL"))
    reader = locked.joined()
    out.send(locked.trades("MSFT"))
    reader.until(lambda: reader.kinds().count(KIND_QUOTE) == reader.kinds().count(KIND_TRADE) == 1)
    locked.die()
    locked.publish().send(locked.quotes("X"))
    reader.until(lambda: reader.kinds().count(KIND_QUOTE) == 2)
    assert locked.outbox is not None
    assert locked.outbox.counters()["keys_refused"] == 0


def test_a_bot_with_nothing_but_pyzmq_comes_in_by_its_key(locked: Joined, tmp_path: Path) -> None:
    out = locked.publish()
    assert locked.curve is not None
    secret = (tmp_path / "bot.key").read_text().strip().encode()
    for kind in (zmq.SUB, zmq.DEALER):
        with raw(locked, kind, locked.curve.public_key, (zmq.curve_public(secret), secret)) as bot:
            deadline = time.monotonic() + PATIENCE_S
            while not bot.poll(5):
                assert time.monotonic() < deadline
                out.tick()
                locked.clock.advance(BEAT_STEP_NS)


@pytest.mark.parametrize("kind", [zmq.SUB, zmq.DEALER])
@pytest.mark.parametrize("what", ["no key", "an unknown key", "another server's key"])
def test_who_has_no_good_key_is_refused_and_counted(locked: Joined, tmp_path: Path, kind: int, what: str) -> None:
    out = locked.publish()
    assert locked.curve is not None
    secret = (tmp_path / "bot.key").read_text().strip().encode()
    pair, server = (zmq.curve_public(secret), secret), locked.curve.public_key
    if what == "another server's key":
        server = zmq.curve_keypair()[0].decode()
    with raw(locked, kind, server, {"no key": None, "an unknown key": zmq.curve_keypair()}.get(what, pair)) as stranger:
        deadline = time.monotonic() + PATIENCE_S
        while not out.counters()["keys_refused"]:
            assert time.monotonic() < deadline
            out.tick()
            locked.clock.advance(BEAT_STEP_NS)
        assert not stranger.poll(0)
    reader = locked.joined()  # nobody else suffers from it
    assert reader.inbox.ready()


def test_keys_that_do_not_fit_are_told_before_anything_is_bound(locked: Joined, tmp_path: Path) -> None:
    assert locked.curve is not None
    locked.publisher = replace(locked.publisher, curve=replace(locked.curve, secret_file=str(tmp_path / "bot.key")))
    with pytest.raises(FabricError, match=r"bot\.key holds the secret half of another pair than curve_public_key"):
        locked.publish()
    locked.publisher = replace(locked.publisher, curve=replace(locked.curve, secret_file=str(tmp_path / "no.key")))
    with pytest.raises(FabricError, match=r"no\.key: No such file"):
        locked.publish()
    locked.curve = None
    with pytest.raises(FabricError, match="feed lets in known CURVE keys only, and this host has none"):
        locked.read()
