"""A processor that is killed at any instant comes back as if it had only been slow: state, numbers, published rows.

The "killed" one is left as it is and its folder copied: a killed process leaves just what it had written.
"""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from fabric import bus_kernel, codec_kernel, order_kernel, sequence_kernel
from fabric import recovery as recoveries
from fabric.bus import Inbox, Outbox
from fabric.clock import SystemClock, TurnClock
from fabric.journal import Cursor, Query, records, segments
from fabric.records import KIND_LINK, KIND_QUOTE, KIND_TRADE, PRICE_UNIT, QUOTE, TRADE, Rows, columns, empty, pack
from fabric.recovery import Recovery
from fabric.symbols import SymbolTable
from fabric.topology import JournalSettings, Limits, NodeSpec, ProcessorSettings, Publisher, Source, Topology
from nodes.candles import Candles
from nodes.nbbo import Nbbo
from order_twin import expected, logged
from support import free_port

SYMBOLS = 64
LIMITS = Limits(symbols_max=SYMBOLS, batch_max=4_096, queue_max=50_000)
PATIENCE_S = 15.0
VENUES = "NV"
Node = Any
Make = Callable[[TurnClock], Node]


def nbbo(_: TurnClock) -> Node:
    return Nbbo(SYMBOLS, VENUES, ("N", "V"), LIMITS.batch_max, channels=("nbbo", "bolo", "why"))


def candles(clock: TurnClock) -> Node:
    return Candles(SYMBOLS, ("N", "V"), LIMITS.batch_max, clock, publish_every_ns=20_000_000, log_max=1 << 12)


CHANNELS = {nbbo: ("nbbo", "bolo", "why"), candles: ("bar.1m", "bar.5m", "bar.1h", "bar.1d")}


class Market:
    """Two feeds with logs, and a processor that reads them."""

    def __init__(self, folder: Path, context: "zmq.Context[zmq.Socket[bytes]]", make: Make) -> None:
        self.context, self.make, self.clock = context, make, SystemClock()
        self.settings = JournalSettings(str(folder / "logs"), bytes_max=64 << 20)
        self.rng = random.Random(3)
        self.symbols = SymbolTable(SYMBOLS)
        channels = ("quote", "trade", "status")
        self.publishers = [self._publisher(name, channels, letter) for name, letter in (("n", "N"), ("v", "V"))]
        self.feeds = [self._outbox(publisher, 1) for publisher in self.publishers]
        self.sources = [Source(publisher, ("quote.", "trade.", "status.")) for publisher in self.publishers]
        self.open: list[Any] = []
        self.epoch = 10

    def _publisher(self, name: str, channels: tuple[str, ...], venues: str = "") -> Publisher:
        pub, router = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
        return Publisher(name, pub, router, channels, venues, journal=self.settings)

    def _outbox(self, publisher: Publisher, epoch: int) -> Outbox:
        return Outbox(self.context, publisher, self.symbols, LIMITS, self.clock, epoch=epoch, stamp="feed_ns")

    def publish(self, feed: int, count: int = 20) -> None:
        rows = []
        for _ in range(count):
            kind = self.rng.choice([KIND_QUOTE, KIND_QUOTE, KIND_TRADE])
            row = empty(1, QUOTE if kind == KIND_QUOTE else TRADE, kind)
            row["symbol"] = self.symbols.intern(f"S{self.rng.randrange(40)}")
            row["venue"], row["event_ns"] = ord(VENUES[feed]), self.clock.now_ns()
            price = (100 + self.rng.randrange(9)) * PRICE_UNIT
            if kind == KIND_QUOTE:
                row["bid_px"], row["bid_size"], row["ask_px"], row["ask_size"] = price, 100, price + PRICE_UNIT, 200
                row["condition"], row["tape"] = pack("R"), pack("C")
            else:
                row["price"], row["size"], row["tape"] = price, self.rng.randrange(1, 500), pack("C")
                row["trade_id"] = self.rng.randrange(10**6)
            rows.append(columns(row))
        self.feeds[feed].send(np.concatenate(rows).view(QUOTE).reshape(count))

    def start(self, settings: JournalSettings | None = None, **limits: Any) -> "Processor":
        self.epoch += 1
        return Processor(self, settings or self.settings, self.epoch, replace(LIMITS, **limits))

    def turn(self, processor: "Processor", count: int = 1) -> None:
        for _ in range(count):
            for feed, outbox in enumerate(self.feeds):
                if self.rng.random() < 0.6:
                    self.publish(feed, self.rng.randrange(1, 40))
                outbox.tick()
            processor.turn()

    def left_behind(self, processor: "Processor", folder: Path) -> JournalSettings:
        """The folders as they are at this instant; what the processor does from now on is not seen by anyone."""
        folder.mkdir()
        for publisher in self.publishers:
            (folder / publisher.name).symlink_to(Path(self.settings.folder) / publisher.name)
        shutil.copytree(Path(processor.settings.folder) / "p", folder / "p")
        return replace(self.settings, folder=str(folder))

    def close(self) -> None:
        for end in reversed(self.open):
            end.close()
        for feed in self.feeds:
            feed.close()


class Processor:
    """What `fabric.node.run` drives, turn by turn."""

    def __init__(self, market: Market, settings: JournalSettings, epoch: int, limits: Limits) -> None:
        self.market, self.settings, self.clock = market, settings, TurnClock()
        self.symbols = SymbolTable(SYMBOLS)
        self.node = market.make(self.clock)
        own = replace(market._publisher("p", CHANNELS[market.make]), journal=settings)  # type: ignore[index]
        self.inbox = Inbox(market.context, market.sources, self.symbols, limits, market.clock)
        self.outbox = Outbox(market.context, own, self.symbols, limits, market.clock, epoch=epoch, stamp="proc_ns")
        # The ports differ from life to life; the node does not.
        own = replace(own, endpoint="", snapshot_endpoint="", journal=replace(settings, folder=""))
        spec = NodeSpec("p", "processor", "p", ProcessorSettings(VENUES, ""), replace(own, journal=settings),
                        tuple(market.sources))  # fmt: skip
        feeds = tuple(NodeSpec(p.name, "feed", "f", ProcessorSettings("", ""), p) for p in market.publishers)
        topology = Topology("t", (*feeds, spec), (), limits=limits)
        self.recovery = Recovery(
            self.node, self.inbox, self.outbox, self.symbols, self.clock, market.clock, topology=topology, spec=spec,
            epoch=epoch,
        )  # fmt: skip
        market.open += [self.inbox, self.outbox, self.recovery]
        self.seamless = self.recovery.recover()
        self.rows: list[Rows] = []

    def turn(self) -> None:
        batch = self.inbox.recv_batch(2)
        now_ns = self.clock.begin(self.market.clock)
        self.recovery.note(batch)
        self.rows.append(batch.copy())
        self.outbox.send(self.node.step(batch, now_ns))
        self.outbox.tick()
        self.recovery.keep()

    def until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            assert time.monotonic() < deadline, f"never happened; {self.inbox.counters()}"
            self.market.turn(self)

    def checkpoint(self) -> None:
        self.recovery._checkpoint()
        assert self.recovery._writer is not None
        self.recovery._writer.join()

    def drain(self) -> None:
        """Take all that the feeds have published."""
        heads = [feed.position for feed in self.market.feeds]
        deadline = time.monotonic() + PATIENCE_S
        while [position for _, position in self.inbox.positions().values()] != heads:
            assert time.monotonic() < deadline, (self.inbox.positions(), heads)
            for feed in self.market.feeds:
                feed.tick()
            self.turn()


@pytest.fixture(params=[nbbo, candles], ids=["nbbo", "candles"])
def market(
    request: pytest.FixtureRequest, tmp_path: Path, context: "zmq.Context[zmq.Socket[bytes]]",
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Market]:  # fmt: skip
    # A test's folders change from life to life: all else that a signature stands for is the same.
    monkeypatch.setattr(recoveries, "_signature", lambda spec: repr(spec.name).encode())
    made = Market(tmp_path, context, request.param)
    for part in (bus_kernel, codec_kernel, order_kernel, sequence_kernel, request.param(TurnClock())):
        part.warm_up()  # compiling, or loading, takes longer than a reader may be away
    yield made
    made.close()


def same(market: Market, processor: Processor) -> None:
    """State and log of the processor are what a fresh node gives for the order log."""
    folder = Path(processor.settings.folder) / "p"
    sources = [replace(s, publisher=replace(s.publisher, journal=market.settings)) for s in market.sources]
    wanted, node = expected(folder / "order", sources, market.make, SYMBOLS)
    found = logged(folder)
    assert len(wanted) > 200
    assert [m[0] for m in found] == list(range(1, len(found) + 1)), "nothing twice, nothing left out"
    assert found == wanted
    for name, array in node.arrays().items():
        if name not in ("scratch", "out"):
            assert array.tobytes() == processor.node.arrays()[name].tobytes(), name


def taken(folder: Path, *publishers: str) -> dict[str, int]:
    """How many records the logs hold."""
    return {name: sum(segment.records for segment in segments(folder / name)) for name in publishers}


@pytest.mark.parametrize(
    "how", ["between turns", "noted and not taken", "half published", "no checkpoint but the first"]
)
def test_killed_at_any_instant_it_goes_on_as_if_nothing_had_been(market: Market, tmp_path: Path, how: str) -> None:
    old = market.start()
    old.until(lambda: old.inbox.ready() and old.outbox.position > 300)
    for life in range(3):
        if how != "no checkpoint but the first":
            old.checkpoint()
        market.turn(old, 15)
        market.publish(0, 30)
        if how == "noted and not taken":
            batch = old.inbox.recv_batch(20)
            old.clock.begin(market.clock)
            old.recovery.note(batch)
        elif how == "half published":
            batch = old.inbox.recv_batch(20)
            now_ns = old.clock.begin(market.clock)
            old.recovery.note(batch)
            made = old.node.step(batch, now_ns)
            old.outbox.send(made[: made.size // 2])
        settings = market.left_behind(old, tmp_path / f"life{life}")
        market.publish(1, 50)  # while nobody reads
        new = market.start(settings)
        assert new.seamless
        assert new.outbox.position >= old.outbox.position
        assert new.recovery.counters()["recovered_turns"] > 0
        new.until(new.inbox.ready)
        market.turn(new, 20)
        old = new
    old.drain()
    same(market, old)
    counters = old.inbox.counters()
    assert (counters["lost"], counters["gaps"], counters["duplicates"]) == (0, 0, 0)


def test_killed_again_and_again_it_has_no_more_to_take_each_time(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was taken again counts for the next checkpoint: no life here is long enough for one of its own."""
    monkeypatch.setattr(recoveries, "CHECKPOINT_ROWS", 1_500)
    monkeypatch.setattr(recoveries, "COST_SHARE", 0)
    old = market.start()
    old.until(lambda: old.inbox.ready() and old.outbox.position > 300)
    old.checkpoint()
    again = []
    for life in range(6):
        before = sum(rows.size for rows in old.rows)
        while sum(rows.size for rows in old.rows) - before < 500:
            market.turn(old)
        if old.recovery._writer is not None:
            old.recovery._writer.join()
        old = market.start(market.left_behind(old, tmp_path / f"life{life}"))
        assert old.seamless
        again.append(old.recovery.counters()["recovered_rows"])
        old.until(old.inbox.ready)
    assert max(again) < 2 * 1_500, again


def test_one_that_was_told_to_stop_has_nothing_to_take_again(market: Market, tmp_path: Path) -> None:
    old = market.start()
    old.until(lambda: old.inbox.ready() and old.outbox.position > 300)
    old.recovery.leave()
    old.recovery.close()
    new = market.start(market.left_behind(old, tmp_path / "life"))
    assert new.seamless
    assert new.recovery.counters()["recovered_turns"] == 0
    new.until(new.inbox.ready)
    new.drain()
    same(market, new)


def test_nothing_is_given_twice_or_left_out_over_a_kill(market: Market, tmp_path: Path) -> None:
    first = market.start()
    first.until(lambda: first.inbox.ready() and first.outbox.position > 300)
    market.turn(first, 5)
    second = market.start(market.left_behind(first, tmp_path / "life"))
    market.turn(second, 20)
    second.drain()
    rows = np.concatenate([*first.rows, *second.rows])
    market_rows = rows[rows["kind"] <= KIND_TRADE]
    for feed, letter in zip(market.feeds, VENUES, strict=True):
        got = market_rows["position"][market_rows["venue"] == ord(letter)].tolist()
        assert len(got) == len(set(got))
        assert max(got) == feed.position
        assert sorted(got) == list(range(got[0], feed.position + 1))


def test_readers_get_the_last_values_of_the_recovered_under_its_epoch(market: Market, tmp_path: Path) -> None:
    old = market.start()
    old.until(lambda: old.inbox.ready() and old.outbox.position > 300)
    new = market.start(market.left_behind(old, tmp_path / "life"))
    for channel in CHANNELS[market.make]:  # type: ignore[index]
        before, after = old.outbox.values.select(f"{channel}."), new.outbox.values.select(f"{channel}.")
        assert before.size == after.size
        assert set(after["epoch"].tolist()) <= {new.market.epoch}
        for name in ("symbol", "seq", "position", "event_ns"):
            assert (before[name] == after[name]).all()
    log = Path(new.settings.folder) / "p"
    listing = segments(log)
    assert {epoch for _, epoch, *_ in records(Cursor(lambda: listing, Query()))} == {market.epoch - 1}


def test_after_a_long_outage_all_inputs_are_told_as_lost(market: Market, tmp_path: Path) -> None:
    old = market.start()
    old.until(lambda: old.inbox.ready() and old.outbox.position > 300)
    old.checkpoint()
    settings = market.left_behind(old, tmp_path / "life")
    time.sleep(0.05)
    new = market.start(settings, stale_after_ns=20_000_000)
    assert not new.seamless
    new.turn()
    assert {int(row["kind"]) for row in new.rows[0][:2]} == {KIND_LINK}
    market.publish(0, 60)
    new.inbox._limits = LIMITS  # from here on it may be slow
    new.until(new.inbox.ready)
    new.drain()
    new.recovery.close()
    same(market, new)
    rows = np.concatenate([*old.rows, *new.rows])
    trades = rows["position"][(rows["kind"] == KIND_TRADE) & (rows["venue"] == ord("N"))].tolist()
    log = Path(market.settings.folder) / "n"
    listing = segments(log)
    wanted = [p for p, *_ in records(Cursor(lambda: listing, Query(first=trades[0], prefixes=(b"trade.",))))]
    assert trades == wanted, "trades of an outage come from the log"


def test_where_an_input_has_forgotten_it_goes_on_from_the_turn_before(market: Market, tmp_path: Path) -> None:
    old = market.start()
    old.until(lambda: old.inbox.ready() and old.outbox.position > 300)
    settings = market.left_behind(old, tmp_path / "life")
    feed = tmp_path / "life" / market.publishers[0].name
    feed.unlink()
    feed.mkdir()
    market.sources[0] = replace(market.sources[0], publisher=replace(market.publishers[0], journal=settings))
    new = market.start(settings)
    assert not new.seamless
    assert new.outbox.position >= old.outbox.position, "no position is used twice"


def test_an_order_log_with_a_hole_or_a_broken_checkpoint_is_not_taken_up(market: Market, tmp_path: Path) -> None:
    old = market.start()
    old.until(lambda: old.inbox.ready() and old.outbox.position > 300)
    settings = market.left_behind(old, tmp_path / "broken")
    path = tmp_path / "broken" / "p" / "checkpoint.npz"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(bytes(raw))
    new = market.start(settings)
    assert (new.seamless, new.recovery.counters()["recovered_turns"]) == (False, 0)
    assert new.outbox.position == old.outbox.position

    settings = market.left_behind(old, tmp_path / "hole")
    (segment,) = segments(tmp_path / "hole" / "p" / "order")
    raw = bytearray(segment.path.read_bytes())
    raw[segment.end // 2] ^= 0xFF
    segment.path.write_bytes(bytes(raw))
    new = market.start(settings)
    assert (new.seamless, new.recovery.counters()["recovered_turns"]) == (False, 0)
