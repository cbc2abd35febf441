"""The market-wide circuit breaker by rows of statuses: when it begins, what ends it, and what does neither."""

from datetime import UTC, datetime

import pytest

from fabric.clock import SECOND_NS
from fabric.records import KIND_STATUS, STATUS, Rows, empty, pack
from nodes.feeds.market_wide import MarketWide

NOON_NS = int(datetime(2026, 11, 20, 17, tzinfo=UTC).timestamp()) * SECOND_NS  # in New York
DAY_NS = 86_400 * SECOND_NS


def statuses(*told: tuple[int, str, str]) -> Rows:
    """Rows of (symbol, trading, reason)."""
    rows = empty(len(told), STATUS, KIND_STATUS)
    for row, (symbol, trading, reason) in zip(rows, told, strict=True):
        row["symbol"], row["trading"], row["reason"] = symbol, pack(trading), pack(reason)
    return rows


@pytest.fixture
def market() -> MarketWide:
    return MarketWide()


@pytest.mark.parametrize(
    ("symbol", "trading", "reason", "level"),
    [
        pytest.param(0, "", "MWC1", 1, id="NASDAQ and the plans: of the whole market"),
        pytest.param(7, "H", "MWC2", 2, id="NASDAQ and UTP: of a symbol"),
        pytest.param(7, "H", "1", 1, id="NYSE and CTA"),
        pytest.param(7, "O", "MCB2", 2, id="IEX, that takes orders"),
        pytest.param(7, "H", "MCB3", 3, id="IEX"),
        pytest.param(7, "H", "MWC0", 0, id="carried over from the day before: of its symbols"),
        pytest.param(7, "H", "T1", 0, id="news"),
        pytest.param(7, "H", "4", 0, id="no level"),
        pytest.param(7, "H", "", 0, id="no reason"),
    ],
)
def test_every_wire_s_word_for_it(market: MarketWide, symbol: int, trading: str, reason: str, level: int) -> None:
    assert market.take(statuses((symbol, trading, reason)), NOON_NS) == (level > 0)
    assert market.level == level


def test_it_is_over_when_a_symbol_that_it_halted_trades_again(market: MarketWide) -> None:
    market.take(statuses((0, "", "MWC1")), NOON_NS)
    assert not market.take(statuses((7, "T", "")), NOON_NS), "not halted yet: a word of its short sales, say"
    assert not market.take(statuses((7, "H", "MWC1"), (8, "H", "MWC1")), NOON_NS)
    assert not market.take(statuses((7, "Q", "MWCQ"), (9, "T", "")), NOON_NS), "quotes, and one that was never halted"
    assert market.level == 1
    assert market.take(statuses((7, "T", "MWCQ")), NOON_NS)
    assert market.level == 0


def test_a_level_that_is_over_does_not_come_back_but_a_higher_one_halts_again(market: MarketWide) -> None:
    market.take(statuses((7, "H", "MWC1"), (8, "H", "MWC1")), NOON_NS)
    market.take(statuses((7, "T", "")), NOON_NS)
    assert not market.take(statuses((8, "H", "MWC1"), (0, "", "MWC1")), NOON_NS), "told again, not released yet"
    assert not market.take(statuses((8, "T", "")), NOON_NS)
    assert market.take(statuses((8, "H", "MWC2")), NOON_NS)
    assert market.level == 2


def test_a_higher_level_takes_the_place_of_a_lower_one(market: MarketWide) -> None:
    market.take(statuses((7, "H", "MWC1")), NOON_NS)
    assert market.take(statuses((0, "", "MWC3")), NOON_NS)
    assert market.level == 3
    assert not market.take(statuses((0, "", "MWC2")), NOON_NS)


def test_a_new_day_ends_it_and_its_levels_count_anew(market: MarketWide) -> None:
    market.take(statuses((0, "", "MWC3")), NOON_NS)
    assert not market.take(statuses(), NOON_NS + DAY_NS // 3)
    assert market.take(statuses(), NOON_NS + DAY_NS)
    assert market.level == 0
    assert market.take(statuses((7, "H", "MWC1")), NOON_NS + DAY_NS)
    assert market.take(statuses((7, "T", "")), NOON_NS + DAY_NS), "what was halted yesterday is forgotten"
