"""Messages of Cboe Multicast PITCH 2.41 for US equities as bytes, compiled (pure): the other end of `pitch_kernel`.

Each function writes one message with its length at ``packet[at]`` and returns its bytes. Prices are whole units
(1e-9), times offsets in ns from the second that the unit's last Time message told, symbols the characters of
a name as one integer, first character in the lowest byte, padded with zeros or blanks. A long form takes every size
and price, a short form sizes up to 65,535 and prices up to 655.35 in whole cents (`fits_short`).

Source: Cboe US Equities/Options Multicast PITCH 2.41, the tables of each message; integers are little-endian.
"""

from typing import Any

import numpy as np

from fabric.compiled import lean
from nodes.feeds import pitch_kernel as pitch

HEADER_BYTES = 8
MESSAGE_BYTES_MAX = 43
KEEP_PRIORITY = 0x02
_FLAGS = 1  # bit 0: the order is in the tape's quote, as all displayed orders are
_BUY = ord("B")
_BLANK = 32
_BLANKS = 0x2020202020202020
_SHARES_SHORT_MAX = 0xFFFF
_PRICE_SHORT_MAX = 0xFFFF


@lean
def put_integer(packet: Any, at: int, width: int, value: int) -> None:
    """Write ``width`` bytes, little-endian."""
    for i in range(width):
        packet[np.uint64(at + i)] = (value >> (8 * i)) & 0xFF


@lean
def put_symbol(packet: Any, at: int, width: int, symbol: int) -> None:
    """Write a name of at most ``width`` characters, padded with blanks."""
    for i in range(width):
        character = (symbol >> (8 * i)) & 0xFF
        packet[np.uint64(at + i)] = character if character != 0 else _BLANK


@lean
def put_header(packet: Any, at: int, length: int, count: int, unit: int, sequence: int) -> int:
    """Write the Sequenced Unit Header of a packet of ``length`` bytes, itself included; ``count`` 0 is a heartbeat."""
    put_integer(packet, at, 2, length)
    put_integer(packet, at + 2, 1, count)
    put_integer(packet, at + 3, 1, unit)
    put_integer(packet, at + 4, 4, sequence)
    return HEADER_BYTES


@lean
def put_head(packet: Any, at: int, length: int, kind: int, time: int) -> int:
    """Write what all messages begin with; return ``length``."""
    put_integer(packet, at, 1, length)
    put_integer(packet, at + 1, 1, kind)
    put_integer(packet, at + 2, 4, time)
    return length


@lean
def put_order_head(packet: Any, at: int, length: int, kind: int, time: int, order_id: int) -> int:
    """Write what all messages about an order begin with; return ``length``."""
    put_head(packet, at, length, kind, time)
    put_integer(packet, at + 6, 8, order_id)
    return length


@lean
def fits_short(size: int, price: int) -> bool:
    """Whether a short form holds this size and price."""
    return (
        size <= _SHARES_SHORT_MAX
        and price % pitch.SHORT_PRICE == 0
        and 0 <= price <= _PRICE_SHORT_MAX * pitch.SHORT_PRICE
    )


@lean
def put_time(packet: Any, at: int, second: int) -> int:
    """Time: seconds since midnight in New York."""
    return put_head(packet, at, 6, pitch.TIME, second)


@lean
def put_unit_clear(packet: Any, at: int, time: int) -> int:
    """Unit Clear."""
    return put_head(packet, at, 6, pitch.UNIT_CLEAR, time)


@lean
def put_end_of_session(packet: Any, at: int, time: int) -> int:
    """End of Session."""
    return put_head(packet, at, 6, pitch.END_OF_SESSION, time)


@lean
def put_add_long(packet: Any, at: int, time: int, order_id: int, side: int, size: int, symbol: int, price: int) -> int:
    """Add Order (long); ``side`` is the letter B or S."""
    put_order_head(packet, at, 34, pitch.ADD_LONG, time, order_id)
    put_integer(packet, at + 14, 1, side)
    put_integer(packet, at + 15, 4, size)
    put_symbol(packet, at + 19, 6, symbol)
    put_integer(packet, at + 25, 8, price // pitch.LONG_PRICE)
    put_integer(packet, at + 33, 1, _FLAGS)
    return 34


@lean
def put_add_short(packet: Any, at: int, time: int, order_id: int, side: int, size: int, symbol: int, price: int) -> int:
    """Add Order (short)."""
    put_order_head(packet, at, 26, pitch.ADD_SHORT, time, order_id)
    put_integer(packet, at + 14, 1, side)
    put_integer(packet, at + 15, 2, size)
    put_symbol(packet, at + 17, 6, symbol)
    put_integer(packet, at + 23, 2, price // pitch.SHORT_PRICE)
    put_integer(packet, at + 25, 1, _FLAGS)
    return 26


@lean
def put_add_expanded(
    packet: Any, at: int, time: int, order_id: int, side: int, size: int, symbol: int, price: int, participant: int
) -> int:
    """Add Order (expanded): a symbol of 8 characters, and a participant of 4 or 0."""
    put_order_head(packet, at, 41, pitch.ADD_EXPANDED, time, order_id)
    put_integer(packet, at + 14, 1, side)
    put_integer(packet, at + 15, 4, size)
    put_symbol(packet, at + 19, 8, symbol)
    put_integer(packet, at + 27, 8, price // pitch.LONG_PRICE)
    put_integer(packet, at + 35, 1, _FLAGS)
    put_symbol(packet, at + 36, 4, participant)
    put_integer(packet, at + 40, 1, _BLANK)
    return 41


@lean
def put_executed(packet: Any, at: int, time: int, order_id: int, size: int, execution: int) -> int:
    """Order Executed, at its price."""
    put_order_head(packet, at, 26, pitch.EXECUTED, time, order_id)
    put_integer(packet, at + 14, 4, size)
    put_integer(packet, at + 18, 8, execution)
    return 26


@lean
def put_executed_at(
    packet: Any, at: int, time: int, order_id: int, size: int, remaining: int, execution: int, price: int
) -> int:
    """Order Executed at Price/Size."""
    put_order_head(packet, at, 38, pitch.EXECUTED_AT, time, order_id)
    put_integer(packet, at + 14, 4, size)
    put_integer(packet, at + 18, 4, remaining)
    put_integer(packet, at + 22, 8, execution)
    put_integer(packet, at + 30, 8, price // pitch.LONG_PRICE)
    return 38


@lean
def put_reduce_long(packet: Any, at: int, time: int, order_id: int, size: int) -> int:
    """Reduce Size (long), by ``size`` shares."""
    put_order_head(packet, at, 18, pitch.REDUCE_LONG, time, order_id)
    put_integer(packet, at + 14, 4, size)
    return 18


@lean
def put_reduce_short(packet: Any, at: int, time: int, order_id: int, size: int) -> int:
    """Reduce Size (short)."""
    put_order_head(packet, at, 16, pitch.REDUCE_SHORT, time, order_id)
    put_integer(packet, at + 14, 2, size)
    return 16


@lean
def put_modify_long(packet: Any, at: int, time: int, order_id: int, size: int, price: int, flags: int) -> int:
    """Modify Order (long); ``flags`` is KEEP_PRIORITY or 0."""
    put_order_head(packet, at, 27, pitch.MODIFY_LONG, time, order_id)
    put_integer(packet, at + 14, 4, size)
    put_integer(packet, at + 18, 8, price // pitch.LONG_PRICE)
    put_integer(packet, at + 26, 1, flags | _FLAGS)
    return 27


@lean
def put_modify_short(packet: Any, at: int, time: int, order_id: int, size: int, price: int, flags: int) -> int:
    """Modify Order (short)."""
    put_order_head(packet, at, 19, pitch.MODIFY_SHORT, time, order_id)
    put_integer(packet, at + 14, 2, size)
    put_integer(packet, at + 16, 2, price // pitch.SHORT_PRICE)
    put_integer(packet, at + 18, 1, flags | _FLAGS)
    return 19


@lean
def put_delete(packet: Any, at: int, time: int, order_id: int) -> int:
    """Delete Order."""
    return put_order_head(packet, at, 14, pitch.DELETE_ORDER, time, order_id)


@lean
def put_trade_long(
    packet: Any, at: int, time: int, order_id: int, size: int, symbol: int, price: int, execution: int
) -> int:
    """Trade (long): of an order that is not displayed; its side is always told as B."""
    put_order_head(packet, at, 41, pitch.TRADE_LONG, time, order_id)
    put_integer(packet, at + 14, 1, _BUY)
    put_integer(packet, at + 15, 4, size)
    put_symbol(packet, at + 19, 6, symbol)
    put_integer(packet, at + 25, 8, price // pitch.LONG_PRICE)
    put_integer(packet, at + 33, 8, execution)
    return 41


@lean
def put_trade_short(
    packet: Any, at: int, time: int, order_id: int, size: int, symbol: int, price: int, execution: int
) -> int:
    """Trade (short)."""
    put_order_head(packet, at, 33, pitch.TRADE_SHORT, time, order_id)
    put_integer(packet, at + 14, 1, _BUY)
    put_integer(packet, at + 15, 2, size)
    put_symbol(packet, at + 17, 6, symbol)
    put_integer(packet, at + 23, 2, price // pitch.SHORT_PRICE)
    put_integer(packet, at + 25, 8, execution)
    return 33


@lean
def put_trade_expanded(
    packet: Any, at: int, time: int, order_id: int, size: int, symbol: int, price: int, execution: int
) -> int:
    """Trade (expanded): a symbol of 8 characters."""
    put_order_head(packet, at, 43, pitch.TRADE_EXPANDED, time, order_id)
    put_integer(packet, at + 14, 1, _BUY)
    put_integer(packet, at + 15, 4, size)
    put_symbol(packet, at + 19, 8, symbol)
    put_integer(packet, at + 27, 8, price // pitch.LONG_PRICE)
    put_integer(packet, at + 35, 8, execution)
    return 43


@lean
def put_trade_break(packet: Any, at: int, time: int, execution: int) -> int:
    """Trade Break."""
    put_head(packet, at, 14, pitch.TRADE_BREAK, time)
    put_integer(packet, at + 6, 8, execution)
    return 14


@lean
def put_trading_status(packet: Any, at: int, time: int, symbol: int, trading: int, short_sale: int) -> int:
    """Trading Status: letter A, H, Q, S or T; ``short_sale`` is the digit 0 or 1 of Reg SHO."""
    put_head(packet, at, 18, pitch.TRADING_STATUS, time)
    put_symbol(packet, at + 6, 8, symbol)
    put_integer(packet, at + 14, 1, trading)
    put_integer(packet, at + 15, 1, short_sale)
    put_integer(packet, at + 16, 2, _BLANKS)
    return 18


@lean
def put_auction_update(
    packet: Any,
    at: int,
    time: int,
    symbol: int,
    auction: int,
    reference: int,
    buy: int,
    sell: int,
    indicative: int,
    auction_only: int,
) -> int:
    """Auction Update; ``auction`` is the letter O, C, H or I."""
    put_head(packet, at, 47, pitch.AUCTION_UPDATE, time)
    put_symbol(packet, at + 6, 8, symbol)
    put_integer(packet, at + 14, 1, auction)
    put_integer(packet, at + 15, 8, reference // pitch.LONG_PRICE)
    put_integer(packet, at + 23, 4, buy)
    put_integer(packet, at + 27, 4, sell)
    put_integer(packet, at + 31, 8, indicative // pitch.LONG_PRICE)
    put_integer(packet, at + 39, 8, auction_only // pitch.LONG_PRICE)
    return 47


@lean
def put_auction_summary(packet: Any, at: int, time: int, symbol: int, auction: int, price: int, size: int) -> int:
    """Auction Summary."""
    put_head(packet, at, 27, pitch.AUCTION_SUMMARY, time)
    put_symbol(packet, at + 6, 8, symbol)
    put_integer(packet, at + 14, 1, auction)
    put_integer(packet, at + 15, 8, price // pitch.LONG_PRICE)
    put_integer(packet, at + 23, 4, size)
    return 27


@lean
def put_retail_improvement(packet: Any, at: int, time: int, symbol: int, improvement: int) -> int:
    """Retail Price Improvement: letter B, S, A or N."""
    put_head(packet, at, 15, pitch.RETAIL_IMPROVEMENT, time)
    put_symbol(packet, at + 6, 8, symbol)
    put_integer(packet, at + 14, 1, improvement)
    return 15


@lean
def name_bytes(symbol: int) -> int:
    """Characters in a name."""
    length = 8
    while length > 0 and ((symbol >> (8 * length - 8)) & 0xFF == 0 or (symbol >> (8 * length - 8)) & 0xFF == _BLANK):
        length -= 1
    return length


@lean
def put_add(packet: Any, at: int, time: int, order_id: int, side: int, size: int, symbol: int, price: int) -> int:
    """Add Order in the shortest form that holds it."""
    if name_bytes(symbol) > 6:
        return put_add_expanded(packet, at, time, order_id, side, size, symbol, price, 0)
    if fits_short(size, price):
        return put_add_short(packet, at, time, order_id, side, size, symbol, price)
    return put_add_long(packet, at, time, order_id, side, size, symbol, price)


@lean
def put_reduce(packet: Any, at: int, time: int, order_id: int, size: int) -> int:
    """Reduce Size in the shortest form that holds it."""
    if size <= _SHARES_SHORT_MAX:
        return put_reduce_short(packet, at, time, order_id, size)
    return put_reduce_long(packet, at, time, order_id, size)


@lean
def put_modify(packet: Any, at: int, time: int, order_id: int, size: int, price: int, flags: int) -> int:
    """Modify Order in the shortest form that holds it."""
    if fits_short(size, price):
        return put_modify_short(packet, at, time, order_id, size, price, flags)
    return put_modify_long(packet, at, time, order_id, size, price, flags)


@lean
def put_trade(
    packet: Any, at: int, time: int, order_id: int, size: int, symbol: int, price: int, execution: int
) -> int:
    """Trade in the shortest form that holds it."""
    if name_bytes(symbol) > 6:
        return put_trade_expanded(packet, at, time, order_id, size, symbol, price, execution)
    if fits_short(size, price):
        return put_trade_short(packet, at, time, order_id, size, symbol, price, execution)
    return put_trade_long(packet, at, time, order_id, size, symbol, price, execution)


def warm_up() -> None:
    """Nothing to do: these functions are part of the machine code of the kernels that use them."""
