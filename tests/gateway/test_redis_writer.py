"""Which values are due when, and that a Redis that is away holds nothing up."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from fabric.clock import ManualClock, SystemClock
from fabric.records import (
    BAR,
    EVENT,
    KIND_BAR_1H,
    KIND_BAR_1M,
    KIND_LINK,
    KIND_NBBO,
    LINK,
    NBBO,
    STATE_STALE,
    Rows,
    empty,
)
from fabric.symbols import SymbolTable
from fabric.topology import CacheSettings, Limits, Publisher, Source
from gateway import redis_kernel
from gateway.redis_writer import Due, Pending, Writer, main
from gateway.store import ServerInfo, Written
from redis_servers import server, wait_for

NOW_NS = 1_767_366_000_000_000_000
MINUTE_NS = 60_000_000_000
MS = 1_000_000
SOURCES = tuple(
    Source(Publisher(name, "", "", ("nbbo", "bar.1m", "bar.5m", "bar.1h"), letters=letters), ("nbbo.",))
    for name, letters in (("nbbo-1", "ABC"), ("nbbo-2", "XYZ"))
)
LIMITS = Limits(symbols_max=64)


@pytest.fixture(autouse=True, scope="module")
def _kernels() -> None:
    redis_kernel.warm_up()


@pytest.fixture
def symbols() -> SymbolTable:
    return SymbolTable(LIMITS.symbols_max)


@pytest.fixture
def pending(symbols: SymbolTable) -> Pending:
    return Pending(CacheSettings(), LIMITS, SOURCES, symbols)


def quote(symbols: SymbolTable, name: str, seq: int = 1, state: int = 0, epoch: int = 1) -> Rows:
    row = empty(1, NBBO, KIND_NBBO)
    row["symbol"], row["seq"], row["epoch"], row["state"] = symbols.intern(name), seq, epoch, state
    row["bid_px"], row["event_ns"] = 100_000_000_000 + seq * 10_000_000, NOW_NS
    return row.view(EVENT)


def bar(symbols: SymbolTable, name: str, seq: int = 1, start_ns: int = NOW_NS, kind: int = KIND_BAR_1M) -> Rows:
    row = empty(1, BAR, kind)
    row["symbol"], row["seq"], row["epoch"], row["event_ns"] = symbols.intern(name), seq, 1, start_ns
    for price in ("open_px", "high_px", "low_px", "close_px"):
        row[price] = 1_000_000_000
    row["volume"] = seq
    return row.view(EVENT)


def link(publisher: int, up: int, epoch: int = 1) -> Rows:
    row = empty(1, LINK, KIND_LINK)
    row["publisher"], row["up"], row["epoch"] = publisher, up, epoch
    return row.view(EVENT)


def names(pending: Pending, due: Due) -> list[str]:
    return [pending.symbols.name(int(symbol)) for symbol in due.quotes["symbol"]]


def written(due: Due, ok: bool = True, emptied: bool = False) -> Written:
    return Written(np.full(due.quotes.size, ok), np.full(due.bars.size, ok), emptied, "" if ok else "away")


# What is due.


def test_only_what_changed_is_due_and_again_before_it_expires(pending: Pending, symbols: SymbolTable) -> None:
    pending.apply(np.concatenate([quote(symbols, "A"), quote(symbols, "X")]), NOW_NS)
    first = pending.take(0, NOW_NS)
    assert (names(pending, first), first.changed.tolist()) == (["A", "X"], [True, True])
    pending.apply(quote(symbols, "X", seq=2), NOW_NS)
    assert names(pending, pending.take(250 * MS, NOW_NS)) == ["X"]
    again = pending.take(500 * MS, NOW_NS)  # life 1 s, less two flushes
    assert (names(pending, again), again.changed.tolist()) == (["A"], [False])
    assert names(pending, pending.take(750 * MS, NOW_NS)) == ["X"]


def test_due_rows_are_copies(pending: Pending, symbols: SymbolTable) -> None:
    pending.apply(quote(symbols, "A"), NOW_NS)
    due = pending.take(0, NOW_NS)
    pending.apply(quote(symbols, "A", seq=2), NOW_NS)
    pending.take(250 * MS, NOW_NS)
    assert due.quotes["seq"].tolist() == [1]


def test_a_stale_quote_is_left_to_expire(pending: Pending, symbols: SymbolTable) -> None:
    pending.apply(quote(symbols, "A"), NOW_NS)
    pending.take(0, NOW_NS)
    pending.apply(quote(symbols, "A", seq=2, state=STATE_STALE), NOW_NS)
    assert names(pending, pending.take(1_000 * MS, NOW_NS)) == []
    pending.apply(quote(symbols, "A", seq=3), NOW_NS)
    assert names(pending, pending.take(1_250 * MS, NOW_NS)) == ["A"]


def test_quotes_of_a_lost_publisher_expire_and_return_when_it_says_them_again(
    pending: Pending, symbols: SymbolTable
) -> None:
    pending.apply(np.concatenate([quote(symbols, "A"), quote(symbols, "X")]), NOW_NS)
    pending.take(0, NOW_NS)
    pending.apply(link(1, up=0), NOW_NS)
    assert names(pending, pending.take(600 * MS, NOW_NS)) == ["A"]
    pending.apply(link(1, up=1), NOW_NS)
    assert names(pending, pending.take(650 * MS, NOW_NS)) == []
    pending.apply(quote(symbols, "X"), NOW_NS)
    back = pending.take(700 * MS, NOW_NS)
    assert (names(pending, back), back.changed.tolist()) == (["X"], [False])


def test_a_publisher_that_is_born_again_starts_anew(pending: Pending, symbols: SymbolTable) -> None:
    pending.apply(quote(symbols, "A"), NOW_NS)
    pending.take(0, NOW_NS)
    pending.apply(link(0, up=1, epoch=2), NOW_NS)
    assert names(pending, pending.take(600 * MS, NOW_NS)) == []
    pending.apply(quote(symbols, "A", seq=1, epoch=2), NOW_NS)
    assert pending.take(700 * MS, NOW_NS).changed.tolist() == [True]


def test_bars_are_due_once_and_not_when_they_would_have_expired(pending: Pending, symbols: SymbolTable) -> None:
    old = NOW_NS - 2 * MINUTE_NS
    pending.apply(np.concatenate([bar(symbols, "A"), bar(symbols, "B", start_ns=old)]), NOW_NS)
    pending.apply(bar(symbols, "B", start_ns=old, kind=KIND_BAR_1H), NOW_NS)
    due = pending.take(0, NOW_NS).bars
    assert sorted(zip(due["kind"].tolist(), due["symbol"].tolist(), strict=True)) == [
        (KIND_BAR_1M, 1),
        (KIND_BAR_1H, 2),
    ]
    assert pending.take(250 * MS, NOW_NS).bars.size == 0
    pending.apply(bar(symbols, "A", seq=2), NOW_NS)
    assert pending.take(500 * MS, NOW_NS).bars["volume"].tolist() == [2]


def test_what_was_not_written_is_due_again(pending: Pending, symbols: SymbolTable) -> None:
    pending.apply(np.concatenate([quote(symbols, "A"), quote(symbols, "X"), bar(symbols, "A")]), NOW_NS)
    due = pending.take(0, NOW_NS)
    pending.settle(due, Written(np.array([False, True]), np.array([False])))
    again = pending.take(1, NOW_NS)
    assert (names(pending, again), again.changed.tolist(), again.bars.size) == (["A"], [True], 1)


def test_all_is_due_again_after_a_flush_but_has_not_changed(pending: Pending, symbols: SymbolTable) -> None:
    pending.apply(np.concatenate([quote(symbols, "A"), quote(symbols, "X"), bar(symbols, "A")]), NOW_NS)
    due = pending.take(0, NOW_NS)
    pending.settle(due, written(due, emptied=True))
    again = pending.take(1, NOW_NS)
    assert (names(pending, again), again.changed.tolist(), again.bars.size) == (["A", "X"], [False, False], 1)


# The thread.


class FakeStore:
    """A store that answers when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.answer = Written(np.ones(0, np.bool_), np.ones(0, np.bool_))
        self.free = threading.Event()
        self.entered = threading.Semaphore(0)

    def write(self, symbols: SymbolTable, quotes: Rows, changed: Any, bars: Rows) -> Written:
        self.batches.append(quotes["seq"].tolist())
        self.entered.release()
        assert self.free.wait(10)
        return Written(np.ones(quotes.size, np.bool_), np.ones(bars.size, np.bool_), self.answer.emptied)

    def server_info(self) -> ServerInfo:
        return ServerInfo("redis 7.0.0", 3, 1, 0, 1)

    def state(self) -> str:
        return "closed"

    def close(self) -> None:
        self.free.set()


class FakeRuntime:
    """What `main` and `Writer` use of the launcher's view."""

    def __init__(self, inbox: Any, settings: CacheSettings, symbols: SymbolTable) -> None:
        self.spec = type("Spec", (), {"settings": settings, "reads": SOURCES})
        self.topology = type("Topology", (), {"limits": LIMITS})
        self.clock: Any = SystemClock()
        self.log = logging.getLogger("writer")
        self.symbols = symbols
        self.reports: list[dict[str, Any]] = []
        self.stop = threading.Event()
        self._inbox = inbox

    def inbox(self, linger_ns: int | None = None) -> Any:
        return self._inbox

    def ready(self, detail: str = "") -> None:
        pass

    def report(self, counters: Any) -> None:
        self.reports.append(counters() if callable(counters) else counters)

    def stopping(self) -> bool:
        return self.stop.is_set()


@pytest.fixture
def fake(pending: Pending, symbols: SymbolTable) -> Iterator[tuple[FakeStore, Writer]]:
    store = FakeStore()
    runtime: Any = FakeRuntime(None, CacheSettings(), symbols)
    writer = Writer(runtime, store, pending)  # type: ignore[arg-type]
    yield store, writer
    store.free.set()
    writer.close()


def flush_when_free(writer: Writer, monotonic_ns: int) -> None:
    def flushed() -> bool:
        before = writer.counters()["skipped"]
        writer.flush(monotonic_ns, NOW_NS)
        return writer.counters()["skipped"] == before

    wait_for(flushed)


def test_a_busy_thread_skips_flushes_and_then_gets_the_latest(
    fake: tuple[FakeStore, Writer], pending: Pending, symbols: SymbolTable
) -> None:
    store, writer = fake
    pending.apply(quote(symbols, "A", seq=1), NOW_NS)
    writer.flush(0, NOW_NS)
    assert store.entered.acquire(timeout=5)
    for seq in range(2, 7):  # none of these waits
        pending.apply(quote(symbols, "A", seq=seq), NOW_NS)
        writer.flush(seq * MS, NOW_NS)
    assert writer.counters()["skipped"] == 5
    store.free.set()
    flush_when_free(writer, 10 * MS)
    flush_when_free(writer, 11 * MS)
    assert store.batches[:2] == [[1], [6]]
    assert writer.counters()["written"] == 2


def test_the_server_is_asked_once_a_second(fake: tuple[FakeStore, Writer]) -> None:
    store, writer = fake
    store.free.set()
    flush_when_free(writer, 2_000 * MS)
    flush_when_free(writer, 2_001 * MS)
    counters = writer.counters()
    assert (counters["server"], counters["keys"], counters["breaker"]) == ("redis 7.0.0", 3, "closed")


def test_a_server_that_evicts_is_filled_again_once_a_second_only(fake: tuple[FakeStore, Writer]) -> None:
    store, writer = fake
    store.answer = Written(store.answer.quotes, store.answer.bars, emptied=True)
    store.free.set()
    for at_ms in range(0, 2_100, 250):
        flush_when_free(writer, at_ms * MS)
    assert writer.counters()["emptied"] == 2


# With a real server.


class FakeInbox:
    """Hands out one batch after the other; then nothing."""

    def __init__(self) -> None:
        self.batches: list[Rows] = []
        self.received = 0
        self._wait = threading.Event()

    def recv_batch(self, timeout_ms: int) -> Rows:
        self.received += 1
        if self.batches:
            return self.batches.pop(0)
        self._wait.wait(timeout_ms / 1_000)
        return empty(0, EVENT)

    def counters(self) -> dict[str, int]:
        return {"received": self.received}


def running(runtime: Any) -> Callable[[], None]:
    thread = threading.Thread(target=main, args=(runtime,))
    thread.start()

    def end() -> None:
        runtime.stop.set()
        thread.join(10)
        assert not thread.is_alive()

    return end


def test_values_reach_a_server_are_kept_alive_and_return_after_a_flush(symbols: SymbolTable) -> None:
    inbox = FakeInbox()
    with server() as real:
        runtime = FakeRuntime(inbox, CacheSettings("server", (real.url,), writes_per_second=20), symbols)
        inbox.batches.append(np.concatenate([quote(symbols, "A"), quote(symbols, "X"), bar(symbols, "A")]))
        runtime.clock = ManualClock(NOW_NS)
        runtime.clock.monotonic_ns = SystemClock().monotonic_ns
        end = running(runtime)
        try:
            keys = ["candle:A:1m", "quote:A", "quote:X"]
            wait_for(lambda: sorted(key.decode() for key in real.client.scan_iter()) == keys)
            inbox.batches.append(quote(symbols, "X", seq=2, state=STATE_STALE))
            wait_for(lambda: not real.client.exists("quote:X"))  # expired, while A is kept
            assert real.client.exists("quote:A")
            real.client.flushall()
            wait_for(lambda: sorted(key.decode() for key in real.client.scan_iter()) == keys[:2])
            wait_for(lambda: runtime.reports[-1]["keys"] == 2)
        finally:
            end()
    last = runtime.reports[-1]
    assert (last["emptied"], last["breaker"], last["failed"]) == (1, "closed", 0)
    assert " " in last["server"]
