"""NYSE's request protocol as bytes, for both ends: what a client asks a request server for, and what comes back (pure).

Requests and responses go over TCP, each message in a packet with the same header as on the multicast lines. A client
numbers its packets, and a response names the number that it answers. What was asked for comes on the retransmission and
refresh groups, or, where the server keeps both on one connection, as packets among its responses. A server sends a
heartbeat, a packet without messages, and cuts a client that has not answered within `HEARTBEAT_ANSWER_S`.

| type | message | bytes | fields (offset) |
|---|---|---|---|
| 10 | retransmission request | 24 | begin u32 (4), end u32 (8), source id[10] (12), product u8 (22), channel u8 (23) |
| 11 | request response | 29 | request's number u32 (4), begin u32 (8), end u32 (12), source id[10] (16), |
| | | | product (26), channel (27), status (28) |
| 12 | heartbeat response | 14 | source id[10] (4) |
| 13 | symbol index mapping request | 21 | index u32 (4; 0 all), source id[10] (8), product (18), |
| | | | channel (19), method (20) |
| 15 | refresh request | 20 | index u32 (4; 0 all), source id[10] (8), product (18), channel (19) |
| 31 | message unavailable | 14 | begin u32 (4), end u32 (8), product (12), channel (13) |

Source: NYSE XDP Common Client Specification, "Request Server"; protocols section 4. Integers are little-endian.
"""

import struct
from typing import Final, NamedTuple

FLAG_HEARTBEAT: Final = 1
FLAG_ORIGINAL: Final = 11
FLAG_UNAVAILABLE: Final = 21

RETRANSMISSION_MAX: Final = 1_000
"""Messages in one request; more is answered with TOO_MANY."""
HEARTBEAT_ANSWER_S: Final = 5
"""Seconds in which a server expects the answer to its heartbeat."""
SOURCE_BYTES: Final = 10
PACKET_BYTES_MAX: Final = 0xFFFF

# Status of a response.
ACCEPTED: Final = "0"
BAD_SOURCE: Final = "1"
BAD_RANGE: Final = "2"
TOO_MANY: Final = "3"
DAILY_REQUESTS: Final = "4"
DAILY_REFRESHES: Final = "5"
TOO_OLD: Final = "6"
BAD_CHANNEL: Final = "7"
BAD_PRODUCT: Final = "8"
BAD_MESSAGE: Final = "9"
STATUS_NAMES: Final = {
    ACCEPTED: "accepted",
    BAD_SOURCE: "invalid source id",
    BAD_RANGE: "invalid sequence range",
    TOO_MANY: "more than the messages of one request",
    DAILY_REQUESTS: "more than the requests of a day",
    DAILY_REFRESHES: "more than the refreshes of a day",
    TOO_OLD: "sequence numbers no longer kept",
    BAD_CHANNEL: "invalid channel",
    BAD_PRODUCT: "invalid product",
    BAD_MESSAGE: "invalid message type or size",
}

_HEADER: Final = struct.Struct("<HBBIII")
_MESSAGE: Final = struct.Struct("<HH")
_RANGE: Final = struct.Struct("<II10sBB")
_RESPONSE: Final = struct.Struct("<III10sBBc")
_SOURCE: Final = struct.Struct("<10s")
_MAPPING: Final = struct.Struct("<I10sBBB")
_REFRESH: Final = struct.Struct("<I10sBB")
_UNAVAILABLE: Final = struct.Struct("<IIBB")


class Retransmission(NamedTuple):
    """Request for messages ``begin`` to ``end``, both included."""

    begin: int
    end: int
    source: str
    product: int
    channel: int


class Mapping(NamedTuple):
    """Request for the symbol index mapping of one index, or (0) of every symbol of the channel."""

    symbol_index: int
    source: str
    product: int
    channel: int


class Refresh(NamedTuple):
    """Request for the state of one symbol index, or (0) of every symbol of the channel."""

    symbol_index: int
    source: str
    product: int
    channel: int


class Response(NamedTuple):
    """The server's answer to the packet numbered ``request``; a range only where one was asked for."""

    request: int
    begin: int
    end: int
    source: str
    product: int
    channel: int
    status: str


class HeartbeatResponse(NamedTuple):
    """The client's answer to a heartbeat."""

    source: str


class Unavailable(NamedTuple):
    """Messages ``begin`` to ``end``, both included, cannot be had any more."""

    begin: int
    end: int
    product: int
    channel: int


class Other(NamedTuple):
    """Any further message, whole: market data among responses."""

    type: int
    data: bytes


Message = Retransmission | Mapping | Refresh | Response | HeartbeatResponse | Unavailable | Other


class Packet(NamedTuple):
    """One packet of a connection; ``flag`` is its delivery flag, ``size`` its bytes."""

    flag: int
    sequence: int
    sent_ns: int
    messages: tuple[Message, ...]
    size: int

    @property
    def is_heartbeat(self) -> bool:
        return self.flag == FLAG_HEARTBEAT


def encode(message: Message, sequence: int, sent_ns: int = 0, flag: int = FLAG_ORIGINAL) -> bytes:
    """A packet of one message; ``sequence`` is the sender's own number, ``sent_ns`` UTC.

    Raises ValueError when a source id has more than ten ASCII characters.
    """
    kind, body = _body(message)
    data = _MESSAGE.pack(len(body) + _MESSAGE.size, kind) + body
    return _header(len(data), 1, sequence, sent_ns, flag) + data


def heartbeat(sequence: int, sent_ns: int = 0) -> bytes:
    """A packet without messages: the server lives, and wants to know whether the client does."""
    return _header(0, 0, sequence, sent_ns, FLAG_HEARTBEAT)


def unavailable(message: Unavailable, sequence: int, sent_ns: int = 0) -> bytes:
    """What the server sends in place of messages that it no longer has."""
    return encode(message, sequence, sent_ns, FLAG_UNAVAILABLE)


def decode(data: bytes | bytearray | memoryview) -> Packet | None:
    """The first packet of ``data``, or None when it has not come whole; raises ValueError when it cannot be one.

    After a ValueError nothing in the connection can be trusted: there is no mark to find the next packet by.
    """
    if len(data) < _HEADER.size:
        return None
    size, flag, count, sequence, seconds, sub_ns = _HEADER.unpack_from(data)
    if size < _HEADER.size:
        raise ValueError(f"packet of {size} bytes: expected at least {_HEADER.size}")
    if len(data) < size:
        return None
    messages = []
    at = _HEADER.size
    for _ in range(count):
        length, kind = _MESSAGE.unpack_from(data, at) if at + _MESSAGE.size <= size else (0, 0)
        if length < _MESSAGE.size or at + length > size:
            raise ValueError(f"message of {length} bytes at {at} of a packet of {size} bytes")
        messages.append(_message(kind, bytes(data[at + _MESSAGE.size : at + length])))
        at += length
    if at != size:
        raise ValueError(f"packet of {size} bytes: its {count} messages end at {at}")
    return Packet(flag, sequence, seconds * 1_000_000_000 + sub_ns, tuple(messages), size)


def _header(size: int, count: int, sequence: int, sent_ns: int, flag: int) -> bytes:
    return _HEADER.pack(_HEADER.size + size, flag, count, sequence, *divmod(sent_ns, 1_000_000_000))


def _source(text: str) -> bytes:
    raw = text.encode("ascii")
    if len(raw) > SOURCE_BYTES:
        raise ValueError(f"source id {text!r}: at most {SOURCE_BYTES} characters")
    return raw


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0 ").decode("ascii", errors="replace")


def _body(message: Message) -> tuple[int, bytes]:
    match message:
        case Retransmission(begin, end, source, product, channel):
            return 10, _RANGE.pack(begin, end, _source(source), product, channel)
        case Response(request, begin, end, source, product, channel, status):
            raw = status.encode("ascii")
            return 11, _RESPONSE.pack(request, begin, end, _source(source), product, channel, raw)
        case HeartbeatResponse(source):
            return 12, _SOURCE.pack(_source(source))
        case Mapping(index, source, product, channel):
            return 13, _MAPPING.pack(index, _source(source), product, channel, 0)  # 0: answer over UDP
        case Refresh(index, source, product, channel):
            return 15, _REFRESH.pack(index, _source(source), product, channel)
        case Unavailable(begin, end, product, channel):
            return 31, _UNAVAILABLE.pack(begin, end, product, channel)
        case Other(kind, data):
            return kind, data


def _message(kind: int, body: bytes) -> Message:
    """Read a message by its type; one that is too short for its type is an `Other`, one that is longer is read."""
    if kind == 10 and len(body) >= _RANGE.size:
        begin, end, source, product, channel = _RANGE.unpack_from(body)
        return Retransmission(begin, end, _text(source), product, channel)
    if kind == 11 and len(body) >= _RESPONSE.size:
        request, begin, end, source, product, channel, status = _RESPONSE.unpack_from(body)
        return Response(request, begin, end, _text(source), product, channel, _text(status))
    if kind == 12 and len(body) >= _SOURCE.size:
        return HeartbeatResponse(_text(body[:SOURCE_BYTES]))
    if kind == 13 and len(body) >= _MAPPING.size:
        index, source, product, channel, _ = _MAPPING.unpack_from(body)
        return Mapping(index, _text(source), product, channel)
    if kind == 15 and len(body) >= _REFRESH.size:
        index, source, product, channel = _REFRESH.unpack_from(body)
        return Refresh(index, _text(source), product, channel)
    if kind == 31 and len(body) >= _UNAVAILABLE.size:
        return Unavailable(*_UNAVAILABLE.unpack_from(body))
    return Other(kind, body)
