"""The trading day of a market in New York: wires whose times count from midnight there need to know which (pure)."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

NEW_YORK: Final = ZoneInfo("America/New_York")
_SECOND_NS: Final = 1_000_000_000


class TradingDay:
    """The day in New York that an instant falls on, looked up anew only when an instant falls outside of it."""

    def __init__(self) -> None:
        self.midnight_ns = self.next_midnight_ns = 0
        """UTC nanoseconds at which the day begins, and at which the next one does (23, 24 or 25 hours later)."""

    def at(self, now_ns: int) -> int:
        """Return the midnight that begins the day of ``now_ns``."""
        if not self.midnight_ns <= now_ns < self.next_midnight_ns:
            day = datetime.fromtimestamp(now_ns // _SECOND_NS, UTC).astimezone(NEW_YORK).date()
            self.midnight_ns, self.next_midnight_ns = midnight_ns(day), midnight_ns(day + timedelta(days=1))
        return self.midnight_ns


def midnight_ns(day: date) -> int:
    """UTC nanoseconds of midnight in New York at the beginning of ``day``."""
    return int(datetime.combine(day, time(), NEW_YORK).timestamp()) * _SECOND_NS
