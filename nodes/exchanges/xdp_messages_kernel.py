"""NYSE Pillar (XDP) packets and messages as bytes, compiled (pure): one function for each message of the feeds.

Each ``put_`` writes one message with its size and type at ``packet[at]`` and returns the bytes written. Prices are
whole units (1e-9 of a dollar), times UTC nanoseconds, single characters their ASCII code, text packed as in a record's
column. ``index`` is the symbol's index, ``own`` the number of the message among those of its symbol.

Sources: NYSE XDP / Pillar Common, BBO 2.5, Trades 2.6 and Integrated 2.5 client specifications; protocols section 4.
Integers are little-endian.
"""

from typing import Any

import numpy as np

from fabric.compiled import lean, lean_kernel

int64: Any = np.int64

HEADER_BYTES = 16
MAPPING_BYTES = 44
STATUS_BYTES = 46
LONGEST_BYTES = 73
"""An imbalance."""
SECOND_NS = 1_000_000_000
PRICE_SCALE = 4
"""The scale code that mappings tell: prices in 1/10000 of a dollar."""
WIRE_PRICE = 100_000
"""Whole units in one of those."""
_PLAIN = 126
"""``~``: not halted, no short-sale restriction."""


@lean
def put16(packet: Any, at: int, value: int) -> None:
    """Write an integer of two bytes. Indexes are unsigned: none can count from the end, and bytes become one store."""
    packet[np.uint64(at)] = value & 0xFF
    packet[np.uint64(at + 1)] = (value >> 8) & 0xFF


@lean_kernel
def put32(packet: Any, at: int, value: int) -> None:
    """Write an integer of four bytes."""
    put16(packet, at, value)
    put16(packet, at + 2, value >> 16)


@lean
def put64(packet: Any, at: int, value: int) -> None:
    """Write an integer of eight bytes."""
    put32(packet, at, value)
    put32(packet, at + 4, value >> 32)


@lean_kernel
def put_text(packet: Any, at: int, width: int, value: int) -> None:
    """Write packed text padded with blanks."""
    for i in range(width):
        character = (value >> (8 * i)) & 0xFF if i < 8 else 0
        packet[at + i] = character if character != 0 else 32


@lean
def put_price(packet: Any, at: int, price: int) -> None:
    """Write a price in whole units."""
    put32(packet, at, price // WIRE_PRICE)


@lean_kernel
def begin(packet: Any, at: int, size: int, kind: int) -> None:
    """Write size and type, and zeros behind them."""
    put16(packet, at, size)
    put16(packet, at + 2, kind)
    for i in range(4, size):
        packet[at + i] = 0


@lean
def put_about(packet: Any, at: int, event_ns: int, index: int, own: int) -> None:
    """Nanoseconds, symbol index and the symbol's own number, of messages without seconds."""
    put32(packet, at + 4, event_ns % SECOND_NS)
    put32(packet, at + 8, index)
    put32(packet, at + 12, own)


@lean
def put_about_whole(packet: Any, at: int, event_ns: int, index: int, own: int) -> None:
    """Seconds, nanoseconds, symbol index and the symbol's own number."""
    put32(packet, at + 4, event_ns // SECOND_NS)
    put32(packet, at + 8, event_ns % SECOND_NS)
    put32(packet, at + 12, index)
    put32(packet, at + 16, own)


@lean
def put_header(packet: Any, size: int, flag: int, count: int, sequence: int, sent_ns: int) -> int:
    """The header of a packet of ``size`` bytes in all; ``flag`` is its delivery flag."""
    put16(packet, 0, size)
    packet[2] = flag
    packet[3] = count
    put32(packet, 4, sequence)
    put32(packet, 8, sent_ns // SECOND_NS)
    put32(packet, 12, sent_ns % SECOND_NS)
    return HEADER_BYTES


@lean
def put_reset(packet: Any, at: int, event_ns: int, product: int, channel: int) -> int:
    """1: numbers begin anew; the message itself has number 1."""
    begin(packet, at, int64(14), int64(1))
    put32(packet, at + 4, event_ns // SECOND_NS)
    put32(packet, at + 8, event_ns % SECOND_NS)
    packet[at + 12] = product
    packet[at + 13] = channel
    return 14


@lean
def put_time_reference(packet: Any, at: int, engine: int, event_ns: int) -> int:
    """2: the second of what follows from a matching engine."""
    begin(packet, at, int64(16), int64(2))
    put32(packet, at + 4, engine)
    put32(packet, at + 12, event_ns // SECOND_NS)
    return 16


@lean
def put_mapping(
    packet: Any, at: int, index: int, name: int, market: int, engine: int, exchange: int, lot: int, previous_close: int
) -> int:
    """3: what an index stands for; ``exchange`` is the letter of the exchange that lists the symbol.

    The name becomes NYSE's: a class stands behind a blank (``BRK.B``), a preferred behind a blank and PR (``AHL-C``).
    """
    begin(packet, at, int64(MAPPING_BYTES), int64(3))
    put32(packet, at + 4, index)
    n = at + 8
    for i in range(8):
        character = (name >> (8 * i)) & 0xFF
        if character == 0 or character == 32:
            break
        packet[n] = 32 if character == 46 or character == 45 else character  # . -
        n += 1
        if character == 45:
            packet[n] = 80
            packet[n + 1] = 82
            n += 2
    put16(packet, at + 20, market)
    packet[at + 22] = engine
    packet[at + 23] = exchange
    packet[at + 24] = PRICE_SCALE
    packet[at + 25] = 67  # C: common stock
    put16(packet, at + 26, lot)
    put_price(packet, at + 28, previous_close)
    packet[at + 37] = 78  # N: odd lots are taken as well
    put16(packet, at + 38, int64(1))  # smallest price step
    put16(packet, at + 40, int64(1))  # unit of trade
    return MAPPING_BYTES


@lean
def put_clear(packet: Any, at: int, event_ns: int, index: int, next_own: int) -> int:
    """32: forget the state of a symbol; ``next_own`` is its next number."""
    begin(packet, at, int64(20), int64(32))
    put_about_whole(packet, at, event_ns, index, next_own)
    return 20


@lean
def put_status(
    packet: Any,
    at: int,
    event_ns: int,
    index: int,
    own: int,
    code: int,
    halt: int,
    price_1: int,
    price_2: int,
    ssr: int,
    session: int,
) -> int:
    """34: status ``code``, ``halt`` condition (0: ``~``), short-sale state (0: ``~``) and market state."""
    begin(packet, at, int64(STATUS_BYTES), int64(34))
    put_about_whole(packet, at, event_ns, index, own)
    packet[at + 20] = code
    packet[at + 21] = halt if halt != 0 else _PLAIN
    put_price(packet, at + 26, price_1)
    put_price(packet, at + 30, price_2)
    packet[at + 34] = 32
    packet[at + 43] = ssr if ssr != 0 else _PLAIN
    packet[at + 44] = session
    packet[at + 45] = 32
    return STATUS_BYTES


@lean
def put_refresh_header(packet: Any, at: int, part: int, parts: int, as_of: int, as_of_symbol: int) -> int:
    """35: packet ``part`` of ``parts`` of a symbol's state, as of those numbers of the stream and the symbol."""
    begin(packet, at, int64(16), int64(35))
    put16(packet, at + 4, part)
    put16(packet, at + 6, parts)
    put32(packet, at + 8, as_of)
    put32(packet, at + 12, as_of_symbol)
    return 16


@lean
def put_unavailable(packet: Any, at: int, begin_sequence: int, end_sequence: int, product: int, channel: int) -> int:
    """31: those numbers, both included, cannot be had any more."""
    begin(packet, at, int64(14), int64(31))
    put32(packet, at + 4, begin_sequence)
    put32(packet, at + 8, end_sequence)
    packet[at + 12] = product
    packet[at + 13] = channel
    return 14


@lean
def put_quote(
    packet: Any,
    at: int,
    event_ns: int,
    index: int,
    own: int,
    bid_px: int,
    bid_size: int,
    ask_px: int,
    ask_size: int,
    condition: int,
) -> int:
    """140: the best bid and offer; a side of size 0 does not exist."""
    begin(packet, at, int64(34), int64(140))
    put_about(packet, at, event_ns, index, own)
    put_price(packet, at + 16, ask_px)
    put32(packet, at + 20, ask_size)
    put_price(packet, at + 24, bid_px)
    put32(packet, at + 28, bid_size)
    packet[at + 32] = condition
    packet[at + 33] = 32
    return 34


@lean
def put_add(
    packet: Any,
    at: int,
    event_ns: int,
    index: int,
    own: int,
    order_id: int,
    price: int,
    size: int,
    side: int,
    firm: int,
) -> int:
    """100: a new order; ``side`` is the code of B or S."""
    begin(packet, at, int64(39), int64(100))
    put_about(packet, at, event_ns, index, own)
    put64(packet, at + 16, order_id)
    put_price(packet, at + 24, price)
    put32(packet, at + 28, size)
    packet[at + 32] = side
    put_text(packet, at + 33, 5, firm)
    return 39


@lean
def put_add_refresh(
    packet: Any,
    at: int,
    event_ns: int,
    index: int,
    own: int,
    order_id: int,
    price: int,
    size: int,
    side: int,
    firm: int,
) -> int:
    """106: an order that stands, in a refresh."""
    begin(packet, at, int64(43), int64(106))
    put_about_whole(packet, at, event_ns, index, own)
    put64(packet, at + 20, order_id)
    put_price(packet, at + 28, price)
    put32(packet, at + 32, size)
    packet[at + 36] = side
    put_text(packet, at + 37, 5, firm)
    return 43


@lean
def put_modify(
    packet: Any,
    at: int,
    event_ns: int,
    index: int,
    own: int,
    order_id: int,
    price: int,
    size: int,
    loses_place: int,
    side: int,
) -> int:
    """101: an order's new price and size."""
    begin(packet, at, int64(35), int64(101))
    put_about(packet, at, event_ns, index, own)
    put64(packet, at + 16, order_id)
    put_price(packet, at + 24, price)
    put32(packet, at + 28, size)
    packet[at + 32] = loses_place
    packet[at + 33] = side
    return 35


@lean
def put_delete(packet: Any, at: int, event_ns: int, index: int, own: int, order_id: int) -> int:
    """102: an order goes."""
    begin(packet, at, int64(25), int64(102))
    put_about(packet, at, event_ns, index, own)
    put64(packet, at + 16, order_id)
    return 25


@lean
def put_execution(
    packet: Any,
    at: int,
    event_ns: int,
    index: int,
    own: int,
    order_id: int,
    trade_id: int,
    price: int,
    size: int,
    printable: int,
    condition: int,
) -> int:
    """103: an order trades; ``printable`` 0 when another message prints it."""
    begin(packet, at, int64(42), int64(103))
    put_about(packet, at, event_ns, index, own)
    put64(packet, at + 16, order_id)
    put32(packet, at + 24, trade_id)
    put_price(packet, at + 28, price)
    put32(packet, at + 32, size)
    packet[at + 36] = printable
    put_text(packet, at + 38, 4, condition)
    return 42


@lean
def put_replace(
    packet: Any,
    at: int,
    event_ns: int,
    index: int,
    own: int,
    order_id: int,
    new_id: int,
    price: int,
    size: int,
    side: int,
) -> int:
    """104: an order goes and another stands in its place."""
    begin(packet, at, int64(42), int64(104))
    put_about(packet, at, event_ns, index, own)
    put64(packet, at + 16, order_id)
    put64(packet, at + 24, new_id)
    put_price(packet, at + 32, price)
    put32(packet, at + 36, size)
    packet[at + 40] = side
    return 42


@lean
def put_imbalance(
    packet: Any,
    at: int,
    event_ns: int,
    index: int,
    own: int,
    reference_px: int,
    paired: int,
    imbalance: int,
    auction: int,
    side: int,
) -> int:
    """105: what an auction would do now; the further prices are 0."""
    begin(packet, at, int64(73), int64(105))
    put_about_whole(packet, at, event_ns, index, own)
    put_price(packet, at + 20, reference_px)
    put32(packet, at + 24, paired)
    put32(packet, at + 28, imbalance)
    packet[at + 38] = auction
    packet[at + 39] = side
    put32(packet, at + 67, imbalance)
    packet[at + 71] = side
    packet[at + 72] = 32
    return 73


@lean
def put_non_displayed(
    packet: Any,
    at: int,
    event_ns: int,
    index: int,
    own: int,
    trade_id: int,
    price: int,
    size: int,
    printable: int,
    condition: int,
) -> int:
    """110: a trade of orders that were not displayed."""
    begin(packet, at, int64(33), int64(110))
    put_about(packet, at, event_ns, index, own)
    put32(packet, at + 16, trade_id)
    put_price(packet, at + 20, price)
    put32(packet, at + 24, size)
    packet[at + 28] = printable
    put_text(packet, at + 29, 4, condition)
    return 33


@lean
def put_cross(
    packet: Any, at: int, event_ns: int, index: int, own: int, cross_id: int, price: int, size: int, crossed: int
) -> int:
    """111: an auction has crossed; ``crossed`` is the code of E, O, 5 or 6."""
    begin(packet, at, int64(29), int64(111))
    put_about(packet, at, event_ns, index, own)
    put32(packet, at + 16, cross_id)
    put_price(packet, at + 20, price)
    put32(packet, at + 24, size)
    packet[at + 28] = crossed
    return 29


@lean
def put_break(packet: Any, at: int, event_ns: int, index: int, own: int, trade_id: int) -> int:
    """112: a trade of the Integrated feed is undone."""
    begin(packet, at, int64(20), int64(112))
    put_about(packet, at, event_ns, index, own)
    put32(packet, at + 16, trade_id)
    return 20


@lean
def put_cross_correction(packet: Any, at: int, event_ns: int, index: int, own: int, cross_id: int, size: int) -> int:
    """113: a cross had another size."""
    begin(packet, at, int64(24), int64(113))
    put_about(packet, at, event_ns, index, own)
    put32(packet, at + 16, cross_id)
    put32(packet, at + 20, size)
    return 24


@lean
def put_retail(packet: Any, at: int, event_ns: int, index: int, own: int, interest: int) -> int:
    """114: retail interest, the code of a blank, A, B or C."""
    begin(packet, at, int64(17), int64(114))
    put_about(packet, at, event_ns, index, own)
    packet[at + 16] = interest
    return 17


@lean
def put_trade(
    packet: Any, at: int, event_ns: int, index: int, own: int, trade_id: int, price: int, size: int, condition: int
) -> int:
    """220: a trade."""
    begin(packet, at, int64(36), int64(220))
    put_about_whole(packet, at, event_ns, index, own)
    put32(packet, at + 20, trade_id)
    put_price(packet, at + 24, price)
    put32(packet, at + 28, size)
    put_text(packet, at + 32, 4, condition)
    return 36


@lean
def put_trade_cancel(packet: Any, at: int, event_ns: int, index: int, own: int, trade_id: int) -> int:
    """221: a trade is undone."""
    begin(packet, at, int64(24), int64(221))
    put_about_whole(packet, at, event_ns, index, own)
    put32(packet, at + 20, trade_id)
    return 24


@lean
def put_trade_correction(
    packet: Any,
    at: int,
    event_ns: int,
    index: int,
    own: int,
    original_id: int,
    trade_id: int,
    price: int,
    size: int,
    condition: int,
) -> int:
    """222: a trade stands in the place of another."""
    begin(packet, at, int64(40), int64(222))
    put_about_whole(packet, at, event_ns, index, own)
    put32(packet, at + 20, original_id)
    put32(packet, at + 24, trade_id)
    put_price(packet, at + 28, price)
    put32(packet, at + 32, size)
    put_text(packet, at + 36, 4, condition)
    return 40


@lean
def put_summary(
    packet: Any, at: int, event_ns: int, index: int, high: int, low: int, first: int, last: int, volume: int
) -> int:
    """223: the day of a symbol so far."""
    begin(packet, at, int64(36), int64(223))
    put32(packet, at + 4, event_ns // SECOND_NS)
    put32(packet, at + 8, event_ns % SECOND_NS)
    put32(packet, at + 12, index)
    put_price(packet, at + 16, high)
    put_price(packet, at + 20, low)
    put_price(packet, at + 24, first)
    put_price(packet, at + 28, last)
    put32(packet, at + 32, volume)
    return 36


def warm_up() -> None:
    """Nothing to do: these helpers are part of the machine code of the kernels that use them."""
