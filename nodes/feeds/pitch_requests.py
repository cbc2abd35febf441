"""Cboe's gap request proxy (GRP) and spin servers as bytes, for both ends: what is asked, and what comes back (pure).

Both go over TCP in packets with the Sequenced Unit Header, number and unit 0. Log in first; each side sends a
heartbeat (a packet without messages) after a second of silence and leaves after five. The messages of an accepted gap
request arrive on the gap multicast groups, those of a spin on the connection: Spin Response, then statuses and open
orders as ordinary messages, then Spin Finished. A unit has a spin server of its own.

| type | message | bytes | fields (offset) |
|---|---|---|---|
| 0x01 | login | 22 | session sub id[4] (2), user[4] (6), filler[2] (10), password[10] (12) |
| 0x02 | login response | 3 | status (2): A accepted, N not authorized, B session in use, S invalid session |
| 0x03 | gap request | 9 | unit u8 (2), sequence u32 (3), count u16 (7) |
| 0x04 | gap response | 10 | unit (2), sequence (3), count (7), status (9) |
| 0x80 | spin image available | 6 | sequence u32 (2): an image up to there can be had |
| 0x81 | spin request | 6 | sequence u32 (2): of an image that was available |
| 0x82 | spin response | 11 | sequence u32 (2), orders u32 (6), status (10): A accepted, O out of range, |
| | | | S spin in progress |
| 0x83 | spin finished | 6 | sequence u32 (2) |

Source: Cboe US Equities/Options Multicast PITCH 2.41, "Gap Request Proxy Messages", "Spin Messages"; protocols
section 3.1 for the gap messages. Integers are little-endian, text is padded right with blanks.
"""

import struct
from typing import Final, NamedTuple

HEARTBEAT_S: Final = 1
SILENCE_S: Final = 5
"""Seconds without a byte after which the other side is gone."""
GAP_COUNT_MAX: Final = 100
"""Messages in one gap request; more is answered with COUNT."""
HEADER_BYTES: Final = 8

# Status of a login response.
LOGGED_IN: Final = "A"
NOT_AUTHORIZED: Final = "N"
SESSION_IN_USE: Final = "B"
INVALID_SESSION: Final = "S"

# Status of a gap response.
ACCEPTED: Final = "A"
OUT_OF_RANGE: Final = "O"
DAILY: Final = "D"
MINUTE: Final = "M"
SECOND: Final = "S"
COUNT: Final = "C"
INVALID: Final = "I"
UNAVAILABLE: Final = "U"

# Status of a spin response.
SPIN_ACCEPTED: Final = "A"
SPIN_OUT_OF_RANGE: Final = "O"
SPIN_IN_PROGRESS: Final = "S"

_HEADER: Final = struct.Struct("<HBBI")
_LOGIN: Final = struct.Struct("<4s4s2s10s")
_STATUS: Final = struct.Struct("<c")
_GAP: Final = struct.Struct("<BIH")
_GAP_RESPONSE: Final = struct.Struct("<BIHc")
_SEQUENCE: Final = struct.Struct("<I")
_SPIN_RESPONSE: Final = struct.Struct("<IIc")


class Login(NamedTuple):
    """The first message of a client."""

    session: str
    user: str
    password: str


class LoginResponse(NamedTuple):
    """The answer to it."""

    status: str


class GapRequest(NamedTuple):
    """Request for ``number`` messages of a unit from ``sequence`` on."""

    unit: int
    sequence: int
    number: int


class GapResponse(NamedTuple):
    """The answer to a gap request, with what was asked for."""

    unit: int
    sequence: int
    number: int
    status: str


class SpinAvailable(NamedTuple):
    """There is an image of the unit's open orders after message ``sequence``."""

    sequence: int


class SpinRequest(NamedTuple):
    """Request for the image after message ``sequence``."""

    sequence: int


class SpinResponse(NamedTuple):
    """The answer to a spin request; ``orders`` of them follow when it is accepted."""

    sequence: int
    orders: int
    status: str


class SpinFinished(NamedTuple):
    """The image is complete; what has a number above ``sequence`` is to be applied to it."""

    sequence: int


class Other(NamedTuple):
    """Any further message, whole: market data of an image."""

    data: bytes


Message = (
    Login | LoginResponse | GapRequest | GapResponse | SpinAvailable | SpinRequest | SpinResponse | SpinFinished | Other
)


class Packet(NamedTuple):
    """One packet of a connection, ``size`` bytes long; without messages it is a heartbeat."""

    unit: int
    sequence: int
    messages: tuple[Message, ...]
    size: int


HEARTBEAT: Final = _HEADER.pack(HEADER_BYTES, 0, 0, 0)


def encode(*messages: Message) -> bytes:
    """A packet of up to 255 messages, outside of any numbering. Raises ValueError for text that is too long."""
    data = b"".join(_body(message) for message in messages)
    return _HEADER.pack(HEADER_BYTES + len(data), len(messages), 0, 0) + data


def decode(data: bytes | bytearray) -> Packet | None:
    """The first packet of ``data``, or None when it has not come whole; raises ValueError when it cannot be one.

    After a ValueError nothing in the connection can be trusted: there is no mark to find the next packet by.
    """
    if len(data) < HEADER_BYTES:
        return None
    size, count, unit, sequence = _HEADER.unpack_from(data)
    if size < HEADER_BYTES:
        raise ValueError(f"packet of {size} bytes: expected at least {HEADER_BYTES}")
    if len(data) < size:
        return None
    messages = []
    at = HEADER_BYTES
    for _ in range(count):
        length = data[at] if at < size else 0
        if length < 2 or at + length > size:
            raise ValueError(f"message of {length} bytes at {at} of a packet of {size} bytes")
        messages.append(_message(bytes(data[at : at + length])))
        at += length
    if at != size:
        raise ValueError(f"packet of {size} bytes: its {count} messages end at {at}")
    return Packet(unit, sequence, tuple(messages), size)


def _text(text: str, size: int) -> bytes:
    raw = text.encode("ascii")
    if len(raw) > size:
        raise ValueError(f"{text!r}: at most {size} characters")
    return raw.ljust(size)


def _framed(kind: int, body: bytes) -> bytes:
    return bytes((2 + len(body), kind)) + body


def _body(message: Message) -> bytes:
    match message:
        case Login(session, user, password):
            return _framed(0x01, _LOGIN.pack(_text(session, 4), _text(user, 4), b"  ", _text(password, 10)))
        case LoginResponse(status):
            return _framed(0x02, _text(status, 1))
        case GapRequest(unit, sequence, number):
            return _framed(0x03, _GAP.pack(unit, sequence, number))
        case GapResponse(unit, sequence, number, status):
            return _framed(0x04, _GAP_RESPONSE.pack(unit, sequence, number, _text(status, 1)))
        case SpinAvailable(sequence):
            return _framed(0x80, _SEQUENCE.pack(sequence))
        case SpinRequest(sequence):
            return _framed(0x81, _SEQUENCE.pack(sequence))
        case SpinResponse(sequence, orders, status):
            return _framed(0x82, _SPIN_RESPONSE.pack(sequence, orders, _text(status, 1)))
        case SpinFinished(sequence):
            return _framed(0x83, _SEQUENCE.pack(sequence))
        case Other(data):
            return data


def _string(raw: bytes) -> str:
    return raw.rstrip(b"\0 ").decode("ascii", errors="replace")


def _message(data: bytes) -> Message:
    """Read a message by its type; one that is too short for its type is an `Other`, one that is longer is read."""
    kind, room = data[1], len(data) - 2
    if kind == 0x01 and room >= _LOGIN.size:
        session, user, _, password = _LOGIN.unpack_from(data, 2)
        return Login(_string(session), _string(user), _string(password))
    if kind == 0x02 and room >= _STATUS.size:
        return LoginResponse(_string(data[2:3]))
    if kind == 0x03 and room >= _GAP.size:
        return GapRequest(*_GAP.unpack_from(data, 2))
    if kind == 0x04 and room >= _GAP_RESPONSE.size:
        unit, sequence, number, status = _GAP_RESPONSE.unpack_from(data, 2)
        return GapResponse(unit, sequence, number, _string(status))
    if kind == 0x80 and room >= _SEQUENCE.size:
        return SpinAvailable(*_SEQUENCE.unpack_from(data, 2))
    if kind == 0x81 and room >= _SEQUENCE.size:
        return SpinRequest(*_SEQUENCE.unpack_from(data, 2))
    if kind == 0x82 and room >= _SPIN_RESPONSE.size:
        sequence, orders, status = _SPIN_RESPONSE.unpack_from(data, 2)
        return SpinResponse(sequence, orders, _string(status))
    if kind == 0x83 and room >= _SEQUENCE.size:
        return SpinFinished(*_SEQUENCE.unpack_from(data, 2))
    return Other(data)
