"""The REST interface as an OpenAPI 3.1 document (pure): what `/openapi.json` answers.

Written by hand, one line an operation, and held against the handlers by the tests: every route and method is in it
and nothing else, every parameter that a handler takes and none that it refuses, and real answers fit its schemas.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fabric import __version__
from fabric.records import STATE_NAMES
from gateway.alpaca import BARS_PARAMETERS, LATEST_PARAMETERS, LIMIT_MAX, TIMEFRAMES
from gateway.candles import INTERVALS, SESSIONS
from gateway.explain import AHEAD, AT_BEST, BEHIND, BEST, NONE, OUT, REASONS
from gateway.rest import BATCH_MAX, SYMBOLS_LIMIT

Json = dict[str, Any]


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Mapping[str, Json], optional: Sequence[str] = (), **more: Any) -> Json:
    """An object of which every property is there but the optional ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required, **more}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _map(values: Json) -> Json:
    return {"type": "object", "additionalProperties": values}


def _nullable(*types: str, **more: Any) -> Json:
    return {"type": [*types, "null"], **more}


_TEXT: Final[Json] = {"type": "string"}
_COUNT: Final[Json] = {"type": "integer"}
_NUMBER: Final[Json] = {"type": "number"}
_FLAG: Final[Json] = {"type": "boolean"}
_TIME: Final[Json] = {"type": "string", "format": "date-time"}
_PRICE: Final = _nullable("number", description="in units of the currency; null where there is none")
_SIZE: Final = _nullable("integer", description="whole shares; null where there is none")

SCHEMAS: Final[Json] = {
    "Problem": _object(
        {
            "type": _TEXT,
            "title": _TEXT,
            "status": _COUNT,
            "detail": _TEXT,
            "instance": _TEXT,
            "code": _TEXT | {"description": "stable; for programs"},
            "parameter": _TEXT,
            "allowed": {"description": "what the parameter may be"},
            "retry_after": _COUNT | {"description": "seconds"},
        },
        ("parameter", "allowed", "retry_after"),
        description="RFC 9457",
    ),
    "Quote": _object(
        {
            "symbol": _TEXT,
            "kind": {"enum": ["nbbo", "composite"], "description": "nbbo: every quoting venue is read and alive"},
            "bid": _PRICE,
            "ask": _PRICE,
            "bid_size": _SIZE,
            "ask_size": _SIZE,
            "bid_venue": _nullable("string"),
            "ask_venue": _nullable("string"),
            "last": _PRICE,
            "ts": _nullable("number", description="seconds since the epoch"),
            "t": _nullable("string", description="RFC 3339 with nanoseconds"),
            "age_ms": _nullable("integer", description="since the feed received it"),
            "state": {"enum": ["live", "halted", "stale"]},
            "flags": _list({"enum": list(STATE_NAMES.values())}),
            "scope": _TEXT | {"description": "letters of the venues that feed it"},
            "seq": _COUNT,
            "epoch": _nullable("integer"),
        },
        ("kind", "bid_venue", "ask_venue", "t", "flags", "scope", "seq", "epoch"),
    ),
    "Quotes": _object(
        {"quotes": _list(_ref("Quote")), "missing": _list(_object({"symbol": _TEXT, "code": _TEXT}))},
    ),
    "Explanation": _object(
        {
            "symbol": _TEXT,
            "kind": {"enum": ["nbbo", "composite"]},
            "state": {"enum": ["live", "halted", "stale"]},
            "flags": _list({"enum": list(STATE_NAMES.values())}),
            "session": {
                "enum": ["pre", "regular", "post", "closed"],
                "description": "locked and crossed are usual outside of regular",
            },
            "t": _nullable("string"),
            "scope": _TEXT,
            "round_lot": _SIZE,
            "halted_by": _TEXT | {"description": "letters of the venues whose halt is in force"},
            "bands": _object({"lower": _PRICE, "upper": _PRICE}),
            **dict.fromkeys(("bid", "ask"), _ref("ExplainedBest")),
            "venues": _list(_ref("ExplainedVenue")),
        }
    ),
    "ExplainedBest": _object(
        {
            "price": _PRICE,
            "size": _SIZE,
            "venue": _nullable("string"),
            "total": _SIZE | {"description": "shares of all venues at this price"},
            "venues": _TEXT | {"description": "letters of those at this price"},
            "odd_lot": {
                "anyOf": [_object({"price": _PRICE, "size": _SIZE, "venue": _TEXT}), {"type": "null"}],
                "description": "the best odd lot, where it is better",
            },
        }
    ),
    "ExplainedVenue": _object(
        {
            "venue": _TEXT,
            "name": _TEXT,
            "t": _nullable("string"),
            "age_ms": _nullable("integer"),
            "conditions": _list(_TEXT),
            "stale": _FLAG,
            **dict.fromkeys(("bid", "ask"), _ref("ExplainedSide")),
        }
    ),
    "ExplainedSide": _object(
        {
            "price": _PRICE,
            "size": _SIZE,
            "standing": {"enum": [BEST, AT_BEST, BEHIND, AHEAD, OUT, NONE]},
            "reason": {"enum": list(REASONS), "description": "why it is left out"},
            "why": _TEXT,
            "slow": _FLAG,
        },
        ("reason", "why", "slow"),
    ),
    "Candle": _object(
        {
            "t": _TIME,
            "open": _PRICE,
            "high": _PRICE,
            "low": _PRICE,
            "close": _PRICE,
            "volume": _SIZE,
            "trades": _SIZE,
            "vwap": _PRICE,
            "start": _NUMBER | {"description": "seconds since the epoch"},
            "rev": _nullable("integer") | {"description": "0 while it runs, 1 when it closed, +1 at each revision"},
            "final": _FLAG,
            "gap": _FLAG | {"description": "messages were lost inside it"},
        },
        ("t", "trades", "vwap", "rev", "final", "gap"),
    ),
    "Candles": _object(
        {
            "symbol": _TEXT,
            "interval": {"enum": list(INTERVALS)},
            "candles": _list(_ref("Candle")),
            "older": _nullable("string") | {"description": "where there is more before: the `end` to ask for next"},
            "partial": _FLAG | {"description": "the history did not answer: earlier candles may be missing"},
        },
        ("partial",),
    ),
    "Symbols": _object({"symbols": _list(_TEXT), "total": _COUNT}),
    "Topology": _object(
        {
            "gateway": _TEXT,
            "venues": _list(_object({"code": _TEXT, "name": _TEXT, "feed": _TEXT, "state": _nullable("string")})),
            "nodes": _list(_object({"name": _TEXT, "role": _TEXT, "host": _TEXT})),
            "cache": _TEXT,
            "symbols": _COUNT,
        }
    ),
    "Ticket": _object({"ticket": _TEXT, "expires_in_s": _COUNT}),
    "Health": _object({"status": _TEXT, "checks": {"type": "object"}}, ("checks",)),
    "Conditions": _object(
        {
            **{kind: _map(_map(_TEXT)) | {"description": "by tape and code"} for kind in ("trades", "quotes")},
            "version": _TEXT,
            "sale_conditions": _list(
                _object(
                    {
                        **dict.fromkeys(("tape", "code", "since", "meaning"), _TEXT),
                        **dict.fromkeys(("high_low", "volume"), _FLAG),
                        "last": _TEXT | {"description": "a rule of `last`"},
                    }
                )
            ),
            "last": _map(_TEXT),
            "quotes_version": _TEXT,
            "quote_conditions": _list(
                _object(
                    {
                        **dict.fromkeys(("tape", "code", "since", "meaning"), _TEXT),
                        "sides": {"enum": ["both", "bid", "offer", "none"], "description": "count for the best"},
                        "slow": {"enum": ["both", "bid", "offer", "none"], "description": "are not protected"},
                    }
                )
            ),
            **dict.fromkeys(("several", "unknown"), _TEXT),
        }
    ),
    "Session": _object(
        {
            "at": _TIME,
            "date": _TEXT,
            "session": _TEXT,
            "open": _nullable("string"),
            "close": _nullable("string"),
            "half_day": _FLAG,
        }
    ),
    "AlpacaQuote": _object(
        {
            "t": _nullable("string"),
            **dict.fromkeys(("ax", "bx", "z"), _TEXT),
            **dict.fromkeys(("ap", "bp"), _NUMBER),
            **dict.fromkeys(("as", "bs"), _COUNT),
            "c": _list(_TEXT),
            "state": {"const": "stale"},
        },
        ("state",),
    ),
    "AlpacaTrade": _object(
        {"t": _TIME, "x": _TEXT, "p": _PRICE, "s": _SIZE, "c": _list(_TEXT), "i": _SIZE, "z": _TEXT}
    ),
    "AlpacaBar": _object(
        {"t": _TIME, **dict.fromkeys(("o", "h", "l", "c", "vw"), _PRICE), **dict.fromkeys(("v", "n"), _SIZE)}
    ),
    "AlpacaSnapshot": _object(
        {
            "symbol": _TEXT,
            "latestTrade": {"anyOf": [_ref("AlpacaTrade"), {"type": "null"}]},
            "latestQuote": {"anyOf": [_ref("AlpacaQuote"), {"type": "null"}]},
            **{
                name: {"anyOf": [_ref("AlpacaBar"), {"type": "null"}]}
                for name in ("minuteBar", "dailyBar", "prevDailyBar")
            },
        },
        ("symbol",),
    ),
}

_SYMBOLS: Final = {"type": "string", "description": f"1 to {BATCH_MAX} symbols with commas between them"}
_INSTANT: Final = {"type": "string", "description": "RFC 3339 with its offset, a date, or nanoseconds since the epoch"}
_PARAMETERS: Final[Mapping[str, Json]] = {
    "symbols": _SYMBOLS,
    "interval": {"enum": list(INTERVALS), "default": "1m"},
    "date": _TEXT | {"description": "2026-11-27: what was in force on that day; left out: all rows"},
    "at": _INSTANT,
    "start": _INSTANT,
    "end": _INSTANT,
    "limit": {"type": "integer", "minimum": 1},
    "follow": {"enum": ["true", "false"], "default": "false", "description": "go on as a stream of events"},
    "session": {"enum": list(SESSIONS), "default": "all", "description": "only candles that overlap it"},
    "prefix": _TEXT,
    "order": {"enum": ["name", "busiest"], "default": "name"},
    "timeframe": {"enum": list(TIMEFRAMES)},
    "page_token": _TEXT,
    "sort": {"enum": ["asc", "desc"], "default": "asc"},
    "feed": {"type": "string", "default": "sip"},
    "adjustment": {"enum": ["raw"]},
    "asof": {"type": "string", "description": "taken, and without effect: no renamed symbols are known"},
    "currency": {"enum": ["USD"]},
    "verbose": _TEXT,
    "since": {
        "type": "number",
        "default": 0,
        "description": "only points of the series after it: seconds since the epoch",
    },
    "series": {"enum": ["0", "1"], "default": "1", "description": "0: without the series"},
}
_REQUIRED: Final = ("symbols", "timeframe")

_ERRORS: Final[Mapping[str, str]] = {
    "400": "a parameter is wrong; the answer names it",
    "401": "no key, or none that is let in",
    "403": "not in the plan",
    "429": "too many requests; Retry-After says when",
}


def _operation(
    path: str,
    summary: str,
    answer: str | Json,
    query: Sequence[str] = (),
    *,
    method: str = "get",
    status: str = "200",
    errors: Sequence[str] = ("400", "401", "403", "429"),
    also: Mapping[str, str] | None = None,
    media: str = "application/json",
    limit: int = 0,
) -> tuple[str, str, Json]:
    """One operation: its path, method, and the object that describes it."""
    parameters: list[Json] = []
    if "{symbol}" in path:
        parameters.append({"name": "symbol", "in": "path", "required": True, "schema": _TEXT})
    for name in query:
        schema = _PARAMETERS[name] | ({"maximum": limit} if name == "limit" and limit else {})
        parameters.append({"name": name, "in": "query", "required": name in _REQUIRED, "schema": schema})
    schema = _ref(answer) if isinstance(answer, str) else answer
    problem = {"application/problem+json": {"schema": _ref("Problem")}}
    responses: Json = {status: {"description": summary, "content": {media: {"schema": schema}}}}
    for code, text in {**{code: _ERRORS[code] for code in errors}, **(also or {})}.items():
        responses[code] = {"description": text} if code == "304" else {"description": text, "content": problem}
    name = path.strip("/").replace("{", "").replace("}", "").replace("/", "_").replace(".", "_") or "page"
    described: Json = {"operationId": f"{method}_{name}", "summary": summary, "responses": responses}
    if parameters:
        described["parameters"] = parameters
    if not errors:
        described["security"] = []
    return path, method, described


_UNKNOWN: Final = {"404": "unknown symbol, or nothing of it yet"}
_NO_DATA: Final = _UNKNOWN | {"503": "memory is empty and the cache does not answer; Retry-After"}
_NO_LAUNCHER: Final = {"503": "the gateway runs without a launcher, or that does not answer; Retry-After"}
_UNCHANGED: Final = {"304": "as the client's copy (If-None-Match)"}


def _alpaca(kind: str, answer: str) -> list[tuple[str, str, Json]]:
    one = {"symbol": _TEXT, kind[:-1]: _ref(answer)}
    return [
        _operation(
            f"/v2/stocks/{kind}/latest", f"The latest {kind} of several symbols, as Alpaca has them",
            _object({kind: _map(_ref(answer))}), ("symbols", *LATEST_PARAMETERS),
        ),
        _operation(
            f"/v2/stocks/{{symbol}}/{kind}/latest", f"The latest {kind} of one symbol, as Alpaca has them",
            _object(one), LATEST_PARAMETERS, also=_UNKNOWN,
        ),
    ]  # fmt: skip


_PAGED: Final = {"next_page_token": _nullable("string")}
OPERATIONS: Final = [
    _operation("/quotes/{symbol}", "The best bid and offer of one symbol", "Quote", also=_NO_DATA),
    _operation("/quotes", "The best bids and offers of several symbols", "Quotes", ("symbols",), also=_NO_DATA),
    _operation("/quotes/{symbol}/explain", "Who holds each side, who else is there, who is left out and why",
               "Explanation", also=_UNKNOWN),
    _operation(
        "/candles/{symbol}", "The newest candles of a range, oldest first", "Candles",
        ("interval", "start", "end", "limit", "session", "follow"), also=_UNKNOWN | _UNCHANGED | _NO_DATA,
    ),
    _operation(
        "/symbols", "Names that begin with a prefix, or the busiest", "Symbols", ("prefix", "limit", "order"),
        limit=SYMBOLS_LIMIT,
    ),
    _operation("/topology", "The nodes with their addresses, and whether each is heard", "Topology"),
    _operation("/v1/ticket", "A ticket that opens one WebSocket", "Ticket", method="post", status="201",
               also={"415": "a body that is not JSON"}),
    _operation("/v1/ops", "For operators: nodes, links, latency by hop, thresholds (docs/operations.md)",
               {"type": "object", "required": ["v", "state", "nodes", "links", "hops", "thresholds", "series"]},
               ("since", "series"), also=_NO_LAUNCHER),
    _operation("/v1/ops/metrics", "For operators: counters of all nodes of this machine, in Prometheus' text format",
               _TEXT, also=_NO_LAUNCHER, media="text/plain"),
    _operation("/v1/meta/conditions", "What codes of conditions mean, and what they allow", "Conditions",
               ("date",), also=_UNCHANGED),
    _operation("/v1/meta/session", "What the exchange calendar says of an instant", "Session", ("at",)),
    *_alpaca("quotes", "AlpacaQuote"),
    *_alpaca("trades", "AlpacaTrade"),
    *_alpaca("bars", "AlpacaBar"),
    _operation("/v2/stocks/snapshots", "Trade, quote and minute bar of several symbols, as Alpaca has them",
               _map(_ref("AlpacaSnapshot")), ("symbols", *LATEST_PARAMETERS)),
    _operation("/v2/stocks/{symbol}/snapshot", "Trade, quote and minute bar of one symbol, as Alpaca has them",
               "AlpacaSnapshot", LATEST_PARAMETERS, also=_UNKNOWN),
    _operation("/v2/stocks/bars", "Bars of several symbols in pages, as Alpaca has them",
               _object({"bars": _map(_list(_ref("AlpacaBar"))), **_PAGED}), ("symbols", *BARS_PARAMETERS),
               limit=LIMIT_MAX),
    _operation("/v2/stocks/{symbol}/bars", "Bars of one symbol in pages, as Alpaca has them",
               _object({"symbol": _TEXT, "bars": _list(_ref("AlpacaBar")), **_PAGED}), BARS_PARAMETERS,
               limit=LIMIT_MAX, also=_UNKNOWN),
    _operation("/livez", "Whether the loop turns", "Health", ("verbose",), errors=(), also={"503": "it stands"}),
    _operation("/readyz", "Whether clients may be sent here", "Health", ("verbose",), errors=(),
               also={"503": "not yet, or draining"}),
    _operation("/healthz", "As /readyz", "Health", ("verbose",), errors=(), also={"503": "not yet, or draining"}),
    _operation("/metrics", "Counters, in Prometheus' text format", _TEXT, errors=(), media="text/plain"),
    _operation("/openapi.json", "This document", {"type": "object"}, errors=(), also=_UNCHANGED),
    _operation("/asyncapi.json", "The WebSocket and the bus, as an AsyncAPI document", {"type": "object"}, errors=(),
               also=_UNCHANGED),
]  # fmt: skip


def document() -> Json:
    """The OpenAPI document."""
    paths: dict[str, Json] = {}
    for path, method, described in OPERATIONS:
        paths.setdefault(path, {})[method] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Market data fabric",
            "version": __version__,
            "description": "Latest quotes, candles and bars of a gateway, from its memory.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"apiKey": []}, {"alpacaKey": [], "alpacaSecret": []}, {}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "<key>.<secret>, or a JSON Web Token"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "alpacaKey": {"type": "apiKey", "in": "header", "name": "APCA-API-KEY-ID"},
                "alpacaSecret": {"type": "apiKey", "in": "header", "name": "APCA-API-SECRET-KEY"},
            },
        },
    }
