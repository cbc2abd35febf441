"""Midnight in New York, on days of 23, 24 and 25 hours."""

from datetime import UTC, date, datetime

import pytest

from nodes.feeds.trading_day import TradingDay, midnight_ns

HOUR_NS = 3_600_000_000_000


@pytest.mark.parametrize(
    ("day", "utc_hour", "hours"),
    [(date(2026, 11, 20), 5, 24), (date(2026, 7, 1), 4, 24), (date(2026, 3, 8), 5, 23), (date(2026, 11, 1), 4, 25)],
)
def test_each_instant_of_a_day_finds_its_midnight(day: date, utc_hour: int, hours: int) -> None:
    midnight = int(datetime(day.year, day.month, day.day, utc_hour, tzinfo=UTC).timestamp()) * 1_000_000_000
    assert midnight_ns(day) == midnight
    trading_day = TradingDay()
    assert trading_day.at(midnight) == midnight
    assert trading_day.at(midnight + hours * HOUR_NS - 1) == midnight
    assert trading_day.at(midnight + hours * HOUR_NS) == midnight + hours * HOUR_NS
    assert trading_day.at(midnight) == midnight, "a replay may go back"
