"""NYSE Pillar messages -> rows, compiled (pure): BBO, Trades and Integrated in one decoder, told apart by their types.

A message names its symbol by an index that holds for its channel, so everything known of a symbol stands in a listing
found by (channel, index). A mapping message makes the listing and says name, market and price scale; without it there
is no symbol and no price, and the message is counted. Orders (Integrated) go into one order book whose symbols are
the listings. The order id carries the market and the matching engine, so it is taken to be unique in a feed; an id
that is found under another symbol counts as an orphan.

Most messages have nanoseconds only. Their second is the last source time reference of the symbol's matching engine on
this channel, or, where none came since numbers were lost, the one that brings them nearest to the time of sending.

After a gap what an order book holds is no longer known: the listing is `lost` and quotes nothing until a refresh of
it, which replaces its book, or a symbol clear. A quote of the BBO feed is whole in itself and ends that too. A refresh
holds what the live stream had up to a symbol sequence number, which its header tells: one that is older than what is
had is passed over, and live messages up to that number are passed over after it.

Sources: NYSE XDP / Pillar Common, BBO 2.5, Trades 2.6 and Integrated 2.5 client specifications; protocols section 4.
Integers are little-endian, offsets from the first byte of a message, its size included.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean, lean_kernel
from fabric.records import EVENT, NULL, PRICE_MAX, empty, pack
from fabric.symbols import SymbolTable
from fabric.symbols_kernel import intern
from nodes.feeds import order_book_kernel as order_book
from nodes.feeds.order_book_kernel import ASK, BID
from nodes.feeds.pillar_kernel import MESSAGE_HEADER_BYTES, REFRESH, SECOND_NS
from nodes.feeds.rows_kernel import CANCELS, CORRECTS, Stamp, new_out, put_quote, put_status, put_trade
from nodes.feeds.wire_kernel import BLOCK, DATA, GAP, RESTART, is_name, le16, le32, le64, text, u8

int64: Any = np.int64

# Message types.
RESET, TIME_REFERENCE, MAPPING, UNAVAILABLE, CLEAR, SECURITY_STATUS, REFRESH_HEADER = 1, 2, 3, 31, 32, 34, 35
ADD, MODIFY, DELETE, EXECUTION, REPLACE, IMBALANCE, ADD_REFRESH = 100, 101, 102, 103, 104, 105, 106
NON_DISPLAYED, CROSS, BREAK, CROSS_CORRECTION, RETAIL = 110, 111, 112, 113, 114
QUOTE = 140
TRF_TRADE, TRF_CORRECTION, TRF_PRIOR_DAY, TRF_PRIOR_DAY_CANCEL, TRF_CANCEL = 210, 212, 213, 214, 216
TRADE, TRADE_CANCEL, TRADE_CORRECTION, SUMMARY = 220, 221, 222, 223
TYPES_MAX = 256

ROW_BYTES_MIN = 20
"""A row comes from no less than this of a block: a symbol clear or a trade break; an execution (42) gives two."""
BLOCK_ROWS_EXTRA = 1
"""A row beyond those: the quote at the end of a refresh."""
INDEX_MAX = 1 << 17
"""Symbol indexes are below this (they are below 65,536 in what was recorded)."""
SCALE_MAX = 9
ENGINES = 256

# Columns of `counters`.
MESSAGES = 0
QUOTES = 1
TRADES = 2
BREAKS = 3  # and corrections
STATUSES = 4
WITHDRAWN = 5  # quotes withdrawn at a gap, restart, symbol clear or new mapping
LOST = 6  # listings now whose book is not known
UNKNOWN = 7  # messages of a type that no specification has
NO_MAPPING = 8  # messages about an index that has no mapping
NO_PRICE = 9  # orders, sides and trades whose price or size is 0, or a price that no record can hold
NOT_PRINTED = 10  # executions and trades that are not to be printed: the cross that they are part of is
UNMATCHED = 11  # corrections of a cross that was not the last of its symbol
REFRESHES = 12  # done: a listing was told anew
REFRESHES_OLD = 13  # refreshes older than what was had
REFRESHES_BROKEN = 14  # refreshes that lost a part, or were overtaken by a live message
HAD = 15  # live messages that a refresh had told
REFUSED = 16  # mappings whose symbol or listing found no room
SIZE = 17  # malformed from here: sizes of messages do not agree with the block
MESSAGE = 18  # shorter than its type, or a field that cannot be
N_COUNTERS = 19

STREAM = np.dtype(
    [
        ("used", "<i8"),  # 0 where the row is free
        ("stream", "<i8"),
        ("sent_ns", "<i8"),  # of the latest block
        ("refreshing", "<i8"),  # 1 + listing that is being refreshed, 0 if none
        ("part", "<i8"),  # number of the refresh's last packet, of `parts`
        ("parts", "<i8"),
        ("as_of", "<i8"),  # the refresh holds the stream up to this number
        ("as_of_symbol", "<i8"),  # ... and the symbol's own up to this one
    ]
)

LISTING = np.dtype(
    [
        ("symbol", "<i8"),
        ("venue", "<i8"),
        ("tape", "<i8"),
        ("unit", "<i8"),  # 1e-9 in a unit of its prices; 0 while there is no mapping
        ("engine", "<i8"),
        ("row", "<i8"),  # of its stream
        ("sequence", "<i8"),  # the symbol's own number of the last live message
        ("refreshed", "<i8"),  # live messages up to this number were in a refresh
        ("lost", "<i8"),  # 1 when its quote or book is not known
        ("quoted", "<i8"),  # 1 when a quote with a side stands on the bus
        ("bid_px", "<i8"),  # that quote
        ("bid_size", "<i8"),
        ("ask_px", "<i8"),
        ("ask_size", "<i8"),
        ("index", "<i8"),
        ("books", "<i8"),  # 1 when it had quotes or orders: a gap loses them
        ("cross_id", "<i8"),  # the last cross, for its correction
        ("cross_px", "<i8"),
        ("trading", "<i8"),  # status: text, as published
        ("reason", "<i8"),
        ("short_sale", "<i8"),
        ("round_lot", "<i8"),
        ("upper_px", "<i8"),  # price indication
        ("lower_px", "<i8"),
        ("indicator", "<i8"),
    ]
)


class State(NamedTuple):
    """What decoding one feed remembers."""

    streams: npt.NDArray[np.void]  # [streams_max] STREAM
    indexes: npt.NDArray[np.int32]  # [streams_max, INDEX_MAX] 1 + listing, 0 if none
    seconds: npt.NDArray[np.int64]  # [streams_max, ENGINES] last time reference, 0 if none
    listings: npt.NDArray[np.void]  # [listings_max] LISTING
    used: npt.NDArray[np.int64]  # [2] listings in use; 1 + the next one that a GAP or RESTART has to look at
    book: order_book.OrderBook
    counters: npt.NDArray[np.int64]  # [N_COUNTERS]
    types: npt.NDArray[np.int64]  # [TYPES_MAX] messages by type
    name: npt.NDArray[np.uint8]  # [11] a symbol while it is read


def new_state(streams_max: int, listings_max: int, orders_max: int, levels_max: int) -> State:
    """Nothing seen yet."""
    return State(
        streams=np.zeros(streams_max, STREAM),
        indexes=np.zeros((streams_max, INDEX_MAX), np.int32),
        seconds=np.zeros((streams_max, ENGINES), np.int64),
        listings=np.zeros(listings_max, LISTING),
        used=np.zeros(2, np.int64),
        book=order_book.new_book(listings_max, orders_max, levels_max),
        counters=np.zeros(N_COUNTERS, np.int64),
        types=np.zeros(TYPES_MAX, np.int64),
        name=np.zeros(_NAME_BYTES, np.uint8),
    )


_NAME_BYTES = 11
_FIRM = pack("R")
_REGULAR = pack("@")
_HALTED, _TRADING, _ACCEPTING, _CLOSED = pack("H"), pack("T"), pack("O"), pack("C")
_SHORT_OFF, _SHORT_NEW, _SHORT_KEPT = pack("0"), pack("1"), pack("2")
_CROSS_OPENING, _CROSS_REOPENING, _CROSS_CLOSING, _CROSS_EARLY = pack("@O"), pack("@5"), pack("@6"), pack("@ T")
_TAPE_A, _TAPE_B, _TAPE_C = pack("A"), pack("B"), pack("C")


@lean
def bytes_of_type(kind: int) -> int:
    """Length of a message type in the oldest form that was recorded or specified; 0 for an unknown type."""
    if kind == QUOTE:
        return 34  # 38 before 2023
    if kind == ADD:
        return 39
    if kind == DELETE:
        return 25
    if kind == EXECUTION or kind == REPLACE:
        return 42
    if kind == MODIFY:
        return 35
    if kind == TRADE or kind == SUMMARY:
        return 36
    if kind == TIME_REFERENCE or kind == REFRESH_HEADER:
        return 16
    if kind == MAPPING or kind == TRF_PRIOR_DAY_CANCEL:
        return 44
    if kind == SECURITY_STATUS:
        return 46
    if kind == IMBALANCE:
        return 67  # 73 since 2018
    if kind == ADD_REFRESH:
        return 43
    if kind == NON_DISPLAYED:
        return 33
    if kind == CROSS:
        return 29
    if kind == BREAK or kind == CLEAR:
        return 20
    if kind == CROSS_CORRECTION or kind == TRADE_CANCEL or kind == TRF_CANCEL:
        return 24
    if kind == TRADE_CORRECTION:
        return 40
    if kind == RETAIL:
        return 17
    if kind == RESET or kind == UNAVAILABLE:
        return 14
    if kind == TRF_TRADE or kind == TRF_PRIOR_DAY:
        return 48
    if kind == TRF_CORRECTION:
        return 52
    return 0


@lean
def has_seconds(kind: int) -> bool:
    """Whether the time of a message about a symbol has its seconds; the others have nanoseconds alone."""
    return kind == CLEAR or kind == SECURITY_STATUS or kind == ADD_REFRESH or kind >= TRADE


@lean
def is_counted_only(kind: int) -> bool:
    """Types that no record has a place for, or that say nothing beyond their packet."""
    return (
        kind == IMBALANCE
        or kind == RETAIL
        or kind == SUMMARY
        or kind == RESET
        or kind == UNAVAILABLE
        or TRF_TRADE <= kind <= TRF_CANCEL
    )


@lean
def is_of_refresh(kind: int) -> bool:
    """Types that have a meaning in a refresh."""
    return kind == MAPPING or kind == SECURITY_STATUS or kind == ADD_REFRESH or kind == QUOTE


@lean
def unit_of_scale(scale: int) -> int:
    """1e-9 in a price unit of a scale code up to SCALE_MAX."""
    unit = int64(1)
    for _ in range(SCALE_MAX - scale):
        unit *= 10
    return unit


@lean
def price_of(unit: int, raw: int) -> int:
    """A price in 1e-9; NULL for 0 and for what no record can hold."""
    price = raw * unit
    return price if 0 < price <= PRICE_MAX else NULL


@lean_kernel
def conditions(data: Any, at: int) -> int:
    """The tape's four condition slots as text, ends trimmed; ``@`` when there is none."""
    packed = int64(0)
    for i in range(3, -1, -1):
        character = u8(data, at + i)
        if 32 < character < 127:
            packed |= character << (8 * i)
        elif packed != 0:
            packed |= int64(32) << (8 * i)
    return packed if packed != 0 else int64(_REGULAR)


@lean
def event_time(state: Any, row: int, engine: int, sent_ns: int, sub_ns: int) -> int:
    """UTC nanoseconds of a message that has ``sub_ns`` alone."""
    second = state.seconds[row, engine]
    if second > 0:
        return second * SECOND_NS + sub_ns
    time_ns = sent_ns - sent_ns % SECOND_NS + sub_ns
    if time_ns > sent_ns + SECOND_NS // 2:
        return time_ns - SECOND_NS
    if time_ns < sent_ns - SECOND_NS // 2:
        return time_ns + SECOND_NS
    return time_ns


@lean
def stamp_of(listing: Any, sequence: int, event_ns: int, recv_ns: int) -> Stamp:
    """What the rows of a message about a listing have in common."""
    return Stamp(listing["symbol"], listing["venue"], listing["tape"], sequence, event_ns, recv_ns)


@lean
def publish(
    listing: Any, stamp: Any, bid_px: int, bid_size: int, ask_px: int, ask_size: int, condition: int, row: Any
) -> int:
    """A quote row, remembered as what stands on the bus."""
    listing["bid_px"] = bid_px
    listing["bid_size"] = bid_size
    listing["ask_px"] = ask_px
    listing["ask_size"] = ask_size
    listing["quoted"] = 1 if bid_px != NULL or ask_px != NULL else 0
    put_quote(row, stamp, bid_px, bid_size, ask_px, ask_size, condition)
    return 1


@lean
def set_lost(state: Any, listing: Any, lost: int) -> None:
    """Say whether what a listing quotes is known, and count those of which it is not."""
    state.counters[LOST] += lost - listing["lost"]
    listing["lost"] = lost


@lean_kernel
def void(state: Any, number: int, stamp: Any, row: Any) -> int:
    """Empty a listing's book and withdraw its quote; return the rows written."""
    listing = state.listings[number]
    order_book.clear(state.book, number)
    if listing["quoted"] == 0:
        return 0
    state.counters[WITHDRAWN] += 1
    return publish(listing, stamp, NULL, NULL, NULL, NULL, _FIRM, row)


@lean_kernel
def tell_status(state: Any, listing: Any, stamp: Any, row: Any) -> int:
    """A status row with all that is known of the listing."""
    put_status(row, stamp, listing["trading"], listing["reason"])
    row["upper_px"] = listing["upper_px"]
    row["lower_px"] = listing["lower_px"]
    row["indicator"] = listing["indicator"]
    row["short_sale"] = listing["short_sale"]
    row["round_lot"] = listing["round_lot"]
    state.counters[STATUSES] += 1
    return 1


@lean_kernel
def read_name(state: Any, data: Any, at: int) -> int:
    """Read NYSE's name of a symbol as the other exchanges write it; its length, 0 when it is none.

    ``LGF A`` (a class) becomes ``LGF.A``, ``AHL PRC`` (a preferred) ``AHL-C``; other suffixes follow a dot.
    """
    length = int64(0)
    while length < _NAME_BYTES and data[at + length] != 0:
        length += 1
    while length > 0 and data[at + length - 1] == 32:
        length -= 1
    n = int64(0)
    i = int64(0)
    is_whole = True
    while i < length:
        character = data[at + i]
        if character == 32 and is_whole and n > 0:
            is_whole = False
            if i + 2 < length and data[at + i + 1] == 80 and data[at + i + 2] == 82:  # PR
                state.name[n] = 45  # -
                i += 2
            else:
                state.name[n] = 46  # .
        elif not is_name(data, at + i, 1):
            return 0
        else:
            state.name[n] = character
        n += 1
        i += 1
    return n


@lean
def venue_of_market(market: int) -> int:
    """The participant letter of a market id; 0 for one that trades no equities."""
    if market == 1:
        return 78  # N: NYSE
    if market == 3:
        return 80  # P: Arca
    if market == 9:
        return 65  # A: American
    if market == 10:
        return 67  # C: National
    if market == 11:
        return 77  # M: Texas
    return 0


@lean
def tape_of_exchange(exchange: int) -> int:
    """The tape of a symbol by the letter of the exchange that lists it; NULL where it is on none."""
    if exchange == 78:
        return _TAPE_A
    if exchange == 81:
        return _TAPE_C
    if exchange == 65 or exchange == 80 or exchange == 86 or exchange == 90 or exchange == 67:  # A P V Z C
        return _TAPE_B
    return NULL


@lean_kernel
def end_refresh(state: Any, row: int) -> None:
    """Forget a refresh; one that was under way is broken, and its listing stays lost until the next."""
    stream = state.streams[row]
    if stream["refreshing"] != 0:
        state.counters[REFRESHES_BROKEN] += 1
    stream["refreshing"] = 0
    stream["part"] = 0


@lean_kernel
def refresh_header(state: Any, data: Any, at: int, row: int) -> None:
    """The beginning of a refresh, or of its next part; of which symbol the messages after it say."""
    stream = state.streams[row]
    part = le16(data, at + 4)
    parts = le16(data, at + 6)
    if (
        part == 1
        or part != stream["part"] + 1
        or parts != stream["parts"]
        or le32(data, at + 12) != stream["as_of_symbol"]
    ):
        end_refresh(state, row)
    stream["part"] = part if part == 1 or stream["part"] != 0 else 0
    stream["parts"] = parts
    stream["as_of"] = le32(data, at + 8)
    stream["as_of_symbol"] = le32(data, at + 12)


@lean_kernel
def is_being_refreshed(state: Any, row: int, number: int) -> bool:
    """Whether a refresh may change this listing: it begins with the listing's first message, if it is lost."""
    stream = state.streams[row]
    listing = state.listings[number]
    if stream["refreshing"] == number + 1:
        return True
    if stream["part"] != 1 or stream["refreshing"] != 0 or listing["lost"] == 0:
        return False
    if stream["as_of_symbol"] < listing["sequence"]:
        state.counters[REFRESHES_OLD] += 1
        stream["part"] = 0
        return False
    order_book.clear(state.book, number)
    stream["refreshing"] = number + 1
    return True


@lean_kernel
def mapping_message(
    symbols: Any, state: Any, data: Any, at: int, row: int, is_refresh: bool, venue: int, sequence: int,
    sent_ns: int, recv_ns: int, out: Any, n: int
) -> int:  # fmt: skip
    """Learn what an index stands for; a status row with the round lot when that is new."""
    counters = state.counters
    index = le32(data, at + 4)
    scale = u8(data, at + 24)
    letter = venue if venue != 0 else venue_of_market(le16(data, at + 20))
    length = read_name(state, data, at + 8)
    if index >= INDEX_MAX or scale > SCALE_MAX or letter == 0 or length == 0:
        counters[MESSAGE] += 1
        return 0
    symbol = intern(symbols, state.name, 0, length)
    number = int64(state.indexes[row, index]) - 1
    if symbol < 0 or (number < 0 and state.used[0] >= state.listings.size):
        counters[REFUSED] += 1
        return 0
    written = 0
    unit = unit_of_scale(scale)
    if number < 0:
        number = state.used[0]
        state.used[0] = number + 1
        state.indexes[row, index] = number + 1
    listing = state.listings[number]
    if listing["unit"] != unit or listing["symbol"] != symbol or listing["venue"] != letter:
        if listing["unit"] != 0:
            stamp = stamp_of(listing, sequence, sent_ns, recv_ns)
            written = void(state, number, stamp, out.quotes[n])
        set_lost(state, listing, 1 if is_refresh else 0)
        listing["symbol"] = symbol
        listing["venue"] = letter
        listing["unit"] = unit
        listing["row"] = row
        listing["index"] = index
        listing["sequence"] = 0
        listing["refreshed"] = 0
        listing["books"] = 0
        listing["quoted"] = 0
        listing["bid_px"] = NULL
        listing["bid_size"] = NULL
        listing["ask_px"] = NULL
        listing["ask_size"] = NULL
        listing["cross_id"] = NULL
        listing["trading"] = NULL
        listing["reason"] = NULL
        listing["short_sale"] = NULL
        listing["round_lot"] = NULL
        listing["upper_px"] = NULL
        listing["lower_px"] = NULL
        listing["indicator"] = NULL
    listing["tape"] = tape_of_exchange(u8(data, at + 23))
    listing["engine"] = u8(data, at + 22)
    lot = le16(data, at + 26)
    if lot != listing["round_lot"]:
        listing["round_lot"] = lot
        stamp = stamp_of(listing, sequence, sent_ns, recv_ns)
        written += tell_status(state, listing, stamp, out.statuses[n + written])
    if is_refresh:
        is_being_refreshed(state, row, number)  # its book may be empty: then nothing else says so
    return written


@lean_kernel
def status_message(state: Any, data: Any, at: int, listing: Any, stamp: Any, row: Any) -> int:
    """Halts, session changes, the short-sale restriction and price indications; a row when something has changed."""
    code = u8(data, at + 20)
    halt = u8(data, at + 21)
    session = u8(data, at + 44)
    is_halted = not (halt == 126 or halt <= 32 or halt > 126)  # ~, blank
    trading = listing["trading"]
    reason = listing["reason"]
    if code == 51 or code == 52 or code == 54 or (is_halted and code != 53):  # 3 4 6: delayed, halted, suspended
        trading = int64(_HALTED)
        reason = halt if is_halted else code
    elif (
        code == 53 or code == 80 or code == 66 or code == 69 or code == 79 or code == 76 or code == 88
    ):  # 5 P B E O L X
        if code != 53 and code != 66:
            session = code
        reason = session if 65 <= session <= 90 else int64(NULL)
        if code == 66 or session == 80:
            trading = int64(_ACCEPTING)
        elif session == 88:
            trading = int64(_CLOSED)
        else:
            trading = int64(_TRADING)

    short_sale = listing["short_sale"]
    if code == 65:  # A: activated today
        short_sale = int64(_SHORT_NEW)
    elif code == 67:  # C: continued from the day before
        short_sale = int64(_SHORT_KEPT)
    elif code == 68 or data[at + 43] == 126:  # D: off; ~: not in effect
        short_sale = int64(_SHORT_OFF)
    elif data[at + 43] == 69 and short_sale != _SHORT_KEPT:  # E: in effect
        short_sale = int64(_SHORT_NEW)

    upper_px = listing["upper_px"]
    lower_px = listing["lower_px"]
    indicator = listing["indicator"]
    if code == 73 or code == 71:  # I, G: where the stock is expected to open
        low = price_of(listing["unit"], le32(data, at + 26))
        high = price_of(listing["unit"], le32(data, at + 30))
        lower_px = low if high == NULL else high if low == NULL else min(low, high)
        upper_px = high if low == NULL else low if high == NULL else max(low, high)
        indicator = code
    elif trading == _TRADING or trading == _CLOSED:
        upper_px = int64(NULL)
        lower_px = int64(NULL)
        indicator = int64(NULL)

    if (
        trading == listing["trading"]
        and reason == listing["reason"]
        and short_sale == listing["short_sale"]
        and upper_px == listing["upper_px"]
        and lower_px == listing["lower_px"]
        and indicator == listing["indicator"]
    ):
        return 0
    listing["trading"] = trading
    listing["reason"] = reason
    listing["short_sale"] = short_sale
    listing["upper_px"] = upper_px
    listing["lower_px"] = lower_px
    listing["indicator"] = indicator
    return tell_status(state, listing, stamp, row)


@lean
def quote_message(state: Any, data: Any, at: int, listing: Any, stamp: Any, row: Any) -> int:
    """BBO ``140``: the venue's whole best bid and offer."""
    bid_size = le32(data, at + 28)
    ask_size = le32(data, at + 20)
    bid_px = price_of(listing["unit"], le32(data, at + 24))
    ask_px = price_of(listing["unit"], le32(data, at + 16))
    if bid_px == NULL or bid_size == 0:
        state.counters[NO_PRICE] += bid_px != NULL or bid_size != 0
        bid_px = int64(NULL)
        bid_size = int64(NULL)
    if ask_px == NULL or ask_size == 0:
        state.counters[NO_PRICE] += ask_px != NULL or ask_size != 0
        ask_px = int64(NULL)
        ask_size = int64(NULL)
    listing["books"] = 1
    set_lost(state, listing, 0)
    state.counters[QUOTES] += 1
    return publish(listing, stamp, bid_px, bid_size, ask_px, ask_size, text(data, at + 32, 1), row)


@lean
def apply(book: Any, kind: int, number: int, order_id: int, new_id: int, side: int, price: int, size: int) -> int:
    """Do to the book what an order message says; return the side that it touched, -1 when it touched none."""
    if kind == ADD:
        return side if order_book.add(book, number, side, order_id, price, size) == order_book.OK else -1
    slot = order_book.find(book, order_id)
    if slot < 0 or order_book.symbol_of(book, slot) != number:
        book.counters[order_book.ORPHANS] += 1
        return -1
    side = order_book.side_of(book, slot)
    if kind == DELETE:
        order_book.remove(book, slot)
    elif kind == EXECUTION:
        order_book.reduce(book, slot, size)
    elif kind == MODIFY:
        order_book.change(book, slot, price, size)
    else:
        order_book.replace(book, slot, new_id, price, size)
    return side


@lean
def publish_best(state: Any, number: int, side: int, stamp: Any, row: Any) -> int:
    """A quote row when the best of ``side`` is another than the bus has; nothing of a book that is not known."""
    listing = state.listings[number]
    if listing["lost"] != 0:
        return 0
    price, size = order_book.best(state.book, number, side)
    bid_px = listing["bid_px"]
    bid_size = listing["bid_size"]
    ask_px = listing["ask_px"]
    ask_size = listing["ask_size"]
    if price == (bid_px if side == BID else ask_px) and size == (bid_size if side == BID else ask_size):
        return 0
    if side == BID:
        bid_px = price
        bid_size = size
    else:
        ask_px = price
        ask_size = size
    state.counters[QUOTES] += 1
    return publish(listing, stamp, bid_px, bid_size, ask_px, ask_size, _FIRM, row)


@lean
def trade(
    state: Any, stamp: Any, price: int, size: int, condition: int, trade_id: int, mark: int, original_id: int, row: Any
) -> int:
    """A trade row, or (counted) none when it has no price or size that a record can hold."""
    if price == NULL or size == 0:
        state.counters[NO_PRICE] += 1
        return 0
    state.counters[TRADES if mark == NULL else BREAKS] += 1
    put_trade(row, stamp, price, size, condition, trade_id, mark, original_id)
    return 1


@lean
def trade_break(state: Any, stamp: Any, original_id: int, row: Any) -> int:
    """The row of a trade that is undone; the message says only which."""
    state.counters[BREAKS] += 1
    put_trade(row, stamp, NULL, NULL, NULL, NULL, CANCELS, original_id)
    return 1


@lean
def order_message(state: Any, data: Any, at: int, kind: int, number: int, stamp: Any, out: Any, n: int) -> int:
    """An order's life (100 to 104, and 106 in a refresh): a trade when it prints, a quote when the best is another."""
    counters = state.counters
    listing = state.listings[number]
    unit = listing["unit"]
    body = at + 20 if kind == ADD_REFRESH else at + 16
    order_id = le64(data, body)
    new_id = int64(0)
    side = int64(BID)
    price = int64(NULL)
    size = int64(0)
    written = 0
    if kind == ADD or kind == ADD_REFRESH:
        price = price_of(unit, le32(data, body + 8))
        size = le32(data, body + 12)
        letter = data[body + 16]
        side = int64(ASK if letter == 83 else BID)
        if letter != 83 and letter != 66:
            counters[MESSAGE] += 1
            return 0
    elif kind == MODIFY:
        price = price_of(unit, le32(data, body + 8))
        size = le32(data, body + 12)
    elif kind == REPLACE:
        new_id = le64(data, body + 8)
        price = price_of(unit, le32(data, body + 16))
        size = le32(data, body + 20)
    elif kind == EXECUTION:
        size = le32(data, body + 16)
    if order_id < 0 or new_id < 0:
        counters[MESSAGE] += 1
        return 0
    if kind == EXECUTION:
        if data[body + 20] == 1:
            price = price_of(unit, le32(data, body + 12))
            trade_id = le32(data, body + 8)
            condition = conditions(data, body + 22)
            written = trade(state, stamp, price, size, condition, trade_id, NULL, NULL, out.trades[n])
        else:
            counters[NOT_PRINTED] += 1
    elif kind != DELETE and (price == NULL or size == 0):
        counters[NO_PRICE] += 1
        if kind == ADD or kind == ADD_REFRESH:
            return 0
        kind = int64(DELETE)  # what it was, it is no longer
    listing["books"] = 1
    is_refresh = kind == ADD_REFRESH
    touched = apply(state.book, ADD if is_refresh else kind, number, order_id, new_id, side, price, size)
    if touched >= 0 and not is_refresh:
        written += publish_best(state, number, touched, stamp, out.quotes[n + written])
    return written


@lean_kernel
def finish_refresh(state: Any, row: int, recv_ns: int, out: Any, n: int) -> int:
    """After a packet of a refresh: when it was the last, the listing is known again, and quoted."""
    stream = state.streams[row]
    if stream["refreshing"] == 0 or stream["part"] != stream["parts"]:
        return 0
    number = stream["refreshing"] - 1
    listing = state.listings[number]
    state.counters[REFRESHES] += 1
    stream["refreshing"] = 0
    stream["part"] = 0
    listing["refreshed"] = stream["as_of_symbol"]
    listing["sequence"] = stream["as_of_symbol"]
    if listing["lost"] == 0:  # a quote of the BBO feed has told it
        return 0
    set_lost(state, listing, 0)
    bid_px, bid_size = order_book.best(state.book, number, BID)
    ask_px, ask_size = order_book.best(state.book, number, ASK)
    if bid_px == NULL and ask_px == NULL:
        return 0
    stamp = stamp_of(listing, stream["as_of"], stream["sent_ns"], recv_ns)
    state.counters[QUOTES] += 1
    return publish(listing, stamp, bid_px, bid_size, ask_px, ask_size, _FIRM, out.quotes[n])


@lean
def trade_message(state: Any, data: Any, at: int, kind: int, listing: Any, stamp: Any, row: Any) -> int:
    """Trades that do not come from a displayed order, crosses, and what undoes or corrects any trade."""
    if kind == BREAK:
        return trade_break(state, stamp, le32(data, at + 16), row)
    if kind == TRADE_CANCEL:
        return trade_break(state, stamp, le32(data, at + 20), row)
    mark = int64(NULL)
    original_id = int64(NULL)
    trade_id = le32(data, at + 16)
    if kind == CROSS_CORRECTION:
        if listing["cross_id"] != trade_id:
            state.counters[UNMATCHED] += 1
            return 0
        mark = int64(CORRECTS)
        original_id = trade_id
        condition = int64(_REGULAR)
        price = listing["cross_px"]
        size = le32(data, at + 20)
    elif kind == NON_DISPLAYED:
        if data[at + 28] != 1:
            state.counters[NOT_PRINTED] += 1
            return 0
        price = price_of(listing["unit"], le32(data, at + 20))
        size = le32(data, at + 24)
        condition = conditions(data, at + 29)
    elif kind == CROSS:
        price = price_of(listing["unit"], le32(data, at + 20))
        size = le32(data, at + 24)
        crossed = data[at + 28]
        condition = int64(_REGULAR)
        if crossed == 79:  # O
            condition = int64(_CROSS_OPENING)
        elif crossed == 53:  # 5
            condition = int64(_CROSS_REOPENING)
        elif crossed == 54:  # 6
            condition = int64(_CROSS_CLOSING)
        elif crossed == 69:  # E
            condition = int64(_CROSS_EARLY)
        listing["cross_id"] = trade_id
        listing["cross_px"] = price
    else:
        trade_id = le32(data, at + 20)
        body = at + 24
        if kind == TRADE_CORRECTION:
            mark = int64(CORRECTS)
            original_id = trade_id
            trade_id = le32(data, at + 24)
            body = at + 28
        price = price_of(listing["unit"], le32(data, body))
        size = le32(data, body + 4)
        condition = conditions(data, body + 8)
    return trade(state, stamp, price, size, condition, trade_id, mark, original_id, row)


@lean
def message(
    symbols: Any, state: Any, data: Any, at: int, size: int, row: int, is_refresh: bool, venue: int, sequence: int,
    recv_ns: int, out: Any, n: int
) -> int:  # fmt: skip
    """Apply one message; write its rows at ``n``; return how many (at most ``size // ROW_BYTES_MIN``)."""
    counters = state.counters
    counters[MESSAGES] += 1
    kind = le16(data, at + 2)
    wanted = bytes_of_type(kind)
    if wanted == 0:
        counters[UNKNOWN] += 1
        if kind < TYPES_MAX:
            state.types[kind] += 1
        return 0
    state.types[kind] += 1
    if size < wanted:
        counters[MESSAGE] += 1
        return 0
    stream = state.streams[row]
    sent_ns = stream["sent_ns"]
    if is_refresh:
        sequence = stream["as_of"]
    if kind == MAPPING:
        return mapping_message(symbols, state, data, at, row, is_refresh, venue, sequence, sent_ns, recv_ns, out, n)
    if kind == TIME_REFERENCE:
        if not is_refresh and le32(data, at + 4) < ENGINES:
            state.seconds[row, le32(data, at + 4)] = le32(data, at + 12)
        return 0
    if kind == REFRESH_HEADER:
        written = 0
        if is_refresh:
            written = finish_refresh(state, row, recv_ns, out, n)
            refresh_header(state, data, at, row)
        return written
    if is_counted_only(kind) or (is_refresh and not is_of_refresh(kind)) or (kind == ADD_REFRESH and not is_refresh):
        return 0

    about = at + 8 if has_seconds(kind) else at + 4  # nanoseconds, index and the symbol's own number
    index = le32(data, about + 4)
    number = int64(state.indexes[row, index]) - 1 if index < INDEX_MAX else int64(-1)
    if number < 0 or state.listings[number]["unit"] == 0:
        counters[NO_MAPPING] += 1
        return 0
    listing = state.listings[number]
    sub_ns = le32(data, about)
    if sub_ns >= SECOND_NS:
        counters[MESSAGE] += 1
        return 0
    if has_seconds(kind):
        event_ns = le32(data, at + 4) * SECOND_NS + sub_ns
    else:
        event_ns = event_time(state, row, listing["engine"], sent_ns, sub_ns)
    stamp = stamp_of(listing, sequence, event_ns, recv_ns)

    if is_refresh:
        if not is_being_refreshed(state, row, number) and kind != SECURITY_STATUS:
            return 0
    elif kind == CLEAR:
        if stream["refreshing"] == number + 1:
            end_refresh(state, row)
        listing["sequence"] = 0
        listing["refreshed"] = 0
        set_lost(state, listing, 0)
        return void(state, number, stamp, out.quotes[n])
    else:
        own = le32(data, about + 8)
        if own <= listing["refreshed"]:
            counters[HAD] += 1
            return 0
        if stream["refreshing"] == number + 1 and own > stream["as_of_symbol"]:
            end_refresh(state, row)
        listing["sequence"] = own

    if ADD <= kind <= REPLACE or kind == ADD_REFRESH:
        return order_message(state, data, at, kind, number, stamp, out, n)
    if kind == QUOTE:
        return quote_message(state, data, at, listing, stamp, out.quotes[n])
    if kind == SECURITY_STATUS:
        return status_message(state, data, at, listing, stamp, out.statuses[n])
    return trade_message(state, data, at, kind, listing, stamp, out.trades[n])


@lean_kernel
def find_row(streams: Any, stream: int) -> int:
    """The row of a live stream, taking a free one for a new stream; -1 when there is none."""
    for row in range(streams.size):
        if streams[row]["used"] == 0:
            streams[row]["used"] = 1
            streams[row]["stream"] = stream
            return row
        if streams[row]["stream"] == stream:
            return row
    return -1


@lean_kernel
def lose(state: Any, row: int, is_restart: bool, recv_ns: int, out: Any, n: int) -> int:
    """Void what a stream has quoted and booked, as far as there is room; return the rows written so far.

    ``used[1]`` is 0 when all is done, else 1 + the listing to go on with.
    """
    following = state.used[1]
    if following == 0:
        end_refresh(state, row)
        for engine in range(ENGINES):
            state.seconds[row, engine] = 0
        following = int64(1)
    while following <= state.used[0] and n < out.quotes.size:
        number = following - 1
        listing = state.listings[number]
        if listing["row"] == row and listing["unit"] != 0:
            stamp = stamp_of(listing, int64(NULL), state.streams[row]["sent_ns"], recv_ns)
            n += void(state, number, stamp, out.quotes[n])
            if is_restart:
                listing["unit"] = 0
                set_lost(state, listing, 0)
            else:
                set_lost(state, listing, max(listing["lost"], listing["books"]))
        following += 1
    state.used[1] = following if following <= state.used[0] else 0
    return n


@lean_kernel
def decode(buffer: Any, blocks: Any, taken: int, venue: int, symbols: Any, state: Any, out: Any) -> tuple[int, int]:
    """Decode blocks from number ``taken``; return the first block not taken and the rows written.

    Stops early, between blocks, when ``out`` might not hold what the next one gives: empty it and call again. ``out``
    must hold the rows of the longest block: its bytes // ROW_BYTES_MIN + BLOCK_ROWS_EXTRA. ``venue`` is the
    participant's letter for all symbols, or 0 to take it from their market.
    """
    counters = state.counters
    n = int64(0)
    i = int64(taken)
    while i < blocks.size:
        block = blocks[i]
        kind = block["kind"]
        if kind != DATA and kind != GAP and kind != RESTART:
            i += 1
            continue
        row = find_row(state.streams, block["stream"] & ~int64(REFRESH))
        is_refresh = block["stream"] & REFRESH != 0
        if row < 0:
            counters[REFUSED] += 1
            i += 1
            continue
        if kind != DATA:
            if is_refresh:
                end_refresh(state, row)
            else:
                n = lose(state, row, kind == RESTART, block["recv_ns"], out, n)
                if state.used[1] != 0:
                    break
            i += 1
            continue
        start = block["start"]
        stop = block["stop"]
        if out.quotes.size - n < (stop - start) // ROW_BYTES_MIN + BLOCK_ROWS_EXTRA:
            break
        i += 1
        state.streams[row]["sent_ns"] = block["sent_ns"]
        first = block["first"]
        count = block["count"]
        skip = block["skip"]
        recv_ns = block["recv_ns"]
        at = start
        read = int64(0)
        while read < count and at + MESSAGE_HEADER_BYTES <= stop:
            size = le16(buffer, at)
            if size < MESSAGE_HEADER_BYTES or at + size > stop:
                break
            if read >= skip:
                n += message(symbols, state, buffer, at, size, row, is_refresh, venue, first + read, recv_ns, out, n)
            at += size
            read += 1
        if read < count or at != stop:
            counters[SIZE] += 1
            if is_refresh:
                end_refresh(state, row)
        if is_refresh:
            n += finish_refresh(state, row, recv_ns, out, n)
    return i, n


def warm_up() -> None:
    """Compile or load the decoder with the live array types; there is no block to do anything."""
    out = new_out(empty(1, EVENT))
    state = new_state(streams_max=1, listings_max=2, orders_max=1, levels_max=1)
    decode(np.zeros(1, np.uint8), np.zeros(0, BLOCK), 0, 0, SymbolTable(2).arrays, state, out)
