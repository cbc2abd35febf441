"""Last values, candles, symbols and the topology over HTTP; it decides nothing.

Pure functions build each answer from the gateway's memory and raise `Problem` where there is none; the
handlers below them only read the request and write the answer. Every body is JSON; every error is a
problem document (RFC 9457) with a stable ``code`` and the name of the parameter that was wrong.

What memory does not know is asked from the store, in a thread and at most `STORE_WAIT_S` long, so that a
store that is gone or hangs delays nobody else and fails no answer that memory can give.
"""

import asyncio
import bisect
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec
import numpy as np
from tornado.httputil import HTTPServerRequest
from tornado.web import HTTPError, RequestHandler

from fabric.clock import SECOND_NS, Clock
from fabric.errors import StoreError
from fabric.records import (
    NBBO,
    NULL,
    STATE_HALTED,
    STATE_NAMES,
    STATE_NATIONAL,
    STATE_STALE,
    SYMBOL_MAX,
    unpack,
    venue_letters,
)
from fabric.topology import NodeSpec, Topology
from gateway import explain
from gateway.auth import TICKET_S, AuthError, Door, Grant, from_headers
from gateway.latest import Latest
from gateway.limits import Rate
from gateway.values import decimal, number, rfc3339

if TYPE_CHECKING:
    from gateway.candles import HistoryReader

JsonObject = dict[str, Any]
_T = TypeVar("_T")

BATCH_MAX = 500
"""Symbols in one `/quotes?symbols=`."""
SYMBOLS_DEFAULT = 20
SYMBOLS_LIMIT = 1_000
STORE_WAIT_S = 0.25
STORE_READS_MAX = 4
"""Reads of the store at the same time: as many threads as may hang before the next one is refused at once."""
STORE_WATCH_S = 2.0
READS = ("memory", "redis", "history", "stale", "missed")
"""What became of a read of a known symbol: answered fresh from memory or Redis (a hit of the cache), from the history
too, with a value that is stale, or with none."""
RETRY_AFTER_S = 1

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
NBBO_NAMES = NBBO.names or ()
_SYMBOL = re.compile(rf"[!-~]{{1,{SYMBOL_MAX}}}")
_INSTANT = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(?:([Zz])|([-+ ])(\d\d):(\d\d)))?", re.ASCII
)
_TITLES = {
    "unknown_symbol": "Unknown symbol",
    "no_quote": "No quote yet",
    "bad_parameter": "Bad parameter",
    "no_data": "No data yet",
    "too_many_requests": "Too many requests",
    "unauthorized": "Who are you?",
    "forbidden": "Not in your plan",
    "unknown_feed": "Unknown feed",
    "secret_in_query": "A secret in the address",
}
_SECRETS = re.compile(r"(api|apca)[-_]?.*key.*|key|secret|token|access_token|auth.*|password", re.IGNORECASE)


class Problem(HTTPError):  # noqa: N818  (the RFC's word)
    """An answer that is an error: status, stable code, one sentence, and members that a program may read."""

    def __init__(self, status: int, code: str, detail: str, **members: object) -> None:
        super().__init__(status)
        self.code = code
        self.detail = detail
        self.members = members
        self.headers: dict[str, str] = {}  # Tornado forgets those that were set before an error


def problem_document(status: int, code: str, detail: str, instance: str, members: Mapping[str, object]) -> JsonObject:
    """The members of RFC 9457, then ours."""
    return {
        "type": f"urn:fabric:problem:{code}",
        "title": _TITLES.get(code) or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": instance,
        "code": code,
        **members,
    }


def bad_parameter(parameter: str, found: str, allowed: object) -> Problem:
    """400: which parameter, what it was and what it may be."""
    detail = (
        f"{parameter}: {found[:64]!r} is not {allowed if isinstance(allowed, str) else 'one of the allowed values'}"
    )
    return Problem(400, "bad_parameter", detail, parameter=parameter, allowed=allowed)


@lru_cache(256)
def _policy(whose: str, rate: Rate) -> str:
    return f'"{whose}";q={rate.burst};w={round(rate.burst / rate.per_second)}'


@lru_cache(256)
def _flags(bits: int) -> tuple[str, ...]:
    return tuple(flag for bit, flag in STATE_NAMES.items() if bits & bit)


@lru_cache(1_024)
def _letters(mask: int) -> str:
    return venue_letters(mask)


def parse_instant(parameter: str, text: str) -> int:
    """Nanoseconds since the epoch from RFC 3339 (a date alone is its midnight, UTC) or the integer itself."""
    if re.fullmatch(r"-?[0-9]{1,19}", text):
        time_ns = int(text)
        if abs(time_ns) < 2**63:
            return time_ns
    match = _INSTANT.fullmatch(text)
    if match:
        day, clock, seconds, fraction, _zulu, sign, hours, minutes = match.groups()
        try:
            whole = datetime.fromisoformat(f"{day}T{clock or '00:00'}:{seconds or '00'}+00:00")
            if sign:  # a plus that was not escaped arrives as a space
                offset = timedelta(hours=int(hours), minutes=int(minutes))
                whole += offset if sign == "-" else -offset
            return int(whole.timestamp()) * SECOND_NS + int((fraction or "0").ljust(9, "0"))
        except (ValueError, OverflowError):
            pass
    raise bad_parameter(parameter, text, "an RFC 3339 instant with its offset, a date, or nanoseconds since the epoch")


def parse_date(parameter: str, text: str) -> date:
    """A day as 2026-11-27."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise bad_parameter(parameter, text, "a date such as 2026-11-27") from None


def parse_count(parameter: str, text: str, largest: int) -> int:
    """An integer from 1 to ``largest``."""
    if re.fullmatch(r"[0-9]{1,9}", text) and 1 <= int(text) <= largest:
        return int(text)
    raise bad_parameter(parameter, text, f"an integer from 1 to {largest}")


def parse_symbol(parameter: str, text: str) -> str:
    """A symbol as the tape writes it."""
    if _SYMBOL.fullmatch(text):
        return text
    raise bad_parameter(parameter, text, f"a symbol: 1 to {SYMBOL_MAX} printable ASCII characters, such as BRK.B")


# Answers from memory.


def quote(latest: Latest, name: str, now_ns: int) -> JsonObject:
    """The symbol's best bid and offer. Raises Problem 404: unknown_symbol, or no_quote if there never was one.

    When it is stale the sides are the last known ones, and ``state`` says so.
    """
    symbol = latest.find(name)
    if symbol < 0:
        raise unknown_symbol(latest, name)
    row, stale = latest.shown(symbol)
    if row is None:
        raise Problem(404, "no_quote", f"{name} is known, but no quote of it has arrived yet", symbol=name)
    value = dict(zip(NBBO_NAMES, row.item(), strict=True))
    bits = max(value["state"], 0) | (STATE_STALE if stale else 0)
    return {
        "symbol": name,
        "kind": "nbbo" if bits & STATE_NATIONAL else "composite",
        "bid": decimal(value["bid_px"]),
        "ask": decimal(value["ask_px"]),
        "bid_size": number(value["bid_size"]),
        "ask_size": number(value["ask_size"]),
        "bid_venue": unpack(value["bid_venue"]) or None,
        "ask_venue": unpack(value["ask_venue"]) or None,
        "last": decimal(value["last_px"]),
        "ts": None if value["event_ns"] == NULL else value["event_ns"] / SECOND_NS,
        "t": rfc3339(value["event_ns"]),
        "age_ms": None if value["recv_ns"] == NULL else max(now_ns - value["recv_ns"], 0) // 1_000_000,
        "state": "stale" if stale else "halted" if bits & STATE_HALTED else "live",
        "flags": list(_flags(bits)),
        "scope": _letters(max(value["scope"], 0)),
        "seq": value["seq"],
        "epoch": number(value["epoch"]),
    }


def unknown_symbol(latest: Latest, name: str) -> Problem:
    """404, with the upper-case form as a hint where that one is known."""
    hint = name.upper() if name != name.upper() and latest.find(name.upper()) > 0 else None
    detail = f"no symbol {name!r} has been heard of" + (f"; did you mean {hint!r}?" if hint else "")
    return Problem(404, "unknown_symbol", detail, symbol=name)


def quotes(latest: Latest, names: Sequence[str], now_ns: int) -> JsonObject:
    """The quotes of several symbols in the order asked for, and why each other one is missing."""
    found: list[JsonObject] = []
    missing: list[JsonObject] = []
    for name in dict.fromkeys(names):
        try:
            found.append(quote(latest, name, now_ns))
        except Problem as problem:
            missing.append({"symbol": name, "code": problem.code})
    return {"quotes": found, "missing": missing}


def parse_symbols(text: str) -> list[str]:
    """The symbols of ``A,B``."""
    names = text.split(",")
    if not text or len(names) > BATCH_MAX:
        raise bad_parameter("symbols", text, f"1 to {BATCH_MAX} symbols with commas between them")
    return [parse_symbol("symbols", name.strip()) for name in names]


def topology_answer(topology: Topology, node: NodeSpec, latest: Latest) -> JsonObject:
    """The nodes with their addresses, and whether this gateway hears those that it reads; venues with the state of
    their lines. No setting, no secret.
    """
    names = [source.publisher.name for source in node.reads]
    up = dict(zip(names, latest.links(), strict=True))
    losses = dict(zip(names, latest.tables.losses.tolist(), strict=True))
    states = [unpack(int(state)) or None for state in latest.venue_statuses["venue_state"].tolist()]
    nodes = []
    for spec in topology.nodes:
        entry: JsonObject = {"name": spec.name, "role": spec.role, "host": spec.host}
        if spec.publishes:
            entry |= {
                "endpoint": spec.publishes.endpoint,
                "snapshot_endpoint": spec.publishes.snapshot_endpoint,
                "channels": spec.publishes.channels,
                "venues": spec.publishes.venues,
                "letters": spec.publishes.letters,
            }
        if spec.reads:
            entry["reads"] = [source.publisher.name for source in spec.reads]
        if spec.name in up:
            entry |= {"up": up[spec.name], "losses": losses[spec.name]}
        nodes.append(entry)
    return {
        "gateway": node.name,
        "venues": [
            {"code": venue.code, "name": venue.name, "feed": venue.feed, "state": state}
            for venue, state in zip(topology.venues, states, strict=True)
        ],
        "nodes": nodes,
        "cache": topology.cache.mode,
        "symbols": len(latest.symbols) - 1,
    }


class SymbolIndex:
    """The known names in alphabetical order, sorted again only when one was learnt."""

    def __init__(self, latest: Latest) -> None:
        self._latest = latest
        self._names: list[str] = []

    def find(self, prefix: str, limit: int) -> JsonObject:
        """Names that begin with ``prefix``, and how many there are in all."""
        if len(self._names) != len(self._latest.symbols) - 1:
            self._names = sorted(self._latest.symbols.names()[1:])
        low = bisect.bisect_left(self._names, prefix)
        high = bisect.bisect_left(self._names, prefix + "\x7f")
        return {"symbols": self._names[low : min(high, low + limit)], "total": high - low}

    def busiest(self, limit: int) -> JsonObject:
        """The names whose best bid and offer has changed most often, the busiest first."""
        changes = self._latest.nbbo["seq"][: len(self._latest.symbols)]
        busiest = np.argsort(changes, kind="stable")[::-1][:limit].tolist()
        names = [self._latest.symbols.name(symbol) for symbol in busiest if changes[symbol] != NULL]
        return {"symbols": names, "total": len(self._latest.symbols) - 1}


# The store, when memory has nothing.


class Store(Protocol):
    """What is asked of `gateway.store`: the latest values that the cache holds. Blocks; raises StoreError."""

    def quote(self, symbol: str) -> JsonObject | None: ...
    def candle(self, symbol: str, interval: str) -> JsonObject | None: ...
    def server_info(self) -> object: ...
    def close(self) -> None: ...


class Reads:
    """Reads of a store in threads: bounded in number and, for who awaits them, in time."""

    def __init__(self, name: str, wait_s: float) -> None:
        self._pool = ThreadPoolExecutor(STORE_READS_MAX, name)
        self._wait_s = wait_s
        self._running = 0
        self.reads = 0
        self.failures = 0
        self.trouble = ""  # why the last read failed; empty when it did not

    async def run(self, read: Callable[[], _T]) -> _T:
        """Run ``read``; raises StoreError when it does, is too late, or when all threads are held up."""
        self.reads += 1
        try:
            result = await self._bounded(read)
        except StoreError as error:
            self.failures += 1
            self.trouble = str(error)
            raise
        self.trouble = ""
        return result

    async def _bounded(self, read: Callable[[], _T]) -> _T:
        if self._running >= STORE_READS_MAX:
            raise StoreError(f"all {STORE_READS_MAX} readers wait for the store")
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, read)
        self._running += 1
        future.add_done_callback(self._ended)
        done, _ = await asyncio.wait([future], timeout=self._wait_s)
        if not done:  # its thread goes on until the store's own timeout
            raise StoreError(f"no answer within {self._wait_s} s")
        return future.result()

    def _ended(self, read: asyncio.Future[Any]) -> None:
        self._running -= 1
        if not read.cancelled():
            read.exception()  # that of a late one has nobody else to look at it

    def close(self) -> None:
        """Start no further read; the ones that run end by the store's own timeouts."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class StoreReader(Reads):
    """Reads of the cache."""

    def __init__(self, store: Store, stale_after_ns: int) -> None:
        super().__init__("store", STORE_WAIT_S)
        self._store = store
        self._stale_after_ns = stale_after_ns

    async def quotes(self, names: Sequence[str], now_ns: int) -> list[JsonObject]:
        """The quotes that the store has of ``names``, as `quote` answers them. Raises StoreError."""
        found = await self.run(lambda: [(name, self._store.quote(name)) for name in names])
        return [self._answer(name, value, now_ns) for name, value in found if value is not None]

    async def candle(self, symbol: str, interval: str) -> JsonObject | None:
        """The candle in progress. Raises StoreError."""
        return await self.run(lambda: self._store.candle(symbol, interval))

    async def watch(self) -> None:
        """Ask the store now and then how it is, so that `trouble` is true whether or not anyone reads. Never ends."""
        while True:
            with suppress(StoreError):
                await self.run(self._store.server_info)
            await asyncio.sleep(STORE_WATCH_S)

    def _answer(self, name: str, value: JsonObject, now_ns: int) -> JsonObject:
        """A stored value under our own keys, aged by its ``ts``; never live when that is old or not there."""
        ts = value.get("ts")
        age_ns = max(now_ns - round(ts * SECOND_NS), 0) if isinstance(ts, int | float) else None
        state = value.get("state", "live") if age_ns is not None and age_ns <= self._stale_after_ns else "stale"
        return {"symbol": name, **value, "age_ms": None if age_ns is None else age_ns // 1_000_000, "state": state}

    def close(self) -> None:
        super().close()
        self._store.close()


# HTTP.


@dataclass
class Service:
    """What the handlers work on."""

    topology: Topology
    node: NodeSpec
    clock: Clock
    latest: Latest
    index: SymbolIndex
    store: StoreReader | None
    door: Door
    delayed: Mapping[int, Latest] = field(default_factory=dict)  # by delay: what plans with one see
    rate_limited: int = 0
    requests: dict[int, int] = field(default_factory=dict)  # answers by status
    failed: int = 0  # of them those that were our fault (5xx)
    reads: dict[str, int] = field(default_factory=lambda: dict.fromkeys(READS, 0))  # of known symbols, by `READS`
    history: "HistoryReader | None" = None
    followers: int = 0  # streams of candles that are open
    leaving: bool = False  # the gateway stops: streams end

    def latest_of(self, grant: Grant) -> Latest:
        """The values that a plan has: now, or as they were."""
        delay_ns = grant.plan.delay_ns
        return self.delayed[delay_ns] if delay_ns else self.latest


def refuse_secrets_in_query(request: HTTPServerRequest, allowed: Sequence[str] = ()) -> None:
    """Raise Problem 400 for a key in the query string: addresses end in logs, histories and referrers."""
    for name in request.query_arguments:
        if name not in allowed and _SECRETS.fullmatch(name):
            detail = f"{name[:32]}: never in the address; use the header Authorization, X-API-Key or APCA-API-KEY-ID"
            raise Problem(400, "secret_in_query", detail, parameter=name[:32])


def unauthorized(*, given: bool) -> Problem:
    """401: nothing was said of who asks, or what was ``given`` proves nobody (RFC 6750, section 3)."""
    if given:
        return Problem(401, "unauthorized", "the key or token is not one that is let in", error="invalid_token")
    detail = "give a key: Authorization: Bearer <key>.<secret>, X-API-Key, or APCA-API-KEY-ID and APCA-API-SECRET-KEY"
    return Problem(401, "unauthorized", detail)


SAFE_HEADERS = {
    "Content-Type": "application/json",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Of every answer that says nothing else."""


class Answering(RequestHandler):
    """What every answer has: safe headers, and errors as problem documents; 405 names the methods there are."""

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in SAFE_HEADERS.items():
            self.set_header(name, value)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        members: Mapping[str, object] = {}
        code, detail = "error", HTTPStatus(status_code).phrase
        if isinstance(error, Problem):
            code, detail, members = error.code, error.detail, error.members
            for name, value in error.headers.items():
                self.set_header(name, value)
        elif status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allow = ", ".join(method for method in self.SUPPORTED_METHODS if self._implements(method))
            code, detail = "method_not_allowed", f"{self.request.method} is not possible here; allowed: {allow}"
            self.set_header("Allow", allow)
        elif status_code == HTTPStatus.NOT_FOUND:
            code, detail = "not_found", f"nothing at {self.request.path[:128]}"
        elif isinstance(error, HTTPError):
            code, detail = detail.lower().replace(" ", "_"), error.log_message or detail
        if "retry_after" in members:
            self.set_header("Retry-After", str(members["retry_after"]))
        if status_code == HTTPStatus.UNAUTHORIZED:
            reason = f', error="{members["error"]}"' if "error" in members else ""
            self.set_header("WWW-Authenticate", f'Bearer realm="fabric"{reason}')
        self.set_header("Content-Type", "application/problem+json")
        document = problem_document(status_code, code, detail, self.request.path[:128], members)
        self.finish(msgspec.json.encode(document))

    def _implements(self, method: str) -> bool:
        names = ("get", "head") if method == "HEAD" else (method.lower(),)
        return all(getattr(type(self), name) is not getattr(RequestHandler, name) for name in names)


class Handler(Answering):
    """JSON out, never cached. HEAD is GET whose body Tornado leaves out (RFC 9110, section 9.3.2)."""

    def head(self, *args: str) -> Awaitable[None] | None:
        return self.get(*args)

    def initialize(self, service: Service) -> None:
        self.service = service

    def compute_etag(self) -> None:
        """None: a live value is not worth a hash."""

    def answer(self, body: object, source: str | None = None) -> None:
        """Write ``body``; ``source`` says where its values came from."""
        if source:
            self.set_header("X-Data-Source", source)
        self.finish(msgspec.json.encode(body))

    def answer_unless_known(self, body: object, max_age_s: int, source: str | None = None) -> None:
        """Write an answer that a cache may keep for so long; 304 to who has it already (RFC 9110, section 13)."""
        encoded = msgspec.json.encode(body)
        tag = f'"{hashlib.blake2b(encoded, digest_size=12).hexdigest()}"'
        scope = "public" if self.service.door.open else "private"
        self.set_header("Cache-Control", f"{scope}, max-age={max_age_s}")
        self.set_header("ETag", tag)
        self.set_header("Vary", "Authorization, X-API-Key, APCA-API-KEY-ID")
        if source:
            self.set_header("X-Data-Source", source)
        known = self.request.headers.get("If-None-Match", "")
        if known.strip() == "*" or tag in (text.strip().removeprefix("W/") for text in known.split(",")):
            self.set_status(304)
            self.clear_header("Content-Type")
            self.finish()
            return
        self.finish(encoded)

    def parameters(self, *allowed: str) -> dict[str, str]:
        """The query's parameters by name; raises Problem 400 for one that is not allowed or is given twice."""
        refuse_secrets_in_query(self.request)
        for name, values in self.request.query_arguments.items():
            if name not in allowed:
                raise Problem(400, "bad_parameter", f"{name[:64]}: unknown", parameter=name[:64], allowed=list(allowed))
            if len(values) > 1:
                raise Problem(400, "bad_parameter", f"{name}: given {len(values)} times", parameter=name)
        return {name: self.get_query_argument(name) for name in self.request.query_arguments}


@dataclass(frozen=True)
class Admission:
    """Who asks, and what is left of the rates."""

    grant: Grant
    headers: Mapping[str, str]


def admit(service: Service, request: HTTPServerRequest) -> Admission:
    """Count a request of market data against its address and user. Raises Problem 400, 401 and 429."""
    door, address = service.door, request.remote_ip or ""
    headers = _count(service, "address", door.take_request(address))
    try:
        given = from_headers(request.headers)
    except AuthError:
        raise unauthorized(given=True) from None
    try:
        grant = door.identify(given, address)
    except AuthError:
        refuse_secrets_in_query(request)
        raise unauthorized(given=given is not None) from None
    taken = door.take_user_request(grant)
    return Admission(grant, headers if taken is None else _count(service, "user", taken))


def _count(service: Service, whose: str, taken: tuple[int, int, Rate]) -> dict[str, str]:
    """What is left of a rate, as headers; raises Problem 429 when it is used up."""
    wait_ns, left, rate = taken
    reset_s = -(-wait_ns // SECOND_NS)
    headers = {"RateLimit-Policy": _policy(whose, rate), "RateLimit": f'"{whose}";r={left};t={reset_s}'}
    if wait_ns:
        service.rate_limited += 1
        detail = f"more than {rate.per_second:.0f} requests a second of this {whose}"
        problem = Problem(429, "too_many_requests", detail, retry_after=reset_s)
        problem.headers = headers | {
            "X-RateLimit-Limit": str(rate.burst),
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": str(service.clock.now_ns() // SECOND_NS + reset_s),
        }
        raise problem
    return headers


def entitle(grant: Grant, channel: str, names: Sequence[str] = (), feed: str = "sip") -> None:
    """Raise Problem 403 for what the user's plan has not."""
    plan = grant.plan
    missing = [
        *([] if grant.sees_feed(feed) else [f"feed {feed}"]),
        *([] if grant.sees_channel(channel) else [f"channel {channel}"]),
        *(f"symbol {name}" for name in names if not grant.sees(name)),
    ]
    if missing:
        detail = f"not in the plan {plan.name!r}: {', '.join(missing[:10])}"
        raise Problem(403, "forbidden", detail, plan=plan.name)


class DataHandler(Handler):
    """A handler of market data: counted against its address and user, and answered as far as the user's plan goes."""

    grant: Grant

    def initialize(self, service: Service, admitted: Admission | Problem | None = None) -> None:
        """``admitted``: what `admit` has said already; None: it is to be asked."""
        super().initialize(service)
        self._admitted = admitted

    def prepare(self) -> None:
        admitted = self._admitted or admit(self.service, self.request)
        if isinstance(admitted, Problem):
            raise admitted
        self.grant = admitted.grant
        for name, value in admitted.headers.items():
            self.set_header(name, value)

    @property
    def latest(self) -> Latest:
        """The values that the user's plan has: now, or as they were."""
        return self.service.latest_of(self.grant)

    def entitle(self, channel: str, names: Sequence[str] = (), feed: str = "sip") -> None:
        """Raise Problem 403 for what the user's plan has not."""
        entitle(self.grant, channel, names, feed)

    def count_read(self, value: JsonObject, source: str) -> None:
        """Count a read of a quote by where its answer came from, unless that is stale."""
        self.service.reads["stale" if value["state"] == "stale" else source] += 1

    async def ask_store(self, names: Sequence[str]) -> list[JsonObject]:
        """The quotes that the store has; none when it fails. Raises Problem 503 if then memory is empty too."""
        if self.service.store is None or self.grant.plan.delay_ns:  # the store has what is now
            return []
        try:
            return await self.service.store.quotes(names, self.service.clock.now_ns())
        except StoreError as error:
            if self.service.latest.counters()["quoted"]:
                return []
            raise Problem(
                503, "no_data", f"nothing in memory yet, and the store: {error}", retry_after=RETRY_AFTER_S
            ) from error


class QuoteHandler(DataHandler):
    """``GET /quotes/{symbol}``"""

    def get(self, symbol: str) -> Awaitable[None] | None:
        self.parameters()
        name = parse_symbol("symbol", symbol)
        self.entitle("quotes", [name])
        try:
            found = quote(self.latest, name, self.service.clock.now_ns())
        except Problem as problem:
            return self._stored(name, problem)
        self.count_read(found, "memory")
        self.answer(found, "memory")
        return None  # no coroutine where memory knows: a tenth of the whole request

    async def _stored(self, name: str, problem: Problem) -> None:
        stored = await self.ask_store([name])
        if not stored:
            if problem.code == "no_quote":
                self.service.reads["missed"] += 1
            raise problem
        self.count_read(stored[0], "redis")
        self.answer(stored[0], "redis")


class QuotesHandler(DataHandler):
    """``GET /quotes?symbols=A,B``"""

    async def get(self) -> None:
        names = parse_symbols(self.parameters("symbols").get("symbols", ""))
        self.entitle("quotes", names)
        found = quotes(self.latest, names, self.service.clock.now_ns())
        missing = [entry["symbol"] for entry in found["missing"]]
        stored = await self.ask_store(missing) if missing else []
        for value in found["quotes"]:
            self.count_read(value, "memory")
        for value in stored:
            self.count_read(value, "redis")
        if stored:
            held = {value["symbol"] for value in stored}
            found["quotes"] += stored
            found["missing"] = [entry for entry in found["missing"] if entry["symbol"] not in held]
        self.service.reads["missed"] += sum(entry["code"] == "no_quote" for entry in found["missing"])
        self.answer(found, "memory, redis" if stored else "memory")


class ExplainHandler(DataHandler):
    """``GET /quotes/{symbol}/explain``"""

    def get(self, symbol: str) -> None:
        self.parameters()
        service = self.service
        name = parse_symbol("symbol", symbol)
        for feed in ("sip", *(venue.feed for venue in service.topology.venues)):
            self.entitle("quotes", [name], feed)
        known = service.latest.find(name)
        if known < 0:
            raise unknown_symbol(service.latest, name)
        names = {venue.code: venue.name for venue in service.topology.venues}
        self.answer(explain.answer(service.latest, names, known, service.clock.now_ns()), "memory")


class SymbolsHandler(DataHandler):
    """``GET /symbols?prefix=&limit=``, or ``?order=busiest``"""

    def get(self) -> None:
        parameters = self.parameters("prefix", "limit", "order")
        limit = parse_count("limit", parameters.get("limit", str(SYMBOLS_DEFAULT)), SYMBOLS_LIMIT)
        order = parameters.get("order", "name")
        prefix = parse_symbol("prefix", parameters["prefix"]) if parameters.get("prefix") else ""
        if order == "name":
            self.answer(self.service.index.find(prefix, limit), "memory")
        elif order == "busiest" and not prefix:
            self.answer(self.service.index.busiest(limit), "memory")
        else:
            raise bad_parameter("order", order, ["name", "busiest"] if not prefix else ["name"])


class TopologyHandler(DataHandler):
    """``GET /topology``"""

    def get(self) -> None:
        self.parameters()
        service = self.service
        self.answer(topology_answer(service.topology, service.node, service.latest))


class TicketHandler(DataHandler):
    """``POST /v1/ticket``: a text that opens one WebSocket, for browsers, which cannot set its headers."""

    def post(self) -> None:
        self.parameters()
        if self.request.body and self.request.headers.get("Content-Type", "").partition(";")[0] != "application/json":
            raise Problem(415, "unsupported_media_type", "a ticket takes no body, or an empty JSON object")
        if self.request.body not in (b"", b"{}"):
            raise Problem(400, "bad_parameter", "a ticket takes no body, or an empty JSON object", parameter="body")
        self.set_status(201)
        self.answer({"ticket": self.service.door.ticket(self.grant), "expires_in_s": TICKET_S})


class NotFoundHandler(Handler):
    """Every other path."""

    def prepare(self) -> None:
        raise Problem(404, "not_found", f"nothing at {self.request.path[:128]}")
