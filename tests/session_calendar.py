"""Make ``fabric/reference_data/sessions.csv`` from the package exchange_calendars: holidays, half days, clock changes.

Run: python tests/session_calendar.py > fabric/reference_data/sessions.csv
"""

import sys
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import exchange_calendars

FIRST, LAST = date(2008, 1, 1), date(2035, 12, 31)
NEW_YORK = ZoneInfo("America/New_York")


@cache
def exchange() -> exchange_calendars.ExchangeCalendar:
    """The New York Stock Exchange over the range of the file."""
    return exchange_calendars.get_calendar("XNYS", start=FIRST.isoformat(), end=LAST.isoformat())


def generate() -> str:
    """The text of the file: a line for each day or instant that differs from the one before."""
    xnys = exchange()
    days = [FIRST + timedelta(n) for n in range((LAST - FIRST).days + 1)]
    sessions = {session.date() for session in xnys.sessions}
    lines = [f"range,{FIRST},{LAST}"]
    lines += [f"closed,{day}," for day in days if day.weekday() < 5 and day not in sessions]
    for session in xnys.early_closes:
        close = xnys.session_close(session).tz_convert(NEW_YORK)
        lines.append(f"early,{session.date()},{close:%H:%M}")
    before = None
    start = datetime(FIRST.year - 1, 12, 31, tzinfo=UTC)
    for hour in range((len(days) + 2) * 24):
        at = start + timedelta(hours=hour)
        offset = at.astimezone(NEW_YORK).utcoffset()
        if offset != before:
            assert offset is not None
            lines.append(f"offset,{at:%Y-%m-%dT%H:%M}+00:00,{offset // timedelta(hours=1)}")
            before = offset
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(generate())
