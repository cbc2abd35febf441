"""Rows that wait: what is kept of the past, when it comes out, and the bound."""

import numpy as np
import pytest

from fabric.clock import SECOND_NS, ManualClock
from fabric.records import EVENT, KIND_LINK, KIND_NBBO, Rows
from gateway import delayed
from gateway.delayed import SAMPLE_NS, Delayed, DelayLine
from gateway_market import BEST, SOURCES, Market

PX = 10**9
DELAY_NS = 900 * SECOND_NS


def batch(*rows: Rows) -> Rows:
    return np.concatenate([row.view(EVENT) for row in rows])


def bids(found: list[Rows]) -> list[int]:
    from fabric.records import NBBO

    return [int(bid) // PX for rows in found for bid in rows.view(NBBO)["bid_px"][rows["kind"] == KIND_NBBO]]


@pytest.fixture
def market(clock: ManualClock) -> Market:
    return Market(clock)


def test_of_many_quotes_the_last_before_each_beat_comes_out_after_the_delay(market: Market) -> None:
    line = DelayLine(DELAY_NS, 100)
    for second in range(31):
        line.put(
            batch(market.nbbo("A", (2 * second + 1) * PX), market.nbbo("A", (2 * second + 2) * PX)), second * SECOND_NS
        )
    assert line.due(DELAY_NS + 14 * SECOND_NS) == []
    assert bids(line.due(DELAY_NS + 15 * SECOND_NS)) == [30]  # of the first 15 seconds: 0 to 14
    assert bids(line.due(DELAY_NS + 30 * SECOND_NS)) == [60]
    assert line.rows == 1, "the last one, of a beat that only the first look above has made"


def test_a_quiet_market_still_beats(market: Market) -> None:
    line = DelayLine(DELAY_NS, 100)
    line.put(batch(market.nbbo("A", PX)), 0)
    assert line.due(SAMPLE_NS) == []
    assert bids(line.due(SAMPLE_NS + DELAY_NS)) == [1]


def test_trades_venue_quotes_and_running_bars_are_not_kept(market: Market) -> None:
    line = DelayLine(DELAY_NS, 100)
    line.put(
        batch(
            market.trade("A", PX), market.quote("A", PX), market.bar("A", 0, PX, rev=0), market.bar("A", 0, PX, rev=1),
            market.bar("A", 0, PX, rev=2), market.status("A", trading="H"),
        ),
        0,
    )  # fmt: skip
    (rows,) = line.due(DELAY_NS)
    assert rows["kind"].tolist() == [5, 5, 3]


def test_what_came_before_a_publisher_was_lost_does_not_come_out_after_it_is_back(market: Market) -> None:
    line = DelayLine(DELAY_NS, 100)
    line.put(batch(market.nbbo("A", PX)), 0)
    line.put(batch(market.link(BEST, False)), SECOND_NS)
    line.put(batch(market.link(BEST, True)), 2 * SECOND_NS)
    kinds = [kind for rows in line.due(2 * DELAY_NS) for kind in rows["kind"].tolist()]
    assert kinds == [KIND_NBBO, KIND_LINK, KIND_LINK]


def test_what_finds_no_room_is_counted(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delayed, "ROWS_MAX", 3)
    line = DelayLine(DELAY_NS, 100)
    for _ in range(5):
        line.put(batch(market.status("A", trading="H")), 0)
    assert (line.rows, line.left_out) == (3, 2)
    assert len(line.due(DELAY_NS)) == 3
    line.put(batch(market.status("A", trading="H")), DELAY_NS)
    assert (line.rows, line.left_out) == (1, 2)


def test_the_memory_behind_it_is_the_market_of_then(market: Market, clock: ManualClock) -> None:
    fanout = market.fanout
    late = Delayed(DELAY_NS, fanout.topology, fanout.settings, SOURCES, market.symbols, clock)
    late.take(batch(market.nbbo("A", PX)), clock.monotonic_ns())
    clock.advance(SAMPLE_NS)
    late.turn(clock.now_ns(), clock.monotonic_ns())
    late.take(batch(market.nbbo("A", 2 * PX)), clock.monotonic_ns())
    symbol = market.symbols.find("A")
    assert late.latest.display(symbol) is None
    clock.advance(DELAY_NS)
    late.turn(clock.now_ns(), clock.monotonic_ns())
    row = late.latest.display(symbol)
    assert row is not None
    assert row["bid_px"] == PX
    assert late.counters() == {"waiting": 1, "left_out": 0, "clients": 0}
