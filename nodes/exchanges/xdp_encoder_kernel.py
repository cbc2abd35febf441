"""Market events -> Pillar packets with NYSE's BBO and Trades messages, compiled (pure).

Layouts are those of `xdp_messages_kernel`. Both feeds leave in one stream (NYSE has a channel for each). A symbol's
index is its index in the market plus one. One packet holds as many messages of one tick as fit into `PACKET_BYTES`; a
sequence reset is a packet of its own. Quotes tell only the nanoseconds of the second, so each second
begins with a Source Time Reference.
"""

from typing import Any

import numpy as np

from fabric.compiled import inlined, kernel
from nodes.exchanges.encoder_kernel import PACKET_BYTES, STREAM, due
from nodes.exchanges.market_events_kernel import (
    BANDS,
    BREAK,
    CORRECTION,
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
from nodes.exchanges.xdp_messages_kernel import (
    HEADER_BYTES,
    SECOND_NS,
    STATUS_BYTES,
    put_header,
    put_mapping,
    put_quote,
    put_reset,
    put_status,
    put_time_reference,
    put_trade,
    put_trade_cancel,
    put_trade_correction,
)

CHANNEL = 1
ENGINE = 1
NYSE = 1
_PRODUCT = 3  # BBO
_HEARTBEAT = 1
_ORIGINAL = 11
_RESET = 12
_TIME_BYTES = 16
_START_OF_MESSAGES = ord("O")
_CORE = ord("O")
_PAUSED = ord("M")
_NEWS = ord("D")
_LULD = ord("L")  # first letter of the reason LUDP


@inlined
def _message(packet: Any, at: int, event: Any, names: Any, owns: Any, restricted: Any, event_ns: int) -> int:
    """Write one message at ``packet[at]``; return its bytes, 0 when the wire has none for the event."""
    kind = event["kind"]
    if kind == SYSTEM:
        return put_reset(packet, at, event_ns, _PRODUCT, CHANNEL) if event["code"] == _START_OF_MESSAGES else 0
    symbol = event["symbol"]
    index = symbol + 1
    price, size = event["price"], event["size"]
    if kind == DIRECTORY:
        return put_mapping(packet, at, index, names[symbol], NYSE, ENGINE, ord("N"), size, price)
    owns[symbol] += 1
    own = owns[symbol]
    if kind == QUOTE:
        return put_quote(
            packet, at, event_ns, index, own, event["bid_px"], event["bid_size"], event["ask_px"], event["ask_size"],
            ord("R"),
        )  # fmt: skip
    if kind == TRADE or kind == CORRECTION:
        late = ord("T") if event["code"] & EXTENDED_HOURS else 32
        odd = ord("I") if event["code"] & ODD_LOT else 32
        condition = ord("@") | 32 << 8 | late << 16 | odd << 24
        trade_id = event["trade_id"]
        if kind == TRADE:
            return put_trade(packet, at, event_ns, index, own, trade_id, price, size, condition)
        original = event["original_id"]
        return put_trade_correction(packet, at, event_ns, index, own, original, trade_id, price, size, condition)
    if kind == BREAK:
        return put_trade_cancel(packet, at, event_ns, index, own, event["trade_id"])
    ssr = ord("E") if restricted[symbol] else 0
    if kind == STATUS:
        halted = event["code"] == ord("H")
        condition = 0
        if halted:
            condition = _PAUSED if event["reason"] & 0xFF == _LULD else _NEWS
        code = ord("4") if halted else ord("5")
        return put_status(packet, at, event_ns, index, own, code, condition, 0, 0, ssr, _CORE)
    if kind == SHORT_SALE:
        restricted[symbol] = event["code"] == ord("1")
        code = ord("A") if restricted[symbol] else ord("D")
        return put_status(packet, at, event_ns, index, own, code, 0, 0, 0, ord("E") if restricted[symbol] else 0, _CORE)
    assert kind == BANDS
    return put_status(packet, at, event_ns, index, own, ord("I"), _PAUSED, event["bid_px"], event["ask_px"], ssr, _CORE)


@inlined
def _close(packet: Any, length: int, flag: int, count: int, line: Any, send_ns: int) -> None:
    """Write the header of a packet, and count its messages in the stream."""
    put_header(packet, length, flag, count, line["sequence"], send_ns + line["skew_ns"])
    line["sequence"] += count


@kernel
def encode(
    events: Any, first: int, used: int, names: Any, owns: Any, restricted: Any, stream: Any, packets: Any,
    lengths: Any, due_ns: Any,
) -> tuple[int, int]:  # fmt: skip
    """Write events from ``first`` on into packets from ``used`` on; return (events taken, packets used).

    Packet i is ``packets[i, :lengths[i]]``, due at ``due_ns[i]``: a new one begins with each tick and when one is
    full. ``names`` is the packed text of each symbol, ``owns`` int64[symbols] its messages so far, ``restricted``
    int64[symbols] what is known of short sales, ``stream`` STREAM[1], ``packets`` uint8[n, PACKET_BYTES].
    """
    line = stream[0]
    at = HEADER_BYTES
    count = 0
    for i in range(first, events.size):
        kind = events[i]["kind"]
        resets = kind == SYSTEM and events[i]["code"] == _START_OF_MESSAGES
        when = due(line, events[i]["event_ns"])
        if count and (when != due_ns[used] or resets or at + _TIME_BYTES + STATUS_BYTES > PACKET_BYTES):
            _close(packets[used], at, _ORIGINAL, count, line, due_ns[used])
            lengths[used] = at
            used += 1
            at = HEADER_BYTES
            count = 0
        if count == 0:
            if used == lengths.size:
                return i, used
            due_ns[used] = when
        event_ns = events[i]["event_ns"] + line["skew_ns"]
        if kind != SYSTEM and event_ns // SECOND_NS != line["second"]:
            line["second"] = event_ns // SECOND_NS
            at += put_time_reference(packets[used], at, ENGINE, event_ns)
            count += 1
        length = _message(packets[used], at, events[i], names, owns, restricted, event_ns)
        at += length
        count += length > 0
        if resets:
            _close(packets[used], at, _RESET, count, line, due_ns[used])
            lengths[used] = at
            used += 1
            at = HEADER_BYTES
            count = 0
    if count:
        _close(packets[used], at, _ORIGINAL, count, line, due_ns[used])
        lengths[used] = at
        used += 1
    return events.size, used


@kernel
def heartbeat(stream: Any, packets: Any, lengths: Any, now_ns: int) -> None:
    """Write a packet without messages into ``packets[0]``."""
    _close(packets[0], HEADER_BYTES, _HEARTBEAT, 0, stream[0], now_ns)
    lengths[0] = HEADER_BYTES


def warm_up() -> None:
    """Compile or load the entry kernels with the array types of the live path."""
    packets, lengths, stream = np.zeros((1, PACKET_BYTES), np.uint8), np.zeros(1, np.int64), np.ones(1, STREAM)
    names, owns, restricted = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64)
    encode(np.zeros(0, EVENT), 0, 0, names, owns, restricted, stream, packets, lengths, np.zeros(1, np.int64))
    heartbeat(stream, packets, lengths, 0)
