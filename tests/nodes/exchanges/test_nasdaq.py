"""The simulated NASDAQ: what the real decoder makes of its packets is what the market meant."""

from exchange_rig import framed, market, meant, rows_of, said, stream, without_broken
from fabric.symbols import SymbolTable
from nodes.exchanges.nasdaq import ItchEncoder
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
