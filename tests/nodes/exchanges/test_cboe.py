"""The simulated Cboe BZX: what the real decoder makes of its packets is what the market meant."""

from exchange_rig import framed, market, meant, rows_of, said, stream, without_broken
from fabric.symbols import SymbolTable
from nodes.exchanges.cboe import PitchEncoder
from nodes.feeds import sequenced_unit_kernel
from nodes.feeds.pitch import Pitch


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
