"""Alpaca's REST paths: pages, parameters, what is missing, and its own client with only the URL changed."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fabric.clock import SECOND_NS
from fabric.records import EVENT, KIND_BAR_1D, KIND_QUOTE, NULL, QUOTE, Rows, empty, pack
from gateway import alpaca
from gateway.rest import Problem
from gateway_rig import Rig, ask, running

MINUTE_NS = 60 * SECOND_NS
START_NS = 1_767_366_000 * SECOND_NS  # 2026-01-02T15:00:00Z
NEW_YORK = datetime(2026, 1, 2, 5, tzinfo=UTC)  # midnight there
DAY_S = 86_400


def venue_quote(rig: Rig, name: str) -> Rows:
    row = empty(1, QUOTE, KIND_QUOTE)
    row["symbol"], row["venue"] = rig.runtime.symbols.intern(name), ord("V")
    row["seq"], row["epoch"], row["event_ns"] = 1, 1, START_NS
    row["bid_px"], row["bid_size"], row["ask_px"], row["ask_size"] = 5 * 10**9, 100, NULL, NULL
    row["condition"], row["tape"] = pack("RA"), pack("C")
    return row.view(EVENT)


def scenario(steps: Callable[[Rig], Awaitable[None]], **options: Any) -> None:
    async def play() -> None:
        async with running(**options) as rig:
            rig.put(
                rig.nbbo("AAPL"),
                rig.nbbo("ONE.S", ask_px=NULL, ask_size=NULL, ask_venue=NULL),
                rig.trade("AAPL", price=185_510_000_000, size=10, trade_id=3, condition=pack("@I"), tape=pack("C")),
                venue_quote(rig, "AAPL"),
                rig.bars("AAPL", 5, START_NS),
                rig.bars("AAPL", 3, START_NS - 10 * 3_600 * SECOND_NS - 2 * DAY_S * SECOND_NS, KIND_BAR_1D, DAY_S),
                rig.bars("MSFT", 3, START_NS),
            )
            await rig.taken()
            await steps(rig)

    asyncio.run(play())


async def get(rig: Rig, path: str, status: int = 200) -> Any:
    found, answer, _ = await ask(rig, path)
    assert found == status, answer
    return answer


@pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets", "ignore:websockets.legacy")
def test_the_stock_client_reads_everything_with_only_its_url_changed() -> None:
    from alpaca.common.exceptions import APIError
    from alpaca.data.enums import Adjustment, DataFeed
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.data.requests import (
        StockBarsRequest,
        StockLatestBarRequest,
        StockLatestQuoteRequest,
        StockLatestTradeRequest,
        StockSnapshotRequest,
    )
    from alpaca.data.timeframe import TimeFrame, TimeFrameUnit

    async def steps(rig: Rig) -> None:
        client = StockHistoricalDataClient("key", "secret", url_override=f"http://127.0.0.1:{rig.port}")
        since = datetime.fromtimestamp(START_NS / 1e9, UTC)

        def talk() -> None:
            quote = client.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols=["AAPL", "NOPE"]))
            assert list(quote) == ["AAPL"]
            assert (quote["AAPL"].bid_price, quote["AAPL"].ask_size, quote["AAPL"].bid_exchange) == (185.5, 100, "V")
            own = client.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols="AAPL", feed=DataFeed.IEX))[
                "AAPL"
            ]
            assert (own.bid_price, own.ask_price, own.conditions, own.tape) == (5.0, 0.0, ["R", "A"], "C")
            trade = client.get_stock_latest_trade(StockLatestTradeRequest(symbol_or_symbols="AAPL"))["AAPL"]
            assert (trade.price, trade.size, trade.exchange, trade.conditions) == (185.51, 10, "V", ["@", "I"])
            bar = client.get_stock_latest_bar(StockLatestBarRequest(symbol_or_symbols="MSFT"))["MSFT"]
            assert (bar.close, bar.volume, bar.timestamp) == (11.0, 700, since + timedelta(minutes=2))
            snapshots = client.get_stock_snapshot(StockSnapshotRequest(symbol_or_symbols=["AAPL", "MSFT", "NOPE"]))
            assert snapshots["AAPL"].latest_trade.price == 185.51
            assert (snapshots["MSFT"].latest_quote, snapshots["MSFT"].minute_bar.close) == (None, 11.0)
            request = StockBarsRequest(
                symbol_or_symbols=["MSFT", "AAPL"],
                timeframe=TimeFrame(1, TimeFrameUnit.Minute),
                start=since,
                end=since + timedelta(hours=1),
                adjustment=Adjustment.RAW,
            )
            found = client.get_stock_bars(request).data
            assert {name: len(kept) for name, kept in found.items()} == {"AAPL": 5, "MSFT": 3}
            request.limit = 6
            found = client.get_stock_bars(request).data
            assert {name: len(kept) for name, kept in found.items()} == {"AAPL": 5, "MSFT": 1}
            request.timeframe = TimeFrame(1, TimeFrameUnit.Day)
            request.start, request.end = since - timedelta(days=3), since
            days = [NEW_YORK - timedelta(days=back) for back in (2, 1, 0)]
            found = client.get_stock_bars(request).data
            assert [(bar.timestamp, bar.volume) for bar in found["AAPL"]] == [(day, 700) for day in days]
            assert snapshots["AAPL"].daily_bar.timestamp == days[2]
            assert snapshots["AAPL"].previous_daily_bar.timestamp == days[1]
            assert snapshots["MSFT"].daily_bar is None
            request.timeframe = TimeFrame(1, TimeFrameUnit.Week)
            with pytest.raises(APIError) as caught:
                client.get_stock_bars(request)
            assert caught.value.status_code == 400

        await asyncio.get_running_loop().run_in_executor(None, talk)
        client._session.close()

    scenario(steps)


@pytest.mark.parametrize("sort", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7, 8, 9])
def test_pages_hold_every_bar_once_in_order(sort: str, limit: int) -> None:
    async def steps(rig: Rig) -> None:
        query = f"/v2/stocks/bars?symbols=MSFT,AAPL,NOPE&timeframe=1Min&start={START_NS}&sort={sort}&limit={limit}"
        heard: dict[str, list[str]] = {}
        token, pages = None, 0
        while pages == 0 or token:
            page = await get(rig, query + (f"&page_token={token}" if token else ""))
            assert sum(map(len, page["bars"].values())) <= limit
            for name, kept in page["bars"].items():
                heard.setdefault(name, []).extend(bar["t"] for bar in kept)
            token, pages = page["next_page_token"], pages + 1
        assert pages == -(-8 // limit)
        for name, count in (("AAPL", 5), ("MSFT", 3)):
            times = [f"2026-01-02T15:0{minute}:00.000000000Z" for minute in range(count)]
            assert heard[name] == (times if sort == "asc" else times[::-1])

    scenario(steps)


def test_a_page_is_never_longer_than_one_turn_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alpaca, "PAGE_MAX", 4)

    async def steps(rig: Rig) -> None:
        page = await get(rig, f"/v2/stocks/AAPL/bars?timeframe=1Min&start={START_NS}&limit=10000")
        assert (len(page["bars"]), page["symbol"]) == (4, "AAPL")
        assert page["next_page_token"]

    scenario(steps)


def test_a_symbol_alone_is_found_or_404() -> None:
    async def steps(rig: Rig) -> None:
        quote = await get(rig, "/v2/stocks/ONE.S/quotes/latest")
        assert (quote["quote"]["ap"], quote["quote"]["as"], quote["quote"]["ax"]) == (0, 0, "")
        assert (await get(rig, "/v2/stocks/AAPL/snapshot"))["latestQuote"]["bp"] == 185.5
        assert (await get(rig, "/v2/stocks/AAPL/trades/latest"))["trade"]["i"] == 3
        assert (await get(rig, "/v2/stocks/NOPE/quotes/latest", 404))["code"] == "unknown_symbol"
        assert (await get(rig, "/v2/stocks/ONE.S/trades/latest", 404))["code"] == "no_trade"
        assert (await get(rig, "/v2/stocks/NOPE/bars?timeframe=1Min", 404))["code"] == "unknown_symbol"
        assert (await get(rig, "/v2/stocks/quotes/latest?symbols=NOPE")) == {"quotes": {}}

    scenario(steps)


def test_a_stale_quote_says_so() -> None:
    async def steps(rig: Rig) -> None:
        rig.put(rig.link(0))
        await rig.taken()
        assert (await get(rig, "/v2/stocks/AAPL/quotes/latest"))["quote"]["state"] == "stale"

    scenario(steps)


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("bars?symbols=A", "timeframe"),
        ("bars?symbols=A&timeframe=3Day", "timeframe"),
        ("bars?timeframe=1Min", "symbols"),
        ("bars?symbols=A&timeframe=1Min&limit=0", "limit"),
        ("bars?symbols=A&timeframe=1Min&limit=10001", "limit"),
        ("bars?symbols=A&timeframe=1Min&limit=abc", "limit"),
        ("bars?symbols=A&timeframe=1Min&start=2026-01-02&end=2026-01-01", "start"),
        ("bars?symbols=A&timeframe=1Min&start=tomorrow", "start"),
        ("bars?symbols=A&timeframe=1Min&sort=up", "sort"),
        ("bars?symbols=A&timeframe=1Min&adjustment=split", "adjustment"),
        ("bars?symbols=A&timeframe=1Min&feed=otc", "feed"),
        ("bars?symbols=A&timeframe=1Min&currency=EUR", "currency"),
        ("bars?symbols=A&timeframe=1Min&page_token=%21", "page_token"),
        ("bars?symbols=A&timeframe=1Min&page_token=QXwxMjM0NTY3ODkwMTIzNDU2Nzg5MDk5", "page_token"),
        ("bars?symbols=A&timeframe=1Min&page=2", "page"),
        ("quotes/latest?symbols=", "symbols"),
        ("quotes/latest?symbols=A%20B", "symbols"),
        ("quotes/latest?symbols=A&feed=otc", "feed"),
        ("trades/latest?symbols=A&feed=iex", "feed"),
        ("snapshots?symbols=" + ",".join("A" * 501), "symbols"),
    ],
)
def test_a_wrong_parameter_is_named(query: str, parameter: str) -> None:
    """Bad input 50."""

    async def steps(rig: Rig) -> None:
        assert (await get(rig, f"/v2/stocks/{query}", 400))["parameter"] == parameter

    scenario(steps)


def test_a_token_is_ours_or_refused() -> None:
    assert alpaca.parse_token(alpaca.make_token("BRK.B", -5)) == ("BRK.B", -5)
    for text in ("", "x", "é", alpaca.make_token("", 5)):
        with pytest.raises(Problem):
            alpaca.parse_token(text)
