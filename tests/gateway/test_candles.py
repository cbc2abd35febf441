"""Candles over HTTP: ranges, pages, what is joined from memory, Redis and history, and streams without a seam."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tornado.httpclient import AsyncHTTPClient

from candle_rows import MINUTE_NS, START_NS, candle
from fabric.errors import StoreError
from fabric.history import History, open_history
from fabric.records import BAR, EVENT, NULL, PRICE_UNIT, Rows
from fabric.topology import Access, Plan
from gateway import candles
from gateway.candles import CandleRequest, joined, unbroken
from gateway.rest import Problem
from gateway_rig import Rig, running

Answer = dict[str, Any]


class Away:
    """A history that does not answer."""

    def read(self, *arguments: object, **options: object) -> list[candles.Candle]:
        raise StoreError("the history is away")

    def close(self) -> None: ...


class Cache:
    """A Redis that has one candle in progress."""

    def quote(self, symbol: str) -> Answer | None:
        return None

    def candle(self, symbol: str, interval: str) -> Answer | None:
        return {
            "open": 1.5,
            "high": 1.5,
            "low": 1.5,
            "close": 1.5,
            "volume": 3,
            "start": (START_NS + 99 * MINUTE_NS) / 1e9,
        }

    def server_info(self) -> object:
        return None

    def close(self) -> None: ...


async def get(rig: Rig, path: str, status: int = 200) -> Answer:
    response = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{rig.port}{path}", raise_error=False)
    assert response.code == status, response.body
    answer: Answer = json.loads(response.body) | {"source": response.headers.get("X-Data-Source")}
    return answer


def play(steps: Callable[[Rig], Awaitable[None]], **options: Any) -> None:
    async def scenario() -> None:
        async with running(**options) as rig:
            await steps(rig)

    asyncio.run(scenario())


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Minutes 0 to 89 of AAPL; the reader that is given to a gateway closes it."""
    store = open_history(str(tmp_path / "history.db"))
    store.write(["AAPL"] * 90, np.concatenate([candle(at) for at in range(90)]))
    return store


def minutes(answer: Answer) -> list[int]:
    return [(round(one["start"]) * 10**9 - START_NS) // MINUTE_NS for one in answer["candles"]]


def memory(rig: Rig, *rows: Rows) -> Rows:
    """Rows as the bus brings them to the gateway."""
    both = np.concatenate(rows)
    both["symbol"] = rig.runtime.symbols.intern("AAPL")
    both["seq"] = np.arange(both.size) + 1
    return both.view(EVENT)


# Parameters


@pytest.mark.parametrize(
    ("parameters", "parameter"),
    [
        ({"interval": "2m"}, "interval"),
        ({"interval": ""}, "interval"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "1000000000"}, "limit"),
        ({"limit": "abc"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "١"}, "limit"),  # a digit, though not of ASCII
        ({"start": "yesterday"}, "start"),
        ({"end": "2024-02-30"}, "end"),
        ({"start": "2024-01-02", "end": "2024-01-01"}, "start"),
        ({"follow": "yes"}, "follow"),
        ({"session": "night"}, "session"),
        ({"session": "regular", "interval": "1d"}, "session"),
        ({"follow": "true", "end": "2024-01-01"}, "end"),
    ],
)
def test_a_bad_candle_parameter_is_named_with_what_it_may_be(parameters: dict[str, str], parameter: str) -> None:
    with pytest.raises(Problem) as refused:
        candles.candle_request("AAPL", parameters)
    assert (refused.value.status_code, refused.value.code) == (400, "bad_parameter")
    assert refused.value.members["parameter"] == parameter
    assert refused.value.members["allowed"]


# Joining


def tuples(*starts: int, rev: int = 1, gap: int = 0) -> list[candles.Candle]:
    return [(start, 1, 1, 1, 1, 1, 1, 1, rev, 0, gap) for start in starts]


def test_memory_is_whole_only_where_no_interval_is_missing() -> None:
    assert not unbroken([], 0, 5, 10)
    assert unbroken(tuples(10, 20, 30), 10, 5, 10)
    assert unbroken(tuples(10, 20, 30), 5, 5, 10), "the range begins inside the interval before the first"
    assert not unbroken(tuples(10, 20, 30), 0, 5, 10)
    assert unbroken(tuples(10, 20, 30), 0, 3, 10), "as many as were asked for"
    assert not unbroken(tuples(10, 30), 10, 5, 10)


def test_joined_lists_have_each_start_once_and_take_the_better_of_two() -> None:
    stored, kept = tuples(10, 20, 30), tuples(30, 40, rev=2)
    assert [one[0] for one in joined(stored, kept, 10)] == [10, 20, 30, 40]
    assert [one[8] for one in joined(stored, kept, 10)] == [1, 1, 2, 2]
    assert [one[0] for one in joined(stored, kept, 2)] == [30, 40]
    assert [one[8] for one in joined(stored, tuples(30, rev=2, gap=1), 10)] == [1, 1, 1], "a restart knows less"
    assert [one[8] for one in joined(tuples(30, gap=1), tuples(30, rev=2, gap=1), 10)] == [2]


def test_joined_lists_of_random_parts_are_the_whole() -> None:
    chance = random.Random(3)
    for _ in range(200):
        whole = tuples(*range(0, 60, 10))
        parts = [[one for one in whole if chance.random() < 0.7] for _ in range(2)]
        assert joined(*parts, 100) == [one for one in whole if one in parts[0] or one in parts[1]]


# Over HTTP


def test_a_range_from_memory_alone(history: History) -> None:
    async def steps(rig: Rig) -> None:
        rig.put(memory(rig, *(candle(at, final=1) for at in range(80, 100))))
        await rig.taken()
        answer = await get(rig, f"/candles/AAPL?start={START_NS + 90 * MINUTE_NS}&end={START_NS + 93 * MINUTE_NS}")
        assert (minutes(answer), answer["older"], answer["source"]) == ([90, 91, 92], None, "memory")
        assert answer["candles"][0] == {
            "t": "2026-01-02T16:30:00.000000000Z", "open": 100.0, "high": 101.0, "low": 102.0, "close": 103.0,
            "volume": 700, "trades": 7, "vwap": 104.0, "start": START_NS / 1e9 + 90 * 60, "rev": 1, "final": True,
            "gap": False,
        }  # fmt: skip
        answer = await get(rig, "/candles/AAPL?limit=10")
        assert (minutes(answer), answer["source"]) == (list(range(90, 100)), "memory")
        assert answer["older"] == "2026-01-02T16:30:00.000000000Z"
        assert (await get(rig, "/candles/AAPL?interval=5m"))["candles"] == []
        assert (await get(rig, "/candles/NOPE", 404))["code"] == "unknown_symbol"

    play(steps, history=history)


def test_scrolling_back_crosses_memory_and_history_with_no_seam(history: History) -> None:
    async def steps(rig: Rig) -> None:
        rig.put(memory(rig, *(candle(at, volume=900) for at in range(85, 100))))
        await rig.taken()
        seen: list[int] = []
        sources = []
        end = ""
        for _ in range(10):
            answer = await get(rig, f"/candles/AAPL?limit=12{end}")
            seen = minutes(answer) + seen
            sources.append(answer["source"])
            if answer["older"] is None:
                break
            end = f"&end={answer['older']}"
        assert seen == list(range(100))
        assert sources[0] == "memory"
        assert sources[1] == "memory, history"
        assert set(sources[2:]) == {"history"}
        assert rig.gateway._service.reads["history"] == len(sources) - 1

    play(steps, history=history)


CLOSE = 360
"""The minute at which the regular session of 2 January 2026 ends, which is 21:00 UTC; `START_NS` is 15:00."""


def test_a_session_is_what_the_calendar_says(history: History) -> None:
    """Minutes around the clock for three days, of which one trades: pages are read until enough is left."""

    async def steps(rig: Rig) -> None:
        later = range(90, 3 * 1_440 - 30)  # to Monday, when its session begins
        history.write(["AAPL"] * len(later), np.concatenate([candle(at) for at in later]))
        answer = await get(rig, "/candles/AAPL?limit=5&session=regular")
        assert minutes(answer) == list(range(CLOSE - 5, CLOSE))
        assert minutes(await get(rig, f"/candles/AAPL?limit=5&session=regular&end={answer['older']}")) == list(
            range(CLOSE - 10, CLOSE - 5)
        )
        answer = await get(rig, "/candles/AAPL?limit=1000&session=regular")
        assert (minutes(answer), answer["older"]) == (list(range(CLOSE)), None)
        friday = f"end={START_NS + 1_000 * MINUTE_NS}"
        assert minutes(await get(rig, f"/candles/AAPL?limit=3&session=extended&{friday}")) == [597, 598, 599]
        assert minutes(await get(rig, f"/candles/AAPL?limit=3&{friday}")) == [997, 998, 999]
        weekend = f"start={START_NS + 1_000 * MINUTE_NS}"
        assert (await get(rig, f"/candles/AAPL?session=regular&{weekend}"))["candles"] == []

    play(steps, history=history)


@pytest.mark.parametrize(
    ("interval", "at", "session", "there"),
    [
        ("1m", "2026-11-27T17:59", "regular", True),  # a half day
        ("1m", "2026-11-27T18:00", "regular", False),
        ("1m", "2026-11-27T18:00", "extended", True),
        ("1m", "2026-11-26T15:00", "extended", False),  # a holiday
        ("1m", "2026-03-06T14:30", "regular", True),  # before and after the change of clocks
        ("1m", "2026-03-09T13:30", "regular", True),
        ("1m", "2026-03-09T13:29", "regular", False),
        ("1m", "2026-11-02T14:29", "regular", False),
        ("1m", "2026-11-02T14:30", "regular", True),
        ("1h", "2026-11-02T14:00", "regular", True),  # 09:00 to 10:00, of which half is
        ("5m", "2026-11-02T14:25", "regular", False),
        ("1m", "2026-11-03T00:59", "extended", True),
        ("1m", "2026-11-03T01:00", "extended", False),
    ],
)
def test_half_days_holidays_and_the_change_of_clocks(interval: str, at: str, session: str, there: bool) -> None:
    """Fault 46."""
    request = candles.candle_request("AAPL", {"interval": interval, "session": session})
    start_ns = int(np.datetime64(at, "ns").astype(np.int64))
    assert request.asks_for(tuples(start_ns)[0]) is there


def test_a_hole_in_memory_is_filled_from_the_history(history: History) -> None:
    async def steps(rig: Rig) -> None:
        rig.put(memory(rig, *(candle(at, volume=900) for at in (80, 81, 88, 89))))
        await rig.taken()
        answer = await get(rig, "/candles/AAPL?limit=10")
        assert minutes(answer) == list(range(80, 90))
        assert [one["volume"] for one in answer["candles"]] == [900, 900, *[700] * 6, 900, 900]

    play(steps, history=history)


def test_a_symbol_that_only_the_history_knows_and_one_that_only_redis_has_in_progress(history: History) -> None:
    async def steps(rig: Rig) -> None:
        answer = await get(rig, "/candles/AAPL?limit=3")
        assert (minutes(answer), answer["source"]) == ([88, 89, 99], "redis, history")
        assert answer["candles"][-1] | {"t": None} == {
            "t": None, "open": 1.5, "high": 1.5, "low": 1.5, "close": 1.5, "volume": 3, "trades": None, "vwap": None,
            "start": START_NS / 1e9 + 99 * 60, "rev": None, "final": False, "gap": False,
        }  # fmt: skip
        assert minutes(await get(rig, f"/candles/AAPL?limit=3&end={START_NS + 3 * MINUTE_NS}")) == [0, 1, 2]

    play(steps, history=history, store=Cache())


def test_the_minute_between_memory_and_history_comes_from_redis(history: History) -> None:
    """A gateway that has just started knows what runs; the minute before has closed, and is not yet stored."""

    async def steps(rig: Rig) -> None:
        history.write(["AAPL"] * 9, np.concatenate([candle(at) for at in range(90, 99)]))
        rig.put(memory(rig, candle(100, rev=0), candle(101, rev=0)))
        await rig.taken()
        answer = await get(rig, "/candles/AAPL?limit=10")
        assert (minutes(answer), answer["source"]) == (list(range(92, 102)), "memory, redis, history")
        assert [one["close"] for one in answer["candles"][-3:]] == [1.5, 103, 103]
        older = await get(rig, f"/candles/AAPL?limit=10&end={answer['older']}")
        assert (minutes(older), older["source"]) == (list(range(82, 92)), "history")
        history.write(["AAPL"], candle(99))  # now it is
        answer = await get(rig, "/candles/AAPL?limit=10")
        assert (minutes(answer), answer["source"]) == (list(range(92, 102)), "memory, history")
        assert answer["candles"][-3]["close"] == 103

    play(steps, history=history, store=Cache())


def test_a_history_that_is_away_costs_only_what_it_alone_has() -> None:
    """Fault 36, bad input 56."""

    async def steps(rig: Rig) -> None:
        rig.put(memory(rig, candle(5), candle(6)))
        await rig.taken()
        answer = await get(rig, "/candles/AAPL?limit=10")
        assert (minutes(answer), answer["partial"]) == ([5, 6], True)
        assert (await get(rig, "/candles/MSFT", 503))["code"] == "no_data"
        for path in ("/candles/MSFT", "/v2/stocks/bars?symbols=AAPL&timeframe=1Min&start=2026-01-02"):
            url = f"http://127.0.0.1:{rig.port}{path}"
            refused = await AsyncHTTPClient().fetch(url, raise_error=False)
            assert (refused.code, refused.headers["Retry-After"]) == (503, "1")
        assert "partial" not in await get(rig, "/candles/AAPL?limit=1")

    play(steps, history=Away())


def test_a_delayed_plan_sees_no_candle_of_the_history_before_its_time(history: History) -> None:
    async def steps(rig: Rig) -> None:
        now_ns = rig.runtime.clock.now_ns()
        fresh = [candle(0, event_ns=now_ns - ago * MINUTE_NS) for ago in (10, 20, 40)]
        history.write(["MSFT"] * 3, np.concatenate(fresh))
        rig.gateway._service.delayed = {15 * MINUTE_NS: rig.latest}
        answer = await get(rig, "/candles/MSFT")
        assert [round(one["start"]) for one in answer["candles"]] == [
            round(now_ns / 1e9 - ago * 60) for ago in (40, 20)
        ]

    slow = Plan("slow", delay_ns=15 * MINUTE_NS)
    play(steps, history=history, access=Access(keys="/none/keys.json", public="slow", plans=(slow,)))


# Streams


class Stream:
    """Reads the events of ``follow=true``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, rig: Rig, path: str) -> "Stream":
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert b"200" in await reader.readline()
        return cls(reader, writer)

    async def next(self) -> tuple[str, Answer]:
        """The name and value of the next event."""
        name = ""
        async with asyncio.timeout(5):
            while not (line := await self._reader.readline()).startswith(b"data: "):
                name = line[7:].decode().strip() if line.startswith(b"event: ") else name
        return name, json.loads(line[6:])

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


def test_a_stream_joins_history_memory_and_what_comes_then(history: History) -> None:
    async def steps(rig: Rig) -> None:
        rig.put(memory(rig, candle(90), candle(91, rev=0, volume=1)))
        await rig.taken()
        stream = await Stream.open(rig, "/candles/AAPL?limit=50&follow=true")
        name, first = await stream.next()
        assert (name, minutes(first), first["older"]) == (
            "candles",
            list(range(42, 92)),
            "2026-01-02T15:42:00.000000000Z",
        )
        held = {one["start"]: one for one in first["candles"]}
        rows = memory(
            rig, candle(91, rev=0, volume=2), candle(91, volume=5), candle(92, rev=0), candle(90, rev=2, volume=9)
        )
        rows["seq"] += 10
        rig.put(rows)
        for _ in range(3):
            name, one = await stream.next()
            assert name == "candle"
            held[one["start"]] = one
        assert minutes({"candles": list(held.values())}) == list(range(42, 93))
        volumes = [one["volume"] for one in held.values()]
        assert volumes == [*[700] * 48, 9, 5, 700]
        assert [one["rev"] for one in held.values()][-3:] == [2, 1, 0]
        assert rig.gateway._service.followers == 1
        await stream.close()
        while rig.gateway._service.followers:
            rows["seq"] += 10
            rows.view(BAR)["volume"] += 1
            rig.put(rows.copy())
            await rig.taken()

    play(steps, history=history)


def test_a_gateway_that_stops_ends_its_streams(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with running(drain_ns=2_000_000_000) as rig:
            rig.put(memory(rig, candle(90)))
            await rig.taken()
            stream = await Stream.open(rig, "/candles/AAPL?follow=true")
            await stream.next()
        assert (await stream._reader.read()).endswith(b"0\r\n\r\n"), "a whole answer"
        await stream.close()

    asyncio.run(scenario())
    assert not caplog.records


def test_streams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candles, "FOLLOWERS_MAX", 0)

    async def steps(rig: Rig) -> None:
        rig.put(memory(rig, candle(90)))
        await rig.taken()
        assert (await get(rig, "/candles/AAPL?follow=true", 503))["code"] == "too_many_streams"

    play(steps)


def test_a_candle_that_redis_has_in_part_is_none() -> None:
    assert candles.from_cache(None) is None
    assert candles.from_cache({"open": 1.0}) is None
    assert candles.from_cache({"start": 60.0, "open": 1.25}) == (60 * 10**9, PRICE_UNIT * 5 // 4, *[NULL] * 7, 0, 0)


def test_requests_have_their_defaults() -> None:
    assert candles.candle_request("AAPL", {}) == CandleRequest("AAPL")
    assert candles.candle_request("AAPL", {"limit": "10", "follow": "true"}) == CandleRequest(
        "AAPL", limit=10, follow=True
    )
