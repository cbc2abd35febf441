"""TotalView-ITCH 5.0 messages and MoldUDP64 packets as bytes, compiled (pure): what a simulated NASDAQ sends.

Each ``put_`` writes one message at ``packet[at]``, its u16 length before it as MoldUDP64 and the daily files have it,
and returns the bytes written. ``locate`` is the stock's code, ``time_ns`` counts from midnight in New York. Prices are
whole units (1e-9 of a dollar), single characters their ASCII code, text packed as in a record's column: what is missing
of its width becomes blanks. Integers are big-endian; offsets as in the tables of the specifications.
"""

from typing import Any

from fabric.compiled import lean

HEADER_BYTES = 20
SESSION_BYTES = 10
END_OF_SESSION = 0xFFFF
MESSAGE_BYTES_MAX = 52
"""The longest message (imbalance) with its length."""
WIRE_PRICE = 100_000
"""Whole units in the wire's 1/10000 of a dollar."""

_A, _B, _C, _D, _E, _F, _H, _I, _J, _K, _L, _N = (ord(c) for c in "ABCDEFHIJKLN")
_O, _P, _Q, _R, _S, _U, _V, _W, _X, _Y = (ord(c) for c in "OPQRSUVWXY")
_HALT_HERE = ord("h")


@lean
def put(packet: Any, at: int, width: int, value: int) -> None:
    """Write an integer of ``width`` bytes, big-endian."""
    for i in range(width):
        packet[at + i] = (value >> (8 * (width - 1 - i))) & 0xFF


@lean
def put_text(packet: Any, at: int, width: int, text: int) -> None:
    """Write packed text of ``width`` bytes, blanks behind it."""
    for i in range(width):
        character = (text >> (8 * i)) & 0xFF
        packet[at + i] = character if character else 32


@lean
def put_header(packet: Any, session: Any, sequence: int, count: int) -> int:
    """Write the header of a MoldUDP64 packet; return its bytes.

    ``session`` is uint8[10], ``sequence`` the number of the first message. ``count`` 0 is a heartbeat and
    END_OF_SESSION the end; both tell the next number.
    """
    for i in range(SESSION_BYTES):
        packet[i] = session[i]
    put(packet, SESSION_BYTES, 8, sequence)
    put(packet, SESSION_BYTES + 8, 2, count)
    return HEADER_BYTES


@lean
def put_head(packet: Any, at: int, length: int, kind: int, locate: int, tracking: int, time_ns: int) -> None:
    """Write a message's length and what all messages begin with."""
    put(packet, at, 2, length)
    packet[at + 2] = kind
    put(packet, at + 3, 2, locate)
    put(packet, at + 5, 2, tracking)
    put(packet, at + 7, 6, time_ns)


@lean
def put_system_event(packet: Any, at: int, locate: int, tracking: int, time_ns: int, code: int) -> int:
    """System event; ``code`` is O, S, Q, M, E or C."""
    put_head(packet, at, 12, _S, locate, tracking, time_ns)
    packet[at + 13] = code
    return 14


@lean
def put_stock_directory(
    packet: Any,
    at: int,
    locate: int,
    tracking: int,
    time_ns: int,
    stock: int,
    category: int,
    financial_status: int,
    round_lot: int,
    round_lots_only: int,
    classification: int,
    subtype: int,
    authenticity: int,
    short_sale_threshold: int,
    ipo: int,
    luld_tier: int,
    etp: int,
    etp_leverage: int,
    inverse: int,
) -> int:
    """Stock directory."""
    put_head(packet, at, 39, _R, locate, tracking, time_ns)
    put_text(packet, at + 13, 8, stock)
    packet[at + 21] = category
    packet[at + 22] = financial_status
    put(packet, at + 23, 4, round_lot)
    packet[at + 27] = round_lots_only
    packet[at + 28] = classification
    put_text(packet, at + 29, 2, subtype)
    packet[at + 31] = authenticity
    packet[at + 32] = short_sale_threshold
    packet[at + 33] = ipo
    packet[at + 34] = luld_tier
    packet[at + 35] = etp
    put(packet, at + 36, 4, etp_leverage)
    packet[at + 40] = inverse
    return 41


@lean
def put_trading_action(
    packet: Any, at: int, locate: int, tracking: int, time_ns: int, stock: int, state: int, reason: int
) -> int:
    """Trading action; ``state`` is H, P, Q or T."""
    put_head(packet, at, 25, _H, locate, tracking, time_ns)
    packet[at + 22] = 32
    put_text(packet, at + 13, 8, stock)
    packet[at + 21] = state
    put_text(packet, at + 23, 4, reason)
    return 27


@lean
def put_operational_halt(
    packet: Any, at: int, locate: int, tracking: int, time_ns: int, stock: int, market: int, action: int
) -> int:
    """Operational halt; ``action`` is H or T."""
    put_head(packet, at, 21, _HALT_HERE, locate, tracking, time_ns)
    put_text(packet, at + 13, 8, stock)
    packet[at + 21] = market
    packet[at + 22] = action
    return 23


@lean
def put_reg_sho(packet: Any, at: int, locate: int, tracking: int, time_ns: int, stock: int, action: int) -> int:
    """Reg SHO restriction; ``action`` is 0, 1 or 2."""
    put_head(packet, at, 20, _Y, locate, tracking, time_ns)
    put_text(packet, at + 13, 8, stock)
    packet[at + 21] = action
    return 22


@lean
def put_participant_position(
    packet: Any,
    at: int,
    locate: int,
    tracking: int,
    time_ns: int,
    participant: int,
    stock: int,
    primary: int,
    mode: int,
    status: int,
) -> int:
    """Market participant position."""
    put_head(packet, at, 26, _L, locate, tracking, time_ns)
    put_text(packet, at + 13, 4, participant)
    put_text(packet, at + 17, 8, stock)
    packet[at + 25] = primary
    packet[at + 26] = mode
    packet[at + 27] = status
    return 28


@lean
def put_breaker_levels(
    packet: Any, at: int, locate: int, tracking: int, time_ns: int, level_1: int, level_2: int, level_3: int
) -> int:
    """Market-wide circuit breaker levels, in 1e-8 of the index."""
    put_head(packet, at, 35, _V, locate, tracking, time_ns)
    put(packet, at + 13, 8, level_1)
    put(packet, at + 21, 8, level_2)
    put(packet, at + 29, 8, level_3)
    return 37


@lean
def put_breaker_status(packet: Any, at: int, locate: int, tracking: int, time_ns: int, level: int) -> int:
    """Market-wide circuit breaker status; ``level`` is 1, 2 or 3."""
    put_head(packet, at, 12, _W, locate, tracking, time_ns)
    packet[at + 13] = level
    return 14


@lean
def put_ipo_quotation(
    packet: Any,
    at: int,
    locate: int,
    tracking: int,
    time_ns: int,
    stock: int,
    release_s: int,
    qualifier: int,
    price: int,
) -> int:
    """IPO quoting period; ``release_s`` in seconds since midnight."""
    put_head(packet, at, 28, _K, locate, tracking, time_ns)
    put_text(packet, at + 13, 8, stock)
    put(packet, at + 21, 4, release_s)
    packet[at + 25] = qualifier
    put(packet, at + 26, 4, price // WIRE_PRICE)
    return 30


@lean
def put_auction_collar(
    packet: Any,
    at: int,
    locate: int,
    tracking: int,
    time_ns: int,
    stock: int,
    reference_px: int,
    upper_px: int,
    lower_px: int,
    extension: int,
) -> int:
    """LULD auction collar."""
    put_head(packet, at, 35, _J, locate, tracking, time_ns)
    put_text(packet, at + 13, 8, stock)
    put(packet, at + 21, 4, reference_px // WIRE_PRICE)
    put(packet, at + 25, 4, upper_px // WIRE_PRICE)
    put(packet, at + 29, 4, lower_px // WIRE_PRICE)
    put(packet, at + 33, 4, extension)
    return 37


@lean
def put_add(
    packet: Any,
    at: int,
    locate: int,
    tracking: int,
    time_ns: int,
    order_id: int,
    side: int,
    shares: int,
    stock: int,
    price: int,
) -> int:
    """Add order; ``side`` is B or S."""
    put_head(packet, at, 36, _A, locate, tracking, time_ns)
    put(packet, at + 13, 8, order_id)
    packet[at + 21] = side
    put(packet, at + 22, 4, shares)
    put_text(packet, at + 26, 8, stock)
    put(packet, at + 34, 4, price // WIRE_PRICE)
    return 38


@lean
def put_add_attributed(
    packet: Any,
    at: int,
    locate: int,
    tracking: int,
    time_ns: int,
    order_id: int,
    side: int,
    shares: int,
    stock: int,
    price: int,
    participant: int,
) -> int:
    """Add order with participant."""
    put_head(packet, at, 40, _F, locate, tracking, time_ns)
    put(packet, at + 13, 8, order_id)
    packet[at + 21] = side
    put(packet, at + 22, 4, shares)
    put_text(packet, at + 26, 8, stock)
    put(packet, at + 34, 4, price // WIRE_PRICE)
    put_text(packet, at + 38, 4, participant)
    return 42


@lean
def put_executed(
    packet: Any, at: int, locate: int, tracking: int, time_ns: int, order_id: int, shares: int, match: int
) -> int:
    """Order executed at its price."""
    put_head(packet, at, 31, _E, locate, tracking, time_ns)
    put(packet, at + 13, 8, order_id)
    put(packet, at + 21, 4, shares)
    put(packet, at + 25, 8, match)
    return 33


@lean
def put_executed_with_price(
    packet: Any,
    at: int,
    locate: int,
    tracking: int,
    time_ns: int,
    order_id: int,
    shares: int,
    match: int,
    printable: int,
    price: int,
) -> int:
    """Order executed at another price; ``printable`` is Y or N."""
    put_head(packet, at, 36, _C, locate, tracking, time_ns)
    put(packet, at + 13, 8, order_id)
    put(packet, at + 21, 4, shares)
    put(packet, at + 25, 8, match)
    packet[at + 33] = printable
    put(packet, at + 34, 4, price // WIRE_PRICE)
    return 38


@lean
def put_cancel(packet: Any, at: int, locate: int, tracking: int, time_ns: int, order_id: int, shares: int) -> int:
    """Order cancelled in part; ``shares`` go."""
    put_head(packet, at, 23, _X, locate, tracking, time_ns)
    put(packet, at + 13, 8, order_id)
    put(packet, at + 21, 4, shares)
    return 25


@lean
def put_delete(packet: Any, at: int, locate: int, tracking: int, time_ns: int, order_id: int) -> int:
    """Order deleted."""
    put_head(packet, at, 19, _D, locate, tracking, time_ns)
    put(packet, at + 13, 8, order_id)
    return 21


@lean
def put_replace(
    packet: Any, at: int, locate: int, tracking: int, time_ns: int, order_id: int, new_id: int, shares: int, price: int
) -> int:
    """Order replaced by another of its side and stock."""
    put_head(packet, at, 35, _U, locate, tracking, time_ns)
    put(packet, at + 13, 8, order_id)
    put(packet, at + 21, 8, new_id)
    put(packet, at + 29, 4, shares)
    put(packet, at + 33, 4, price // WIRE_PRICE)
    return 37


@lean
def put_trade(
    packet: Any,
    at: int,
    locate: int,
    tracking: int,
    time_ns: int,
    order_id: int,
    side: int,
    shares: int,
    stock: int,
    price: int,
    match: int,
) -> int:
    """Trade against a hidden order."""
    put_head(packet, at, 44, _P, locate, tracking, time_ns)
    put(packet, at + 13, 8, order_id)
    packet[at + 21] = side
    put(packet, at + 22, 4, shares)
    put_text(packet, at + 26, 8, stock)
    put(packet, at + 34, 4, price // WIRE_PRICE)
    put(packet, at + 38, 8, match)
    return 46


@lean
def put_cross_trade(
    packet: Any,
    at: int,
    locate: int,
    tracking: int,
    time_ns: int,
    shares: int,
    stock: int,
    price: int,
    match: int,
    cross: int,
) -> int:
    """Cross trade; ``cross`` is O, C or H."""
    put_head(packet, at, 40, _Q, locate, tracking, time_ns)
    put(packet, at + 13, 8, shares)
    put_text(packet, at + 21, 8, stock)
    put(packet, at + 29, 4, price // WIRE_PRICE)
    put(packet, at + 33, 8, match)
    packet[at + 41] = cross
    return 42


@lean
def put_broken_trade(packet: Any, at: int, locate: int, tracking: int, time_ns: int, match: int) -> int:
    """Broken trade."""
    put_head(packet, at, 19, _B, locate, tracking, time_ns)
    put(packet, at + 13, 8, match)
    return 21


@lean
def put_imbalance(
    packet: Any,
    at: int,
    locate: int,
    tracking: int,
    time_ns: int,
    paired: int,
    imbalance: int,
    direction: int,
    stock: int,
    far_px: int,
    near_px: int,
    reference_px: int,
    cross: int,
    variation: int,
) -> int:
    """Net order imbalance indicator."""
    put_head(packet, at, 50, _I, locate, tracking, time_ns)
    put(packet, at + 13, 8, paired)
    put(packet, at + 21, 8, imbalance)
    packet[at + 29] = direction
    put_text(packet, at + 30, 8, stock)
    put(packet, at + 38, 4, far_px // WIRE_PRICE)
    put(packet, at + 42, 4, near_px // WIRE_PRICE)
    put(packet, at + 46, 4, reference_px // WIRE_PRICE)
    packet[at + 50] = cross
    packet[at + 51] = variation
    return 52


@lean
def put_retail_interest(packet: Any, at: int, locate: int, tracking: int, time_ns: int, stock: int, flag: int) -> int:
    """Retail price improvement; ``flag`` is B, S, A or N."""
    put_head(packet, at, 20, _N, locate, tracking, time_ns)
    put_text(packet, at + 13, 8, stock)
    packet[at + 21] = flag
    return 22


@lean
def put_direct_listing(
    packet: Any,
    at: int,
    locate: int,
    tracking: int,
    time_ns: int,
    stock: int,
    eligible: int,
    minimum_px: int,
    maximum_px: int,
    near_px: int,
    near_ns: int,
    lower_px: int,
    upper_px: int,
) -> int:
    """Direct listing with capital raise."""
    put_head(packet, at, 48, _O, locate, tracking, time_ns)
    put_text(packet, at + 13, 8, stock)
    packet[at + 21] = eligible
    put(packet, at + 22, 4, minimum_px // WIRE_PRICE)
    put(packet, at + 26, 4, maximum_px // WIRE_PRICE)
    put(packet, at + 30, 4, near_px // WIRE_PRICE)
    put(packet, at + 34, 8, near_ns)
    put(packet, at + 42, 4, lower_px // WIRE_PRICE)
    put(packet, at + 46, 4, upper_px // WIRE_PRICE)
    return 50


def warm_up() -> None:
    """Nothing to do: these helpers are part of the machine code of the kernels that use them."""
