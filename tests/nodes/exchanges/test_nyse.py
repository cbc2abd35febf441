"""The simulated NYSE: what the real decoder makes of its packets is what the market meant."""

from exchange_rig import Served, framed, market, meant, rows_of, said, stream, without_broken
from fabric.symbols import SymbolTable
from fabric.topology import FeedSettings
from nodes.exchanges.nyse import PROGRAM, Refreshes, XdpEncoder
from nodes.feeds import pillar_kernel
from nodes.feeds.xdp import Xdp


def test_the_decoder_gives_back_every_quote_trade_and_status():
    running = market(venue="N", corrects=True)
    events, packets = stream(running, XdpEncoder(running.names, 99), 150_000)
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


def test_a_refresh_tells_the_mapping_status_and_quote_of_a_symbol():
    with Served(PROGRAM, FeedSettings("nyse-pillar", "N", login=("me", ""), product=3)) as served:
        served.run(3)
        refreshes = Refreshes(served.exchange)
        images = list(refreshes.refresh(0))
        assert len(images) == len(list(refreshes.mappings(0))) == 300
        assert list(refreshes.refresh(301)) == []
        for symbol, image in enumerate(images):
            assert image.number == served.exchange.encoder.told
            types = [int.from_bytes(message[2:4], "little") for message in image.messages]
            halted = served.exchange.market.books["halted"][symbol]
            short = [34] if symbol % 50 == 49 else []
            assert types == [2, 3, *short, 34] + ([] if halted else [140])
            if not halted:
                book = served.exchange.market.books[symbol]
                assert int.from_bytes(image.messages[-1][24:28], "little") * 100_000 == book["bid_px"]
        assert images[0].symbol_number > 1
