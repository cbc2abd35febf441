"""The tables of reference data: what they are made from, and the days that differ."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

from fabric import reference
from fabric.clock import SECOND_NS
from session_calendar import exchange, generate

pytestmark = pytest.mark.filterwarnings("ignore:Series.values returning")  # exchange_calendars, under pandas 3


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * SECOND_NS


def test_the_file_is_what_the_exchange_calendar_says() -> None:
    assert (reference.FOLDER / "sessions.csv").read_text() == generate()


def test_every_session_opens_and_closes_when_the_exchange_calendar_says() -> None:
    days, xnys = reference.calendar(), exchange()
    sessions = days.opens > 0
    assert days.opens[sessions].tolist() == xnys.opens.astype("datetime64[ns, UTC]").astype(np.int64).tolist()
    assert days.closes[sessions].tolist() == xnys.closes.astype("datetime64[ns, UTC]").astype(np.int64).tolist()
    midnights = [datetime.fromtimestamp(midnight / SECOND_NS, UTC) for midnight in days.midnights.tolist()]
    assert {after - at for at, after in pairwise(midnights)} == {timedelta(hours=hours) for hours in (23, 24, 25)}


@pytest.mark.parametrize(
    ("at", "day", "state"),
    [
        ("2026-11-27T13:00:00-05:00", date(2026, 11, 27), "post"),  # a half day
        ("2026-11-27T16:59:59-05:00", date(2026, 11, 27), "post"),
        ("2026-11-27T17:00:00-05:00", date(2026, 11, 27), "closed"),
        ("2026-11-27T12:59:59-05:00", date(2026, 11, 27), "regular"),
        ("2026-03-08T01:59:59-05:00", date(2026, 3, 8), "closed"),  # the clocks change, on a Sunday
        ("2026-03-08T03:00:00-04:00", date(2026, 3, 8), "closed"),
        ("2026-03-09T00:00:00-04:00", date(2026, 3, 9), "closed"),  # midnight
        ("2026-03-08T23:59:59-04:00", date(2026, 3, 8), "closed"),
        ("2026-03-09T04:00:00-04:00", date(2026, 3, 9), "pre"),
        ("2026-11-01T01:30:00-05:00", date(2026, 11, 1), "closed"),  # the hour that is there twice
        ("2026-11-02T16:00:00-05:00", date(2026, 11, 2), "post"),
        ("2026-11-02T19:59:59-05:00", date(2026, 11, 2), "post"),
        ("2026-11-02T20:00:00-05:00", date(2026, 11, 2), "closed"),
        ("2026-11-26T12:00:00-05:00", date(2026, 11, 26), "closed"),  # Thanksgiving
        ("1999-11-26T12:00:00+00:00", date(1999, 11, 26), "closed"),  # before the calendar
        ("2050-11-26T12:00:00+00:00", date(2050, 11, 26), "closed"),  # after it
    ],
)
def test_sessions(at: str, day: date, state: str) -> None:
    found = reference.session_at(ns(at))
    assert (found.day, found.state) == (day, state)


def test_a_condition_is_in_force_from_its_date_on() -> None:
    first = min(row.since for row in reference.sale_conditions())
    assert reference.sale_conditions(first - timedelta(1)) == ()
    assert len(reference.sale_conditions(first)) == len({(r.tape, r.code) for r in reference.sale_conditions()})
