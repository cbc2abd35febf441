"""The simulated IEX end to end: a seeded stream read back by an independent reader, in memory and over UDP."""

import socket

import pytest

from exchange_rig import Listened
from fabric.topology import ExchangeSettings
from naive_market import Book, Line
from nodes.exchanges import iex
from nodes.exchanges.iex import TopsEncoder
from nodes.exchanges.market import NEVER_NS, Market

START_NS = 1_767_366_000_000_000_000


def test_a_seeded_stream_reads_back_as_it_was_made():
    market = Market(500, 3, START_NS, rate=50_000.0)
    encoder = TopsEncoder(market.names, 99)
    line, book, events_seen = Line(), Book(), 0
    while events_seen < 60_000:
        events = market.take(NEVER_NS)
        taken, messages = 0, []
        while taken < events.size:
            taken, count = encoder.encode(events, taken)
            messages += [m for i in range(count) for m in line.read(encoder.packets[i, : encoder.lengths[i]].tobytes())]
        assert len(messages) == events.size
        assert [m.ts_ns for m in messages] == events["event_ns"].tolist()
        assert [m.symbol for m in messages] == ["" if m.type == "S" else market.names[e["symbol"]]
                                               for m, e in zip(messages, events, strict=True)]  # fmt: skip
        for m in messages:
            book.apply(m)
        events_seen += events.size
    assert line.session == 99
    assert line.sequence == encoder.told + 1 == events_seen + 1
    assert book.trading == set(book.quotes) == set(market.names)
    assert book.trades == pytest.approx(events_seen * 0.1, rel=0.1)
    for symbol, name in enumerate(market.names):
        last = market.books[symbol]
        bid_size, bid, ask, ask_size = book.quotes[name]
        assert (last["bid_px"], last["ask_px"]) == (bid * 100_000, ask * 100_000)
        assert (last["bid_size"], last["ask_size"]) == (bid_size, ask_size)


def test_heartbeats_keep_the_sequence():
    encoder, line = TopsEncoder(("A",), 5), Line()
    for now_ns in range(3):
        encoder.heartbeat(START_NS + now_ns)
        assert line.read(encoder.packets[0, : encoder.lengths[0]].tobytes()) == []
    assert line.heartbeats == 3
    assert line.sent_ns == [START_NS, START_NS + 1, START_NS + 2]


def test_the_program_sends_every_symbol_to_both_lines():
    lines = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in "AB"]
    got: list[list[bytes]] = [[], []]
    books = [Book(), Book()]
    readers = [Line(), Line()]
    for line in lines:
        line.bind(("127.0.0.1", 0))
        line.setblocking(False)
    addresses = tuple(line.getsockname() for line in lines)
    runtime = Listened(ExchangeSettings("iex-tops-1.6", addresses, symbols=200, rate=5_000, seed=2))

    def heard() -> bool:
        for line, packets, reader, book in zip(lines, got, readers, books, strict=True):
            while True:
                try:
                    packets.append(line.recv(2_000))
                except BlockingIOError:
                    break
                for message in reader.read(packets[-1]):
                    book.apply(message)
        return min(len(book.quotes) for book in books) == 200 and min(book.trades for book in books) > 20

    runtime.heard = heard
    before_ns = runtime.clock.now_ns()
    iex.main(runtime)
    for line in lines:
        line.close()
    assert runtime.detail == "200 symbols, 5,000 messages/s to 2 lines"
    assert all(report["refused"] == 0 for report in runtime.reports)
    assert got[0] == got[1]
    assert len(books[0].quotes) == 200
    assert before_ns <= readers[0].sent_ns[0] < before_ns + 60_000_000_000
    assert readers[0].sent_ns == sorted(readers[0].sent_ns)
