"""Market events -> Sequenced Unit packets with Cboe Multicast PITCH messages, compiled (pure).

Layouts are those of `pitch_messages_kernel`. All symbols are in unit 1. One packet holds as many messages of one tick
as fit into `PACKET_BYTES`. Messages tell only the nanoseconds of the second, so each begins with a Time message.
"""

from typing import Any

import numpy as np

from fabric.compiled import inlined, kernel
from nodes.exchanges.encoder_kernel import PACKET_BYTES, STREAM, due
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
from nodes.exchanges.pitch_messages_kernel import (
    HEADER_BYTES,
    MESSAGE_BYTES_MAX,
    put_add,
    put_delete,
    put_end_of_session,
    put_executed,
    put_header,
    put_modify,
    put_reduce,
    put_time,
    put_trade,
    put_trade_break,
    put_trading_status,
    put_unit_clear,
)

UNIT = 1
_COUNT_MAX = 250
_TIME_BYTES = 6
_SECOND_NS = 1_000_000_000
_START_OF_MESSAGES = ord("O")
_END_OF_MESSAGES = ord("C")


@inlined
def _message(packet: Any, at: int, event: Any, names: Any, restricted: Any, time: int) -> int:
    """Write one message at ``packet[at]``; return its bytes, 0 when the wire has none for the event."""
    kind = event["kind"]
    symbol = event["symbol"]
    name = names[symbol]
    order, size, price = event["order_id"], event["size"], event["price"]
    if kind == ADD:
        side = ord("B") if event["side"] > 0 else ord("S")
        return put_add(packet, at, time, order, side, size, name, price)
    if kind == DELETE:
        return put_delete(packet, at, time, order)
    if kind == CANCEL:
        return put_reduce(packet, at, time, order, size)
    if kind == REPLACE:
        return put_modify(packet, at, time, order, size, price, 0)
    if kind == EXECUTE:
        return put_executed(packet, at, time, order, size, event["trade_id"])
    if kind == HIDDEN:
        return put_trade(packet, at, time, 0, size, name, price, event["trade_id"])
    if kind == BREAK:
        return put_trade_break(packet, at, time, event["trade_id"])
    if kind == STATUS:
        return put_trading_status(packet, at, time, name, event["code"], ord("1") if restricted[symbol] else ord("0"))
    if kind == SHORT_SALE:
        restricted[symbol] = event["code"] == ord("1")  # told with the status that follows
        return 0
    if kind == SYSTEM and event["code"] == _START_OF_MESSAGES:
        return put_unit_clear(packet, at, time)
    if kind == SYSTEM and event["code"] == _END_OF_MESSAGES:
        return put_end_of_session(packet, at, time)
    assert kind == SYSTEM or kind == DIRECTORY or kind == BANDS
    return 0


@kernel
def encode(
    events: Any, first: int, used: int, names: Any, restricted: Any, stream: Any, packets: Any, lengths: Any,
    due_ns: Any,
) -> tuple[int, int]:  # fmt: skip
    """Write events from ``first`` on into packets from ``used`` on; return (events taken, packets used).

    Packet i is ``packets[i, :lengths[i]]``, due at ``due_ns[i]``: a new one begins with each tick and when one is
    full. ``names`` is the packed text of each symbol, ``restricted`` int64[symbols] what is known of short sales,
    ``stream`` STREAM[1], ``packets`` uint8[n, PACKET_BYTES].
    """
    line = stream[0]
    at = HEADER_BYTES
    count = 0
    for i in range(first, events.size):
        when = due(line, events[i]["event_ns"])
        if count and (
            when != due_ns[used] or at + _TIME_BYTES + MESSAGE_BYTES_MAX > PACKET_BYTES or count >= _COUNT_MAX
        ):
            put_header(packets[used], 0, at, count, UNIT, line["sequence"])
            line["sequence"] += count
            lengths[used] = at
            used += 1
            at = HEADER_BYTES
            count = 0
        if count == 0:
            if used == lengths.size:
                return i, used
            due_ns[used] = when
        since_ns = events[i]["event_ns"] + line["skew_ns"] - line["midnight_ns"]
        second = since_ns // _SECOND_NS
        if second != line["second"]:
            line["second"] = second
            at += put_time(packets[used], at, second)
            count += 1
        length = _message(packets[used], at, events[i], names, restricted, since_ns - second * _SECOND_NS)
        at += length
        count += length > 0
    if count:
        put_header(packets[used], 0, at, count, UNIT, line["sequence"])
        line["sequence"] += count
        lengths[used] = at
        used += 1
    return events.size, used


@kernel
def heartbeat(stream: Any, packets: Any, lengths: Any) -> None:
    """Write a packet without messages into ``packets[0]``."""
    lengths[0] = put_header(packets[0], 0, HEADER_BYTES, 0, UNIT, stream[0]["sequence"])


def warm_up() -> None:
    """Compile or load the entry kernels with the array types of the live path."""
    packets, lengths, stream = np.zeros((1, PACKET_BYTES), np.uint8), np.zeros(1, np.int64), np.ones(1, STREAM)
    names, restricted = np.zeros(1, np.int64), np.zeros(1, np.int64)
    encode(np.zeros(0, EVENT), 0, 0, names, restricted, stream, packets, lengths, np.zeros(1, np.int64))
    heartbeat(stream, packets, lengths)
