"""The candles against their twin, the table of the plan, and the recorded trades of a day."""

import csv
import gzip
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric import codec, journal
from fabric.bus import EVENTS_MAX, Outbox
from fabric.clock import SECOND_NS, EventClock, ManualClock
from fabric.journal import Cursor, Query
from fabric.records import (
    BAR,
    EVENT,
    GAP,
    KIND_BAR_1D,
    KIND_BAR_1H,
    KIND_BAR_1M,
    KIND_BAR_5M,
    KIND_GAP,
    KIND_LINK,
    KIND_NBBO,
    KIND_QUOTE,
    KIND_STATUS,
    KIND_TRADE,
    LINK,
    NULL,
    PRICE_MAX,
    PRICE_UNIT,
    STATUS,
    TRADE,
    Rows,
    empty,
    pack,
    unpack,
)
from fabric.reference import sale_conditions
from fabric.symbols import SymbolTable
from fabric.topology import JournalSettings, Limits, Publisher
from naive import (
    LENGTHS_NS,
    MINUTE_NS,
    NaiveCandles,
    as_dicts,
    bar_of,
    closing_trades,
    sale_rights,
    span_of,
    uncompiled,
)
from nodes import candles
from nodes.candles import Candles
from support import free_port

NOON_NS = 1_767_355_200 * SECOND_NS
"""2026-01-02T12:00:00Z: the start of an interval of each length."""
PUBLISHERS = ("N", "PQ", "V")


@pytest.fixture(params=["compiled", "uncompiled"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test on the compiled kernel, then on the same code as plain Python."""
    if request.param == "uncompiled":
        _, plain = uncompiled("nodes.sale_conditions_kernel", "nodes.candles_kernel")
        monkeypatch.setattr(candles, "candles_kernel", plain)
    return str(request.param)


class Rig:
    """A node under a clock of its own, which starts at noon, when it hears all its publishers."""

    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock(NOON_NS)
        self.options: dict[str, Any] = {"channels": ("bar.1m", "bar.5m", "bar.1h"), "log_max": 1 << 12} | options
        symbols_max, batch_max = self.options.pop("symbols_max", 8), self.options.pop("batch_max", 1_000)
        self.node = Candles(symbols_max, PUBLISHERS, batch_max, self.clock, **self.options)
        self.complete: list[dict[str, int]] = []
        """What was said of whole intervals."""
        self.step(*LINKS_UP)

    def step(self, *rows: Rows, after_s: float = 0) -> list[dict[str, int]]:
        """Let time pass, then take these rows in one batch; what is published."""
        self.clock.advance(round(after_s * SECOND_NS))
        made = as_dicts(self.node.step(np.concatenate([np.empty(0, EVENT), *rows]), self.clock.now_ns()))
        self.complete += [bar for bar in made if bar["symbol"] == 0]
        return [bar for bar in made if bar["symbol"]]

    def at(self, second: float, *rows: Rows) -> list[dict[str, int]]:
        """As `step`, when it is so many seconds past noon."""
        return self.step(*rows, after_s=second - (self.clock.now_ns() - NOON_NS) / SECOND_NS)


def row(dtype: np.dtype[np.void], kind: int, symbol: int, venue: str, values: dict[str, Any]) -> Rows:
    made = empty(1, dtype, kind)
    made["symbol"], made["venue"] = symbol, ord(venue) if venue else 0
    for name, value in values.items():
        made[name] = pack(value) if isinstance(value, str) else value
    return made.view(EVENT)


def trade(second: float, price: int = 100, size: int = 10, symbol: int = 1, venue: str = "N", **values: Any) -> Rows:
    """A trade so many seconds past noon."""
    event_ns = NOON_NS + round(second * SECOND_NS)
    return row(
        TRADE, KIND_TRADE, symbol, venue, {"event_ns": event_ns, "price": price, "size": size, "condition": ""} | values
    )


def link(publisher: int, up: int) -> Rows:
    return row(LINK, KIND_LINK, 0, "", {"publisher": publisher, "up": up})


def line(venue: str, state: str, **values: Any) -> Rows:
    return row(STATUS, KIND_STATUS, 0, venue, {"venue_state": state} | values)


def lost(symbol: int = 1, kind: int = KIND_TRADE) -> Rows:
    return row(GAP, KIND_GAP, symbol, "N", {"publisher": 0, "channel_kind": kind})


LINKS_UP = [link(publisher, 1) for publisher in range(len(PUBLISHERS))]


def of_kind(kind: int, published: list[dict[str, int]]) -> list[dict[str, int]]:
    return [bar for bar in published if bar["kind"] == kind]


def minutes(published: list[dict[str, int]]) -> list[dict[str, int]]:
    return of_kind(KIND_BAR_1M, published)


def ohlc(bar: dict[str, int]) -> tuple[int, ...]:
    return bar["open_px"], bar["high_px"], bar["low_px"], bar["close_px"]


def test_a_minute_of_trades_becomes_a_bar_of_each_length(kernel: str) -> None:
    rig = Rig()
    rig.at(0, trade(0, 100, 10), trade(0, 104, 10), trade(0, 98, 20), trade(0, 101, 10))
    published = rig.at(2)
    assert [bar["kind"] for bar in published] == [KIND_BAR_1M, KIND_BAR_5M, KIND_BAR_1H]
    for bar in published:
        assert ohlc(bar) == (100, 104, 98, 101)
        assert (bar["volume"], bar["trades"], bar["vwap_px"]) == (50, 4, 100)  # 5,010 / 50 = 100.2 units
        assert (bar["event_ns"], bar["last_ns"]) == (NOON_NS, NOON_NS)
        assert (bar["rev"], bar["final"], bar["gap"]) == (0, 0, 0)
        assert bar["seq"] == bar["epoch"] == bar["position"] == bar["exchange_seq"] == bar["recv_ns"] == NULL


def test_a_quiet_minute_still_closes_its_bar_one_second_after_its_end(kernel: str) -> None:
    rig = Rig()
    rig.at(30, trade(30))
    rig.at(40)
    assert rig.at(60.9) == []
    assert [(bar["kind"], bar["rev"]) for bar in rig.at(61)] == [(KIND_BAR_1M, 1)]
    assert rig.at(120) == []  # no trade, no bar


def test_an_interval_is_start_inclusive_and_end_exclusive(kernel: str) -> None:
    rig = Rig(event_time=True)
    end = NOON_NS + MINUTE_NS
    published = rig.step(trade(60, event_ns=end - 1), trade(60, price=200, event_ns=end), trade(121))
    assert [(bar["event_ns"], bar["close_px"]) for bar in minutes(published)] == [(NOON_NS, 100), (end, 200)]


def test_running_bars_are_published_once_a_second_when_changed(kernel: str) -> None:
    rig = Rig()
    assert rig.at(0.1, trade(0.1)) == []
    assert rig.at(0.9, trade(0.9, symbol=2)) == []
    assert [(bar["symbol"], bar["rev"]) for bar in minutes(rig.at(1))] == [(1, 0), (2, 0)]
    assert rig.at(2.5) == []
    assert [bar["symbol"] for bar in minutes(rig.at(3.5, trade(3.5, symbol=2)))] == [2]


def test_longer_bars_fold_the_minutes(kernel: str) -> None:
    rig = Rig(event_time=True)
    published = rig.step(
        trade(0, 100, 10),
        trade(61, 110, 20),
        trade(299, 95, 30),
        trade(300, 120, 40),
        trade(3_599, 90, 50),
        trade(3_700),
    )
    five = of_kind(KIND_BAR_5M, published)
    assert [(*ohlc(bar), bar["volume"]) for bar in five if bar["rev"] == 1][:2] == [
        (100, 110, 95, 95, 60),
        (120, 120, 120, 120, 40),
    ]
    (hour,) = of_kind(KIND_BAR_1H, published)
    assert (*ohlc(hour), hour["volume"], hour["trades"]) == (100, 120, 90, 90, 150, 5)
    assert hour["vwap_px"] == round((1_000 + 2_200 + 2_850 + 4_800 + 4_500) / 150)


def test_open_and_close_go_by_exchange_time_then_sequence_then_venue(kernel: str) -> None:
    for key in ("event_ns", "exchange_seq", "venue"):
        first, second = ({key: NOON_NS + i} if key == "event_ns" else {key: i} for i in (1, 2))
        if key == "venue":
            first, second = {"venue": "N"}, {"venue": "P"}
        for order in (1, -1):
            rig = Rig()
            rows = [trade(0, 100, **first), trade(0, 200, **second)][::order]
            (bar,) = minutes(rig.step(*rows, after_s=1))
            assert (bar["open_px"], bar["close_px"]) == (100, 200), (key, order)


def test_of_trades_that_cannot_be_told_apart_the_first_to_arrive_opens(kernel: str) -> None:
    (bar,) = minutes(Rig().step(trade(0, 100), trade(0, 300), trade(0, 200), after_s=1))
    assert (bar["open_px"], bar["close_px"]) == (100, 200)


def test_a_late_trade_revises_every_closed_bar_at_once(kernel: str) -> None:
    rig = Rig()
    rig.at(30, trade(30, 100, 10))
    rig.at(62)
    (revised,) = rig.at(62.5, trade(59, 120, 5))
    assert (revised["kind"], revised["rev"], revised["final"]) == (KIND_BAR_1M, 2, 0)
    assert (revised["high_px"], revised["close_px"], revised["volume"]) == (120, 120, 15)
    rig.at(301)
    revised_too = [(bar["kind"], bar["rev"]) for bar in rig.at(302, trade(58)) if bar["rev"]]
    assert revised_too == [(KIND_BAR_1M, 3), (KIND_BAR_5M, 2)]
    assert rig.node.counters()["late"] == 2


def test_the_first_trade_of_a_closed_interval_makes_its_bar(kernel: str) -> None:
    rig = Rig()
    rig.at(90, trade(90))
    rig.at(91)
    (made,) = rig.at(91.5, trade(10))
    assert (made["event_ns"], made["rev"]) == (NOON_NS, 1)


def test_a_bar_is_final_after_the_horizon_and_never_changes_again(kernel: str) -> None:
    rig = Rig()
    rig.at(30, trade(30))
    rig.at(100)
    published = rig.at(60 + 900)
    assert [(bar["kind"], bar["rev"], bar["final"]) for bar in published] == [(KIND_BAR_5M, 1, 0), (KIND_BAR_1M, 1, 1)]
    assert rig.at(961, trade(59)) == []
    assert rig.node.counters()["too_late"] == 1
    assert [(bar["kind"], bar["final"]) for bar in rig.at(300 + 900)] == [(KIND_BAR_5M, 1)]
    assert [(bar["kind"], bar["final"]) for bar in rig.at(3_600 + 900)] == [(KIND_BAR_1H, 0), (KIND_BAR_1H, 1)]


def test_a_jump_of_days_closes_and_finishes_everything_in_the_order_of_time(kernel: str) -> None:
    rig = Rig(event_time=True)
    rig.step(*[trade(60 * i, price=100 + i, symbol=1 + i % 3) for i in range(130)])
    published = rig.step(trade(5 * 86_400, price=7))
    deadlines = [
        bar["event_ns"] + LENGTHS_NS[bar["kind"] - KIND_BAR_1M] + (900 if bar["final"] else 1) * SECOND_NS
        for bar in published
    ]
    assert deadlines == sorted(deadlines)
    finals = of_kind(KIND_BAR_1H, [bar for bar in published if bar["final"]])
    assert {(bar["event_ns"] - NOON_NS) // LENGTHS_NS[2] for bar in finals} == {1, 2}
    last_hour = [bar for bar in finals if bar["event_ns"] == NOON_NS + 2 * LENGTHS_NS[2]]
    assert sum(bar["trades"] for bar in last_hour) == 10


@pytest.mark.parametrize("offset_s", [-5, 5])
def test_a_step_of_the_wall_clock_closes_nothing(kernel: str, offset_s: int) -> None:
    rig = Rig()
    rig.at(54, trade(54))
    rig.at(55)
    rig.clock.step(offset_s * SECOND_NS)
    assert rig.step(trade(55.5), after_s=0.5) == []
    assert [bar["rev"] for bar in minutes(rig.step(after_s=4.5))] == [0]  # 60.0 s
    assert [(bar["rev"], bar["trades"]) for bar in minutes(rig.step(after_s=1))] == [(1, 2)]
    assert rig.node.counters()["skew"] == 0


def test_a_trade_from_the_future_is_kept_in_the_running_bar(kernel: str) -> None:
    rig = Rig()
    rig.at(10, trade(10, 100))
    (bar,) = minutes(rig.at(11, trade(3_000, 105)))
    assert (bar["event_ns"], bar["close_px"], bar["trades"], bar["last_ns"]) == (
        NOON_NS,
        105,
        2,
        NOON_NS + 11 * SECOND_NS,
    )
    assert rig.node.counters()["skew"] == 1
    rig = Rig()
    assert [bar["event_ns"] for bar in minutes(rig.at(10, trade(3_000)))] == [NOON_NS]  # the very first


def test_a_clock_two_seconds_ahead_begins_no_bar_before_its_time_and_closes_none(kernel: str) -> None:
    """Fault 35: its trades count where they say they belong, and nobody sees that minute before it has begun."""
    rig = Rig()
    rig.at(10, trade(10, venue="P"))
    assert [bar["event_ns"] for bar in minutes(rig.at(59, trade(61)))] == []
    running, begun = minutes(rig.at(60.5, trade(59.8, venue="P")))
    assert (running["event_ns"], running["rev"], running["trades"]) == (NOON_NS, 0, 2)
    assert (begun["event_ns"], begun["rev"], begun["trades"], begun["gap"]) == (NOON_NS + MINUTE_NS, 0, 1, 0)
    assert rig.node.counters()["skew"] == rig.node.counters()["late"] == 0


def test_a_clock_two_seconds_ahead_closes_its_own_minute_no_earlier_than_ours(kernel: str) -> None:
    """Its second trade of the minute is the usual one; 59.9 s, and 1.5 s more of our time, would close the minute."""
    rig = Rig()
    rig.at(58, trade(57.5), trade(59.9))
    (running,) = minutes(rig.at(59.5, trade(59.5, venue="P")))
    assert (running["rev"], running["trades"], rig.node.counters()["late"]) == (0, 3, 0)
    assert [(bar["rev"], bar["trades"]) for bar in minutes(rig.at(61))] == [(1, 3)]


def test_what_a_clock_two_seconds_ahead_traded_can_be_cancelled_at_once(kernel: str) -> None:
    rig = Rig()
    rig.at(59, trade(61, trade_id=7), trade(61.5, 101, trade_id=8))
    rig.at(59.5, trade(61.6, mark="x", original_id=8))
    (begun,) = minutes(rig.at(61))[-1:]
    assert (begun["close_px"], begun["trades"]) == (100, 1)


def test_a_line_that_comes_back_before_a_minute_begins_has_lost_nothing_of_it(kernel: str) -> None:
    rig = Rig()
    rig.at(58, line("N", "stale", event_ns=NOON_NS + 58 * SECOND_NS), trade(61, venue="P"), trade(61))
    rig.at(59, line("N", "live", event_ns=NOON_NS + 59 * SECOND_NS))
    assert [bar["gap"] for bar in minutes(rig.at(65)) if bar["event_ns"] > NOON_NS] == [0]


CTA_ROWS = [
    *((code, "prices always volume") for code in ["", " ", "@", "E", "F", "K", "O", "X", "5", "6"]),
    *((code, "prices first volume") for code in ["P", "Z", "4"]),
    ("L", "prices sold volume"),
    ("9", "prices always"),
    *((code, "volume") for code in ["B", "C", "H", "I", "R", "T", "U", "V", "7"]),
    *((code, "official") for code in ["M", "Q"]),
    *((code, "volume unknown") for code in ["N", "8", "A", "D", "G", "S", "W", "Y", "1", "?"]),
]
UTP_ROWS = [
    *((code, "prices always volume") for code in ["", "@", "A", "B", "D", "F", "K", "O", "S", "X", "Y", "1", "5", "6"]),
    *((code, "prices first volume") for code in ["G", "P", "Z", "4"]),
    ("L", "prices always volume"),  # it is noon in London
    ("9", "prices always"),
    *((code, "volume") for code in ["C", "H", "I", "R", "T", "U", "V", "W", "7"]),
    *((code, "official") for code in ["M", "Q"]),
    *((code, "volume unknown") for code in ["E", "N", "8", "?"]),
]
TOGETHER = [  # any "no" wins
    *((code, "prices always volume") for code in ["@F X", " F"]),
    *((code, "prices first volume") for code in ["@F P", "LZ"]),
    ("Z9", "prices first"),
    *((code, "volume") for code in ["@FTI", "ZI"]),
    *((code, "official") for code in ["@  M", "9M", "MI"]),
    ("MQ", "official"),
    ("@N", "volume unknown"),
]


@pytest.mark.parametrize(
    ("tape", "condition", "updates"),
    [(tape, *row) for tape in ("A", "B", "") for row in [*CTA_ROWS, *TOGETHER]]
    + [("C", *row) for row in [*UTP_ROWS, *TOGETHER]],
)
def test_sale_conditions(kernel: str, tape: str, condition: str, updates: str) -> None:
    words = updates.split()
    prices, volume, official = "prices" in words, "volume" in words, "official" in words
    sets_close = "always" in words
    rig = Rig()
    plain = trade(1, 100, 10), trade(2, 110, 10)
    row = trade(3, 500, 7, condition=condition, tape=tape, venue="P")
    (bar,) = minutes(rig.at(10, *plain, row))
    assert bar["high_px"] == (500 if prices else 110)
    assert bar["close_px"] == (500 if sets_close else 110)
    assert (bar["volume"], bar["trades"]) == ((27, 3) if volume else (20, 2))
    weighed = 7 if prices and volume else 0
    assert bar["vwap_px"] == round((100 * 10 + 110 * 10 + 500 * weighed) / (20 + weighed))
    counters = rig.node.counters()
    assert (counters["official"], counters["unknown_condition"]) == (int(official), int("unknown" in words))
    unknown = {name: count for name, count in counters.items() if name.startswith("unknown_condition_")}
    plan = "utp" if tape == "C" else "cta"
    assert unknown == ({f"unknown_condition_{plan}_{condition[-1]}": 1} if "unknown" in words else {})

    alone = minutes(Rig().at(10, row))
    assert len(alone) == int(prices or volume)
    for bar in alone:
        assert ohlc(bar) == ((500,) * 4 if prices else (NULL,) * 4)
        assert bar["vwap_px"] == (500 if prices and volume else NULL)


def test_every_row_of_the_tables_is_among_the_cases() -> None:
    for tape, rows in (("A", CTA_ROWS), ("B", CTA_ROWS), ("C", UTP_ROWS)):
        listed = {row.code for row in sale_conditions() if row.tape == tape}
        assert {code for code, updates in rows if "unknown" not in updates and code.strip()} == listed


@pytest.mark.parametrize("tape", ["A", "C"])
def test_in_the_extended_series_trades_of_extended_hours_have_prices(kernel: str, tape: str) -> None:
    """T as any other, U as one out of sequence, and an odd lot among them still only a volume."""
    rows = [
        trade(1, 100, 10, condition="@ T", tape=tape),
        trade(2, 110, 20, condition="T", tape=tape),
        trade(3, 90, 30, condition="U", tape=tape),
        trade(4, 500, 5, condition="@ TI", tape=tape),
        trade(5, 600, 5, condition="M", tape=tape),
    ]
    (bar,) = minutes(Rig(session="ext").at(10, *rows))
    assert (*ohlc(bar), bar["volume"], bar["trades"]) == (100, 110, 90, 110, 65, 4)
    assert bar["vwap_px"] == round((100 * 10 + 110 * 20 + 90 * 30) / 60)
    (bar,) = minutes(Rig().at(10, *rows))
    assert (*ohlc(bar), bar["volume"], bar["trades"]) == (*(NULL,) * 4, 65, 4)


def test_a_trade_out_of_sequence_sets_the_close_only_as_the_first_of_the_day(kernel: str) -> None:
    rig = Rig()
    rows = trade(2, 102, condition="Z"), trade(1, 101, condition="P"), trade(3, 103, condition="4")
    assert minutes(rig.at(10, *rows))[0]["close_px"] == 101
    assert minutes(rig.at(11, trade(0, 100)))[0]["close_px"] == 100  # though it is the earliest of all
    (bar,) = minutes(rig.at(71, trade(70, 170, condition="Z")))[-1:]
    assert ohlc(bar) == (170, 170, 170, NULL)  # the day has a last price, and this trade does not set another


def test_a_late_trade_takes_the_close_from_one_that_was_only_the_first(kernel: str) -> None:
    rig = Rig()
    rig.at(70, trade(70, 170, condition="Z"))
    assert [bar["close_px"] for bar in minutes(rig.at(121))] == [170]
    revised = minutes(rig.at(122, trade(10, 110)))
    assert [(bar["event_ns"] - NOON_NS, bar["close_px"], bar["rev"]) for bar in revised] == [
        (0, 110, 1),
        (60 * SECOND_NS, NULL, 2),
    ]


def test_the_next_day_has_its_own_first_trade(kernel: str) -> None:
    rig = Rig(event_time=True)
    midnight_s = 17 * 3_600  # in New York
    published = rig.step(
        trade(midnight_s - 50, 100), trade(midnight_s + 10, 101, condition="Z"), trade(midnight_s + 70)
    )
    assert [bar["close_px"] for bar in minutes(published) if bar["rev"] == 1] == [100, 101]


@pytest.mark.parametrize(
    ("venue", "tape", "close"),
    [("N", "B", 103), ("P", "B", 102), ("N", "A", 103), ("P", "A", 102)],
    ids=["same participant", "another", "listing market", "neither"],
)
def test_a_sold_last_of_cta_sets_the_close_after_its_own_participant(
    kernel: str, venue: str, tape: str, close: int
) -> None:
    """Note 3: if first, from the participant of the current last, or from the listing market."""
    last = "T" if tape == "A" else "N"
    for order in (1, -1):
        rows = [
            trade(1, 101, venue="P"),
            trade(2, 102, venue=last),
            trade(3, 103, venue=venue, condition="L", tape=tape),
        ]
        assert minutes(Rig().at(10, *rows[::order]))[0]["close_px"] == close
    assert minutes(Rig().at(10, trade(3, 103, venue=venue, condition="L", tape=tape)))[0]["close_px"] == 103


def test_a_sold_last_looks_back_beyond_its_minute(kernel: str) -> None:
    for before, close in (("V", 150), ("N", NULL)):
        rig = Rig()
        rig.at(50, trade(50, 100, venue=before))
        bar = minutes(rig.at(1_500, trade(1_499, 150, venue="V", condition="L", tape="B")))[-1]
        assert bar["close_px"] == close


@pytest.mark.parametrize(
    ("day", "clock", "close"),
    [
        ("2026-01-02", "21:00:10.000000000", 103),
        ("2026-01-02", "21:00:10.000000001", 102),
        ("2026-07-01", "20:00:10.000000000", 103),  # daylight saving time
        ("2026-07-01", "20:00:10.000000001", 102),
        ("2026-11-27", "18:00:10.000000000", 103),  # a half day
        ("2026-11-27", "18:00:10.000000001", 102),
        ("2026-11-28", "18:00:10.000000001", 103),  # no session
    ],
)
def test_a_sold_last_of_utp_sets_the_close_until_ten_seconds_after_the_close(
    kernel: str, day: str, clock: str, close: int
) -> None:
    ns = int(np.datetime64(f"{day}T{clock}", "ns").astype(np.int64))
    rig = Rig(event_time=True)
    published = rig.step(
        trade(0, 102, event_ns=ns - 1, tape="C"),
        trade(0, 103, event_ns=ns, condition="L", tape="C"),
        trade(0, event_ns=ns + 61 * SECOND_NS),
    )
    assert [bar["close_px"] for bar in minutes(published) if bar["rev"] == 1] == [close]


@pytest.mark.parametrize(
    "values",
    [
        {"price": 0},
        {"price": -1},
        {"price": NULL},
        {"size": 0},
        {"size": NULL},
        {"size": 2**31},
        {"symbol": 0},
        {"event_ns": NULL},
    ],
)
def test_what_is_no_trade_is_counted(kernel: str, values: dict[str, int]) -> None:
    rig = Rig()
    assert rig.at(10, trade(1, **{"price": 100} | values)) == []
    assert rig.node.counters()["malformed"] == 1


def test_the_average_is_exact_beyond_64_bits(kernel: str) -> None:
    rng = random.Random(4)
    traded = [(rng.randrange(PRICE_MAX - PRICE_UNIT, PRICE_MAX), rng.randrange(2**30, 2**31)) for _ in range(200)]
    (bar,) = minutes(Rig().at(10, *[trade(1, price, size) for price, size in traded]))
    shares = sum(size for _, size in traded)
    assert bar["vwap_px"] == (2 * sum(price * size for price, size in traded) + shares) // (2 * shares)


@pytest.mark.parametrize("mark", ["x", "c"])
@pytest.mark.parametrize("price", [100, NULL], ids=["priced", "names the trade only"])
def test_a_cancel_or_correction_of_an_unknown_trade_is_counted_and_flags_the_bar(
    kernel: str, mark: str, price: int
) -> None:
    rig = Rig()
    (bar,) = minutes(rig.at(10, trade(8, 100, 10), trade(10, price=price, size=10, mark=mark, original_id=4)))
    assert (bar["volume"], bar["gap"]) == (10, 1)
    assert (rig.node.counters()["unapplied_cancels"], rig.node.counters()["malformed"]) == (1, 0)


def test_a_cancel_takes_its_trade_out_of_every_bar(kernel: str) -> None:
    rig = Rig()
    rig.at(30, trade(5, 90, trade_id=1), trade(10, 100, trade_id=2), trade(20, 200, 5, trade_id=3), trade(30, 150))
    rig.at(62)
    (bar,) = rig.at(62.5, trade(62, NULL, NULL, mark="x", original_id=3))
    assert (*ohlc(bar), bar["volume"], bar["trades"], bar["rev"], bar["gap"]) == (90, 150, 90, 150, 30, 3, 2, 0)
    (bar,) = rig.at(62.6, trade(62, NULL, NULL, mark="x", original_id=1))
    assert (*ohlc(bar), bar["volume"]) == (100, 150, 100, 150, 20)
    rig.at(62.7, trade(62, NULL, NULL, mark="x", original_id=3))  # once more
    rig.at(62.8, trade(62, NULL, NULL, mark="x", original_id=2, venue="P"))  # another venue's
    counters = rig.node.counters()
    assert (counters["cancels"], counters["unapplied_cancels"]) == (2, 2)


def test_a_bar_whose_only_trade_is_cancelled_stays_and_is_empty(kernel: str) -> None:
    rig = Rig()
    rig.at(5, trade(5, trade_id=1))
    rig.at(62)
    (bar,) = rig.at(62.5, trade(62, NULL, NULL, mark="x", original_id=1))
    assert (*ohlc(bar), bar["vwap_px"], bar["last_ns"]) == (NULL,) * 6
    assert (bar["volume"], bar["trades"], bar["rev"]) == (0, 0, 2)


def test_a_correction_keeps_the_time_of_its_trade(kernel: str) -> None:
    rig = Rig()
    rig.at(50, trade(5, 100, trade_id=1), trade(10, 110, trade_id=2))
    corrected = trade(51, 130, 7, mark="c", original_id=1, trade_id=9, condition="@")
    (bar,) = minutes(rig.at(52, corrected))
    assert (*ohlc(bar), bar["volume"], bar["trades"]) == (130, 130, 110, 110, 17, 2)
    (bar,) = minutes(rig.at(54, trade(53, NULL, NULL, mark="x", original_id=9)))
    assert (*ohlc(bar), bar["volume"]) == (110, 110, 110, 110, 10)
    assert rig.node.counters()["corrections"] == 1


def test_what_the_log_has_lost_cannot_be_cancelled_and_is_flagged(kernel: str) -> None:
    rig = Rig(log_max=4)
    rig.at(10, *[trade(i, 100 + i, trade_id=i) for i in range(1, 7)])
    (bar,) = minutes(rig.at(11, trade(11, NULL, NULL, mark="x", original_id=6)))
    assert (bar["high_px"], bar["volume"], bar["gap"]) == (106, 60, 1)
    assert rig.node.counters()["unapplied_cancels"] == 1


def test_the_end_of_an_interval_is_told_behind_its_bars(kernel: str) -> None:
    rig = Rig()
    rig.at(290, trade(290), trade(290, symbol=2))
    rig.complete.clear()
    made = rig.node.step(np.empty(0, EVENT), NOON_NS)
    rig.clock.advance(12 * SECOND_NS)
    made = as_dicts(rig.node.step(np.empty(0, EVENT), rig.clock.now_ns()))
    ends = [(bar["kind"], bar["symbol"], bar["event_ns"] - NOON_NS, bar["trades"]) for bar in made if bar["rev"] == 1]
    assert ends == [
        (KIND_BAR_1M, 1, 240 * SECOND_NS, 1),
        (KIND_BAR_1M, 2, 240 * SECOND_NS, 1),
        (KIND_BAR_1M, 0, 240 * SECOND_NS, 2),
        (KIND_BAR_5M, 1, 0, 1),
        (KIND_BAR_5M, 2, 0, 1),
        (KIND_BAR_5M, 0, 0, 2),
    ]
    rig.at(361)
    assert [(bar["kind"], bar["trades"]) for bar in rig.complete] == [(KIND_BAR_1M, 0)]  # nobody traded


def test_only_the_channels_of_the_node_are_published(kernel: str) -> None:
    rig = Rig(channels=("bar.5m",))
    rig.at(10, trade(10))
    assert {bar["kind"] for bar in [*rig.at(301), *rig.complete]} == {KIND_BAR_5M}


def days(published: list[dict[str, int]]) -> list[dict[str, int]]:
    return of_kind(KIND_BAR_1D, published)


def utc(text: str) -> int:
    return int(np.datetime64(text, "ns").astype(np.int64))


@pytest.mark.parametrize(
    ("first", "inside", "after"),
    [
        ("2026-11-27T05:00", "2026-11-28T04:59:59", "2026-11-28T05:00"),  # a half day is as long as others
        ("2026-03-08T05:00", "2026-03-09T03:59:59", "2026-03-09T04:00"),  # 23 hours
        ("2026-11-01T04:00", "2026-11-02T04:59:59", "2026-11-02T05:00"),  # 25 hours
        ("1999-07-04T00:00", "1999-07-04T23:59:59", "1999-07-05T00:00"),  # before the calendar: of UTC
    ],
)
def test_a_day_is_one_of_new_york(kernel: str, first: str, inside: str, after: str) -> None:
    rig = Rig(event_time=True, channels=candles.CHANNELS)
    rows = [trade(0, 100 + i, 10, event_ns=utc(at)) for i, at in enumerate((first, inside, after))]
    published = days([*rig.step(*rows), *rig.step(trade(0, event_ns=utc(after) + 3 * 86_400 * SECOND_NS))])
    final = [bar for bar in published if bar["final"]]
    assert [(bar["event_ns"], bar["open_px"], bar["close_px"], bar["volume"]) for bar in final] == [
        (utc(first), 100, 101, 20),
        (utc(after), 102, 102, 10),
    ]


@pytest.mark.parametrize("day", ["2026-11-27", "2026-03-08", "2026-11-01"])
def test_at_full_rate_every_trade_falls_on_its_own_day(day: str) -> None:
    """Fault 46 at load: half day and changes of clocks, 1,000 symbols, 50,000 trades a second over both midnights."""
    zone = ZoneInfo("America/New_York")
    begin = datetime.fromisoformat(day).replace(tzinfo=zone)
    midnights = [round(at.timestamp()) * SECOND_NS for at in (begin, begin + timedelta(days=1))]  # on the wall
    rng = np.random.default_rng(46)
    trades = empty(200_000, TRADE, KIND_TRADE)
    around = np.concatenate([at + np.sort(rng.integers(-SECOND_NS, SECOND_NS, trades.size // 2)) for at in midnights])
    trades["event_ns"], trades["exchange_seq"] = around, np.arange(trades.size)
    trades["symbol"], trades["venue"] = rng.integers(1, 1_001, trades.size), ord("N")
    trades["price"], trades["size"] = rng.integers(1, 1_000, (2, trades.size))
    trades["condition"], trades["tape"] = pack("@"), pack("A")

    node = Candles(1_001, PUBLISHERS, 8_192, ManualClock(), event_time=True, channels=("bar.1d",))
    parts = [node.step(trades[i : i + 8_192].view(EVENT), 0).copy() for i in range(0, trades.size, 8_192)]
    parts.append(node.step(np.empty(0, EVENT), midnights[1] + 86_400 * SECOND_NS).copy())
    while parts[-1].size:
        parts.append(node.step(np.empty(0, EVENT), 0).copy())
    made = np.concatenate(parts).view(BAR)
    made = made[(made["final"] == 1) & (made["event_ns"] == midnights[0]) & (made["symbol"] > 0)]

    inside = trades[(trades["event_ns"] >= midnights[0]) & (trades["event_ns"] < midnights[1])]
    assert sorted(made["symbol"].tolist()) == list(range(1, 1_001))
    for bar in made:
        own = inside[inside["symbol"] == bar["symbol"]]
        prices = own["price"]
        assert (*ohlc(bar), bar["volume"], bar["trades"]) == (
            prices[0], prices.max(), prices.min(), prices[-1], own["size"].sum(), own.size
        )  # fmt: skip


def test_a_day_is_published_with_each_minute_that_closes(kernel: str) -> None:
    rig = Rig(channels=candles.CHANNELS)
    rig.at(10, trade(10, 100))
    assert not days(rig.at(20))
    assert [(bar["volume"], bar["rev"], bar["close_px"]) for bar in days(rig.at(61))] == [(10, 0, 100)]
    rig.at(5_000, trade(5_000, 50))  # the first minute is final by now
    assert [(*ohlc(bar), bar["volume"]) for bar in days(rig.at(5_042))] == [(100, 100, 50, 50, 20)]


@pytest.mark.parametrize("tape", ["A", "B", "C"])
def test_official_prints_are_of_the_day_and_the_listing_market(kernel: str, tape: str) -> None:
    listing = {"A": "N", "B": "P", "C": "Q"}[tape]
    rig = Rig(channels=candles.CHANNELS)
    rig.at(
        5,
        trade(1, 100, tape=tape),
        trade(2, 105, condition="Q", tape=tape, venue=listing),
        trade(3, 1, condition="Q", tape=tape, venue=listing if tape == "B" else "T", event_ns=NOON_NS + 1),
        trade(4, 107, condition="M", tape=tape, venue=listing),
    )
    (bar,) = days(rig.at(70))
    assert (bar["official_open_px"], bar["official_close_px"]) == (105, 107)
    assert ohlc(bar) == (100 if tape == "C" else 105, 100, 100, 100)
    assert bar["volume"] == 10
    (minute,) = [bar for bar in minutes(rig.at(1_000)) if bar["final"]]
    assert (minute["open_px"], minute["official_open_px"], minute["official_close_px"]) == (100, NULL, NULL)


def test_a_gap_flags_the_bars_of_its_symbol_only(kernel: str) -> None:
    rig = Rig()
    rig.at(10, trade(10), trade(10, symbol=2))
    rig.at(20)
    rig.at(30, lost(1), lost(2, KIND_NBBO), trade(30), trade(30, symbol=2))
    assert {(bar["symbol"], bar["gap"]) for bar in rig.at(300.9)} == {(1, 1), (2, 0)}  # the minute
    assert {(bar["symbol"], bar["gap"]) for bar in of_kind(KIND_BAR_5M, rig.at(301))} == {(1, 1), (2, 0)}
    rig.at(310, trade(310), trade(310, symbol=2))
    assert {bar["gap"] for bar in minutes(rig.at(361))} == {0}


@pytest.mark.parametrize(
    ("down", "up"), [(link(1, 0), link(1, 1)), (line("P", "stale"), line("P", "live"))], ids=["link", "line"]
)
def test_an_outage_flags_every_bar_that_it_touches(kernel: str, down: Rows, up: Rows) -> None:
    rig = Rig(silence_ns=2 * SECOND_NS)
    rig.at(5, trade(5, symbol=1, venue="N"), trade(5, symbol=2, venue="P"))
    gaps = {}
    for second, rows in [(61, []), (121, [down]), (181, []), (200, [up])]:
        rig.at(second, *rows)
        rig.at(second + 4, trade(second + 4, symbol=1, venue="N"), trade(second + 4, symbol=2, venue="V"))
    for bar in minutes(rig.at(2_000)):
        gaps[bar["symbol"], (bar["event_ns"] - NOON_NS) // MINUTE_NS] = bar["gap"]
    assert {at for at, gap in gaps.items() if gap} == {(2, 1), (2, 2), (2, 3)}  # minute 1: noticed 2 s late
    assert {at for at, gap in gaps.items() if not gap} == {(1, 0), (1, 1), (1, 2), (1, 3), (2, 0)}


def test_bars_that_began_before_a_restart_say_so(kernel: str) -> None:
    rig = Rig()
    rig.at(310, trade(310))
    rig.node = Candles(8, PUBLISHERS, 1_000, rig.clock, **rig.options)
    rig.at(320, link(0, 1))
    rig.at(325, trade(325), trade(290), trade(325, symbol=2, venue="V"))
    rig.at(370, trade(370), trade(290), trade(370, symbol=2, venue="V"))  # nobody has heard V yet
    rig.at(430, link(2, 1), trade(430), trade(430, symbol=2, venue="V"))
    rig.at(490, trade(490), trade(490, symbol=2, venue="V"))
    rig.at(610, trade(610), trade(610, symbol=2, venue="V"))
    found = {
        (bar["kind"], bar["symbol"], (bar["event_ns"] - NOON_NS) // SECOND_NS): bar["gap"] for bar in rig.at(8_000)
    }
    assert {key for key, gap in found.items() if gap} == {
        *((KIND_BAR_1M, 1, second) for second in (240, 300)),
        *((KIND_BAR_1M, 2, second) for second in (300, 360, 420)),
        *((kind, symbol, at) for kind, at in ((KIND_BAR_5M, 300), (KIND_BAR_1H, 0)) for symbol in (1, 2)),
        (KIND_BAR_5M, 1, 0),
    }
    assert {key for key, gap in found.items() if not gap} == {
        *((KIND_BAR_1M, 1, second) for second in (360, 420, 480, 600)),
        *((KIND_BAR_1M, 2, second) for second in (480, 600)),
        *((KIND_BAR_5M, symbol, 600) for symbol in (1, 2)),
    }


def test_without_a_link_row_the_first_event_is_when_listening_began(kernel: str) -> None:
    rig = Rig()
    rig.node = Candles(8, ("",), 1_000, rig.clock, **rig.options)
    rig.at(30, trade(29))
    published = minutes([*rig.at(70, trade(70)), *rig.at(130)])
    assert [bar["gap"] for bar in published if bar["rev"] == 1] == [1, 0]


def test_the_start_of_a_replay_has_lost_nothing(kernel: str) -> None:
    rig = Rig(event_time=True)
    assert {bar["gap"] for bar in rig.step(trade(30), trade(5_000))} == {0}


@pytest.mark.parametrize("kind", ["trade", "status"])
@pytest.mark.parametrize("event_time", [False, True])
def test_an_ancient_first_time_costs_no_more_than_another(kernel: str, kind: str, event_time: bool) -> None:
    rig = Rig(event_time=event_time)
    rig.at(10, trade(0, event_ns=1) if kind == "trade" else line("N", "live", event_ns=1))
    published = [*rig.at(20, trade(20)), *rig.at(21, trade(21))]  # a visit of each minute since 1970 would not end
    assert [bar["trades"] for bar in minutes(published) if bar["event_ns"] == NOON_NS][-1] == 2
    assert rig.node.counters()["too_late"] == (kind == "trade" and not event_time)


def test_a_batch_with_all_rows_about_links_fits(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candles, "BACKLOG_MAX", 0)
    rig = Rig(symbols_max=2, batch_max=1)
    rig.at(3_590, trade(3_590))
    rig.at(3_602)
    count = 1 + EVENTS_MAX
    assert len(rig.at(3_603, *[trade(3_590) for _ in range(count)])) == 3 * count
    assert len(rig.node._out) >= 3 * count


def test_a_lost_packet_of_a_line_flags_the_bars_of_its_venue(kernel: str) -> None:
    rig = Rig()
    published = rig.at(10, trade(8), trade(8, symbol=2, venue="P"), line("P", "gap"))
    assert {(bar["symbol"], bar["gap"]) for bar in published} == {(1, 0), (2, 1)}


def test_rows_of_other_kinds_are_passed_over(kernel: str) -> None:
    assert Rig().at(10, row(TRADE, KIND_QUOTE, 1, "N", {"event_ns": NOON_NS})) == []


def test_what_is_due_beyond_the_bound_comes_with_the_next_steps(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candles, "ROWS_MAX", 4)
    rig = Rig()
    rows = [trade(30, symbol=symbol) for symbol in range(1, 8)]
    parts = [rig.at(30, *rows), *[rig.step() for _ in range(6)]]
    assert [len(part) for part in parts] == [4, 4, 4, 4, 4, 1, 0]
    everything = [bar for part in parts for bar in part]
    assert sorted((bar["kind"], bar["symbol"]) for bar in everything) == [
        (kind, symbol) for kind in (KIND_BAR_1M, KIND_BAR_5M, KIND_BAR_1H) for symbol in range(1, 8)
    ]


def test_a_backlog_beyond_its_bound_is_returned_at_once(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candles, "ROWS_MAX", 2)
    monkeypatch.setattr(candles, "BACKLOG_MAX", 8)
    rig = Rig(symbols_max=8, batch_max=8)
    sizes = [len(rig.at(30 + i, *[trade(30 + i, symbol=symbol) for symbol in range(1, 8)])) for i in range(3)]
    assert sizes[1:] == [21, 21]


def random_stream(rng: random.Random, count: int, symbols: int, seconds: int, far: bool) -> list[tuple[float, Rows]]:
    """(arrival in seconds past noon, row): trades that may be late, ahead, cancelled or odd; losses and outages."""
    stream: list[tuple[float, Rows]] = []
    ids: list[int] = []
    for at in sorted(rng.uniform(0, seconds) for _ in range(count)):
        chance = rng.random()
        if chance < 0.9:
            delay = rng.choices([0, 0.2, 3, 90, 700, 1_500, -2, -30 if far else 0], [60, 20, 6, 6, 4, 2, 1, 1])[0]
            values: dict[str, Any] = {"exchange_seq": rng.randrange(5), "venue": rng.choice("NPV")}
            codes = ["", "I", "Z", "@F", "9", "M", "N", "P", "L", "Q", "B", "G"]
            values["condition"] = rng.choices(codes, [50, 10, 6, 10, 3, 2, 2, 4, 6, 1, 3, 3])[0]
            values["tape"] = rng.choice(["A", "C", ""])
            values["trade_id"] = rng.randrange(count)
            values["mark"] = rng.choices(["", "x", "c"], [94, 3, 3])[0]
            if values["mark"]:
                values["original_id"] = rng.choice(ids or [1])
            ids.append(values["trade_id"])
            price = rng.randrange(99 * PRICE_UNIT, 101 * PRICE_UNIT)
            second = max(round(at - delay, rng.choice([0, 1, 9])), -1_000)
            made = trade(second, price, rng.choice([1, 100, 2_000_000_000]), rng.randrange(1, symbols), **values)
        elif chance < 0.93:
            made = lost(rng.randrange(1, symbols), rng.choice([KIND_TRADE, KIND_STATUS]))
        elif chance < 0.96:
            made = line(
                rng.choice("NPV"),
                rng.choice(["stale", "live", "live", "gap"]),
                event_ns=NOON_NS + round(at * SECOND_NS),
            )
        else:
            made = link(rng.randrange(len(PUBLISHERS)), rng.choice([0, 1, 1]))
        stream.append((at, made))
    return stream


def batches(rng: random.Random, stream: list[tuple[float, Rows]], most: int) -> Iterator[tuple[float, Rows]]:
    """(arrival of the last, rows)"""
    start = 0
    while start < len(stream):
        end = min(start + 1 + rng.randrange(most), len(stream))
        yield stream[end - 1][0], np.concatenate([made for _, made in stream[start:end]])
        start = end


@pytest.mark.parametrize("event_time", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_its_twin(kernel: str, seed: int, event_time: bool) -> None:
    rng = random.Random(seed)
    symbols = rng.choice([2, 4, 8])
    options: dict[str, Any] = {
        "horizon_ns": rng.choice([1, 2, 15]) * MINUTE_NS,
        "grace_ns": rng.choice([0, 1, 30]) * SECOND_NS,
    }
    options |= {"event_time": event_time, "publish_every_ns": rng.choice([1, 20]) * SECOND_NS}
    rig = Rig(symbols_max=symbols, **options, channels=candles.CHANNELS)
    twin = NaiveCandles(PUBLISHERS, rig.clock.monotonic_ns, **options)
    twin.step(np.concatenate(LINKS_UP), NOON_NS)
    count = 250 if kernel == "compiled" else 80
    stream = random_stream(rng, count, symbols, seconds=rng.choice([100, 1_000, 9_000, 90_000]), far=not event_time)
    label = f"seed {seed}, {kernel}, event time {event_time}"
    published = 0
    for at, rows in [*batches(rng, stream, 20), (200_000, np.empty(0, EVENT)), (200_001, np.empty(0, EVENT))]:
        found = rig.at(at, rows)
        expected = twin.step(rows, rig.clock.now_ns())
        for wanted, got in zip(expected, found, strict=False):
            assert {name: got[name] for name in wanted} == wanted, f"{label}: {at:.3f} s"
        assert len(found) == len(expected), f"{label}: {at:.3f} s"
        published += len(found)
    assert published == rig.node.counters()["bars"] > 40


@pytest.mark.parametrize("seed", range(3))
def test_under_event_time_revisions_do_not_depend_on_the_batching(kernel: str, seed: int) -> None:
    rng = random.Random(seed)
    stream = random_stream(rng, 400, symbols=5, seconds=2_000, far=False)
    outcomes = []
    for most in (1, 7, 400):
        rig = Rig(event_time=True)
        node = rig.node
        clock = EventClock()
        parts = []
        for _, rows in batches(rng, stream, most):
            clock.saw(int(rows["event_ns"].max()))  # as the inbox does: before the step
            parts.append(node.step(rows, clock.now_ns()).copy())
        published = np.concatenate(parts)
        outcomes.append(published[published["rev"] > 0].tobytes())
    assert outcomes[0] == outcomes[1] == outcomes[2], f"seed {seed}"


VENUES = st.sampled_from("NPV")
SECONDS = st.integers(0, 400)
EVENTS = st.one_of(
    st.builds(
        lambda second, delay, symbol, size, price, values: (
            second,
            trade(max(second - delay, 0), price, size, symbol, **values),
        ),
        SECONDS,
        st.sampled_from([0, 0, 0, 1, 70, 250]),
        st.integers(1, 2),
        st.integers(1, 3),
        st.integers(99, 101),
        st.fixed_dictionaries(
            {
                "venue": VENUES,
                "exchange_seq": st.integers(0, 2),
                "trade_id": st.integers(0, 5),
                "condition": st.sampled_from(["", "", "I", "T", "Z", "L", "9", "M", "Q", "@F", "?"]),
                "tape": st.sampled_from(["A", "C", ""]),
            },
            optional={"mark": st.sampled_from(["x", "c"]), "original_id": st.integers(0, 5)},
        ),
    ),
    st.builds(lambda second, symbol: (second, lost(symbol)), SECONDS, st.integers(1, 2)),
    st.builds(
        lambda second, venue, state: (second, line(venue, state, event_ns=NOON_NS + second * SECOND_NS)),
        SECONDS,
        VENUES,
        st.sampled_from(["stale", "live", "gap"]),
    ),
    st.builds(lambda second, n, up: (second, link(n, up)), SECONDS, st.integers(0, 2), st.integers(0, 1)),
)
"""(arrival in seconds past noon, row)"""


@given(st.lists(st.tuples(EVENTS, st.booleans()), max_size=30), st.booleans())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_stream_in_any_batching_agrees_with_the_twin(
    made: list[tuple[tuple[int, Rows], bool]], event_time: bool
) -> None:
    """Each flag says whether a batch ends behind its row."""
    options: dict[str, Any] = {"event_time": event_time, "horizon_ns": 2 * MINUTE_NS}
    rig = Rig(symbols_max=3, **options, channels=candles.CHANNELS)
    twin = NaiveCandles(PUBLISHERS, rig.clock.monotonic_ns, **options)
    twin.step(np.concatenate(LINKS_UP), NOON_NS)
    batch: list[Rows] = []
    for (at, row), ends in [*sorted(made, key=lambda event: event[0][0]), ((1_000, lost(1, KIND_QUOTE)), True)]:
        batch.append(row)
        if ends:
            found = rig.at(at, *batch)
            expected = twin.step(np.concatenate(batch), rig.clock.now_ns())
            assert len(found) == len(expected)
            for wanted, got in zip(expected, found, strict=True):
                assert {name: got[name] for name in wanted} == wanted
            batch = []


def test_the_bars_that_the_log_gives_are_the_live_ones_bit_for_bit(
    tmp_path: Path, context: "zmq.Context[zmq.Socket[bytes]]"
) -> None:
    """Trades go out through a publisher with a log; a node has them live, another one from the log afterwards, in other
    batches and under another clock.
    """
    rng = random.Random(7)
    stream = random_stream(rng, 3_000, symbols=5, seconds=2_000, far=False)
    stream = [(at, row) for at, row in stream if row["kind"][0] == KIND_TRADE and row["event_ns"][0] >= NOON_NS]
    names, others = SymbolTable(8), SymbolTable(8)
    for symbol in range(1, 5):
        names.intern(f"S{symbol}")
    pub, router = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    publisher = Publisher("feed", pub, router, ("trade",), "NPV", journal=JournalSettings(str(tmp_path)))
    rig = Rig(channels=candles.CHANNELS)
    live = []
    with closing(Outbox(context, publisher, names, Limits(), rig.clock, epoch=1, stamp="feed_ns")) as outbox:
        for at, rows in batches(rng, stream, 50):
            live += rig.at(at, rows)
            outbox.send(rows)
    live += [*rig.at(200_000), *rig.at(200_001)]

    cursor = Cursor(lambda: journal.segments(tmp_path / "feed"), Query())
    logged = codec.decode([(topic, payload) for *_, topic, payload in journal.records(cursor)], others)
    assert logged.size == len(stream)
    node = Candles(8, (), 1_000, ManualClock(), event_time=True, channels=candles.CHANNELS, log_max=1 << 12)
    parts = [node.step(logged[i : i + 77], 0).copy() for i in range(0, logged.size, 77)]
    parts.append(node.step(np.empty(0, EVENT), NOON_NS + 200_000 * SECOND_NS).copy())

    unlike = ("symbol", "rev", "gap")

    def final(bars: list[dict[str, int]], table: SymbolTable) -> list[Any]:
        """What final bars say of trades. How often they were revised, and which bars a cancel of an unknown trade
        flags, depends on when it arrived.
        """
        return sorted(
            (table.name(bar["symbol"]), *(value for name, value in bar.items() if name not in unlike))
            for bar in bars
            if bar["final"] and bar["symbol"]
        )

    assert len(final(live, names)) > 100
    assert final(live, names) == final(as_dicts(np.concatenate(parts)), others)


def test_hours_may_begin_as_the_session_does(kernel: str) -> None:
    """New York opens at 14:30 UTC in winter and at 13:30 in summer: half past, always."""
    rig = Rig(hours="open", channels=("bar.1m", "bar.1h"), event_time=True)
    rows = [trade(second, 100 + i) for i, second in enumerate((9_000, 12_599, 12_600, 16_200))]  # 14:30 to 16:30
    hours = [bar for bar in of_kind(KIND_BAR_1H, rig.step(*rows, trade(90_000))) if bar["final"]]
    assert [(bar["event_ns"] - NOON_NS) // SECOND_NS for bar in hours] == [9_000, 12_600, 16_200]
    assert [(bar["open_px"], bar["close_px"], bar["trades"]) for bar in hours] == [
        (100, 101, 2),
        (102, 102, 1),
        (103, 103, 1),
    ]
    utc_open = np.datetime64("2026-07-01T13:30", "ns").astype(np.int64) - NOON_NS
    summer = Rig(hours="open", channels=("bar.1h",), event_time=True).step(
        trade(0, event_ns=NOON_NS + utc_open - 1), trade(0, event_ns=NOON_NS + utc_open), trade(10**8)
    )
    assert [(bar["event_ns"] - NOON_NS - utc_open) // SECOND_NS for bar in summer if bar["final"]] == [-3_600, 0]


def recorded_trades(shared_data: Path, count: int | None = None) -> Rows:
    """The trades of 2018-01-02 in one stock of tape A, in the order of the tape; none of them was corrected."""
    path = shared_data / "taq_nbbo" / "trades_2018-01-02.csv.gz"
    if not path.exists():
        pytest.skip(f"no recorded trades: {path} is missing")
    with gzip.open(path, "rt") as lines:
        recorded = list(csv.DictReader(lines))[:count]
    assert {line["corr"] for line in recorded} == {"0"}
    rows = empty(len(recorded), TRADE, KIND_TRADE)
    rows["symbol"] = 1
    rows["venue"] = [ord(line["ex"]) for line in recorded]
    rows["exchange_seq"] = [int(line["seq"]) for line in recorded]
    rows["event_ns"] = [int(line["ts_us"]) * 1_000 for line in recorded]
    rows["price"] = [round(float(line["price"]) * 10_000) * (PRICE_UNIT // 10_000) for line in recorded]
    rows["size"] = [int(line["size"]) for line in recorded]
    rows["condition"] = [pack(line["cond"]) for line in recorded]
    rows["tape"] = pack("A")
    return rows


def naive_trades(rows: list[dict[str, int]], regular: str = "") -> list[dict[str, Any]]:
    """Recorded trades with their rights; codes in ``regular`` count as if they were blank."""

    @cache
    def rights_of(condition: int, venue: int) -> set[str]:
        counted = "".join(code for code in unpack(condition) if code not in regular)
        return sale_rights(counted, "A", venue=chr(venue))  # on this tape at any time the same

    made = [trade | {"rights": rights_of(trade["condition"], trade["venue"])} for trade in rows]
    return [trade for trade in made if trade["rights"] - {"o", "c"}]


def naive_bars(made: list[dict[str, Any]], k: int) -> dict[int, dict[str, int]]:
    """The bars of these trades by their start."""
    closing = closing_trades(made)
    intervals = defaultdict(list)
    for trade in made:
        intervals[span_of(k, trade["event_ns"])[0]].append(trade)
    return {start: bar_of(trades, closing) for start, trades in intervals.items()}


def test_the_recorded_trades_of_a_day(shared_data: Path, kernel: str) -> None:
    """Every bar of every length, in every field, equals the one that is computed from all its trades at once."""
    rows = recorded_trades(shared_data, None if kernel == "compiled" else 3_000)
    node = Candles(2, (), 10_000, ManualClock(), event_time=True, log_max=1 << 16)
    parts = [node.step(rows[i : i + 10_000].view(EVENT), 0).copy() for i in range(0, rows.size, 10_000)]
    day_after = int(rows["event_ns"].max()) + 2 * 86_400 * SECOND_NS
    parts.append(node.step(np.empty(0, EVENT), day_after).copy())
    found = {
        (bar["kind"] - KIND_BAR_1M, bar["event_ns"]): bar for part in parts for bar in as_dicts(part) if bar["final"]
    }
    made = naive_trades(as_dicts(rows))
    for k in range(len(LENGTHS_NS)):
        expected = naive_bars(made, k)
        assert {start for length, start in found if length == k} == set(expected)
        for start, bar in expected.items():
            assert {name: found[k, start][name] for name in bar} == bar, (k, start)
    counters = node.counters()
    assert counters["late"] == counters["too_late"] == counters["malformed"] == 0
    # N was "next day" settlement then and is reserved now: volume only by both.
    texts = [unpack(condition) for condition in rows["condition"].tolist()]
    assert counters["unknown_condition"] == sum("N" in text for text in texts)
    if kernel == "compiled":
        (day,) = naive_bars(made, 3).values()
        official = rows["size"][[bool(set(text) & set("MQ")) for text in texts]].sum()
        assert day["volume"] == 5_553_205 - official  # the whole day, of which the official prints repeat some
        assert official > 0


def test_what_each_rule_changes_on_a_recorded_day(shared_data: Path) -> None:
    """Of 390 regular minutes and those around them, how many have another open, high, low, close or volume without a
    rule: with its codes taken as if they were blank.
    """
    rows = as_dicts(recorded_trades(shared_data))
    truth = naive_bars(naive_trades(rows), 0)
    fields = ("open_px", "high_px", "low_px", "close_px", "volume")
    changed = {}
    for rule, codes in {
        "odd lots": "I",
        "extended hours": "TU",
        "derivatively priced": "4",
        "average price": "B",
        "out of sequence, prior reference": "ZP",
        "cash, seller, reserved": "CRN",
        "contingent": "V7",
        "official prints": "MQ",
    }.items():
        without = naive_bars(naive_trades(rows, codes), 0)
        differ = [
            [start for start in without if without[start][name] != truth.get(start, {}).get(name)] for name in fields
        ]
        changed[rule] = tuple(len(starts) for starts in differ)
    assert changed == {
        "odd lots": (162, 153, 146, 168, 0),
        "extended hours": (36, 36, 36, 35, 0),
        "derivatively priced": (0, 0, 0, 0, 0),  # each of them is an average price or an odd lot as well
        "average price": (4, 27, 29, 0, 0),
        "out of sequence, prior reference": (0, 0, 0, 0, 0),
        "cash, seller, reserved": (0, 0, 0, 0, 0),
        "contingent": (1, 3, 0, 0, 0),
        "official prints": (1, 0, 1, 0, 2),
    }
