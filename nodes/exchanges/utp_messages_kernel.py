"""Messages of the UTP plan's tape (UQDF and UTDF, binary) as bytes, compiled (pure): the other end of `utp_kernel`.

Each ``put_`` writes one message at ``packet[at]``, its u16 length before it as MoldUDP64 has it, and returns the bytes
written; the packet's header is MoldUDP64's (`itch_messages_kernel.put_header`). ``venue`` and single characters are
ASCII codes, ``name`` is uint8[11 or more] padded with zeros, prices are whole units (1e-9 of a dollar), times UTC
nanoseconds: ``sent_ns`` is the processor's, ``time_ns`` the participant's. Sizes of quotes are as the wire has them
(`nodes.feeds.tape.SIZE_UNITS`), volumes shares, or millionths of a share in the fractional forms. A short form takes
prices in whole cents up to 655.35 and sizes up to 65,535.

Sources and offsets as in `utp_kernel`; integers big-endian.
"""

from typing import Any

from fabric.compiled import lean
from nodes.exchanges.cta_messages_kernel import LONG_PRICE, SHORT_PRICE, fill, put, put_name, put_text

MESSAGE_BYTES_MAX = 178
"""The longest message (fractional correction) with its length."""
_BLANK, _ZERO = ord(" "), ord("0")


@lean
def put_head(
    packet: Any, at: int, length: int, category: int, kind: int, venue: int, sent_ns: int, time_ns: int
) -> None:
    """Write a message's length and what all messages begin with."""
    put(packet, at, 2, length)
    packet[at + 2] = ord("1")
    packet[at + 3] = category
    packet[at + 4] = kind
    packet[at + 5] = venue
    packet[at + 6] = _BLANK
    put(packet, at + 7, 8, sent_ns)
    put(packet, at + 15, 8, time_ns)
    put(packet, at + 23, 8, 0)


@lean
def put_plain(packet: Any, at: int, category: int, kind: int, venue: int, sent_ns: int) -> int:
    """A message of nothing but its head: control (start of day is C I, line integrity is MoldUDP64's heartbeat)."""
    put_head(packet, at, 29, category, kind, venue, sent_ns, 0)
    return 31


@lean
def put_short_quote(
    packet: Any,
    at: int,
    venue: int,
    sent_ns: int,
    time_ns: int,
    name: Any,
    bid_px: int,
    bid_size: int,
    ask_px: int,
    ask_size: int,
    condition: int,
    indicator: int,
    is_combined: bool,
) -> int:
    """QE, or QC where ``is_combined``; ``indicator`` is that of the NBBO appendage (0 to 4)."""
    length = 52 if is_combined else 48
    put_head(packet, at, length, ord("Q"), ord("C") if is_combined else ord("E"), venue, sent_ns, time_ns)
    put_name(packet, at + 31, 5, name)
    put(packet, at + 36, 2, bid_px // SHORT_PRICE)
    put(packet, at + 38, 2, bid_size)
    put(packet, at + 40, 2, ask_px // SHORT_PRICE)
    put(packet, at + 42, 2, ask_size)
    put_quote_tail(packet, at + 44, condition, indicator)
    if is_combined:
        put_no_odd_lots(packet, at + 50)
    return 2 + length


@lean
def put_long_quote(
    packet: Any,
    at: int,
    venue: int,
    sent_ns: int,
    time_ns: int,
    name: Any,
    bid_px: int,
    bid_size: int,
    ask_px: int,
    ask_size: int,
    condition: int,
    indicator: int,
    is_combined: bool,
) -> int:
    """QF, or QD where ``is_combined``."""
    length = 83 if is_combined else 79
    put_head(packet, at, length, ord("Q"), ord("D") if is_combined else ord("F"), venue, sent_ns, time_ns)
    put(packet, at + 31, 8, 0)
    put_name(packet, at + 39, 11, name)
    put(packet, at + 50, 8, bid_px // LONG_PRICE)
    put(packet, at + 58, 4, bid_size)
    put(packet, at + 62, 8, ask_px // LONG_PRICE)
    put(packet, at + 70, 4, ask_size)
    put_quote_tail(packet, at + 74, condition, indicator)
    packet[at + 80] = _BLANK
    if is_combined:
        put_no_odd_lots(packet, at + 81)
    return 2 + length


@lean
def put_quote_tail(packet: Any, at: int, condition: int, indicator: int) -> None:
    """Write condition, processor's update, price bands, retail interest, NBBO appendage, NBBO price bands."""
    packet[at] = condition
    fill(packet, at + 1, 3, _BLANK)
    packet[at + 4] = indicator
    packet[at + 5] = _BLANK


@lean
def put_no_odd_lots(packet: Any, at: int) -> None:
    """Write the four bytes by which a combined quote says that no odd lots follow."""
    packet[at] = _ZERO
    packet[at + 1] = _ZERO
    put(packet, at + 2, 2, 0)


@lean
def put_long_appendage(
    packet: Any,
    at: int,
    length: int,
    condition: int,
    bid_venue: int,
    bid_px: int,
    bid_size: int,
    ask_venue: int,
    ask_px: int,
    ask_size: int,
) -> int:
    """Add the NBBO to the quote at ``packet[at]`` that has ``length`` bytes; return its new bytes."""
    end = at + length
    packet[end] = condition
    packet[end + 1] = bid_venue
    put(packet, end + 2, 8, bid_px // LONG_PRICE)
    put(packet, end + 10, 4, bid_size)
    packet[end + 14] = ask_venue
    put(packet, end + 15, 8, ask_px // LONG_PRICE)
    put(packet, end + 23, 4, ask_size)
    put(packet, at, 2, length - 2 + 27)
    return length + 27


@lean
def put_short_appendage(
    packet: Any,
    at: int,
    length: int,
    condition: int,
    bid_venue: int,
    bid_px: int,
    bid_size: int,
    ask_venue: int,
    ask_px: int,
    ask_size: int,
) -> int:
    """As `put_long_appendage`, in eleven bytes."""
    end = at + length
    packet[end] = condition
    packet[end + 1] = bid_venue
    put(packet, end + 2, 2, bid_px // SHORT_PRICE)
    put(packet, end + 4, 2, bid_size)
    packet[end + 6] = ask_venue
    put(packet, end + 7, 2, ask_px // SHORT_PRICE)
    put(packet, end + 9, 2, ask_size)
    put(packet, at, 2, length - 2 + 11)
    return length + 11


@lean
def put_short_trade(
    packet: Any,
    at: int,
    venue: int,
    sent_ns: int,
    time_ns: int,
    name: Any,
    trade_id: int,
    px: int,
    volume: int,
    is_fraction: bool,
    conditions: int,
) -> int:
    """TA, or TM with a fractional volume; ``conditions`` are the four slots as packed text, blanks included."""
    wider = 6 if is_fraction else 0
    put_head(packet, at, 61 + wider, ord("T"), ord("M") if is_fraction else ord("A"), venue, sent_ns, time_ns)
    put(packet, at + 31, 8, 0)
    put_name(packet, at + 39, 5, name)
    put(packet, at + 44, 8, trade_id)
    put(packet, at + 52, 2, px // SHORT_PRICE)
    put(packet, at + 54, 2 + wider, volume)
    put_text(packet, at + 56 + wider, 4, conditions)
    packet[at + 60 + wider] = _BLANK
    fill(packet, at + 61 + wider, 2, _ZERO)
    return 63 + wider


@lean
def put_terms(packet: Any, at: int, trade_id: int, px: int, volume: int, width: int, conditions: int) -> None:
    """Write what a trade's long messages have in common: id, price, volume, conditions, exemption, seller's days."""
    put(packet, at, 8, trade_id)
    put(packet, at + 8, 8, px // LONG_PRICE)
    put(packet, at + 16, width, volume)
    put_text(packet, at + 16 + width, 4, conditions)
    packet[at + 20 + width] = _BLANK
    put(packet, at + 21 + width, 2, 0)


@lean
def put_long_trade(
    packet: Any,
    at: int,
    venue: int,
    sent_ns: int,
    time_ns: int,
    name: Any,
    trade_id: int,
    px: int,
    volume: int,
    is_fraction: bool,
    conditions: int,
) -> int:
    """TW, or TN with a fractional volume."""
    wider = 4 if is_fraction else 0
    put_head(packet, at, 77 + wider, ord("T"), ord("N") if is_fraction else ord("W"), venue, sent_ns, time_ns)
    put(packet, at + 31, 8, 0)
    put_name(packet, at + 39, 11, name)
    put_terms(packet, at + 50, trade_id, px, volume, 4 + wider, conditions)
    fill(packet, at + 77 + wider, 2, _ZERO)
    return 79 + wider


@lean
def put_day(packet: Any, at: int) -> None:
    """Write the consolidated and the participant's values of the day, all zero (66 bytes)."""
    fill(packet, at, 66, 0)
    packet[at + 32] = _ZERO
    packet[at + 33] = _BLANK


@lean
def put_cancel(
    packet: Any,
    at: int,
    venue: int,
    sent_ns: int,
    time_ns: int,
    name: Any,
    action: int,
    original: int,
    px: int,
    volume: int,
    is_fraction: bool,
    conditions: int,
) -> int:
    """TZ, or TO with a fractional volume; ``action`` is C (cancel) or E (error), ``original`` the id of the trade."""
    wider = 4 if is_fraction else 0
    put_head(packet, at, 142 + wider, ord("T"), ord("O") if is_fraction else ord("Z"), venue, sent_ns, time_ns)
    put(packet, at + 31, 8, 0)
    put_name(packet, at + 39, 11, name)
    packet[at + 50] = action
    put_terms(packet, at + 51, original, px, volume, 4 + wider, conditions)
    put_day(packet, at + 78 + wider)
    return 144 + wider


@lean
def put_correction(
    packet: Any,
    at: int,
    venue: int,
    sent_ns: int,
    time_ns: int,
    name: Any,
    original: int,
    old_px: int,
    old_volume: int,
    old_conditions: int,
    trade_id: int,
    px: int,
    volume: int,
    is_fraction: bool,
    conditions: int,
) -> int:
    """TY, or TP with fractional volumes: what the trade ``original`` was, and what it should have been."""
    wider = 4 if is_fraction else 0
    put_head(packet, at, 168 + 2 * wider, ord("T"), ord("P") if is_fraction else ord("Y"), venue, sent_ns, time_ns)
    put(packet, at + 31, 8, 0)
    put_name(packet, at + 39, 11, name)
    put_terms(packet, at + 50, original, old_px, old_volume, 4 + wider, old_conditions)
    put_terms(packet, at + 77 + wider, trade_id, px, volume, 4 + wider, conditions)
    put_day(packet, at + 104 + 2 * wider)
    return 170 + 2 * wider


@lean
def put_trading_action(
    packet: Any, at: int, venue: int, sent_ns: int, time_ns: int, name: Any, action: int, reason: int
) -> int:
    """AH, on both feeds: ``action`` is H halt, Q quotes resume, T trading or P pause; ``reason`` packed text."""
    put_head(packet, at, 59, ord("A"), ord("H"), venue, sent_ns, time_ns)
    put_name(packet, at + 31, 11, name)
    packet[at + 42] = action
    put(packet, at + 43, 4, 0)
    put(packet, at + 47, 8, time_ns)
    put_text(packet, at + 55, 6, reason)
    return 61


@lean
def put_market_action(
    packet: Any, at: int, venue: int, sent_ns: int, time_ns: int, name: Any, action: int, market: int
) -> int:
    """AK: what ``market`` alone does."""
    put_head(packet, at, 50, ord("A"), ord("K"), venue, sent_ns, time_ns)
    put_name(packet, at + 31, 11, name)
    packet[at + 42] = action
    put(packet, at + 43, 8, time_ns)
    packet[at + 51] = market
    return 52


@lean
def put_directory(packet: Any, at: int, venue: int, sent_ns: int, time_ns: int, name: Any, round_lot: int) -> int:
    """AB: the directory of the day."""
    put_head(packet, at, 90, ord("A"), ord("B"), venue, sent_ns, time_ns)
    put_name(packet, at + 31, 11, name)
    fill(packet, at + 42, 41, _BLANK)
    packet[at + 83] = ord("C")
    fill(packet, at + 84, 2, _BLANK)
    packet[at + 86] = ord("Q")
    packet[at + 87] = ord("P")
    packet[at + 88] = ord("N")
    put(packet, at + 89, 2, round_lot)
    packet[at + 91] = ord("N")
    return 92


@lean
def put_short_sale(packet: Any, at: int, venue: int, sent_ns: int, time_ns: int, name: Any, action: int) -> int:
    """AV: ``action`` 0 no restriction, 1 in effect since today, 2 still in effect."""
    put_head(packet, at, 41, ord("A"), ord("V"), venue, sent_ns, time_ns)
    put_name(packet, at + 31, 11, name)
    packet[at + 42] = action
    return 43


@lean
def put_price_bands(
    packet: Any,
    at: int,
    venue: int,
    sent_ns: int,
    time_ns: int,
    name: Any,
    indicator: int,
    lower_px: int,
    upper_px: int,
) -> int:
    """AP: limit down and limit up."""
    put_head(packet, at, 65, ord("A"), ord("P"), venue, sent_ns, time_ns)
    put_name(packet, at + 31, 11, name)
    packet[at + 42] = indicator
    put(packet, at + 43, 8, time_ns)
    put(packet, at + 51, 8, lower_px // LONG_PRICE)
    put(packet, at + 59, 8, upper_px // LONG_PRICE)
    return 67


@lean
def put_breaker_levels(packet: Any, at: int, venue: int, sent_ns: int, one: int, two: int, three: int) -> int:
    """AC: the three levels of the market-wide circuit breaker, in millionths."""
    put_head(packet, at, 53, ord("A"), ord("C"), venue, sent_ns, 0)
    put(packet, at + 31, 8, one)
    put(packet, at + 39, 8, two)
    put(packet, at + 47, 8, three)
    return 55


@lean
def put_breaker_status(packet: Any, at: int, venue: int, sent_ns: int, level: int) -> int:
    """AD: ``level`` is the character (1 to 3) of the level that was breached."""
    put_head(packet, at, 30, ord("A"), ord("D"), venue, sent_ns, 0)
    packet[at + 31] = level
    return 32


def warm_up() -> None:
    """Nothing to do: these helpers are compiled into the kernels that use them."""
