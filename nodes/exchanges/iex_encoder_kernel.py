"""Market events -> IEX-TP packets with TOPS 1.6 messages, compiled (pure).

Layouts: IEX's "Transport Specification" and "TOPS Specification" for 1.6; all integers little endian, prices in
1e-4 of a dollar. One packet holds as many messages of one tick as fit into `PACKET_BYTES`.
"""

from typing import Any

import numpy as np

from fabric.compiled import inlined, kernel
from nodes.exchanges.encoder_kernel import PACKET_BYTES, STREAM, due
from nodes.exchanges.market_events_kernel import (
    BANDS,
    BREAK,
    DIRECTORY,
    EVENT,
    EXTENDED_HOURS,
    ODD_LOT,
    QUOTE,
    SHORT_SALE,
    STATUS,
    SYSTEM,
    TRADE,
)

HEADER_BYTES = 40
_LONGEST_BLOCK = 44  # a quote with its length
_VERSION = 1
_TOPS_1_6 = 0x8003
CHANNEL = 1

_SYSTEM_BYTES = 10
_DIRECTORY_BYTES = 31
_STATUS_BYTES = 22
_TRADE_BYTES = 38
_QUOTE_BYTES = 42
_SHORT_SALE_BYTES = 19
_QUOTE_EXTENDED_HOURS = 0x40
_QUOTE_NOT_AVAILABLE = 0x80
_SALE_EXTENDED_HOURS = 0x40
_SALE_ODD_LOT = 0x20
_LULD_TIER_1 = 1
_PRICE_UNIT = 100_000  # of ours in one of theirs
_BLANK = 32
_ACTIVATED = ord("A")


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
    _put(packet, 4, 4, CHANNEL)
    _put(packet, 8, 4, stream["session"])
    _put(packet, 12, 2, length)
    _put(packet, 14, 2, count)
    _put(packet, 16, 8, stream["offset"])
    _put(packet, 24, 8, stream["sequence"])
    _put(packet, 32, 8, send_ns + stream["skew_ns"])
    stream["offset"] += length
    stream["sequence"] += count


@inlined
def _message(packet: Any, at: int, event: Any, symbols: Any, skew_ns: int) -> int:
    """Write one message with its length at ``packet[at]``; return the place after it, ``at`` when the wire has none."""
    kind = event["kind"]
    code = event["code"]
    if kind == QUOTE:
        length, letter = _QUOTE_BYTES, ord("Q")
        code = _QUOTE_EXTENDED_HOURS if code & EXTENDED_HOURS else 0
        if event["bid_size"] == 0 and event["ask_size"] == 0:
            code |= _QUOTE_NOT_AVAILABLE
    elif kind == TRADE or kind == BREAK:
        length, letter = _TRADE_BYTES, ord("T") if kind == TRADE else ord("B")
        code = (_SALE_EXTENDED_HOURS if event["code"] & EXTENDED_HOURS else 0) | (
            _SALE_ODD_LOT if event["code"] & ODD_LOT else 0
        )
    elif kind == STATUS:
        length, letter = _STATUS_BYTES, ord("H")
    elif kind == DIRECTORY:
        length, letter = _DIRECTORY_BYTES, ord("D")
    elif kind == SHORT_SALE:
        length, letter, code = _SHORT_SALE_BYTES, ord("P"), code == ord("1")
    elif kind == BANDS:
        return at
    else:
        assert kind == SYSTEM
        length, letter = _SYSTEM_BYTES, ord("S")
    _put(packet, at, 2, length)
    body = at + 2
    packet[body] = letter
    packet[body + 1] = code
    _put(packet, body + 2, 8, event["event_ns"] + skew_ns)
    if kind != SYSTEM:
        _put(packet, body + 10, 8, symbols[event["symbol"]])
    if kind == QUOTE:
        _put(packet, body + 18, 4, event["bid_size"])
        _put(packet, body + 22, 8, event["bid_px"] // _PRICE_UNIT)
        _put(packet, body + 30, 8, event["ask_px"] // _PRICE_UNIT)
        _put(packet, body + 38, 4, event["ask_size"])
    elif kind == TRADE or kind == BREAK:
        _put(packet, body + 18, 4, event["size"])
        _put(packet, body + 22, 8, event["price"] // _PRICE_UNIT)
        _put(packet, body + 30, 8, event["trade_id"])
    elif kind == STATUS:
        reason = event["reason"]
        for i in range(4):
            letter = (reason >> (8 * i)) & 0xFF
            packet[body + 18 + i] = letter if letter else _BLANK
    elif kind == DIRECTORY:
        _put(packet, body + 18, 4, event["size"])
        _put(packet, body + 22, 8, event["price"] // _PRICE_UNIT)
        packet[body + 30] = _LULD_TIER_1
    elif kind == SHORT_SALE:
        packet[body + 18] = _ACTIVATED if code else _BLANK
    return body + length


@kernel
def encode(
    events: Any, first: int, used: int, symbols: Any, stream: Any, packets: Any, lengths: Any, due_ns: Any
) -> tuple[int, int]:
    """Write events from ``first`` on into packets from ``used`` on; return (events taken, packets used).

    Packet i is ``packets[i, :lengths[i]]``, due at ``due_ns[i]``: a new one begins with each tick and when one is
    full. ``symbols`` holds the eight bytes of each name as one integer, ``stream`` is STREAM[1], ``packets``
    uint8[n, PACKET_BYTES].
    """
    line = stream[0]
    at = HEADER_BYTES
    count = 0
    for i in range(first, events.size):
        when = due(line, events[i]["event_ns"])
        if count and (when != due_ns[used] or at + _LONGEST_BLOCK > PACKET_BYTES):
            _header(packets[used], line, at - HEADER_BYTES, count, due_ns[used])
            lengths[used] = at
            used += 1
            at = HEADER_BYTES
            count = 0
        if count == 0:
            if used == lengths.size:
                return i, used
            due_ns[used] = when
        after = _message(packets[used], at, events[i], symbols, line["skew_ns"])
        count += after > at
        at = after
    if count:
        _header(packets[used], line, at - HEADER_BYTES, count, due_ns[used])
        lengths[used] = at
        used += 1
    return events.size, used


@kernel
def heartbeat(stream: Any, packets: Any, lengths: Any, now_ns: int) -> None:
    """Write a packet without messages into ``packets[0]``."""
    _header(packets[0], stream[0], 0, 0, now_ns)
    lengths[0] = HEADER_BYTES


def warm_up() -> None:
    """Compile or load the entry kernels with the array types of the live path."""
    packets, lengths, stream = np.zeros((1, PACKET_BYTES), np.uint8), np.zeros(1, np.int64), np.ones(1, STREAM)
    encode(np.zeros(0, EVENT), 0, 0, np.zeros(1, np.int64), stream, packets, lengths, np.zeros(1, np.int64))
    heartbeat(stream, packets, lengths, 0)
