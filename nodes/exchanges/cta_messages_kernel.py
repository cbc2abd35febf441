"""Messages and blocks of the CTA plan's tape (CQS and CTS, binary) as bytes, compiled (pure): the other end of
`cta_kernel`.

Each ``put_`` writes one message at ``packet[at]``, its own length in its first two bytes, and returns the bytes
written; `put_header` closes the block with its padding and checksum. ``number`` counts a block's messages from 1,
``venue`` and single characters are ASCII codes, ``name`` is uint8[11 or more] padded with zeros, prices are whole
units (1e-9 of a dollar), times UTC nanoseconds. Sizes of quotes are as the wire has them
(`nodes.feeds.tape.SIZE_UNITS`), volumes shares, or millionths of a share in the fractional forms. A short form takes
prices in whole cents up to 655.35 and sizes up to 65,535.

Sources and offsets as in `cta_kernel`; integers big-endian.
"""

from typing import Any

from fabric.compiled import lean
from nodes.feeds.cta_block_kernel import checksum

MESSAGE_BYTES_MAX = 209
"""The longest message (symbol reference)."""
LONG_PRICE = 1_000
SHORT_PRICE = 10_000_000
_VERSION = 2
_ORIGINAL, _AGAIN = ord("O"), ord("V")
_SECOND_NS = 1_000_000_000
_ZERO, _BLANK = ord("0"), ord(" ")


@lean
def put(packet: Any, at: int, width: int, value: int) -> None:
    """Write an integer of ``width`` bytes, big-endian."""
    for i in range(width):
        packet[at + i] = (value >> (8 * (width - 1 - i))) & 0xFF


@lean
def put_text(packet: Any, at: int, width: int, text: int) -> None:
    """Write packed text of ``width`` bytes, blanks behind it."""
    for i in range(width):
        character = (text >> (8 * i)) & 0xFF if i < 8 else 0
        packet[at + i] = character if character else _BLANK


@lean
def put_name(packet: Any, at: int, width: int, name: Any) -> None:
    """Write a symbol, blanks behind it."""
    for i in range(width):
        packet[at + i] = name[i] if name[i] else _BLANK


@lean
def fill(packet: Any, at: int, width: int, value: int) -> None:
    """Write one byte many times."""
    for i in range(width):
        packet[at + i] = value


@lean
def put_time(packet: Any, at: int, time_ns: int) -> None:
    """Write seconds and nanoseconds."""
    put(packet, at, 4, time_ns // _SECOND_NS)
    put(packet, at + 4, 4, time_ns % _SECOND_NS)


@lean
def put_header(packet: Any, size: int, feed: int, is_again: bool, sequence: int, count: int, sent_ns: int) -> int:
    """Close the block of ``size`` bytes, this header included, that begins at ``packet[0]``; return its bytes.

    ``feed`` is Q (quotes) or T (trades), ``sequence`` the number of the first message, ``is_again`` a retransmission.
    """
    if size & 1:
        packet[size] = 0
        size += 1
    packet[0] = _VERSION
    put(packet, 1, 2, size)
    packet[3] = feed
    packet[4] = _AGAIN if is_again else _ORIGINAL
    put(packet, 5, 4, sequence)
    packet[9] = count
    put_time(packet, 10, sent_ns)
    put(packet, 18, 2, checksum(packet, 0, size))
    return size


@lean
def put_head(
    packet: Any, at: int, length: int, category: int, kind: int, number: int, venue: int, time_ns: int, reference: int
) -> None:
    """Write what all messages begin with."""
    put(packet, at, 2, length)
    packet[at + 2] = category
    packet[at + 3] = kind
    packet[at + 4] = venue
    put_time(packet, at + 5, time_ns)
    packet[at + 13] = number
    put(packet, at + 14, 4, 0)
    put(packet, at + 18, 8, reference)


@lean
def put_plain(packet: Any, at: int, category: int, kind: int, number: int, venue: int, time_ns: int) -> int:
    """A message of nothing but its head: control (line integrity is C T, start of day C A) and administrative."""
    put_head(packet, at, 26, category, kind, number, venue, time_ns, 0)
    return 26


@lean
def put_long_quote(
    packet: Any,
    at: int,
    number: int,
    venue: int,
    time_ns: int,
    name: Any,
    condition: int,
    status: int,
    bid_px: int,
    bid_size: int,
    ask_px: int,
    ask_size: int,
    short_sale: int,
    primary: int,
    outside: int,
    indicator: int,
) -> int:
    """QL; ``status`` is the security status, ``outside`` the LULD and ``indicator`` the NBBO indicator.

    Appendages, where the indicator says that there are any, are added by `put_long_appendage` and
    `put_short_appendage`.
    """
    put_head(packet, at, 87, ord("Q"), ord("L"), number, venue, time_ns, 0)
    put_name(packet, at + 26, 11, name)
    packet[at + 37] = _ZERO
    packet[at + 38] = condition
    packet[at + 39] = status
    put(packet, at + 40, 8, bid_px // LONG_PRICE)
    put(packet, at + 48, 4, bid_size)
    put(packet, at + 52, 8, ask_px // LONG_PRICE)
    put(packet, at + 60, 4, ask_size)
    fill(packet, at + 64, 8, _BLANK)  # retail, settlement, market condition, market maker, FINRA's indicator
    put_time(packet, at + 72, 0)
    packet[at + 80] = short_sale
    packet[at + 81] = primary
    packet[at + 82] = _ZERO
    packet[at + 83] = _BLANK
    packet[at + 84] = outside
    packet[at + 85] = _BLANK
    packet[at + 86] = indicator
    return 87


@lean
def put_short_quote(
    packet: Any,
    at: int,
    number: int,
    venue: int,
    time_ns: int,
    name: Any,
    bid_px: int,
    bid_size: int,
    ask_px: int,
    ask_size: int,
    primary: int,
    indicator: int,
) -> int:
    """QQ: condition R is implied."""
    put_head(packet, at, 41, ord("Q"), ord("Q"), number, venue, time_ns, 0)
    put_name(packet, at + 26, 5, name)
    put(packet, at + 31, 2, bid_px // SHORT_PRICE)
    put(packet, at + 33, 2, bid_size)
    put(packet, at + 35, 2, ask_px // SHORT_PRICE)
    put(packet, at + 37, 2, ask_size)
    packet[at + 39] = primary
    packet[at + 40] = indicator
    return 41


@lean
def put_long_appendage(packet: Any, at: int, length: int, venue: int, condition: int, px: int, size: int) -> int:
    """Add a side of the official NBBO to the quote at ``packet[at]`` of ``length`` bytes; return its new length."""
    end = at + length
    packet[end] = venue
    packet[end + 1] = condition
    put(packet, end + 2, 8, px // LONG_PRICE)
    put(packet, end + 10, 4, size)
    fill(packet, end + 14, 4, _BLANK)
    put(packet, at, 2, length + 18)
    return length + 18


@lean
def put_short_appendage(packet: Any, at: int, length: int, venue: int, px: int, size: int) -> int:
    """As `put_long_appendage`, in five bytes."""
    end = at + length
    packet[end] = venue
    put(packet, end + 1, 2, px // SHORT_PRICE)
    put(packet, end + 3, 2, size)
    put(packet, at, 2, length + 5)
    return length + 5


@lean
def put_terms(packet: Any, at: int, conditions: int, px: int, volume: int, width: int) -> None:
    """Write what a trade's messages have in common from the conditions on, up to the trade-through exemption."""
    put_text(packet, at, 4, conditions)
    put(packet, at + 4, 8, px // LONG_PRICE)
    put(packet, at + 12, width, volume)
    packet[at + 12 + width] = 0
    packet[at + 13 + width] = _ZERO
    packet[at + 14 + width] = _ZERO


@lean
def put_trade(
    packet: Any,
    at: int,
    number: int,
    venue: int,
    time_ns: int,
    reference: int,
    name: Any,
    conditions: int,
    px: int,
    volume: int,
    is_fraction: bool,
    short_sale: int,
    primary: int,
) -> int:
    """TL, or TR with a fractional volume; ``conditions`` are the four slots as packed text, blanks included."""
    wider = 4 if is_fraction else 0
    put_head(packet, at, 72 + wider, ord("T"), ord("R") if is_fraction else ord("L"), number, venue, time_ns, reference)
    put_name(packet, at + 26, 11, name)
    packet[at + 37] = _ZERO
    put_terms(packet, at + 38, conditions, px, volume, 4 + wider)
    tail = at + 57 + wider
    packet[tail] = _BLANK
    put_time(packet, tail + 1, 0)
    packet[tail + 9] = short_sale
    packet[tail + 10] = primary
    packet[tail + 11] = _ZERO
    packet[tail + 12] = _BLANK
    fill(packet, tail + 13, 2, ord("A"))
    return 72 + wider


@lean
def put_short_trade(
    packet: Any,
    at: int,
    number: int,
    venue: int,
    time_ns: int,
    reference: int,
    name: Any,
    condition: int,
    slot: int,
    px: int,
    volume: int,
    is_fraction: bool,
    primary: int,
) -> int:
    """TT, or TH with a fractional volume; ``slot`` is the character (1 to 4) of the condition's slot, or a blank."""
    wider = 2 if is_fraction else 0
    put_head(packet, at, 40 + wider, ord("T"), ord("H") if is_fraction else ord("T"), number, venue, time_ns, reference)
    put_name(packet, at + 26, 5, name)
    packet[at + 31] = condition
    packet[at + 32] = slot
    put(packet, at + 33, 2, px // SHORT_PRICE)
    put(packet, at + 35, 2 + wider, volume)
    packet[at + 37 + wider] = primary
    fill(packet, at + 38 + wider, 2, ord("A"))
    return 40 + wider


@lean
def put_day(packet: Any, at: int, is_fraction: bool) -> int:
    """Write the consolidated and the participant's values of the day, all zero; return their bytes."""
    width = 8 if is_fraction else 4
    fill(packet, at, 29, 0)
    packet[at + 4] = _BLANK
    put(packet, at + 29, width, 0)
    packet[at + 29 + width] = _BLANK
    fill(packet, at + 30 + width, 36 + width, 0)
    packet[at + 66 + 2 * width] = _BLANK
    return 67 + 2 * width


@lean
def put_cancel(
    packet: Any,
    at: int,
    number: int,
    venue: int,
    time_ns: int,
    reference: int,
    name: Any,
    conditions: int,
    px: int,
    volume: int,
    is_fraction: bool,
    original: int,
    action: int,
    primary: int,
) -> int:
    """TX, or TE with a fractional volume; ``action`` is 1 (cancel) or 2 (error), ``original`` the trade's reference."""
    wider = 4 if is_fraction else 0
    put_name(packet, at + 26, 11, name)
    packet[at + 37] = _ZERO
    put_terms(packet, at + 38, conditions, px, volume, 4 + wider)
    tail = at + 57 + wider
    packet[tail] = _BLANK
    put(packet, tail + 1, 8, original)
    put_time(packet, tail + 9, 0)
    packet[tail + 17] = action
    packet[tail + 18] = _BLANK
    packet[tail + 19] = primary
    packet[tail + 20] = _ZERO
    length = 78 + wider + put_day(packet, tail + 21, is_fraction)
    put_head(packet, at, length, ord("T"), ord("E") if is_fraction else ord("X"), number, venue, time_ns, reference)
    return length


@lean
def put_correction(
    packet: Any,
    at: int,
    number: int,
    venue: int,
    time_ns: int,
    reference: int,
    name: Any,
    conditions: int,
    px: int,
    volume: int,
    is_fraction: bool,
    original: int,
    old_conditions: int,
    old_px: int,
    old_volume: int,
    primary: int,
) -> int:
    """TC, or TO with fractional volumes: what the trade ``original`` should have been, and what it was."""
    wider = 4 if is_fraction else 0
    put_name(packet, at + 26, 11, name)
    packet[at + 37] = _ZERO
    put_terms(packet, at + 38, conditions, px, volume, 4 + wider)
    tail = at + 57 + wider
    packet[tail] = _BLANK
    packet[tail + 1] = _BLANK
    put_time(packet, tail + 2, 0)
    put(packet, tail + 10, 8, original)
    put_terms(packet, tail + 18, old_conditions, old_px, old_volume, 4 + wider)
    tail += 37 + wider
    packet[tail] = _BLANK
    packet[tail + 1] = primary
    packet[tail + 2] = _ZERO
    length = 97 + 2 * wider + put_day(packet, tail + 3, is_fraction)
    put_head(packet, at, length, ord("T"), ord("O") if is_fraction else ord("C"), number, venue, time_ns, reference)
    return length


@lean
def put_trading_status(
    packet: Any,
    at: int,
    number: int,
    venue: int,
    time_ns: int,
    name: Any,
    status: int,
    reason: int,
    upper_px: int,
    lower_px: int,
    short_sale: int,
    primary: int,
    indicator: int,
) -> int:
    """TS: ``status`` is 2 halt, 3 resume, E short-sale restriction or F price bands; what does not apply is blank."""
    put_head(packet, at, 76, ord("T"), ord("S"), number, venue, time_ns, 0)
    put_name(packet, at + 26, 11, name)
    packet[at + 37] = _ZERO
    put(packet, at + 38, 8, 0)
    put(packet, at + 46, 8, upper_px // LONG_PRICE)
    put(packet, at + 54, 8, lower_px // LONG_PRICE)
    put(packet, at + 62, 8, 0)
    packet[at + 70] = status
    packet[at + 71] = reason
    packet[at + 72] = short_sale
    packet[at + 73] = primary
    packet[at + 74] = _ZERO
    packet[at + 75] = indicator
    return 76


@lean
def put_symbol_reference(
    packet: Any,
    at: int,
    number: int,
    venue: int,
    time_ns: int,
    name: Any,
    primary: int,
    close_px: int,
    round_lot: int,
    short_sale: int,
    reason: int,
) -> int:
    """AS, on both feeds: the directory of the day; ``reason`` is blank for a symbol that is not halted."""
    put_head(packet, at, 209, ord("A"), ord("S"), number, venue, time_ns, 0)
    put_name(packet, at + 26, 11, name)
    fill(packet, at + 37, 11, _BLANK)
    packet[at + 48] = primary
    put(packet, at + 49, 8, close_px // LONG_PRICE)
    put(packet, at + 57, 8, close_px // LONG_PRICE)
    put(packet, at + 65, 2, round_lot)
    packet[at + 67] = 0
    packet[at + 68] = ord("1")
    put(packet, at + 69, 4, 1_000_000)
    fill(packet, at + 73, 3, _ZERO)
    packet[at + 76] = short_sale
    packet[at + 77] = reason
    packet[at + 78] = _ZERO
    put(packet, at + 79, 2, 0)
    fill(packet, at + 81, 128, _BLANK)
    return 209


@lean
def put_breaker_levels(
    packet: Any, at: int, number: int, venue: int, time_ns: int, one: int, two: int, three: int
) -> int:
    """MK: the three levels of the market-wide circuit breaker, in millionths."""
    put_head(packet, at, 51, ord("M"), ord("K"), number, venue, time_ns, 0)
    put(packet, at + 26, 8, one)
    put(packet, at + 34, 8, two)
    put(packet, at + 42, 8, three)
    packet[at + 50] = 0
    return 51


@lean
def put_breaker_status(packet: Any, at: int, number: int, venue: int, time_ns: int, level: int) -> int:
    """ML: ``level`` is the character (1 to 3) of the level that was breached."""
    put_head(packet, at, 28, ord("M"), ord("L"), number, venue, time_ns, 0)
    packet[at + 26] = level
    packet[at + 27] = 0
    return 28


def warm_up() -> None:
    """Nothing to do: these helpers are compiled into the kernels that use them."""
