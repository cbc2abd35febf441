"""Which wire a packet is of: those of every simulated exchange, the recorded ones, and what is none."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import naive_iex
from nodes.exchanges import cboe, iex, nasdaq, nyse
from nodes.exchanges.exchange import Program
from nodes.exchanges.market import Market
from nodes.feeds.recognise import VENUES, wire_of

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "data"
recorded = pytest.mark.skipif(not SAMPLES.exists(), reason="the recorded samples (../shared/data) are not here")
PROGRAMS = {
    "nasdaq-itch-5.0": nasdaq.PROGRAM,
    "cboe-pitch-2.41": cboe.PROGRAM,
    "nyse-pillar": nyse.PROGRAM,
    "iex-tops-1.6": iex.PROGRAM,
}
START_NS = 1_767_366_000_000_000_000


def packets(program: Program) -> Iterator[bytes]:
    """Two seconds of a small market, its opening among them."""
    options = {"by_orders": program.by_orders, "renumbers": program.renumbers, "corrects": program.corrects}
    market = Market(30, 3, START_NS, rate=3_000.0, halts_per_hour=3_600.0, **options)
    encoder = program.encoder(market.names, 7)
    while (events := market.take(START_NS + 2 * 10**9)).size:
        yield from encoder.alone(events)


@pytest.mark.parametrize("wire", PROGRAMS)
def test_every_packet_of_an_exchange_is_of_its_wire(wire: str) -> None:
    found = [wire_of(packet) for packet in packets(PROGRAMS[wire])]
    assert len(found) > 100
    assert set(found) == {wire}
    assert wire in VENUES


def test_what_does_not_add_up_is_none() -> None:
    chance = random.Random(1)
    for program in PROGRAMS.values():
        packet = next(packets(program))
        assert wire_of(packet[:-1]) is None
        assert wire_of(packet + b"x") is None
    assert {wire_of(chance.randbytes(n)) for n in range(100) for _ in range(100)} == {None}


@recorded
@pytest.mark.parametrize(
    ("file", "wire"),
    [
        ("iex/TOPS16.pcapng.gz", "iex-tops-1.6"),
        ("iex/DEEP10_session12.pcap.gz", "iex-deep-1.0"),
        ("nyse_xdp_imbalances/nyse_imbalances_20170929.pcap.gz", "nyse-pillar"),
    ],
)
def test_recordings(file: str, wire: str) -> None:
    found = [wire_of(payload) for _, payload in naive_iex.udp_payloads(SAMPLES / file)]
    assert set(found) <= {wire, None}
    assert found.count(wire) > 0.95 * len(found)
