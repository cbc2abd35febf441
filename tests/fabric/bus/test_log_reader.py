"""LogReader: parts of a publisher's log over its ROUTER, without ever waiting."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from fabric import journal_kernel
from fabric.bus import LogReader, Outbox, log_reader, service
from fabric.clock import ManualClock, SystemClock
from fabric.records import EVENT, KIND_TRADE, TRADE, Rows, empty
from fabric.symbols import SymbolTable
from fabric.topology import JournalSettings, Limits, Publisher
from support import free_port

LIMITS = Limits(symbols_max=64)
EPOCH = 7
PATIENCE_S = 10.0
Context = zmq.Context[zmq.Socket[bytes]]


def publisher(folder: Path | None) -> Publisher:
    return Publisher(
        "feed", f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}", ("quote", "trade", "status"), "V",
        journal=None if folder is None else JournalSettings(str(folder), serve_bytes=1 << 30),
    )  # fmt: skip


def trades(symbols: SymbolTable, count: int) -> Rows:
    rows = empty(count, TRADE, KIND_TRADE)
    rows["symbol"] = [symbols.intern("AB"[i % 2]) for i in range(count)]
    rows["venue"], rows["price"], rows["size"] = ord("V"), (np.arange(count) + 1) * 10**9, 1
    return rows.view(EVENT)


class Feed:
    """A publisher that has said ``count`` trades of A and B in turns, and a reader of its log."""

    def __init__(self, context: Context, folder: Path | None, count: int) -> None:
        symbols = SymbolTable(64)
        self.publisher = publisher(folder)
        self.outbox = Outbox(context, self.publisher, symbols, LIMITS, SystemClock(), epoch=EPOCH, stamp="feed_ns")
        self.outbox.send(trades(symbols, count))
        self.symbols = SymbolTable(64)
        self.reader = LogReader(context, [self.publisher], self.symbols, LIMITS, SystemClock())

    def read(self, first: int, last: int, *prefixes: str) -> tuple[list[int], bool]:
        """The positions that come of a part of the log, and whether it is whole."""
        self.reader.ask("feed", first, last, EPOCH, prefixes)
        return taken(self.reader)

    def close(self) -> None:
        self.reader.close()
        self.outbox.close()


def taken(reader: LogReader, meanwhile: Callable[[], object] = lambda: None) -> tuple[list[int], bool]:
    found: list[int] = []
    deadline = time.monotonic() + PATIENCE_S
    while True:
        part = reader.take("feed")
        found += part.rows["position"].tolist()
        if part.done:
            return found, part.whole
        assert time.monotonic() < deadline, "never done"
        meanwhile()
        time.sleep(0.001)  # `take` never waits, and what it asks for comes from another thread


@pytest.fixture
def make(context: Context) -> Iterator[Callable[..., Feed]]:
    made: list[Feed] = []

    def feed(folder: Path | None, count: int = 3_000) -> Feed:
        made.append(Feed(context, folder, count))
        return made[-1]

    yield feed
    for each in made:
        each.close()


def test_a_part_comes_whole_in_order_and_of_its_topics_alone(make: Callable[..., Feed], tmp_path: Path) -> None:
    feed = make(tmp_path)
    assert feed.read(11, 2_990, "trade.") == (list(range(11, 2_991)), True)
    assert feed.read(1, 3_000, "trade.B|", "quote.") == (list(range(2, 3_001, 2)), True)
    assert feed.read(1, 3_000, "quote.") == ([], True)
    assert feed.symbols.name(1) == "A"


def test_what_does_not_go_into_one_answer_is_asked_for_in_several(
    make: Callable[..., Feed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LOG_CHUNK", 16 * 1024)
    monkeypatch.setattr(service, "LOG_ANSWER_BYTES", 64 * 1024)
    assert make(tmp_path).read(1, 3_000, "trade.") == (list(range(1, 3_001)), True)


def test_a_further_request_takes_the_place_of_the_one_before(make: Callable[..., Feed], tmp_path: Path) -> None:
    feed = make(tmp_path)
    feed.reader.ask("feed", 1, 3_000, EPOCH, ["trade."])
    feed.reader.take("feed")
    assert feed.read(100, 110, "trade.") == (list(range(100, 111)), True)


def test_a_publisher_without_a_log_has_nothing_and_says_so(make: Callable[..., Feed]) -> None:
    assert make(None).read(1, 10, "trade.") == ([], False)


def test_what_the_log_has_forgotten_is_told(make: Callable[..., Feed], tmp_path: Path) -> None:
    feed = make(tmp_path)
    journal = feed.outbox._journal
    assert journal is not None
    journal.state[journal_kernel.J_FIRST] = 50  # as if what was before were forgotten
    found, whole = feed.read(1, 60, "trade.")
    assert found[-1] == 60
    assert not whole
    assert feed.read(50, 60, "trade.")[1]


class Router:
    """A ROUTER that a test plays."""

    def __init__(self, context: Context) -> None:
        self.publisher = publisher(None)
        self.socket = context.socket(zmq.ROUTER)
        self.socket.bind(self.publisher.snapshot_endpoint)
        self.asked: list[bytes] = []

    def answer(self, *answers: Any) -> None:
        """Give the next answer to each request that has come; none where there are no more."""
        while self.socket.poll(0):
            peer, number, what, *_ = self.socket.recv_multipart()
            self.asked.append(what)
            if len(self.asked) <= len(answers):
                frames = answers[len(self.asked) - 1]
                self.socket.send_multipart([peer, number, *frames])


@pytest.fixture
def router(context: Context) -> Iterator[Router]:
    made = Router(context)
    yield made
    made.socket.close(linger=0)


HEAD = (msgpack.packb({"log": 1}),)


@pytest.mark.parametrize(
    "bad",
    [
        (b"\xc1",),
        (msgpack.packb({"more": False, "holes": 0, "next": None}), b"no record"),
        (msgpack.packb([]), b""),
        (msgpack.packb({"holes": 0, "next": None}), b""),
        (msgpack.packb({"more": False, "holes": 1, "next": None}), b""),
        (msgpack.packb({"more": False, "error": "a mistake"}),),
    ],
)
def test_an_answer_that_cannot_be_read_or_is_not_whole_is_told(context: Context, router: Router, bad: Any) -> None:
    reader = LogReader(context, [router.publisher], SymbolTable(8), LIMITS, SystemClock())
    reader.ask("feed", 1, 10, EPOCH, ["trade."])
    assert taken(reader, lambda: router.answer(HEAD, bad)) == ([], False)
    reader.close()


def test_one_that_is_busy_or_silent_is_asked_again_and_given_up_at_last(
    context: Context, router: Router, clock: ManualClock
) -> None:
    reader = LogReader(context, [router.publisher], SymbolTable(8), LIMITS, clock)
    reader.ask("feed", 1, 10, EPOCH, ["trade."])
    busy = (msgpack.packb({"more": False, "error": "64 readers are served already; try again"}),)

    def meanwhile() -> None:
        before = len(router.asked)
        router.answer(HEAD, busy)
        if len(router.asked) == before > 1:
            clock.advance(log_reader.ASK_AGAIN_NS + 1)

    assert taken(reader, meanwhile) == ([], False)
    assert router.asked[:2] == [b"head", b"log"]
    assert router.asked.count(b"log") > 1  # how often, is decided by what was on its way when the clock went on
    reader.close()
