"""The simulated NYSE: what the real decoder makes of its packets is what the market meant."""

from exchange_rig import framed, market, meant, rows_of, said, stream, without_broken
from fabric.symbols import SymbolTable
from nodes.exchanges.nyse import XdpEncoder
from nodes.feeds import pillar_kernel
from nodes.feeds.xdp import Xdp


def test_the_decoder_gives_back_every_quote_trade_and_status():
    running = market(venue="N", corrects=True)
    events, packets = stream(running, XdpEncoder(running.names, 99), 100_000)
    symbols = SymbolTable(1_000)
    messages = Xdp(symbols, "", orders_max=10_000, levels_max=10_000)
    rows = rows_of(
        messages.decode, framed(pillar_kernel.frame, packets, pillar_kernel.N_COUNTERS, pillar_kernel.new_streams(4))
    )
    found, expected = said(rows, symbols.names()), meant(events, running.names)
    assert found.quotes == expected.quotes
    expected_trades = [(*t[:4], in_32_bits(t[4]), t[5], in_32_bits(t[6])) for t in expected.trades]
    assert without_broken(found.trades) == without_broken(expected_trades)
    assert found.statuses == expected.statuses
    assert len(found.quotes) > 50_000
    assert {trade[5] for trade in found.trades} >= {"", "x", "c"}
    assert {status[2] for status in found.statuses} == {"H", "T"}
    counters = messages.counters()
    assert counters["malformed"] == counters["unknown"] == counters["refused"] == 0


def in_32_bits(number: int | None) -> int | None:
    """A trade's number as the wire has it."""
    return None if number is None else number & 0xFFFFFFFF
