"""Alpaca's REST paths for stocks, so that its `StockHistoricalDataClient` works with only its URL changed.

Latest quotes, trades, bars and snapshots from the gateway's memory; bars of a range in pages, from memory and
history. As in its WebSocket dialect a side that does not exist is price 0 and size 0, and a value that is stale has
``"state"``, a key of ours that stock clients pass over. A symbol that is unknown is left out of an answer for several,
and 404 alone.

Source: Alpaca's "Market Data API" reference, v2, stocks.
"""

import base64
import binascii
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fabric.clock import SECOND_NS
from fabric.errors import StoreError
from fabric.history import INTERVAL_NS, Candle
from fabric.records import KIND_BAR_1D, KIND_BAR_1M, NULL, unpack
from gateway.candles import INTERVALS, HistoryReader, joined, unbroken
from gateway.latest import Latest
from gateway.rest import (
    RETRY_AFTER_S,
    DataHandler,
    JsonObject,
    Problem,
    Service,
    bad_parameter,
    parse_count,
    parse_instant,
    parse_symbol,
    parse_symbols,
    unknown_symbol,
)
from gateway.values import decimal, number, rfc3339

TIMEFRAMES = {
    **dict.fromkeys(("1Min", "1T"), "1m"),
    **dict.fromkeys(("5Min", "5T"), "5m"),
    **dict.fromkeys(("1Hour", "1H", "60Min"), "1h"),
    **dict.fromkeys(("1Day", "1D"), "1d"),
}
LIMIT_MAX = 10_000
LIMIT_DEFAULT = 1_000
PAGE_MAX = 2_000
"""Bars in one page, whatever the limit: a page is made in one turn of the loop, and nobody else may wait for long."""
DAY_NS = 86_400 * SECOND_NS
LATEST_PARAMETERS = ("feed", "currency", "limit", "page_token")
BARS_PARAMETERS = ("timeframe", "start", "end", "limit", "page_token", "sort", "feed", "adjustment", "asof", "currency")

Value = Callable[[Latest, int], JsonObject | None]
"""The value of a symbol, None where there is none."""


def quote(latest: Latest, symbol: int) -> JsonObject | None:
    """The best bid and offer."""
    row = latest.display(symbol)
    return None if row is None else _quote(row, "bid_venue", "ask_venue", latest.stale(symbol))


def venue_quote(slot: int) -> Value:
    """One venue's own quote."""

    def find(latest: Latest, symbol: int) -> JsonObject | None:
        row = latest.quotes[symbol, slot]
        if row["seq"] == NULL:
            return None
        found = _quote(row, "venue", "venue", latest.quote_stale(symbol, slot))
        return found | {"c": list(unpack(int(row["condition"]))), "z": unpack(int(row["tape"]))}

    return find


def _quote(row: Any, bid_venue: str, ask_venue: str, stale: bool) -> JsonObject:
    found: JsonObject = {"t": rfc3339(int(row["event_ns"]))}
    for side, venue in (("ask", ask_venue), ("bid", bid_venue)):
        there = row[f"{side}_px"] != NULL
        found[f"{side[0]}x"] = unpack(int(row[venue])) if there else ""
        found[f"{side[0]}p"] = decimal(int(row[f"{side}_px"])) if there else 0
        found[f"{side[0]}s"] = number(int(row[f"{side}_size"])) if there else 0
    return found | {"c": [], "z": ""} | ({"state": "stale"} if stale else {})


def trade(latest: Latest, symbol: int) -> JsonObject | None:
    """The last trade, of whatever venue."""
    row = latest.trades[symbol]
    if row["seq"] == NULL:
        return None
    return {
        "t": rfc3339(int(row["event_ns"])),
        "x": unpack(int(row["venue"])),
        "p": decimal(int(row["price"])),
        "s": number(int(row["size"])),
        "c": list(unpack(int(row["condition"]))),
        "i": number(int(row["trade_id"])),
        "z": unpack(int(row["tape"])),
    }


def minute_bar(latest: Latest, symbol: int) -> JsonObject | None:
    """The newest bar of a minute."""
    return next(_newest(latest, symbol, KIND_BAR_1M, 1), None)


def _newest(latest: Latest, symbol: int, kind: int, count: int) -> Iterator[JsonObject]:
    """The newest bars that memory has, the latest first."""
    return map(_bar, reversed(latest.candles(symbol, kind, 0, 2**63 - 1, count).tolist()))


def _bar(candle: Sequence[int]) -> JsonObject:
    start_ns, open_px, high_px, low_px, close_px, volume, trades, vwap_px, *_ = candle
    prices = {"o": open_px, "h": high_px, "l": low_px, "c": close_px}
    return {
        "t": rfc3339(start_ns),
        **{key: decimal(price) for key, price in prices.items()},
        "v": number(volume),
        "n": number(trades),
        "vw": decimal(vwap_px),
    }


def snapshot(latest: Latest, symbol: int) -> JsonObject | None:
    """Trade, quote, minute bar, and the bars of the last two days that traded, as far as memory has them."""
    days = _newest(latest, symbol, KIND_BAR_1D, 2)
    parts = {
        "latestTrade": trade(latest, symbol),
        "latestQuote": quote(latest, symbol),
        "minuteBar": minute_bar(latest, symbol),
        "dailyBar": next(days, None),
        "prevDailyBar": next(days, None),
    }
    return parts if any(parts.values()) else None


@dataclass(frozen=True)
class BarsRequest:
    """What `/v2/stocks/bars` was asked."""

    interval: str
    start_ns: int
    end_ns: int  # the bars' starts lie in [start_ns, end_ns]
    limit: int
    newest_first: bool
    token: tuple[str, int] | None  # the page begins after this symbol's bar of this instant


def bars_request(parameters: Mapping[str, str], now_ns: int) -> BarsRequest:
    """Read the parameters; raises Problem 400 naming the one that is wrong."""
    timeframe = parameters.get("timeframe", "")
    if timeframe not in TIMEFRAMES:
        raise bad_parameter("timeframe", timeframe, list(TIMEFRAMES))
    if "start" in parameters:
        start_ns = parse_instant("start", parameters["start"])
    else:  # today; a day is one of New York, and the running one began in the last 24 hours (25 when clocks go back)
        start_ns = now_ns - DAY_NS if TIMEFRAMES[timeframe] == "1d" else now_ns // DAY_NS * DAY_NS
    end_ns = parse_instant("end", parameters["end"]) if "end" in parameters else now_ns
    if start_ns > end_ns and "start" in parameters:
        raise bad_parameter("start", parameters["start"], "an instant at or before end")
    sort = parameters.get("sort", "asc")
    if sort not in ("asc", "desc"):
        raise bad_parameter("sort", sort, ["asc", "desc"])
    if parameters.get("adjustment", "raw") != "raw":
        raise bad_parameter("adjustment", parameters["adjustment"], ["raw"])
    limit = parse_count("limit", parameters["limit"], LIMIT_MAX) if "limit" in parameters else LIMIT_DEFAULT
    token = parse_token(parameters["page_token"]) if parameters.get("page_token") else None
    return BarsRequest(TIMEFRAMES[timeframe], start_ns, end_ns, limit, sort == "desc", token)


def make_token(symbol: str, start_ns: int) -> str:
    """Where a page ended, as clients give it back."""
    return base64.urlsafe_b64encode(f"{symbol}|{start_ns}".encode()).decode()


def parse_token(text: str) -> tuple[str, int]:
    """The symbol and instant of a page token; raises Problem 400."""
    try:
        symbol, _, start = base64.urlsafe_b64decode(text.encode("ascii", "replace")).decode().rpartition("|")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        symbol, start = "", ""
    if not symbol or not re.fullmatch(r"-?[0-9]{1,19}", start) or abs(int(start)) >= 2**63:
        raise bad_parameter("page_token", text, "the next_page_token of the page before")
    return symbol, int(start)


Stored = Callable[[str, int, int, int], Awaitable[list[Candle]]]
"""The history's candles of a symbol in [start, end): at most so many, from the side that the page begins at."""


async def bars(
    latest: Latest, names: Sequence[str], request: BarsRequest, stored: Stored | None = None
) -> tuple[dict[str, list[JsonObject]], str | None]:
    """One page of bars by symbol, the symbols in alphabetical order, and the token of the next page.

    ``stored`` is asked where memory does not hold the range without a break.
    """
    found: dict[str, list[JsonObject]] = {}
    left = min(request.limit, PAGE_MAX)
    step_ns = INTERVAL_NS[request.interval]
    for name in sorted(set(names)):
        if request.token is not None and name < request.token[0]:
            continue
        start_ns, end_ns = request.start_ns, min(request.end_ns, 2**63 - 2) + 1
        if request.token is not None and name == request.token[0]:
            start_ns, end_ns = (
                (start_ns, request.token[1]) if request.newest_first else (max(start_ns, request.token[1] + 1), end_ns)
            )
        symbol = latest.find(name)
        kind = INTERVALS[request.interval]
        kept = latest.candles(symbol, kind, start_ns, end_ns, 1 << 31).tolist() if symbol >= 0 else []
        if stored is not None and not unbroken(kept, start_ns, 1 << 31, step_ns):
            kept = joined(await stored(name, start_ns, end_ns, left + 1), kept, 1 << 31)
        if request.newest_first:
            kept.reverse()
        if kept:
            found[name] = [_bar(candle) for candle in kept[:left]]
            if len(kept) > left:
                return {name: page for name, page in found.items() if page}, _last(name, kept, left, request)
            left -= len(kept)
    return found, None


def _last(name: str, kept: Sequence[Sequence[int]], left: int, request: BarsRequest) -> str:
    """The token of a page that ends within this symbol, or just before it."""
    if left:
        return make_token(name, kept[left - 1][0])
    return make_token(name, request.end_ns + 1 if request.newest_first else request.start_ns - 1)


class LatestHandler(DataHandler):
    """``GET /v2/stocks/{kind}/latest?symbols=`` and ``/v2/stocks/{symbol}/{kind}/latest``, and snapshots likewise."""

    def initialize(self, service: Service, kind: str, several: bool) -> None:  # type: ignore[override]
        super().initialize(service)
        self._kind = kind
        self._several = several

    def get(self, symbol: str = "") -> None:
        parameters = self.parameters(*LATEST_PARAMETERS, *(("symbols",) if self._several else ()))
        names = parse_symbols(parameters.get("symbols", "")) if self._several else [parse_symbol("symbol", symbol)]
        feed = check_feed(self.service, parameters, ("quotes",), self._kind)
        for channel in ("quotes", "trades", "bars") if self._kind == "snapshots" else (self._kind,):
            self.entitle(channel, names, feed)
        value = self._value(feed)
        latest = self.latest
        ids = {name: latest.find(name) for name in dict.fromkeys(names)}
        found = {name: value(latest, number) for name, number in ids.items() if number >= 0}
        if self._several:
            values = {name: one for name, one in found.items() if one is not None}
            self.answer(values if self._kind == "snapshots" else {self._kind: values}, "memory")
            return
        one = found.get(symbol)
        if one is None:
            raise self._missing(latest, symbol)
        self.answer(
            {"symbol": symbol, **one} if self._kind == "snapshots" else {"symbol": symbol, self._kind[:-1]: one},
            "memory",
        )

    def _value(self, feed: str) -> Value:
        if feed != "sip":
            code = next(venue.code for venue in self.service.topology.venues if venue.feed == feed)
            return venue_quote(self.latest.slot(code))
        return {"quotes": quote, "trades": trade, "bars": minute_bar, "snapshots": snapshot}[self._kind]

    def _missing(self, latest: Latest, symbol: str) -> Problem:
        if latest.find(symbol) < 0:
            return unknown_symbol(latest, symbol)
        return Problem(
            404, f"no_{self._kind[:-1]}", f"{symbol} is known, but there is nothing of it yet", symbol=symbol
        )


class BarsHandler(DataHandler):
    """``GET /v2/stocks/bars?symbols=`` and ``/v2/stocks/{symbol}/bars``"""

    def initialize(self, service: Service, several: bool) -> None:  # type: ignore[override]
        super().initialize(service)
        self._several = several

    async def get(self, symbol: str = "") -> None:
        parameters = self.parameters(*BARS_PARAMETERS, *(("symbols",) if self._several else ()))
        names = parse_symbols(parameters.get("symbols", "")) if self._several else [parse_symbol("symbol", symbol)]
        check_feed(self.service, parameters, (), "bars")
        request = bars_request(parameters, self.service.clock.now_ns())
        self.entitle("bars", names)
        latest = self.latest
        history = self.service.history
        found, token = await bars(latest, names, request, None if history is None else self._stored(history, request))
        if not self._several and latest.find(symbol) < 0 and not found:
            raise unknown_symbol(latest, symbol)
        source = "memory" if history is None else "memory, history"
        if self._several:
            self.answer({"bars": found, "next_page_token": token}, source)
        else:
            self.answer({"symbol": symbol, "bars": found.get(symbol, []), "next_page_token": token}, source)

    def _stored(self, history: HistoryReader, request: BarsRequest) -> Stored:
        """What the history has, as far as the user's plan sees it. Raises Problem 503 where it does not answer."""
        delay_ns, seen_ns = self.grant.plan.delay_ns, 2**63 - 1
        if delay_ns:
            seen_ns = self.service.clock.now_ns() - delay_ns - INTERVAL_NS[request.interval]

        async def read(name: str, start_ns: int, end_ns: int, limit: int) -> list[Candle]:
            try:
                return await history.candles(
                    name, request.interval, start_ns, min(end_ns, seen_ns), limit, newest=request.newest_first
                )
            except StoreError as error:  # a page with a hole would be taken for the truth
                raise Problem(503, "no_data", f"the history: {error}", retry_after=RETRY_AFTER_S) from error

        return read


def check_feed(service: Service, parameters: Mapping[str, str], by_venue: Sequence[str], kind: str) -> str:
    """The feed that was asked for, ``sip`` by default; raises Problem 400. ``by_venue``: the kinds that venues have."""
    if parameters.get("currency", "USD") != "USD":
        raise bad_parameter("currency", parameters["currency"], ["USD"])
    feed = parameters.get("feed", "sip")
    allowed = ["sip", *(venue.feed for venue in service.topology.venues if kind in by_venue)]
    if feed not in allowed:
        raise bad_parameter("feed", feed, allowed)
    return feed


def routes(service: Mapping[str, Service]) -> list[tuple[Any, ...]]:
    """The routes of all of them."""
    found: list[tuple[Any, ...]] = []
    for kind in ("quotes", "trades", "bars"):
        options = {**service, "kind": kind}
        found += [
            (rf"/v2/stocks/{kind}/latest", LatestHandler, {**options, "several": True}),
            (rf"/v2/stocks/([^/]+)/{kind}/latest", LatestHandler, {**options, "several": False}),
        ]
    options = {**service, "kind": "snapshots"}
    return [
        *found,
        (r"/v2/stocks/snapshots", LatestHandler, {**options, "several": True}),
        (r"/v2/stocks/([^/]+)/snapshot", LatestHandler, {**options, "several": False}),
        (r"/v2/stocks/bars", BarsHandler, {**service, "several": True}),
        (r"/v2/stocks/([^/]+)/bars", BarsHandler, {**service, "several": False}),
    ]
