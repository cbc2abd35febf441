"""The slow and obvious twins of the recovery kernels: packets as Python sees them, and a store that is a list."""

import struct
from typing import NamedTuple

from nodes.feeds.recovery_kernel import IEXTP, MOLDUDP64, PILLAR, SEQUENCED_UNIT

TRANSPORTS = (MOLDUDP64, IEXTP, SEQUENCED_UNIT, PILLAR)
SESSION = b"20261122A "
IEX_SESSION = 77
IEX_PROTOCOL = 0x8003
UNIT = {MOLDUDP64: 0, IEXTP: 1, SEQUENCED_UNIT: 3, PILLAR: 0}
HEADER_BYTES = {MOLDUDP64: 20, IEXTP: 40, SEQUENCED_UNIT: 8, PILLAR: 16}


class Parsed(NamedTuple):
    unit: int
    first: int
    messages: list[bytes]  # with their lengths, as framed


def message(transport: int, body: bytes) -> bytes:
    """A message as the transport frames it."""
    match transport:
        case 1:
            return struct.pack(">H", len(body)) + body
        case 2:
            return struct.pack("<H", len(body)) + body
        case 3:
            return struct.pack("<BB", 2 + len(body), 0x20) + body
        case _:
            return struct.pack("<HH", 4 + len(body), 220) + body


def packet(
    transport: int,
    first: int,
    bodies: list[bytes],
    unit: int | None = None,
    sent_ns: int = 0,
    session: bytes = SESSION,
    iex_session: int = IEX_SESSION,
    flag: int = 11,
) -> bytes:
    """A packet of the transport, its header written field by field from the specification's table."""
    unit = UNIT[transport] if unit is None else unit
    data = b"".join(message(transport, body) for body in bodies)
    match transport:
        case 1:
            return struct.pack(">10sQH", session, first, len(bodies)) + data
        case 2:
            head = (1, 0, IEX_PROTOCOL, unit, iex_session, len(data), len(bodies), 1_000_000 * first, first, sent_ns)
            return struct.pack("<BBHIIHHqqq", *head) + data
        case 3:
            return struct.pack("<HBBI", 8 + len(data), len(bodies), unit, first) + data
        case _:
            head = (16 + len(data), flag, len(bodies), first, *divmod(sent_ns, 1_000_000_000))
            return struct.pack("<HBBIII", *head) + data


def parse(transport: int, data: bytes) -> Parsed | None:
    """Read a packet whose messages are all there; None for any other, and for one without messages."""
    if len(data) < HEADER_BYTES[transport]:
        return None
    unit = 0
    match transport:
        case 1:
            _, first, count = struct.unpack_from(">10sQH", data)
            count = 0 if count == 0xFFFF else count
        case 2:
            fields = struct.unpack_from("<BBHIIHHqqq", data)
            unit, count, first = fields[3] & 0xFFFF, fields[6], fields[8]
        case 3:
            _, count, unit, first = struct.unpack_from("<HBBI", data)
        case _:
            _, _, count, first, _, _ = struct.unpack_from("<HBBIII", data)
    at, messages = HEADER_BYTES[transport], []
    for _ in range(count):
        length = _length(transport, data, at)
        if length is None or at + length > len(data):
            return None
        messages.append(data[at : at + length])
        at += length
    return Parsed(unit, first, messages) if messages else None


def _length(transport: int, data: bytes, at: int) -> int | None:
    if transport == SEQUENCED_UNIT:
        return data[at] if at < len(data) and data[at] >= 2 else None
    if at + 2 > len(data):
        return None
    stated: int = struct.unpack_from(">H" if transport == MOLDUDP64 else "<H", data, at)[0]
    if transport == PILLAR:
        return stated if stated >= 4 else None
    return 2 + stated


class NaiveStore:
    """Packets in a list; the oldest are forgotten when there are too many."""

    def __init__(self, transport: int) -> None:
        self.transport = transport
        self.kept: list[Parsed] = []

    def keep(self, data: bytes) -> None:
        parsed = parse(self.transport, data)
        if parsed is not None:
            self.kept.append(parsed)

    def cut(self, unit: int, first: int, count: int) -> list[bytes]:
        for parsed in reversed(self.kept):
            if parsed.unit == unit and parsed.first <= first:
                skip = first - parsed.first
                return parsed.messages[skip : skip + count]
        return []
