"""The simulated NASDAQ: what the real decoder makes of its packets is what the market meant."""

import socket
import struct

from exchange_rig import Served, framed, market, meant, rows_of, said, stream, without_broken
from fabric.symbols import SymbolTable
from fabric.topology import FeedSettings
from nodes.exchanges.nasdaq import PROGRAM, ItchEncoder
from nodes.feeds import moldudp64_kernel
from nodes.feeds.itch import Itch


def test_the_decoder_gives_back_every_quote_trade_and_status():
    running = market(venue="Q", by_orders=True, renumbers=True)
    events, packets = stream(running, ItchEncoder(running.names, 99), 100_000)
    symbols = SymbolTable(1_000)
    messages = Itch(symbols, "Q", orders_max=10_000, levels_max=10_000)
    rows = rows_of(messages.decode, framed(moldudp64_kernel.frame, packets, moldudp64_kernel.N_COUNTERS))
    found, expected = said(rows, symbols.names()), meant(events, running.names)
    assert found.quotes == expected.quotes
    assert without_broken(found.trades) == without_broken(expected.trades)
    assert found.statuses == expected.statuses
    assert len(found.quotes) > 50_000
    assert {trade[5] for trade in found.trades} >= {"", "x"}
    assert {status[2] for status in found.statuses} == {"H", "T"}
    counters = messages.counters()
    assert counters["malformed"] == counters["unknown"] == counters["refused"] == 0


def test_what_was_told_can_be_asked_for_also_in_a_new_session():
    feed = FeedSettings("nasdaq-itch-5.0", "Q", recovery=(("udp", "127.0.0.1", 0),))
    with (
        Served(PROGRAM, feed, restart_ns=2 * 10**9) as served,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking,
    ):
        asking.settimeout(5)
        for until_s, session in ((1.5, b"0000000099"), (3.5, None)):
            served.run(until_s)
            session = session or served.exchange.encoder.session_name
            asking.sendto(struct.pack(">10sQH", session, 100, 20), served.servers[0].address)
            served.run(until_s + 0.01)
            answer = asking.recv(2_000)
            assert struct.unpack_from(">10sQ", answer) == (session, 100)
            assert 1 <= int.from_bytes(answer[18:20], "big") <= 20
        assert served.exchange.counters()["request_requests"] == 2
