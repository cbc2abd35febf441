"""A made-up market for tests of the fan-out: rows by hand, through `Latest` and `Fanout` as the gateway's pump does."""

import json
from typing import Any

import msgpack

from fabric.clock import MILLISECOND_NS, Clock
from fabric.records import (
    BAR,
    EVENT,
    GAP,
    KIND_BAR_1M,
    KIND_GAP,
    KIND_LINK,
    KIND_NBBO,
    KIND_QUOTE,
    KIND_STATUS,
    KIND_TRADE,
    LINK,
    NBBO,
    NULL,
    QUOTE,
    STATUS,
    TRADE,
    Rows,
    empty,
    pack,
)
from fabric.symbols import SymbolTable
from fabric.topology import GatewaySettings, Limits, Publisher, Source, Topology, Venue
from gateway import protocol
from gateway.fanout import Client, Fanout
from gateway.latest import Latest
from gateway.protocol_kernel import JSON, MSGPACK

VENUES = (Venue("V", "IEX", "iex"), Venue("N", "NYSE", "nyse"))
FEED, BEST, CANDLES = range(3)
SOURCES = tuple(
    Source(publisher, ("",))
    for publisher in (
        Publisher("feed", "", "", ("quote", "trade", "status"), "VN"),
        Publisher("nbbo", "", "", ("nbbo",)),
        Publisher("candles", "", "", ("bar.1m", "bar.5m", "bar.1h", "bar.1d")),
    )
)
MINUTE_NS = 60_000_000_000
OPEN_NS = 1_767_366_000_000_000_000


class FakeSink:
    """A connection without a socket: takes everything, unless told that it is stuck."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.client: Client | None = None
        self.closed: tuple[int, str] | None = None

    def stick(self, stuck: bool = True) -> None:
        """Let it hold bytes from now on, or no more."""
        assert self.client is not None
        if stuck:
            self.client.blocked()
        else:
            self.client.freed()

    def write(self, data: bytes) -> None:
        self.frames.append(data)

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def abort(self) -> None:
        self.closed = (1006, "")


class Market:
    """The gateway's memory and fan-out without bus or sockets."""

    def __init__(
        self,
        clock: Clock,
        limits: Limits | None = None,
        venues: tuple[Venue, ...] = VENUES,
        sources: tuple[Source, ...] = SOURCES,
    ) -> None:
        limits = limits or Limits(symbols_max=2_000, clients_max=2_000, candles_kept=2)
        self.clock = clock
        self.symbols = SymbolTable(limits.symbols_max)
        self.latest = Latest(limits, venues, sources, self.symbols)
        settings = GatewaySettings("127.0.0.1", 0, ("",), origins=("https://ours.example",))
        self.fanout = Fanout(Topology("test", (), venues, limits), settings, self.symbols, self.latest, clock)
        self.feeds = protocol.feeds(venues)
        self._seq = 0

    def client(self, feed: str = "stream", encoding: int = JSON) -> tuple[Client, FakeSink]:
        """A client that gets its frames in a list."""
        sink = FakeSink()
        client = sink.client = Client(sink, -1, self.feeds[feed], encoding, "test")
        assert self.fanout.add(client)
        return client, sink

    def flush(self) -> None:
        while self.fanout.flush(self.clock.monotonic_ns()):
            pass

    def check_books(self) -> dict[str, int]:
        """What clients were offered is what became of it, to the message; raises AssertionError."""
        books = self.fanout.books()
        accounted = sum(count for name, count in books.items() if name != "offered")
        assert books["offered"] == accounted, books
        assert min(books.values()) >= 0, books
        return books

    def apply(self, *rows: Rows) -> None:
        """One batch of the bus."""
        batch = empty(len(rows), EVENT)
        for place, row in enumerate(rows):
            batch[place] = row.view(EVENT)[0]
        self.latest.apply(batch, self.clock.now_ns())
        self.fanout.apply(batch)

    def _row(self, dtype: Any, kind: int, symbol: str, venue: str = "") -> Rows:
        self._seq += 1
        row = empty(1, dtype, kind)
        row["symbol"] = self.symbols.intern(symbol)
        row["venue"] = ord(venue) if venue else 0
        row["seq"] = row["exchange_seq"] = self._seq
        row["epoch"], row["event_ns"] = 1, OPEN_NS + self._seq
        return row

    def nbbo(self, symbol: str, bid_px: int, ask_px: int | None = None, epoch: int = 1) -> Rows:
        row = self._row(NBBO, KIND_NBBO, symbol)
        row["epoch"], row["state"] = epoch, 0
        row["bid_px"], row["bid_size"], row["bid_venue"] = bid_px, 100, ord("V")
        row["ask_px"], row["ask_size"], row["ask_venue"] = ask_px or bid_px + 10**7, 200, ord("N")
        return row

    def quote(self, symbol: str, bid_px: int, venue: str = "V") -> Rows:
        row = self._row(QUOTE, KIND_QUOTE, symbol, venue)
        row["bid_px"], row["bid_size"], row["ask_px"], row["ask_size"] = bid_px, 100, bid_px + 10**7, 300
        row["condition"], row["tape"] = pack("R"), pack("C")
        return row

    def trade(self, symbol: str, price: int, venue: str = "V", mark: str = "", of: int = 0) -> Rows:
        row = self._row(TRADE, KIND_TRADE, symbol, venue)
        row["price"], row["size"], row["trade_id"] = price, 10, self._seq
        row["condition"], row["tape"], row["mark"] = pack("@I"), pack("C"), pack(mark)
        row["original_id"] = of
        return row

    def bar(self, symbol: str, minute: int, close_px: int, rev: int, kind: int = KIND_BAR_1M) -> Rows:
        row = self._row(BAR, kind, symbol)
        row["event_ns"] = OPEN_NS + minute * MINUTE_NS
        for name in ("open_px", "high_px", "low_px", "close_px", "vwap_px"):
            row[name] = close_px
        row["volume"], row["trades"], row["rev"], row["final"], row["gap"] = 100, 3, rev, 0, 0
        return row

    def status(self, symbol: str, venue: str = "V", **columns: str | int) -> Rows:
        row = self._row(STATUS, KIND_STATUS, symbol, venue)
        for name, value in columns.items():
            row[name] = pack(value) if isinstance(value, str) else value
        return row

    def link(self, publisher: int, up: bool, epoch: int = NULL) -> Rows:
        row = empty(1, LINK, KIND_LINK)
        row["publisher"], row["up"], row["epoch"] = publisher, int(up), epoch
        return row

    def lost_trades(self, symbol: str, count: int, venue: str = "V") -> Rows:
        row = self._row(GAP, KIND_GAP, symbol, venue)
        row["publisher"], row["channel_kind"], row["gap_from"], row["gap_to"] = FEED, KIND_TRADE, 11, 10 + count
        return row


def messages(frames: list[bytes]) -> list[dict[str, Any]]:
    """What is in some whole frames, all of it; the list is emptied."""
    found: list[dict[str, Any]] = []
    for frame in frames:
        size, start = frame[1], 2
        if size == 126:
            size, start = int.from_bytes(frame[2:4], "big"), 4
        assert len(frame) == start + size, "a frame that is not whole"
        payload = frame[start:]
        found += decode(payload, JSON if frame[0] == 0x81 else MSGPACK)
    frames.clear()
    return found


def decode(payload: str | bytes, encoding: int) -> list[dict[str, Any]]:
    """The messages of one payload."""
    return list(json.loads(payload) if encoding == JSON else msgpack.unpackb(payload))


def interval(clock: Any, count: int = 1) -> None:
    """Let the default interval of /stream pass."""
    clock.advance(count * 100 * MILLISECOND_NS)
