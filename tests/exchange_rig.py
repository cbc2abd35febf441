"""What tests of simulated exchanges share: a runtime for the program, and what its packets say to the real decoder."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import numpy as np

from fabric.clock import ManualClock, SystemClock
from fabric.records import EVENT as ROW
from fabric.records import KIND_QUOTE, KIND_STATUS, KIND_TRADE, NULL, QUOTE, STATUS, TRADE, unpack
from fabric.topology import ExchangeSettings, FeedSettings
from nodes.exchanges import market_events_kernel as event_kinds
from nodes.exchanges.encoder import Encoder
from nodes.exchanges.exchange import Exchange, Program
from nodes.exchanges.market import NEVER_NS, Market, tickers
from nodes.exchanges.pacing import TICK_NS, Pacer
from nodes.exchanges.sender import Sender
from nodes.exchanges.store import Store
from nodes.feeds.wire_kernel import BLOCK


class Listened:
    """A runtime that stops when the listener has heard enough, or after some reports."""

    def __init__(self, settings: ExchangeSettings, reports_max: int = 1_000) -> None:
        self.spec = SimpleNamespace(settings=settings)
        self.clock = SystemClock()
        self.detail = ""
        self.reports: list[dict[str, int | float | str]] = []
        self._reports_max = reports_max
        self.heard: Callable[[], bool] = lambda: False

    def ready(self, detail: str = "") -> None:
        self.detail = detail

    def stopping(self) -> bool:
        return self.heard() or len(self.reports) >= self._reports_max

    def report(self, counters: dict[str, int | float | str]) -> None:
        self.reports.append(counters)


def market(**settings: Any) -> Market:
    """A market of 300 symbols with a halt each second."""
    return Market(300, 3, RECEIVED_NS, rate=20_000.0, halts_per_hour=3_600.0, announce_ns=5 * 10**9, **settings)


def stream(market: Market, encoder: Encoder, count: int) -> tuple[np.ndarray, list[bytes]]:
    """The first ``count`` events or more of a market, as fast as it goes, and the packets that tell them."""
    parts, packets, made = [], [], 0
    while made < count:
        events = market.take(NEVER_NS).copy()
        taken = 0
        while taken < events.size:
            taken, used = encoder.encode(events, taken)
            packets += [encoder.packets[i, : encoder.lengths[i]].tobytes() for i in range(used)]
        parts.append(events)
        made += events.size
    return np.concatenate(parts), packets


def framed(frame: Callable[..., tuple[int, int]], packets: list[bytes], counters: int, *state: Any) -> Iterator[Any]:
    """(buffer, blocks) of packets that came on one line one microsecond apart, none of them malformed."""
    counts = np.zeros(counters, np.int64)
    for start in range(0, len(packets), 256):
        part = packets[start : start + 256]
        lengths = np.array([len(packet) for packet in part], np.int64)
        buffer = np.frombuffer(b"".join(part), np.uint8).copy()
        recv_ns = RECEIVED_NS + np.arange(start, start + len(part))
        blocks = np.zeros(len(part), BLOCK)
        offsets, zeros = np.cumsum(lengths) - lengths, np.zeros(len(part), np.int64)
        arrays = (buffer, offsets, lengths, recv_ns, zeros, np.zeros(1, np.int64))
        assert frame(*arrays, 0, blocks, counts, *state) == (len(part), len(part))
        yield buffer, blocks
    assert counts[0] == len(packets)


class Said(NamedTuple):
    """What a decoder said: each change of a best, trades, and statuses of symbols."""

    quotes: list[tuple[Any, ...]]  # name, event time, bid, its size, ask, its size (None: no side)
    trades: list[tuple[Any, ...]]  # name, event time, price, size, number, mark, number of the original
    statuses: list[tuple[str, int, str]]  # name, event time, trading


def said(rows: np.ndarray, names: list[str]) -> Said:
    """Rows of the bus as plain values; quotes that repeat the last of their symbol left out."""
    found = Said([], [], [])
    last: dict[str, tuple[Any, ...]] = {}
    for row in rows[rows["kind"] == KIND_QUOTE].view(QUOTE):
        name = names[row["symbol"]]
        best = sides(*row[["bid_px", "bid_size", "ask_px", "ask_size"]].item())
        if best != last.get(name, NO_SIDES):
            found.quotes.append((name, int(row["event_ns"]), *best))
        last[name] = best
    for row in rows[rows["kind"] == KIND_TRADE].view(TRADE):
        values = row[["event_ns", "price", "size", "trade_id"]].item()
        original = plain(row["original_id"])
        found.trades.append((names[row["symbol"]], *map(plain, values), unpack(row["mark"]), original))
    for row in rows[rows["kind"] == KIND_STATUS].view(STATUS):
        if row["symbol"] and unpack(row["trading"]):
            found.statuses.append((names[row["symbol"]], int(row["event_ns"]), unpack(row["trading"])))
    return found._replace(statuses=changes(found.statuses))


def meant(events: np.ndarray, names: tuple[str, ...]) -> Said:
    """What a decoder should say of events; breaks say neither price nor size here (`without_broken`)."""
    found = Said([], [], [])
    last: dict[int, tuple[Any, ...]] = {}
    columns = ["kind", "symbol", "event_ns", "bid_px", "bid_size", "ask_px", "ask_size", "price", "size", "code"]
    for values in events[[*columns, "trade_id", "original_id"]].tolist():
        kind, symbol, event_ns, bid_px, bid_size, ask_px, ask_size, price, size, code, trade_id, original = values
        name = names[symbol]
        if kind == event_kinds.QUOTE or kind >= event_kinds.ADD:
            best = sides(bid_px, bid_size, ask_px, ask_size)
            if best != last.get(symbol, NO_SIDES):
                found.quotes.append((name, event_ns, *best))
            last[symbol] = best
        if kind in {event_kinds.TRADE, event_kinds.EXECUTE, event_kinds.HIDDEN}:
            found.trades.append((name, event_ns, price, size, trade_id, "", None))
        elif kind == event_kinds.BREAK:
            found.trades.append((name, event_ns, price, size, None, "x", trade_id))
        elif kind == event_kinds.CORRECTION:
            found.trades.append((name, event_ns, price, size, trade_id, "c", original))
        elif kind == event_kinds.STATUS:
            found.statuses.append((name, event_ns, chr(code)))
    return found._replace(statuses=changes(found.statuses))


def changes(statuses: list[tuple[str, int, str]]) -> list[tuple[str, int, str]]:
    """Statuses without those that say what was known."""
    last: dict[str, str] = {}
    found = []
    for name, event_ns, trading in statuses:
        if last.get(name) != trading:
            found.append((name, event_ns, trading))
        last[name] = trading
    return found


def without_broken(trades: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Trades; of broken ones without price and size, which not every wire tells."""
    return [(*trade[:2], None, None, *trade[4:]) if trade[5] == "x" else trade for trade in trades]


class Served:
    """An exchange of 300 symbols under a clock of its own, with the request servers of a feed; nobody listens."""

    def __init__(self, program: Program, feed: FeedSettings, restart_ns: int = 0) -> None:
        self.clock = ManualClock(RECEIVED_NS)
        self.pacer = Pacer(self.clock, lambda seconds: self.clock.advance(round(seconds * 1e9)))
        encoder = program.encoder(tickers(300), 99, grid_ns=self.pacer.start_ns, tick_ns=TICK_NS)
        options = {"by_orders": program.by_orders, "renumbers": program.renumbers, "corrects": program.corrects}
        self.sender = Sender((), encoder.packets, encoder.lengths)
        self.exchange = Exchange(
            lambda start_ns: Market(300, 3, start_ns, rate=20_000.0, halts_per_hour=3_600.0, **options),
            *(encoder, self.sender, self.pacer, restart_ns, Store(program.transport)),
        )
        self.servers = program.servers(feed, self.exchange)
        self.exchange.serve(self.servers)

    def run(self, seconds: float) -> None:
        """Go on until so long after the start."""
        while self.pacer.now_ns() < self.pacer.start_ns + seconds * 1e9:
            self.exchange.tick(self.pacer.wait())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for server in self.servers:
            server.close()
        self.sender.close()


def rows_of(decode: Callable[..., Iterator[np.ndarray]], batches: Iterator[Any]) -> np.ndarray:
    """All rows that a decoder makes of framed batches."""
    rows = [part.copy() for buffer, blocks in batches for part in decode(buffer, blocks)]
    return np.concatenate(rows) if rows else np.zeros(0, ROW)


def sides(bid_px: int, bid_size: int, ask_px: int, ask_size: int) -> tuple[Any, ...]:
    """Both sides, each None, None where it does not exist."""
    bid = (bid_px, bid_size) if bid_size not in (0, NULL) else (None, None)
    return bid + ((ask_px, ask_size) if ask_size not in (0, NULL) else (None, None))


def plain(value: Any) -> int | None:
    """A column's value; None where it is undefined."""
    return None if value == NULL else int(value)


NO_SIDES = (None, None, None, None)
RECEIVED_NS = 1_767_366_000_000_000_000
"""2026-01-02T15:00:00Z: ten in New York on a trading day."""
