"""Market events -> MoldUDP64 packets with TotalView-ITCH 5.0 messages, compiled (pure).

Layouts are those of `itch_messages_kernel`. A symbol's stock locate is its index in the market plus one. One packet
holds as many messages of one tick as fit into `PACKET_BYTES`.
"""

from typing import Any

import numpy as np

from fabric.compiled import inlined, kernel
from nodes.exchanges.encoder_kernel import PACKET_BYTES, STREAM, due
from nodes.exchanges.itch_messages_kernel import (
    HEADER_BYTES,
    MESSAGE_BYTES_MAX,
    SESSION_BYTES,
    put_add,
    put_auction_collar,
    put_broken_trade,
    put_cancel,
    put_delete,
    put_executed,
    put_header,
    put_reg_sho,
    put_replace,
    put_stock_directory,
    put_system_event,
    put_trade,
    put_trading_action,
)
from nodes.exchanges.market_events_kernel import (
    ADD,
    BANDS,
    BREAK,
    CANCEL,
    DELETE,
    DIRECTORY,
    EVENT,
    EXECUTE,
    HIDDEN,
    REPLACE,
    SHORT_SALE,
    STATUS,
    SYSTEM,
)

_SUBTYPE = ord("Z") | 32 << 8  # not applicable
_SYSTEM_HOURS = ord("R")
_START_OF_MARKET_HOURS = ord("Q")


@inlined
def _message(packet: Any, at: int, event: Any, names: Any, stream: Any) -> int:
    """Write one message with its length at ``packet[at]``; return its bytes."""
    kind = event["kind"]
    symbol = event["symbol"]
    locate = symbol + 1
    name = names[symbol]
    time_ns = event["event_ns"] + stream["skew_ns"] - stream["midnight_ns"]
    order, size, price = event["order_id"], event["size"], event["price"]
    if kind == ADD:
        side = ord("B") if event["side"] > 0 else ord("S")
        return put_add(packet, at, locate, 0, time_ns, order, side, size, name, price)
    if kind == DELETE:
        return put_delete(packet, at, locate, 0, time_ns, order)
    if kind == CANCEL:
        return put_cancel(packet, at, locate, 0, time_ns, order, size)
    if kind == REPLACE:
        return put_replace(packet, at, locate, 0, time_ns, event["original_id"], order, size, price)
    if kind == EXECUTE:
        return put_executed(packet, at, locate, 0, time_ns, order, size, event["trade_id"])
    if kind == HIDDEN:
        return put_trade(packet, at, locate, 0, time_ns, 0, ord("B"), size, name, price, event["trade_id"])
    if kind == BREAK:
        return put_broken_trade(packet, at, locate, 0, time_ns, event["trade_id"])
    if kind == STATUS:
        return put_trading_action(packet, at, locate, 0, time_ns, name, event["code"], event["reason"])
    if kind == DIRECTORY:
        return put_stock_directory(
            packet, at, locate, 0, time_ns, name, ord("Q"), ord("N"), size, ord("N"), ord("C"), _SUBTYPE, ord("P"),
            ord("N"), ord("N"), ord("1"), ord("N"), 0, ord("N"),
        )  # fmt: skip
    if kind == SHORT_SALE:
        return put_reg_sho(packet, at, locate, 0, time_ns, name, event["code"])
    if kind == BANDS:
        return put_auction_collar(packet, at, locate, 0, time_ns, name, price, event["ask_px"], event["bid_px"], 0)
    assert kind == SYSTEM
    code = _START_OF_MARKET_HOURS if event["code"] == _SYSTEM_HOURS else event["code"]
    return put_system_event(packet, at, 0, 0, time_ns, code)


@kernel
def encode(
    events: Any, first: int, used: int, names: Any, session: Any, stream: Any, packets: Any, lengths: Any, due_ns: Any
) -> tuple[int, int]:
    """Write events from ``first`` on into packets from ``used`` on; return (events taken, packets used).

    Packet i is ``packets[i, :lengths[i]]``, due at ``due_ns[i]``: a new one begins with each tick and when one is
    full. ``names`` is the packed text of each symbol, ``session`` uint8[10], ``stream`` STREAM[1], ``packets``
    uint8[n, PACKET_BYTES].
    """
    line = stream[0]
    at = HEADER_BYTES
    count = 0
    for i in range(first, events.size):
        when = due(line, events[i]["event_ns"])
        if count and (when != due_ns[used] or at + MESSAGE_BYTES_MAX > PACKET_BYTES):
            put_header(packets[used], session, line["sequence"], count)
            line["sequence"] += count
            lengths[used] = at
            used += 1
            at = HEADER_BYTES
            count = 0
        if count == 0:
            if used == lengths.size:
                return i, used
            due_ns[used] = when
        at += _message(packets[used], at, events[i], names, line)
        count += 1
    if count:
        put_header(packets[used], session, line["sequence"], count)
        line["sequence"] += count
        lengths[used] = at
        used += 1
    return events.size, used


@kernel
def heartbeat(session: Any, stream: Any, packets: Any, lengths: Any) -> None:
    """Write a packet without messages into ``packets[0]``."""
    lengths[0] = put_header(packets[0], session, stream[0]["sequence"], 0)


def warm_up() -> None:
    """Compile or load the entry kernels with the array types of the live path."""
    packets, lengths, stream = np.zeros((1, PACKET_BYTES), np.uint8), np.zeros(1, np.int64), np.ones(1, STREAM)
    names, session = np.zeros(1, np.int64), np.zeros(SESSION_BYTES, np.uint8)
    encode(np.zeros(0, EVENT), 0, 0, names, session, stream, packets, lengths, np.zeros(1, np.int64))
    heartbeat(session, stream, packets, lengths)
