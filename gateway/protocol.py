"""What clients say and hear, but for the market data itself (`protocol_kernel`): parse and format (pure).

The Alpaca v2 market-data dialect, in JSON or msgpack. Every server frame is an array of messages. Errors have
Alpaca's codes and words; what we add (``field``, ``detail``) stands in keys of its own, so that a stock client
which compares the words still works.

Source: Alpaca's "WebSocket stream" and "Real-time stock data" references.
"""

import difflib
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from fabric.errors import FabricError
from fabric.records import SYMBOL_MAX
from fabric.topology import Venue
from gateway.protocol_kernel import JSON, MSGPACK, SIP, STREAM, VENUE, fields

ALPACA_CHANNELS: Final = ("trades", "quotes", "bars", "updatedBars", "dailyBars", "statuses", "lulds")
OWN_CHANNELS: Final = ("venueQuotes", "bars5m", "bars1h", "barsNow")
CHANNELS: Final = ALPACA_CHANNELS + OWN_CHANNELS
FOLLOWING_CHANNELS: Final = ("corrections", "cancelErrors")
"""Come with the trades of a symbol; Alpaca lists them and never takes a subscription to them."""
STREAM_CHANNELS: Final = (
    "trades", "bars", "updatedBars", "bars5m", "bars1h", "dailyBars", "statuses", "lulds",
)  # fmt: skip
"""Of which every message counts: what a subscription can go on with (``resume``)."""
BAR_CHANNELS: Final = ("bars", "updatedBars", "dailyBars", "bars5m", "bars1h", "barsNow")

INTERVALS_MS: Final = (0, 100, 250, 500, 1000)
MESSAGE_BYTES_MAX: Final = 64 << 10
REQ_ID_MAX: Final = 64
PLACES_MAX: Final = 64
"""Publishers that one ``resume`` names."""

WORDS: Final = {
    400: "invalid syntax",
    401: "not authenticated",
    402: "auth failed",
    403: "already authenticated",
    404: "auth timeout",
    405: "symbol limit exceeded",
    406: "connection limit exceeded",
    407: "slow client",
    409: "insufficient subscription",
    410: "invalid subscribe action for this feed",
    500: "internal error",
}

# Close codes: RFC 6455, its registry, and 4000 + the HTTP status.
CLOSE_UNSUPPORTED: Final = 1003
CLOSE_POLICY: Final = 1008
CLOSE_INTERNAL: Final = 1011
CLOSE_RESTART: Final = 1012
CLOSE_SLOW: Final = 1013
CLOSE_UNAUTHORIZED: Final = 4401
CLOSE_FORBIDDEN: Final = 4403
CLOSE_AUTH_TIMEOUT: Final = 4408
CLOSE_REPLACED: Final = 4409
CLOSE_FLOOD: Final = 4429

Message = dict[str, Any]
_PATTERN = re.compile(rf"[!#-)+-\[\]-{{}}~]{{1,{SYMBOL_MAX}}}\Z")  # printable ASCII but for " * \ |
_TEXT_FRAME: Final = 0x81
_BINARY_FRAME: Final = 0x82


class ProtocolError(FabricError):
    """A client's mistake, or a bound it has met: Alpaca's code and words, the field, and what is wrong with it."""

    def __init__(self, code: int, field: str = "", detail: str = "", **extra: Any) -> None:
        super().__init__(": ".join(part for part in (f"{code} {WORDS[code]}", field, detail) if part))
        self.code = code
        self.words = WORDS[code]
        self.field = field
        self.detail = detail
        self.extra = extra

    def message(self, req_id: str | int | None = None) -> Message:
        """The error as the client hears it."""
        message: Message = {"T": "error", "code": self.code, "msg": WORDS[self.code]}
        if self.field:
            message["field"] = self.field
        if self.detail:
            message["detail"] = self.detail
        if req_id is not None:
            message["req_id"] = req_id
        return message | self.extra


@dataclass(frozen=True)
class Feed:
    """What a path serves: the composite of all venues, or one venue; in which dialect."""

    name: str
    dialect: int  # SIP, VENUE or STREAM of `protocol_kernel`
    venue: int = -1  # index into the topology's venues; -1: the composite
    composite_bars: bool = True  # False where bars of the composite would not be this venue's own

    @property
    def alpaca(self) -> bool:
        """Whether it speaks to stock clients: authentication first, every tick by default, no nulls."""
        return self.dialect != STREAM


@dataclass(frozen=True)
class Auth:
    key: str
    secret: str
    takeover: bool = False  # replace an older connection where there are too many
    req_id: str | int | None = None


@dataclass(frozen=True)
class Subscribe:
    channels: Mapping[str, tuple[str, ...]]
    interval_ms: int | None = None  # None: as it was
    snapshot: bool = True
    req_id: str | int | None = None
    fields: tuple[str, ...] | None = None  # keys of data, none: all; None: as it was
    heartbeat: bool | None = None  # None: as it was
    trace: bool | None = None  # None: as it was
    resume: "Places | None" = None  # where the client left off, empty: it begins; None: it does not want to know


@dataclass(frozen=True)
class Unsubscribe:
    channels: Mapping[str, tuple[str, ...]]
    req_id: str | int | None = None


Places = Mapping[str, tuple[int, int]]
"""By publisher: its epoch, and the position in its log up to which a client has all that it wants."""

Request = Auth | Subscribe | Unsubscribe

FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "auth": ("key", "secret", "takeover"),
    "subscribe": (*CHANNELS, "interval_ms", "snapshot", "fields", "hb", "trace", "resume"),
    "unsubscribe": CHANNELS,
}
"""The keys of each action, besides ``action`` and ``req_id``."""


def feeds(venues: Sequence[Venue]) -> dict[str, Feed]:
    """The feeds of a topology by the name in their path: ``/v2/<name>``, and ``stream`` for ``/stream``."""
    alone = len(venues) == 1
    own = {venue.feed: Feed(venue.feed, VENUE, place, alone) for place, venue in enumerate(venues)}
    return own | {"sip": Feed("sip", SIP), "stream": Feed("stream", STREAM)}


def parse(data: str | bytes, encoding: int) -> Request:
    """One message of a client; raises ProtocolError (400) that names the field."""
    try:
        found = json.loads(data) if encoding == JSON else msgpack.unpackb(data)
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(400, detail=f"not {'JSON' if encoding == JSON else 'msgpack'}: {error}"[:200]) from None
    if not isinstance(found, dict):
        raise ProtocolError(400, detail=f"expected a map, found {_name(found)}")
    action = found.get("action")
    if not isinstance(action, str) or action not in FIELDS:
        raise ProtocolError(400, "action", _guess(action, tuple(FIELDS)) or _expected("action", found, "a text"))
    for key in found:
        if key not in ("action", "req_id", *FIELDS[action]):
            raise ProtocolError(400, str(key)[:64], _guess(key, FIELDS[action]) or f"unknown field of {action}")
    req_id = _req_id(found)
    if action == "auth":
        takeover = found.get("takeover", False)
        if not isinstance(takeover, bool):
            raise ProtocolError(400, "takeover", _expected("takeover", found, "true or false"))
        return Auth(_text(found, "key"), _text(found, "secret"), takeover, req_id)
    channels = {channel: _patterns(found, channel) for channel in CHANNELS if found.get(channel) is not None}
    if action == "unsubscribe":
        return Unsubscribe(channels, req_id)
    interval_ms = found.get("interval_ms")
    if interval_ms is not None and (type(interval_ms) is not int or interval_ms not in INTERVALS_MS):
        allowed = ", ".join(map(str, INTERVALS_MS))
        raise ProtocolError(400, "interval_ms", f"expected one of {allowed}, found {str(interval_ms)[:32]}")
    snapshot = found.get("snapshot", True)
    if not isinstance(snapshot, bool):
        raise ProtocolError(400, "snapshot", _expected("snapshot", found, "true or false"))
    heartbeat, trace = _flag(found, "hb"), _flag(found, "trace")
    return Subscribe(channels, interval_ms, snapshot, req_id, _chosen(found), heartbeat, trace, _places(found))


def req_id_of(data: str | bytes, encoding: int) -> str | int | None:
    """The ``req_id`` of a message that `parse` refused, if it can be made out: an answer should carry it."""
    try:
        found = json.loads(data) if encoding == JSON else msgpack.unpackb(data)
        return _req_id(found) if isinstance(found, dict) else None
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException, ProtocolError):
        return None


def encode(messages: Sequence[Message], encoding: int) -> bytes:
    """Messages as one array."""
    if encoding == MSGPACK:
        return bytes(msgpack.packb(list(messages)))
    return json.dumps(list(messages), separators=(",", ":")).encode()


def frame(messages: Sequence[Message], encoding: int) -> bytes:
    """Messages as one whole WebSocket frame, unmasked, as a server sends it."""
    return _framed(encode(messages, encoding), encoding)


def frame_encoded(messages: Sequence[bytes], encoding: int) -> bytes:
    """Messages that are encoded already as one whole WebSocket frame."""
    if encoding == JSON:
        return _framed(b"[" + b",".join(messages) + b"]", encoding)
    return _framed(msgpack.Packer().pack_array_header(len(messages)) + b"".join(messages), encoding)


def _framed(payload: bytes, encoding: int) -> bytes:
    first = _BINARY_FRAME if encoding == MSGPACK else _TEXT_FRAME
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


def success(text: str, req_id: str | int | None = None) -> Message:
    """``connected`` and ``authenticated``."""
    message: Message = {"T": "success", "msg": text}
    return message if req_id is None else message | {"req_id": req_id}


def subscription(channels: Mapping[str, Sequence[str]], interval_ms: int, req_id: str | int | None = None) -> Message:
    """The full current set: all of Alpaca's channels, those that follow the trades, and ours where there are any."""
    message: Message = {"T": "subscription"}
    message |= {channel: list(channels.get(channel, ())) for channel in ALPACA_CHANNELS}
    message |= {channel: list(channels.get("trades", ())) for channel in FOLLOWING_CHANNELS}
    message |= {channel: list(channels[channel]) for channel in OWN_CHANNELS if channels.get(channel)}
    message["interval_ms"] = interval_ms
    return message if req_id is None else message | {"req_id": req_id}


def mark(places: Places) -> Message:
    """Everything up to here has been given: what ``resume`` takes. An epoch is more than a double holds: a text."""
    return {"T": "mark", "at": {name: [str(epoch), position] for name, (epoch, position) in places.items()}}


def gap(channel: str, missed: int | None) -> Message:
    """Messages of a channel that a client will not get; None where nobody knows how many."""
    return {"T": "gap", "channel": channel, "missed": missed}


def resumed(count: int) -> Message:
    """What was missed has come, so many messages; what follows is live."""
    return {"T": "resumed", "messages": count}


def _text(found: Message, field: str) -> str:
    value = found.get(field)
    if not isinstance(value, str):
        raise ProtocolError(400, field, _expected(field, found, "a text"))
    return value


def _req_id(found: Message) -> str | int | None:
    value = found.get("req_id")
    if value is None or (isinstance(value, str) and len(value) <= REQ_ID_MAX):
        return value
    if type(value) is int and abs(value) < 1 << 63:
        return value
    raise ProtocolError(400, "req_id", _expected("req_id", found, f"a text of up to {REQ_ID_MAX} or an integer"))


def _chosen(found: Message) -> tuple[str, ...] | None:
    """The keys that a client wants its data to have, in the order of their names."""
    value = found.get("fields")
    if value is None:
        return None
    if not isinstance(value, list):
        raise ProtocolError(400, "fields", _expected("fields", found, "a list of keys"))
    allowed = fields()
    for place, key in enumerate(value):
        if key not in allowed:
            problem = _guess(key, allowed) or f"expected a key, found {_name(key)}"
            raise ProtocolError(400, f"fields[{place}]", problem)
    return tuple(sorted(set(value)))


def _flag(found: Message, field: str) -> bool | None:
    value = found.get(field)
    if value is None or isinstance(value, bool):
        return value
    raise ProtocolError(400, field, _expected(field, found, "true or false"))


def _places(found: Message) -> Places | None:
    """Where a client left off: what a ``mark`` said, an epoch as a text of digits or a number."""
    value = found.get("resume")
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > PLACES_MAX:
        raise ProtocolError(400, "resume", _expected("resume", found, f"a map of up to {PLACES_MAX} publishers"))
    places: dict[str, tuple[int, int]] = {}
    for name, place in value.items():
        numbers = [
            int(number) if isinstance(number, str) and re.fullmatch(r"[0-9]{1,19}", number) else number
            for number in (place if isinstance(place, list) else ())
        ]
        if len(numbers) != 2 or not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
            problem = 'expected [epoch, position], such as ["1795392000000000000", 1234]'
            raise ProtocolError(400, f"resume.{str(name)[:32]}", problem)
        places[str(name)] = numbers[0], numbers[1]
    return places


def _patterns(found: Message, channel: str) -> tuple[str, ...]:
    """The symbols and prefixes of one channel, each once, in their order."""
    value = found[channel]
    if not isinstance(value, list):
        raise ProtocolError(400, channel, _expected(channel, found, "a list of symbols"))
    for place, pattern in enumerate(value):
        field = f"{channel}[{place}]"
        if not isinstance(pattern, str):
            raise ProtocolError(400, field, f"expected a symbol, found {_name(pattern)}")
        if pattern != "*" and not _PATTERN.match(pattern.removesuffix("*")):
            problem = f"{pattern[:32]!r} is no symbol (1 to {SYMBOL_MAX} characters), prefix with `*`, or `*`"
            raise ProtocolError(400, field, problem)
    return tuple(dict.fromkeys(value))


def _expected(field: str, found: Message, what: str) -> str:
    return f"expected {what}, found {_name(found[field])}" if field in found else f"missing, expected {what}"


def _name(value: Any) -> str:
    names = {dict: "a map", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), "something else")


def _guess(found: Any, allowed: Sequence[str]) -> str:
    """A near miss in words, or nothing."""
    if not isinstance(found, str):
        return ""
    near = difflib.get_close_matches(found[:64], allowed, 1)
    if near:
        return f"unknown: {found[:64]!r}; did you mean {near[0]!r}?"
    return f"unknown: {found[:64]!r}; expected one of {', '.join(allowed)}"
