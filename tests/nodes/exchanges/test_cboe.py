"""The simulated Cboe BZX: what the real decoder makes of its packets is what the market meant."""

import numpy as np

from exchange_rig import RECEIVED_NS, Served, framed, market, meant, rows_of, said, stream, without_broken
from fabric.symbols import SymbolTable
from fabric.topology import FeedSettings
from nodes.exchanges.cboe import PROGRAM, OpenOrders, PitchEncoder
from nodes.feeds import sequenced_unit_kernel
from nodes.feeds.pitch import Pitch
from nodes.feeds.wire_kernel import BLOCK


def test_the_decoder_gives_back_every_quote_trade_and_status():
    running = market(venue="Z", by_orders=True)
    events, packets = stream(running, PitchEncoder(running.names, 99), 100_000)
    symbols = SymbolTable(1_000)
    messages = Pitch(symbols, "Z", orders_max=10_000, levels_max=10_000)
    rows = rows_of(messages.decode, framed(sequenced_unit_kernel.frame, packets, sequenced_unit_kernel.N_COUNTERS))
    found, expected = said(rows, symbols.names()), meant(events, running.names)
    assert found.quotes == expected.quotes
    assert without_broken(found.trades) == without_broken(expected.trades)
    assert found.statuses == expected.statuses
    assert len(found.quotes) > 50_000
    assert {trade[5] for trade in found.trades} >= {"", "x"}
    assert {status[2] for status in found.statuses} == {"H", "T"}
    counters = messages.counters()
    assert counters["malformed"] == counters["unknown"] == counters["refused"] == 0


def test_the_image_of_the_spin_server_is_the_book_that_was_told():
    feed = FeedSettings("cboe-pitch-2.41", "Z", answers=(("127.0.0.1", 9),), login=("me", "pw"))
    with Served(PROGRAM, feed) as served:
        served.run(4)
        exchange = served.exchange
        number, messages = OpenOrders(exchange)()
        assert number == exchange.encoder.told
        assert all(message[0] == len(message) for message in messages)
        books = exchange.market.books
        names = exchange.market.names
    batches = []
    for start in range(0, len(messages), 200):
        part = messages[start : start + 200]
        buffer, block = np.frombuffer(b"".join(part), np.uint8).copy(), np.zeros(1, BLOCK)
        block["stream"], block["first"], block["count"], block["stop"] = 1, 1 + start, len(part), buffer.size
        block["recv_ns"] = RECEIVED_NS
        batches.append((buffer, block))
    symbols = SymbolTable(1_000)
    rows = rows_of(Pitch(symbols, "Z", orders_max=10_000, levels_max=10_000).decode, iter(batches))
    last = {name: sides for name, _, *sides in said(rows, symbols.names()).quotes}
    assert set(last) == {names[i] for i in np.flatnonzero(books["halted"] == 0)}
    for name, sides in last.items():
        assert tuple(sides) == books[names.index(name)].item()[:4]
