"""Market events -> IEX-TP packets with TOPS 1.6 messages, compiled (pure).

Layouts: IEX's "Transport Specification" and "TOPS Specification" for 1.6; all integers little endian, prices in
1e-4 of a dollar. One packet holds as many messages as fit into `PACKET_BYTES`.
"""

from typing import Any

import numpy as np

from fabric.compiled import inlined, kernel
from nodes.exchanges.market_kernel import DIRECTORY, EVENT, EXTENDED_HOURS, ODD_LOT, QUOTE, STATUS, SYSTEM, TRADE

STREAM = np.dtype([("session", "<i8"), ("sequence", "<i8"), ("offset", "<i8")])
"""State of a line: session id, number of the next message, bytes of messages sent so far (their lengths included)."""

PACKET_BYTES = 1_400
HEADER_BYTES = 40
_LONGEST_BLOCK = 44  # a quote with its length
_VERSION = 1
_TOPS_1_6 = 0x8003
_CHANNEL = 1

_SYSTEM_BYTES = 10
_DIRECTORY_BYTES = 31
_STATUS_BYTES = 22
_TRADE_BYTES = 38
_QUOTE_BYTES = 42
_QUOTE_EXTENDED_HOURS = 0x40
_SALE_EXTENDED_HOURS = 0x40
_SALE_ODD_LOT = 0x20
_LULD_TIER_1 = 1
_PRICE_UNIT = 100_000  # of ours in one of theirs
_BLANKS = 0x20202020


@inlined
def _put(packet: Any, at: int, width: int, value: int) -> None:
    """Write an integer of ``width`` bytes, little endian."""
    for i in range(width):
        packet[at + i] = (value >> (8 * i)) & 0xFF


@inlined
def _header(packet: Any, stream: Any, length: int, count: int, send_ns: int) -> None:
    """Write the IEX-TP header of a packet with ``length`` bytes of messages, and count them in the stream."""
    _put(packet, 0, 2, _VERSION)  # and a reserved byte
    _put(packet, 2, 2, _TOPS_1_6)
    _put(packet, 4, 4, _CHANNEL)
    _put(packet, 8, 4, stream["session"])
    _put(packet, 12, 2, length)
    _put(packet, 14, 2, count)
    _put(packet, 16, 8, stream["offset"])
    _put(packet, 24, 8, stream["sequence"])
    _put(packet, 32, 8, send_ns)
    stream["offset"] += length
    stream["sequence"] += count


@inlined
def _message(packet: Any, at: int, event: Any, symbols: Any) -> int:
    """Write one message with its length at ``packet[at]``; return the place after it."""
    kind = event["kind"]
    if kind == QUOTE:
        length, letter = _QUOTE_BYTES, ord("Q")
        code = _QUOTE_EXTENDED_HOURS if event["code"] & EXTENDED_HOURS else 0
    elif kind == TRADE:
        length, letter = _TRADE_BYTES, ord("T")
        code = _SALE_EXTENDED_HOURS if event["code"] & EXTENDED_HOURS else 0
        code |= _SALE_ODD_LOT if event["code"] & ODD_LOT else 0
    elif kind == STATUS:
        length, letter, code = _STATUS_BYTES, ord("H"), event["code"]
    elif kind == DIRECTORY:
        length, letter, code = _DIRECTORY_BYTES, ord("D"), 0
    else:
        assert kind == SYSTEM
        length, letter, code = _SYSTEM_BYTES, ord("S"), event["code"]
    _put(packet, at, 2, length)
    body = at + 2
    packet[body] = letter
    packet[body + 1] = code
    _put(packet, body + 2, 8, event["event_ns"])
    if kind != SYSTEM:
        _put(packet, body + 10, 8, symbols[event["symbol"]])
    if kind == QUOTE:
        _put(packet, body + 18, 4, event["bid_size"])
        _put(packet, body + 22, 8, event["bid_px"] // _PRICE_UNIT)
        _put(packet, body + 30, 8, event["ask_px"] // _PRICE_UNIT)
        _put(packet, body + 38, 4, event["ask_size"])
    elif kind == TRADE:
        _put(packet, body + 18, 4, event["size"])
        _put(packet, body + 22, 8, event["price"] // _PRICE_UNIT)
        _put(packet, body + 30, 8, event["trade_id"])
    elif kind == STATUS:
        _put(packet, body + 18, 4, _BLANKS)
    elif kind == DIRECTORY:
        _put(packet, body + 18, 4, event["size"])
        _put(packet, body + 22, 8, event["price"] // _PRICE_UNIT)
        packet[body + 30] = _LULD_TIER_1
    return body + length


@kernel
def encode(events: Any, symbols: Any, stream: Any, packets: Any, lengths: Any, send_ns: int) -> int:
    """Write ``events`` into ``packets[i, :lengths[i]]``; return how many packets (`packets_for` always suffice).

    ``symbols`` holds the eight bytes of each name as one integer, ``stream`` is STREAM[1], ``packets``
    uint8[n, PACKET_BYTES]. No events make one packet without messages: the heartbeat.
    """
    line = stream[0]
    used = 0
    at = HEADER_BYTES
    count = 0
    for i in range(events.size):
        if at + _LONGEST_BLOCK > PACKET_BYTES:
            _header(packets[used], line, at - HEADER_BYTES, count, send_ns)
            lengths[used] = at
            used += 1
            at = HEADER_BYTES
            count = 0
        at = _message(packets[used], at, events[i], symbols)
        count += 1
    _header(packets[used], line, at - HEADER_BYTES, count, send_ns)
    lengths[used] = at
    return used + 1


def packets_for(events: int) -> int:
    """The most packets that so many events can need."""
    return events // ((PACKET_BYTES - HEADER_BYTES) // _LONGEST_BLOCK) + 1


def warm_up() -> None:
    """Compile or load the entry kernel with the array types of the live path."""
    packets, lengths = np.zeros((1, PACKET_BYTES), np.uint8), np.zeros(1, np.int64)
    encode(np.zeros(0, EVENT), np.zeros(1, np.int64), np.ones(1, STREAM), packets, lengths, 0)
