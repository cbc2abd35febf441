"""The market's reference data: dated tables as files beside this module, which nodes apply and gateways show.

Nothing here decides anything: what a code means for a bar is the rule of `nodes.sale_conditions`, what a session
means that of `nodes.candles`. A correction of the data is an edit of a file.

* ``sale_conditions.csv``: what a trade with one sale condition updates, by tape (CTA: A and B; UTP: C), from a day on.
  Sources: CTS 2.11b of January 2026 and UTP 4.1 of September 2026, section 3.14, in their consolidated columns.
* ``quote_conditions.csv``: which sides of a quote with one condition count for the best bid and offer, and which are
  slow, likewise. Sources: CQS 2.11b and UTP 3.0a.
* ``sessions.csv``: holidays and half days of the New York Stock Exchange, and when its clocks change. Made by
  `tests/session_calendar.py` from the package exchange_calendars, and compared with it by a test.
"""

import csv
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.clock import SECOND_NS

FOLDER: Final = Path(__file__).parent / "reference_data"
CONDITIONS_VERSION: Final = "CTS 2.11b, UTP 4.1"
"""The plans' texts that ``sale_conditions.csv`` is a copy of."""
QUOTES_VERSION: Final = "CQS 2.11b, UTP 3.0a"
"""Those of ``quote_conditions.csv``."""
HOUR_NS: Final = 3_600 * SECOND_NS
PRE_FROM_NS: Final = 4 * HOUR_NS
"""Sessions by New York time since midnight: pre-market from 04:00, regular 09:30 to 16:00, post-market to 20:00."""
OPEN_NS: Final = 9 * HOUR_NS + HOUR_NS // 2
CLOSE_NS: Final = 16 * HOUR_NS
POST_NS: Final = 4 * HOUR_NS
"""Post-market lasts so long after the close, on a half day too."""


@dataclass(frozen=True)
class SaleCondition:
    """One row of the plans' table, in force from ``since`` until a later row of the same tape and code."""

    since: date
    tape: str  # A, B or C
    code: str  # one character
    price: bool  # may set open, high and low
    last: str  # may set the last price: yes, no, or only as `LAST_RULES` says
    volume: bool
    meaning: str


LAST_RULES: Final = {
    "yes": "always",
    "no": "never",
    "first": "only as the first eligible trade of the day",
    "sold": "only as the first of the day, from the participant of the current last, or from the listing market",
    "early": "until ten seconds after the close of the regular session",
}


def sale_conditions(day: date | None = None) -> tuple[SaleCondition, ...]:
    """The table in force on ``day``, or every row of every date; in the order of tape and code."""
    rows = _sale_rows()
    if day is None:
        return rows
    in_force = {(row.tape, row.code): row for row in rows if row.since <= day}
    return tuple(in_force.values())


@cache
def _sale_rows() -> tuple[SaleCondition, ...]:
    found = []
    with (FOLDER / "sale_conditions.csv").open(newline="", encoding="ascii") as lines:
        for line in csv.DictReader(lines):
            assert line["last"] in LAST_RULES, f"sale_conditions.csv: {line}"
            since = date.fromisoformat(line["from"])
            price, volume = line["price"] == "yes", line["volume"] == "yes"
            found += [
                SaleCondition(since, tape, line["code"], price, line["last"], volume, line["meaning"])
                for tape in line["tapes"]
            ]
    return tuple(sorted(found, key=lambda row: (row.tape, row.code, row.since)))


@dataclass(frozen=True)
class QuoteCondition:
    """One row of the plans' table, in force from ``since`` until a later row of the same tape and code."""

    since: date
    tape: str  # A, B or C
    code: str  # one character
    sides: str  # that count for the best bid and offer: both, bid, offer or none
    slow: str  # that are not automated, and so not protected: both, bid, offer or none
    meaning: str


def quote_conditions(day: date | None = None) -> tuple[QuoteCondition, ...]:
    """The table in force on ``day`` (before its first day, as on that), or every row; in the order of tape and code."""
    rows = _quote_rows()
    if day is None:
        return rows
    in_force: dict[tuple[str, str], QuoteCondition] = {}
    for row in rows:
        if row.since <= day or (row.tape, row.code) not in in_force:
            in_force[row.tape, row.code] = row
    return tuple(in_force.values())


@cache
def _quote_rows() -> tuple[QuoteCondition, ...]:
    found = []
    with (FOLDER / "quote_conditions.csv").open(newline="", encoding="ascii") as lines:
        for line in csv.DictReader(lines):
            assert {line["sides"], line["slow"]} <= {"both", "bid", "offer", "none"}, f"quote_conditions.csv: {line}"
            since = date.fromisoformat(line["from"])
            found += [
                QuoteCondition(since, tape, line["code"], line["sides"], line["slow"], line["meaning"])
                for tape in line["tapes"]
            ]
    return tuple(sorted(found, key=lambda row: (row.tape, row.code, row.since)))


class Calendar(NamedTuple):
    """Days of New York, as kernels take them; outside of its range a day is one of UTC and has no session."""

    midnights: npt.NDArray[np.int64]  # [days + 1] UTC ns at which each day begins, and the last ends
    opens: npt.NDArray[np.int64]  # [days] UTC ns of the regular session; 0 where there is none
    closes: npt.NDArray[np.int64]  # [days]


@dataclass(frozen=True)
class Session:
    """What the exchange calendar says of an instant. Times are UTC ns, None on a day without a session."""

    day: date  # in New York
    state: str  # pre, regular, post or closed
    open_ns: int | None
    close_ns: int | None
    half_day: bool


@dataclass(frozen=True)
class Day:
    """A day of New York; one of UTC, without a session, outside of the calendar. Times are UTC ns."""

    start_ns: int
    end_ns: int
    date: date
    open_ns: int | None = None
    close_ns: int | None = None


@cache
def calendar() -> Calendar:
    """All days that ``sessions.csv`` speaks of."""
    lines = [line.split(",") for line in (FOLDER / "sessions.csv").read_text("ascii").splitlines()]
    (first, last) = next((date.fromisoformat(a), date.fromisoformat(b)) for what, a, b in lines if what == "range")
    closed = {date.fromisoformat(day) for what, day, _ in lines if what == "closed"}
    early = {date.fromisoformat(day): _since_midnight_ns(value) for what, day, value in lines if what == "early"}
    changes = [(_ns(datetime.fromisoformat(at)), int(value) * HOUR_NS) for what, at, value in lines if what == "offset"]

    starts = np.array([at + offset for at, offset in changes], np.int64)  # by the clock on the wall
    offsets = np.array([offset for _, offset in changes], np.int64)

    def utc_ns(local_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return local_ns - offsets[np.searchsorted(starts, local_ns, side="right") - 1]

    days = [first + timedelta(n) for n in range((last - first).days + 1)]
    midnights = _ns(datetime(first.year, first.month, first.day, tzinfo=UTC)) + 24 * HOUR_NS * np.arange(len(days) + 1)
    trades = np.array([day.weekday() < 5 and day not in closed for day in days])
    closes = midnights[:-1] + np.array([early.get(day, CLOSE_NS) for day in days])
    return Calendar(utc_ns(midnights), utc_ns(midnights[:-1] + OPEN_NS) * trades, utc_ns(closes) * trades)


def day_at(ns: int) -> Day:
    """The day that holds an instant."""
    days = calendar()
    place = int(np.searchsorted(days.midnights, ns, side="right")) - 1
    if not 0 <= place < days.opens.size:
        start_ns = ns // (24 * HOUR_NS) * 24 * HOUR_NS
        return Day(start_ns, start_ns + 24 * HOUR_NS, datetime.fromtimestamp(start_ns // SECOND_NS, UTC).date())
    start_ns, end_ns, open_ns, close_ns = (
        int(ns) for ns in (days.midnights[place], days.midnights[place + 1], days.opens[place], days.closes[place])
    )
    day = datetime.fromtimestamp((start_ns + 12 * HOUR_NS) // SECOND_NS, UTC).date()
    return Day(start_ns, end_ns, day, open_ns or None, close_ns or None)


def session_at(ns: int) -> Session:
    """The session of an instant; a day outside of the calendar's range is one of UTC, and closed."""
    day = day_at(ns)
    open_ns, close_ns = day.open_ns, day.close_ns
    if open_ns is None or close_ns is None:
        return Session(day.date, "closed", None, None, False)
    if open_ns <= ns < close_ns:
        state = "regular"
    elif open_ns - (OPEN_NS - PRE_FROM_NS) <= ns < open_ns:
        state = "pre"
    else:
        state = "post" if close_ns <= ns < close_ns + POST_NS else "closed"
    return Session(day.date, state, open_ns, close_ns, close_ns - open_ns < CLOSE_NS - OPEN_NS)


def trading_hours(ns: int, extended: bool = False) -> tuple[int, int] | None:
    """From when until when the day that holds an instant trades: its regular session, or with ``extended`` what comes
    before and after it too; None where it has none.
    """
    day = day_at(ns)
    if day.open_ns is None or day.close_ns is None:
        return None
    if extended:
        return day.open_ns - (OPEN_NS - PRE_FROM_NS), day.close_ns + POST_NS
    return day.open_ns, day.close_ns


def _since_midnight_ns(text: str) -> int:
    hour, minute = text.split(":")
    return int(hour) * HOUR_NS + int(minute) * 60 * SECOND_NS


def _ns(at: datetime) -> int:
    return int(at.timestamp()) * SECOND_NS
