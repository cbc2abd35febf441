"""NYSE Pillar (XDP) packets and messages as bytes, compiled (pure): one function for each message of the feeds.

Each ``put_`` writes one message with its size and type at ``packet[at]`` and returns the bytes written. Prices are
whole units (1e-9 of a dollar), times UTC nanoseconds, single characters their ASCII code, text packed as in a record's
column. ``index`` is the symbol's index, ``own`` the number of the message among those of its symbol.

Sources: NYSE XDP / Pillar Common, BBO 2.5, Trades 2.6 and Integrated 2.5 client specifications; protocols section 4.
Integers are little-endian.
"""

from typing import Any

from fabric.compiled import lean

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
def put(packet: Any, at: int, width: int, value: int) -> None:
    """Write an integer of ``width`` bytes, or packed text of so many characters."""
    for i in range(width):
        packet[at + i] = (value >> (8 * i)) & 0xFF


@lean
def put_text(packet: Any, at: int, width: int, value: int) -> None:
    """Write packed text padded with blanks."""
    for i in range(width):
        character = (value >> (8 * i)) & 0xFF if i < 8 else 0
        packet[at + i] = character if character != 0 else 32


@lean
def put_price(packet: Any, at: int, price: int) -> None:
    """Write a price in whole units."""
    put(packet, at, 4, price // WIRE_PRICE)


@lean
def begin(packet: Any, at: int, size: int, kind: int) -> None:
    """Write size and type, and zeros behind them."""
    put(packet, at, 2, size)
    put(packet, at + 2, 2, kind)
    for i in range(4, size):
        packet[at + i] = 0


@lean
def put_about(packet: Any, at: int, event_ns: int, index: int, own: int) -> None:
    """Nanoseconds, symbol index and the symbol's own number, of messages without seconds."""
    put(packet, at + 4, 4, event_ns % SECOND_NS)
    put(packet, at + 8, 4, index)
    put(packet, at + 12, 4, own)


@lean
def put_about_whole(packet: Any, at: int, event_ns: int, index: int, own: int) -> None:
    """Seconds, nanoseconds, symbol index and the symbol's own number."""
    put(packet, at + 4, 4, event_ns // SECOND_NS)
    put(packet, at + 8, 4, event_ns % SECOND_NS)
    put(packet, at + 12, 4, index)
    put(packet, at + 16, 4, own)


@lean
def put_header(packet: Any, size: int, flag: int, count: int, sequence: int, sent_ns: int) -> int:
    """The header of a packet of ``size`` bytes in all; ``flag`` is its delivery flag."""
    put(packet, 0, 2, size)
    packet[2] = flag
    packet[3] = count
    put(packet, 4, 4, sequence)
    put(packet, 8, 4, sent_ns // SECOND_NS)
    put(packet, 12, 4, sent_ns % SECOND_NS)
    return HEADER_BYTES


@lean
def put_reset(packet: Any, at: int, event_ns: int, product: int, channel: int) -> int:
    """1: numbers begin anew; the message itself has number 1."""
    begin(packet, at, 14, 1)
    put(packet, at + 4, 4, event_ns // SECOND_NS)
    put(packet, at + 8, 4, event_ns % SECOND_NS)
    packet[at + 12] = product
    packet[at + 13] = channel
    return 14


@lean
def put_time_reference(packet: Any, at: int, engine: int, event_ns: int) -> int:
    """2: the second of what follows from a matching engine."""
    begin(packet, at, 16, 2)
    put(packet, at + 4, 4, engine)
    put(packet, at + 12, 4, event_ns // SECOND_NS)
    return 16


@lean
def put_mapping(
    packet: Any, at: int, index: int, name: int, market: int, engine: int, exchange: int, lot: int, previous_close: int
) -> int:
    """3: what an index stands for; ``exchange`` is the letter of the exchange that lists the symbol.

    The name becomes NYSE's: a class stands behind a blank (``BRK.B``), a preferred behind a blank and PR (``AHL-C``).
    """
    begin(packet, at, MAPPING_BYTES, 3)
    put(packet, at + 4, 4, index)
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
    put(packet, at + 20, 2, market)
    packet[at + 22] = engine
    packet[at + 23] = exchange
    packet[at + 24] = PRICE_SCALE
    packet[at + 25] = 67  # C: common stock
    put(packet, at + 26, 2, lot)
    put_price(packet, at + 28, previous_close)
    packet[at + 37] = 78  # N: odd lots are taken as well
    put(packet, at + 38, 2, 1)  # smallest price step
    put(packet, at + 40, 2, 1)  # unit of trade
    return MAPPING_BYTES


@lean
def put_clear(packet: Any, at: int, event_ns: int, index: int, next_own: int) -> int:
    """32: forget the state of a symbol; ``next_own`` is its next number."""
    begin(packet, at, 20, 32)
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
    begin(packet, at, STATUS_BYTES, 34)
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
    begin(packet, at, 16, 35)
    put(packet, at + 4, 2, part)
    put(packet, at + 6, 2, parts)
    put(packet, at + 8, 4, as_of)
    put(packet, at + 12, 4, as_of_symbol)
    return 16


@lean
def put_unavailable(packet: Any, at: int, begin_sequence: int, end_sequence: int, product: int, channel: int) -> int:
    """31: those numbers, both included, cannot be had any more."""
    begin(packet, at, 14, 31)
    put(packet, at + 4, 4, begin_sequence)
    put(packet, at + 8, 4, end_sequence)
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
    begin(packet, at, 34, 140)
    put_about(packet, at, event_ns, index, own)
    put_price(packet, at + 16, ask_px)
    put(packet, at + 20, 4, ask_size)
    put_price(packet, at + 24, bid_px)
    put(packet, at + 28, 4, bid_size)
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
    begin(packet, at, 39, 100)
    put_about(packet, at, event_ns, index, own)
    put(packet, at + 16, 8, order_id)
    put_price(packet, at + 24, price)
    put(packet, at + 28, 4, size)
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
    begin(packet, at, 43, 106)
    put_about_whole(packet, at, event_ns, index, own)
    put(packet, at + 20, 8, order_id)
    put_price(packet, at + 28, price)
    put(packet, at + 32, 4, size)
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
    begin(packet, at, 35, 101)
    put_about(packet, at, event_ns, index, own)
    put(packet, at + 16, 8, order_id)
    put_price(packet, at + 24, price)
    put(packet, at + 28, 4, size)
    packet[at + 32] = loses_place
    packet[at + 33] = side
    return 35


@lean
def put_delete(packet: Any, at: int, event_ns: int, index: int, own: int, order_id: int) -> int:
    """102: an order goes."""
    begin(packet, at, 25, 102)
    put_about(packet, at, event_ns, index, own)
    put(packet, at + 16, 8, order_id)
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
    begin(packet, at, 42, 103)
    put_about(packet, at, event_ns, index, own)
    put(packet, at + 16, 8, order_id)
    put(packet, at + 24, 4, trade_id)
    put_price(packet, at + 28, price)
    put(packet, at + 32, 4, size)
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
    begin(packet, at, 42, 104)
    put_about(packet, at, event_ns, index, own)
    put(packet, at + 16, 8, order_id)
    put(packet, at + 24, 8, new_id)
    put_price(packet, at + 32, price)
    put(packet, at + 36, 4, size)
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
    begin(packet, at, 73, 105)
    put_about_whole(packet, at, event_ns, index, own)
    put_price(packet, at + 20, reference_px)
    put(packet, at + 24, 4, paired)
    put(packet, at + 28, 4, imbalance)
    packet[at + 38] = auction
    packet[at + 39] = side
    put(packet, at + 67, 4, imbalance)
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
    begin(packet, at, 33, 110)
    put_about(packet, at, event_ns, index, own)
    put(packet, at + 16, 4, trade_id)
    put_price(packet, at + 20, price)
    put(packet, at + 24, 4, size)
    packet[at + 28] = printable
    put_text(packet, at + 29, 4, condition)
    return 33


@lean
def put_cross(
    packet: Any, at: int, event_ns: int, index: int, own: int, cross_id: int, price: int, size: int, crossed: int
) -> int:
    """111: an auction has crossed; ``crossed`` is the code of E, O, 5 or 6."""
    begin(packet, at, 29, 111)
    put_about(packet, at, event_ns, index, own)
    put(packet, at + 16, 4, cross_id)
    put_price(packet, at + 20, price)
    put(packet, at + 24, 4, size)
    packet[at + 28] = crossed
    return 29


@lean
def put_break(packet: Any, at: int, event_ns: int, index: int, own: int, trade_id: int) -> int:
    """112: a trade of the Integrated feed is undone."""
    begin(packet, at, 20, 112)
    put_about(packet, at, event_ns, index, own)
    put(packet, at + 16, 4, trade_id)
    return 20


@lean
def put_cross_correction(packet: Any, at: int, event_ns: int, index: int, own: int, cross_id: int, size: int) -> int:
    """113: a cross had another size."""
    begin(packet, at, 24, 113)
    put_about(packet, at, event_ns, index, own)
    put(packet, at + 16, 4, cross_id)
    put(packet, at + 20, 4, size)
    return 24


@lean
def put_retail(packet: Any, at: int, event_ns: int, index: int, own: int, interest: int) -> int:
    """114: retail interest, the code of a blank, A, B or C."""
    begin(packet, at, 17, 114)
    put_about(packet, at, event_ns, index, own)
    packet[at + 16] = interest
    return 17


@lean
def put_trade(
    packet: Any, at: int, event_ns: int, index: int, own: int, trade_id: int, price: int, size: int, condition: int
) -> int:
    """220: a trade."""
    begin(packet, at, 36, 220)
    put_about_whole(packet, at, event_ns, index, own)
    put(packet, at + 20, 4, trade_id)
    put_price(packet, at + 24, price)
    put(packet, at + 28, 4, size)
    put_text(packet, at + 32, 4, condition)
    return 36


@lean
def put_trade_cancel(packet: Any, at: int, event_ns: int, index: int, own: int, trade_id: int) -> int:
    """221: a trade is undone."""
    begin(packet, at, 24, 221)
    put_about_whole(packet, at, event_ns, index, own)
    put(packet, at + 20, 4, trade_id)
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
    begin(packet, at, 40, 222)
    put_about_whole(packet, at, event_ns, index, own)
    put(packet, at + 20, 4, original_id)
    put(packet, at + 24, 4, trade_id)
    put_price(packet, at + 28, price)
    put(packet, at + 32, 4, size)
    put_text(packet, at + 36, 4, condition)
    return 40


@lean
def put_summary(
    packet: Any, at: int, event_ns: int, index: int, high: int, low: int, first: int, last: int, volume: int
) -> int:
    """223: the day of a symbol so far."""
    begin(packet, at, 36, 223)
    put(packet, at + 4, 4, event_ns // SECOND_NS)
    put(packet, at + 8, 4, event_ns % SECOND_NS)
    put(packet, at + 12, 4, index)
    put_price(packet, at + 16, high)
    put_price(packet, at + 20, low)
    put_price(packet, at + 24, first)
    put_price(packet, at + 28, last)
    put(packet, at + 32, 4, volume)
    return 36


def warm_up() -> None:
    """Nothing to do: these helpers are part of the machine code of the kernels that use them."""
