"""Candles over HTTP: a range, joined from memory and history, and what becomes of it.

Where they come from, in this order: memory, which has the newest; where memory does not hold the range without a break,
the history, and Redis for the newest that neither has: a gateway that has just started knows only the candle that runs,
and the history gets the one before when it has closed; 404. An answer from several is one list with each start once: of
memory and history the revision of memory, unless that one has a gap and the other has not.

``session=`` leaves out what lies outside of the session that is asked for, by the exchange calendar: pages are read
until enough is left, or `PAGES_MAX` of them.

``follow=true`` answers with a stream of events (text/event-stream): first ``candles``, the range as without it, then
``candle`` for each candle that begins or changes. Both are taken from the same memory in one turn of the loop, so
nothing is left out between them and nothing comes twice; a reader keeps candles by their start and needs no more.
Nothing queues for a slow one: after each write the next state is taken anew. Source: HTML Living Standard,
"Server-sent events".
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import msgspec
from tornado.iostream import StreamClosedError

from fabric.clock import SECOND_NS
from fabric.errors import StoreError
from fabric.history import INTERVAL_NS, Candle, History
from fabric.records import KIND_BAR_1D, KIND_BAR_1H, KIND_BAR_1M, KIND_BAR_5M, NULL, PRICE_UNIT
from fabric.reference import trading_hours
from gateway.latest import Latest
from gateway.rest import (
    RETRY_AFTER_S,
    DataHandler,
    JsonObject,
    Problem,
    Reads,
    Service,
    bad_parameter,
    parse_count,
    parse_instant,
    parse_symbol,
    unknown_symbol,
)
from gateway.values import decimal, number, rfc3339

INTERVALS = {"1m": KIND_BAR_1M, "5m": KIND_BAR_5M, "1h": KIND_BAR_1H, "1d": KIND_BAR_1D}
SESSIONS = ("all", "regular", "extended")
"""What a candle must overlap to be in an answer: nothing, the regular session, or that and the hours around it."""
CANDLES_DEFAULT = 100
CANDLES_MAX = 1_000
"""In one answer, which is made in one turn of the loop."""
PAGES_MAX = 8
"""Read for one answer of a session, of `CANDLES_MAX` each: five days and more of minutes around the clock."""
FINAL_MAX_AGE_S = 60
"""How long a cache may keep candles none of which can change any more; one of a late symbol may still join them."""
HISTORY_WAIT_S = 1.0
LATEST_NS = 2**63 - 1
FOLLOW_S = 0.25
"""How often a stream looks whether its candles have changed."""
FOLLOWED = 20
"""Newest candles that a stream looks at: those of a quarter of an hour, which late trades may still revise."""
FOLLOWERS_MAX = 1_000
"""Streams of one process."""
ALIVE_S = 5.0
"""A stream without news says that it is there, and finds out whether its reader is."""
STUCK_S = 10.0
"""A reader who has taken nothing for so long is cut."""
_START, _REV, _FINAL, _GAP = 0, 8, 9, 10


@dataclass(frozen=True)
class CandleRequest:
    """What `/candles/{symbol}` was asked."""

    symbol: str
    interval: str = "1m"
    start_ns: int = 0
    end_ns: int = LATEST_NS
    limit: int = CANDLES_DEFAULT
    follow: bool = False
    session: str = "all"

    @property
    def kind(self) -> int:
        return INTERVALS[self.interval]

    def asks_for(self, candle: Candle) -> bool:
        """Whether a candle overlaps the session that is asked for."""
        if self.session == "all":
            return True
        start_ns = candle[_START]
        hours = trading_hours(start_ns, extended=self.session == "extended")
        return hours is not None and start_ns < hours[1] and start_ns + INTERVAL_NS[self.interval] > hours[0]


def candle_request(symbol: str, parameters: Mapping[str, str]) -> CandleRequest:
    """Read the parameters; raises Problem 400 naming the one that is wrong."""
    interval = parameters.get("interval", "1m")
    if interval not in INTERVALS:
        raise bad_parameter("interval", interval, list(INTERVALS))
    start_ns = parse_instant("start", parameters["start"]) if "start" in parameters else 0
    end_ns = parse_instant("end", parameters["end"]) if "end" in parameters else LATEST_NS
    if start_ns > end_ns:
        raise bad_parameter("start", parameters["start"], "an instant at or before end")
    limit = parse_count("limit", parameters.get("limit", str(CANDLES_DEFAULT)), CANDLES_MAX)
    follow = parameters.get("follow", "false")
    if follow not in ("true", "false"):
        raise bad_parameter("follow", follow, ["true", "false"])
    if follow == "true" and "end" in parameters:
        raise bad_parameter("end", parameters["end"], "possible with follow: what is followed has no end")
    session = parameters.get("session", "all")
    if session not in SESSIONS:
        raise bad_parameter("session", session, list(SESSIONS))
    if session != "all" and interval == "1d":
        raise bad_parameter("session", session, "one for intervals below a day: a day has all its sessions")
    return CandleRequest(parse_symbol("symbol", symbol), interval, start_ns, end_ns, limit, follow == "true", session)


class HistoryReader(Reads):
    """Reads of the history. Its store opens at first use, so one that is away delays no start."""

    def __init__(self, history: History) -> None:
        super().__init__("history", HISTORY_WAIT_S)
        self._history = history

    async def candles(
        self, symbol: str, interval: str, start_ns: int, end_ns: int, limit: int, *, newest: bool = True
    ) -> list[Candle]:
        """As `History.read`. Raises StoreError."""
        return await self.run(lambda: self._history.read(symbol, interval, start_ns, end_ns, limit, newest=newest))

    def close(self) -> None:
        super().close()
        self._history.close()


# Pure: from memory, and joined.


def held(latest: Latest, symbol: int, request: CandleRequest, limit: int) -> list[Candle]:
    """What memory holds of the range, the newest ``limit``, the oldest first."""
    if symbol < 0:
        return []
    kept: list[Candle] = latest.candles(symbol, request.kind, request.start_ns, request.end_ns, limit).tolist()
    return kept


def unbroken(candles: Sequence[Candle], start_ns: int, limit: int, step_ns: int) -> bool:
    """Whether these are all there can be of a range that begins at ``start_ns``: one for each interval of it."""
    if not candles or candles[-1][_START] - candles[0][_START] != (len(candles) - 1) * step_ns:
        return False
    return len(candles) >= limit or candles[0][_START] - step_ns < start_ns


def joined(stored: Sequence[Candle], kept: Sequence[Candle], limit: int) -> list[Candle]:
    """History and memory as one list, each start once, the newest ``limit``."""
    found = {candle[_START]: candle for candle in stored}
    for candle in kept:
        other = found.get(candle[_START])
        if other is None or not (candle[_GAP] and not other[_GAP]):
            found[candle[_START]] = candle
    return [found[start] for start in sorted(found)][-limit:]


def from_cache(value: Mapping[str, object] | None) -> Candle | None:
    """The newest candle as Redis has it, without what it does not keep there."""
    start = value.get("start") if value else None
    if value is None or not isinstance(start, int | float):
        return None
    prices = [_units(value.get(name)) for name in ("open", "high", "low", "close")]
    volume = value.get("volume")
    return (round(start * SECOND_NS), *prices, volume if isinstance(volume, int) else NULL, NULL, NULL, NULL, 0, 0)


def _units(price: object) -> int:
    return round(price * PRICE_UNIT) if isinstance(price, int | float) else NULL


def candle_object(candle: Candle) -> JsonObject:
    """One candle as the answer has it."""
    start_ns, open_px, high_px, low_px, close_px, volume, trades, vwap_px, rev, final, gap = candle
    return {
        "t": rfc3339(start_ns),
        "open": decimal(open_px),
        "high": decimal(high_px),
        "low": decimal(low_px),
        "close": decimal(close_px),
        "volume": number(volume),
        "trades": number(trades),
        "vwap": decimal(vwap_px),
        "start": start_ns / SECOND_NS,
        "rev": number(rev),
        "final": bool(final),
        "gap": bool(gap),
    }


@dataclass(frozen=True)
class Found:
    """Candles of a range, the oldest first, and where they come from."""

    candles: list[Candle]
    sources: tuple[str, ...] = ("memory",)
    older_ns: int | None = None  # where there may be earlier ones in the range: the end to ask for next
    partial: bool = False  # the history did not answer: earlier ones may be missing
    kept: Sequence[Candle] = ()  # what memory had of them

    def answer(self, request: CandleRequest) -> JsonObject:
        """The body."""
        return {
            "symbol": request.symbol,
            "interval": request.interval,
            "candles": [candle_object(candle) for candle in self.candles],
            "older": rfc3339(self.older_ns) if self.older_ns is not None else None,
            **({"partial": True} if self.partial else {}),
        }


class CandlesHandler(DataHandler):
    """``GET /candles/{symbol}?interval=&start=&end=&limit=&session=&follow=``"""

    async def get(self, symbol: str) -> None:
        parameters = self.parameters("interval", "start", "end", "limit", "session", "follow")
        request = candle_request(symbol, parameters)
        self.entitle("bars", [request.symbol])
        if request.follow and self.request.method == "GET":
            await self._follow(request)
            return
        found = await self._find(request)
        body, source = found.answer(request), ", ".join(found.sources)
        settled = all(candle[_FINAL] for candle in found.candles) and not found.partial
        if "end" in parameters and settled:
            self.answer_unless_known(body, FINAL_MAX_AGE_S, source)
        else:
            self.answer(body, source)

    async def _find(self, request: CandleRequest) -> Found:
        """The candles of a range and session. Raises Problem as `_page` does."""
        if request.session == "all":
            return await self._page(request)
        page = replace(request, limit=CANDLES_MAX)
        first = part = await self._page(page)
        candles = [candle for candle in part.candles if request.asks_for(candle)]
        sources, partial = list(part.sources), part.partial
        for _ in range(PAGES_MAX - 1):
            if part.older_ns is None or len(candles) > request.limit:
                break
            part = await self._page(replace(page, end_ns=part.older_ns))
            candles[:0] = [candle for candle in part.candles if request.asks_for(candle)]
            sources += [name for name in part.sources if name not in sources]
            partial |= part.partial
        shown = candles[-request.limit :]
        older_ns = shown[0][_START] if len(shown) < len(candles) else part.older_ns
        return Found(shown, tuple(sources), older_ns, partial, first.kept)

    async def _page(self, request: CandleRequest) -> Found:
        """The candles of a range. Raises Problem: 404 where nobody knows the symbol, 503 where that cannot be told."""
        reads, latest = self.service.reads, self.latest
        more = request.limit + 1  # one more tells whether there are older ones
        symbol = latest.find(request.symbol)
        kept = held(latest, symbol, request, more)
        stored: list[Candle] = []
        cached: Candle | None = None
        partial = False
        if not unbroken(kept, request.start_ns, more, INTERVAL_NS[request.interval]):
            (stored, partial), cached = await asyncio.gather(self._stored(request, more), self._cached(request, kept))
            symbol = latest.find(request.symbol)
            kept = held(latest, symbol, request, more)  # memory has gone on
        found = joined(stored, kept, more)
        if cached and all(candle[_START] != cached[_START] for candle in found):
            found = joined([cached], found, more)
        else:
            cached = None
        parts = {"memory": kept, "redis": cached, "history": stored}
        source = [name for name, part in parts.items() if part] or ["memory"]
        if symbol < 0 and not found:
            if partial:
                raise Problem(
                    503, "no_data", "memory knows no such symbol, and the history does not answer",
                    retry_after=RETRY_AFTER_S,
                )  # fmt: skip
            raise unknown_symbol(latest, request.symbol)
        reads["history" if "history" in source else source[0] if found else "missed"] += 1
        shown = found[-request.limit :]
        return Found(shown, tuple(source), shown[0][_START] if len(found) > request.limit else None, partial, kept)

    async def _stored(self, request: CandleRequest, limit: int) -> tuple[list[Candle], bool]:
        """What the history has of the range, as far as the user's plan sees it; and whether it did not answer."""
        if self.service.history is None:
            return [], False
        end_ns = request.end_ns
        if delay_ns := self.grant.plan.delay_ns:
            end_ns = min(end_ns, self.service.clock.now_ns() - delay_ns - INTERVAL_NS[request.interval])
        try:
            found = await self.service.history.candles(
                request.symbol, request.interval, request.start_ns, end_ns, limit
            )
        except StoreError:
            return [], True
        return found, False

    async def _cached(self, request: CandleRequest, kept: Sequence[Candle]) -> Candle | None:
        """The newest candle as Redis has it, where it lies in the range. Without a history it is asked only where
        memory has nothing: what else is missing there is nowhere.
        """
        store = self.service.store
        if store is None or self.grant.plan.delay_ns or (kept and self.service.history is None):
            return None
        try:
            candle = from_cache(await store.candle(request.symbol, request.interval))
        except StoreError:
            return None
        return candle if candle and request.start_ns <= candle[_START] < request.end_ns else None

    async def _follow(self, request: CandleRequest) -> None:
        """Send the range, then each candle that changes, until the reader goes."""
        service = self.service
        if service.followers >= FOLLOWERS_MAX:
            detail = f"{FOLLOWERS_MAX} streams of candles are open already"
            raise Problem(503, "too_many_streams", detail, retry_after=RETRY_AFTER_S)
        service.followers += 1
        try:
            with suppress(StreamClosedError, TimeoutError):
                await self._stream(request)
        finally:
            service.followers -= 1

    async def _stream(self, request: CandleRequest) -> None:
        found = await self._find(request)
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("X-Data-Source", ", ".join(found.sources))
        first_ns = found.candles[0][_START] if found.candles else request.start_ns
        known = {candle[_START]: candle for candle in found.kept[-FOLLOWED:]}
        await self._send(f"retry: 1000\n{_event('candles', found.answer(request))}")
        latest, silent_s = self.latest, 0.0
        seen = None
        while not self.service.leaving:
            symbol = latest.find(request.symbol)
            state = (-1, -1) if symbol < 0 else latest.bars[request.kind][symbol][["epoch", "seq"]].item()
            changed: list[Candle] = []
            if state != seen:
                seen = state
                newest = held(latest, symbol, replace(request, start_ns=first_ns), FOLLOWED)
                changed = [one for one in newest if known.get(one[_START]) != one and request.asks_for(one)]
                known = {candle[_START]: candle for candle in newest}
            if changed:
                await self._send("".join(_event("candle", candle_object(candle)) for candle in changed))
                silent_s = 0.0
            elif silent_s >= ALIVE_S:
                await self._send(":\n\n")
                silent_s = 0.0
            await asyncio.sleep(FOLLOW_S)
            silent_s += FOLLOW_S

    async def _send(self, text: str) -> None:
        """Write and wait until the kernel has it; raises StreamClosedError, or TimeoutError for who takes nothing."""
        self.write(text)
        await asyncio.wait_for(self.flush(), STUCK_S)


def _event(name: str, value: JsonObject) -> str:
    return f"event: {name}\ndata: {msgspec.json.encode(value).decode()}\n\n"


def counters(service: Service) -> dict[str, int]:
    """Streams that are open, and reads of the history."""
    counts = {"followers": service.followers}
    if service.history is not None:
        counts |= {"history_reads": service.history.reads, "history_failures": service.history.failures}
    return counts
