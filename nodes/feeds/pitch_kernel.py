"""Messages of Cboe Multicast PITCH 2.41 for US equities -> order book -> rows, compiled (pure).

A message becomes an action (`ADD` to `BREAK`) with plain numbers, and one function applies it: to the book, to the
rows, to what was published. The recorded text form of PITCH (`pitch_ascii_kernel`) makes the same actions.

Integers are little-endian; offsets as in the tables of the specification. A time is an offset from the last Time
message of its unit; before the first one, and after a gap, which may have taken one, times are those of receipt.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean, lean_kernel
from fabric.records import EVENT, NULL, PRICE_MAX, empty, pack
from fabric.symbols import SymbolTable
from nodes.feeds import order_book_kernel as order_book
from nodes.feeds.order_book_kernel import ASK, BID
from nodes.feeds.rows_kernel import CANCELS, Stamp, new_out, put_quote, put_status, put_trade
from nodes.feeds.sequenced_unit_kernel import LAST_NUMBER
from nodes.feeds.wire_kernel import BLOCK, DATA, GAP, RESTART, le16, le32, le64, read_symbol, u8

TIME = 0x20
ADD_LONG = 0x21
ADD_SHORT = 0x22
EXECUTED = 0x23
EXECUTED_AT = 0x24
REDUCE_LONG = 0x25
REDUCE_SHORT = 0x26
MODIFY_LONG = 0x27
MODIFY_SHORT = 0x28
DELETE_ORDER = 0x29
TRADE_LONG = 0x2A
TRADE_SHORT = 0x2B
TRADE_BREAK = 0x2C
END_OF_SESSION = 0x2D
SYMBOL_MAPPING = 0x2E  # options
ADD_EXPANDED = 0x2F
TRADE_EXPANDED = 0x30
TRADING_STATUS = 0x31
AUCTION_UPDATE = 0x95
AUCTION_SUMMARY = 0x96
UNIT_CLEAR = 0x97
RETAIL_IMPROVEMENT = 0x98
FUTURE_DEFINITION = 0xBB  # futures
_FUTURES_ADD_SHORT_BYTES = 25
_FUTURES_MODIFY_SHORT_BYTES = 18

# What a message does: actions of `apply`.
NOTHING = 0
ADD = 1  # an order
EXECUTE = 2  # `size` shares of an order, at its price
EXECUTE_AT = 3  # `size` shares at `price`, after which `remaining` are left
REDUCE = 4  # by `size` shares
MODIFY = 5  # to `price` and `size`
DELETE = 6  # an order
PRINT = 7  # a trade that no order of the book took part in
BREAK = 8  # of the trade `execution`

LONG_PRICE = 100_000
"""Whole units in the 1/10000 of a dollar of long prices."""
SHORT_PRICE = 10_000_000
"""Whole units in the 1/100 of a dollar of short prices."""
SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS
SECONDS_MAX = 90_000
"""Seconds since midnight beyond any, on the day of 25 hours too."""
OPEN_NS = 34_200 * SECOND_NS
CLOSE_NS = 57_600 * SECOND_NS
ROUND_LOT = 100
ROWS_A_MESSAGE = 2
"""The most that one message gives, withdrawals apart: a trade or a status, and a quote."""

# Columns of `counters`.
MESSAGES = 0
QUOTES = 1
TRADES = 2
BREAKS = 3
STATUSES = 4
CLEARS = 5  # unit clears
WITHDRAWN = 6  # quotes withdrawn by them, by gaps and by restarts
UNTIMED = 7  # messages before a Time message of their unit: stamped with their receipt
UNKNOWN = 8  # messages of a type that the specification does not have
NOT_EQUITIES = 9  # messages in the form of options or futures
UNENCODABLE = 10  # orders and trades with a price that is 0 or beyond PRICE_MAX
NO_SYMBOL = 11  # messages whose symbol the full table refused
UNKNOWN_BREAKS = 12  # breaks of a trade that is not remembered
UNITS = 13  # malformed from here: blocks of more units than the table holds
LENGTH = 14  # blocks whose messages do not lie in their bytes
MESSAGE = 15  # a message shorter than its type, or with an unreadable symbol, side, status or time
N_COUNTERS = 16

UNIT = np.dtype(
    [
        ("stream", "<i8"),  # NULL where the row is free
        ("second_ns", "<i8"),  # what the offsets of its messages count from; NULL while unknown
        ("withdraw", "<i8"),  # next symbol whose orders are void; 0 when none are
        ("forget", "<i8"),  # 1 while statuses are forgotten too
    ]
)

# Columns of `symbols`: one cache line a symbol.
BID_PX = 0  # the quote published last, NULL where there is no side; column of a side is side * 2
BID_SIZE = 1
ASK_PX = 2
ASK_SIZE = 3
OF_UNIT = 4  # 1 + row of the unit that its orders came from; 0 before the first
TRADING = 5  # text: status told last; 0 before the first, which stands for S, as every symbol begins
SHORT_SALE = 6  # text: "1" while the price test of Reg SHO is in effect
CONDITION = 7  # text: of the quote
N_COLUMNS = 8

PRINTED = np.dtype([("execution", "<i8"), ("symbol", "<i8"), ("price", "<i8"), ("size", "<i8")])
"""A trade that may yet be broken: a break tells its number only."""

# Columns of `progress`: where the decoder stopped in the first block that it did not take.
DONE = 0  # messages of it that are done
WITHDRAWING = 1  # 1 while its next message (or the block itself) is withdrawing quotes
N_PROGRESS = 2


class State(NamedTuple):
    """What decoding one market remembers. Symbol ids index ``symbols``."""

    units: npt.NDArray[np.void]  # [power of two] UNIT
    symbols: npt.NDArray[np.int64]  # [symbols_max, N_COLUMNS]
    book: order_book.OrderBook
    printed: npt.NDArray[np.void]  # [power of two] PRINTED, by its number
    counters: npt.NDArray[np.int64]  # [N_COUNTERS]
    types: npt.NDArray[np.int64]  # [256] messages by type byte
    progress: npt.NDArray[np.int64]  # [N_PROGRESS]


_BUY = ord("B")
_SELL = ord("S")
_FIRM = pack("R")
_NOT_FIRM = pack("N")
_LIVE = pack("live")
_CLOSED = pack("C")
_TRADING = pack("T")
_REGULAR = pack("@")
_EXTENDED_HOURS = pack("T")
_ODD_LOT = pack("I")


def new_state(symbols_max: int, orders_max: int, levels_max: int, units_max: int, trades_max: int) -> State:
    """Nothing seen yet; ``trades_max`` is the number of trades remembered for breaks, rounded up to a power of two."""
    units = np.zeros(1 << (2 * units_max - 1).bit_length(), UNIT)
    units["stream"] = units["second_ns"] = NULL
    symbols = np.zeros((symbols_max, N_COLUMNS), np.int64)
    symbols[:, :OF_UNIT] = NULL
    symbols[:, CONDITION] = _FIRM
    return State(
        units=units,
        symbols=symbols,
        book=order_book.new_book(symbols_max, orders_max, levels_max),
        printed=np.zeros(1 << (trades_max - 1).bit_length(), PRINTED),
        counters=np.zeros(N_COUNTERS, np.int64),
        types=np.zeros(256, np.int64),
        progress=np.zeros(N_PROGRESS, np.int64),
    )


def message_bytes() -> npt.NDArray[np.int64]:
    """Length of each type of message by its type byte; 0 for types that the specification does not have."""
    sizes = np.zeros(256, np.int64)
    known = {TIME: 6, ADD_LONG: 34, ADD_SHORT: 26, EXECUTED: 26, EXECUTED_AT: 38, REDUCE_LONG: 18, REDUCE_SHORT: 16}
    known |= {MODIFY_LONG: 27, MODIFY_SHORT: 19, DELETE_ORDER: 14, TRADE_LONG: 41, TRADE_SHORT: 33, TRADE_BREAK: 14}
    known |= {END_OF_SESSION: 6, ADD_EXPANDED: 41, TRADE_EXPANDED: 43, TRADING_STATUS: 18, AUCTION_UPDATE: 47}
    known |= {AUCTION_SUMMARY: 27, UNIT_CLEAR: 6, RETAIL_IMPROVEMENT: 15}
    for kind, size in known.items():
        sizes[kind] = size
    return sizes


@lean
def put_known(row: Any, stamp: Any, known: Any) -> None:
    """Write the QUOTE row of a symbol's line of `State.symbols`."""
    put_quote(row, stamp, known[BID_PX], known[BID_SIZE], known[ASK_PX], known[ASK_SIZE], known[CONDITION])


@lean
def sale_condition(size: int, since_midnight_ns: int) -> int:
    """Sale condition as the tape has it: PITCH tells none, so what follows from time and size; ``@`` when nothing."""
    condition = _REGULAR
    if since_midnight_ns < OPEN_NS or since_midnight_ns >= CLOSE_NS:
        condition = _EXTENDED_HOURS
        if size < ROUND_LOT:
            condition |= _ODD_LOT << 8
    elif size < ROUND_LOT:
        condition = _ODD_LOT
    return condition


@lean
def printed_slot(printed: Any, execution: int) -> int:
    """Where a trade is remembered: consecutive numbers lie side by side, and push out the oldest."""
    return (execution + (execution >> 24) * 0x9E3779B1) & (printed.size - 1)


@lean_kernel
def apply(
    state: Any,
    out: Any,
    n: int,
    action: int,
    order_id: int,
    symbol: int,
    side: int,
    price: int,
    size: int,
    remaining: int,
    execution: int,
    unit: int,
    stamp: Any,
    day_ns: int,
) -> int:
    """Do what a message says; write its trade and quote from row ``n``; return the row behind them.

    ``symbol``, ``side`` matter for ADD and PRINT, and are otherwise those of the order. ``day_ns`` is midnight in
    New York. A price is NULL when no record can hold it (counted by the caller): such an order is not booked.
    """
    book = state.book
    is_break = action == BREAK
    is_trade = action == EXECUTE or action == EXECUTE_AT or action == PRINT
    touched = False
    if action == ADD:
        if price != NULL:
            state.symbols[symbol, OF_UNIT] = unit + 1
            order_book.add(book, symbol, side, order_id, price, size)
            touched = True
    elif is_break:
        broken = state.printed[printed_slot(state.printed, execution)]
        if broken["execution"] != execution or broken["size"] == 0:
            state.counters[UNKNOWN_BREAKS] += 1
            return n
        symbol = broken["symbol"]
        price = broken["price"]
        size = broken["size"]
    elif action != PRINT:
        slot = order_book.find(book, order_id)
        if slot < 0:
            book.counters[order_book.ORPHANS] += 1
            return n
        symbol = order_book.symbol_of(book, slot)
        side = order_book.side_of(book, slot)
        held_px = order_book.price_of(book, slot)
        held = order_book.size_of(book, slot)
        left = 0
        new_px = held_px
        if action == EXECUTE or action == REDUCE:
            if size > held:
                book.counters[order_book.OVERDRAWN] += 1
            left = max(0, held - size)
        elif action == EXECUTE_AT:
            left = remaining
        elif action == MODIFY and price != NULL:
            left = size
            new_px = price
        if action == EXECUTE:
            price = held_px
        order_book.change(book, slot, new_px, left)
        touched = True
    told = Stamp(symbol, stamp.venue, stamp.tape, stamp.sequence, stamp.event_ns, stamp.recv_ns)
    if is_break or (is_trade and price != NULL and size > 0):
        trade_id = NULL if is_break else execution
        mark = CANCELS if is_break else NULL
        original_id = execution if is_break else NULL
        condition = sale_condition(size, stamp.event_ns - day_ns)
        put_trade(out.trades[n], told, price, size, condition, trade_id, mark, original_id)
        n += 1
        kept = state.printed[printed_slot(state.printed, execution)]
        kept["execution"] = execution
        kept["symbol"] = symbol
        kept["price"] = price
        kept["size"] = 0 if is_break else size
        state.counters[BREAKS if is_break else TRADES] += 1
    if touched:
        best_px, best_size = order_book.best(book, symbol, side)
        known = state.symbols[symbol]
        if best_px != known[side * 2] or best_size != known[side * 2 + 1]:
            known[side * 2] = best_px
            known[side * 2 + 1] = best_size
            put_known(out.quotes[n], told, known)
            n += 1
            state.counters[QUOTES] += 1
    return n


@lean_kernel
def tell_status(
    state: Any,
    out: Any,
    n: int,
    stamp: Any,
    unit: int,
    trading: int,
    short_sale: int,
) -> int:
    """Rows of a trading status, when it differs from what was told; a standing quote whose firmness turns is told too.

    Quotes of a symbol that does not trade (A, H, Q, S) are not firm: condition N, for no best bid and offer.
    """
    known = state.symbols[stamp.symbol]
    if trading == known[TRADING] and short_sale == known[SHORT_SALE]:
        return n
    known[OF_UNIT] = unit + 1
    known[TRADING] = trading
    known[SHORT_SALE] = short_sale
    row = out.statuses[n]
    n += 1
    put_status(row, stamp, trading, NULL)
    row["short_sale"] = short_sale
    state.counters[STATUSES] += 1
    condition = _FIRM if trading == _TRADING else _NOT_FIRM
    if condition != known[CONDITION]:
        known[CONDITION] = condition
        if known[BID_PX] != NULL or known[ASK_PX] != NULL:
            put_known(out.quotes[n], stamp, known)
            n += 1
            state.counters[QUOTES] += 1
    return n


@lean
def read_price(state: Any, price: int, scale: int) -> int:
    """A price on the wire in whole units; NULL (counted) for 0 and for what no record can hold."""
    if price <= 0 or price > PRICE_MAX // scale:
        state.counters[UNENCODABLE] += 1
        return NULL
    return price * scale


@lean
def find_unit(units: Any, stream: int) -> int:
    """The row of a unit, taking a free one for a new unit; -1 when more than half are taken."""
    mask = units.size - 1
    row = (stream ^ stream >> 13) & mask
    probes = 0
    while units[row]["stream"] != stream:
        if units[row]["stream"] == NULL:
            units[row]["stream"] = stream
            return row
        row = (row + 1) & mask
        probes += 1
        if probes > mask >> 1:
            return -1
    return row


@lean_kernel
def void_symbol(state: Any, out: Any, n: int, stamp: Any) -> int:
    """Void a symbol's orders and withdraw its quote, if it has one; return the row behind."""
    known = state.symbols[stamp.symbol]
    order_book.clear(state.book, stamp.symbol)
    if known[BID_PX] == NULL and known[ASK_PX] == NULL:
        return n
    for column in range(OF_UNIT):
        known[column] = NULL
    put_known(out.quotes[n], stamp, known)
    state.counters[WITHDRAWN] += 1
    return n + 1


@lean_kernel
def withdraw(state: Any, symbols: Any, out: Any, n: int, unit: int, stamp: Any) -> int:
    """Void the orders of a unit and withdraw its quotes, as far as there is room; return the row behind them.

    The unit's ``withdraw`` is 0 when all is done.
    """
    known_unit = state.units[unit]
    symbol = known_unit["withdraw"]
    used = symbols.used[0]
    while symbol < used and n < out.quotes.size:
        known = state.symbols[symbol]
        if known[OF_UNIT] == unit + 1:
            if known_unit["forget"]:
                known[TRADING] = 0
                known[SHORT_SALE] = 0
                known[CONDITION] = _FIRM
            told = Stamp(symbol, stamp.venue, stamp.tape, stamp.sequence, stamp.event_ns, stamp.recv_ns)
            n = void_symbol(state, out, n, told)
        symbol += 1
    known_unit["withdraw"] = symbol if symbol < used else 0
    return n


@lean
def day_of(second_ns: int, recv_ns: int) -> int:
    """``second_ns`` on the day that brings it closest to its receipt: midnight is not the same moment everywhere."""
    if second_ns > recv_ns + DAY_NS // 2:
        return second_ns - DAY_NS
    if second_ns < recv_ns - DAY_NS // 2:
        return second_ns + DAY_NS
    return second_ns


@lean
def is_foreign(kind: int, size: int) -> bool:
    """Whether a message has a form that options or futures have and equities do not."""
    return (
        kind == SYMBOL_MAPPING
        or kind == FUTURE_DEFINITION
        or (kind == ADD_SHORT and size == _FUTURES_ADD_SHORT_BYTES)
        or (kind == MODIFY_SHORT and size == _FUTURES_MODIFY_SHORT_BYTES)
    )


@lean
def message(
    buffer: Any,
    at: int,
    size: int,
    kind: int,
    sizes: Any,
    symbols: Any,
    state: Any,
    out: Any,
    n: int,
    unit: int,
    stamp: Any,
    day_ns: int,
) -> int:
    """Apply the message at ``buffer[at]``, whose ``size`` bytes are there; return the row behind those it gave."""
    counters = state.counters
    counters[MESSAGES] += 1
    state.types[kind] += 1
    if is_foreign(kind, size):
        counters[NOT_EQUITIES] += 1
        return n
    if sizes[kind] == 0:
        counters[UNKNOWN] += 1
        return n
    if size < sizes[kind]:
        counters[MESSAGE] += 1
        return n
    if kind == TIME:
        second = le32(buffer, at + 2)
        if second < SECONDS_MAX:
            state.units[unit]["second_ns"] = day_of(day_ns + second * SECOND_NS, stamp.recv_ns)
        else:
            counters[MESSAGE] += 1
        return n
    if state.units[unit]["second_ns"] == NULL:
        counters[UNTIMED] += 1

    action = NOTHING
    order_id = 0
    symbol = 0
    symbol_at = 0
    symbol_width = 6
    side = BID
    price = NULL
    shares = 0
    remaining = 0
    execution = 0
    if kind == ADD_SHORT or kind == TRADE_SHORT:
        shares = le16(buffer, at + 15)
        symbol_at = 17
        price = read_price(state, le16(buffer, at + 23), SHORT_PRICE)
        action = ADD
        if kind == TRADE_SHORT:
            action = PRINT
            execution = le64(buffer, at + 25)
    elif kind == ADD_LONG or kind == ADD_EXPANDED or kind == TRADE_LONG or kind == TRADE_EXPANDED:
        shares = le32(buffer, at + 15)
        symbol_at = 19
        if kind == ADD_EXPANDED or kind == TRADE_EXPANDED:
            symbol_width = 8
        price = read_price(state, le64(buffer, at + 19 + symbol_width), LONG_PRICE)
        action = ADD
        if kind == TRADE_LONG or kind == TRADE_EXPANDED:
            action = PRINT
            execution = le64(buffer, at + 27 + symbol_width)
    elif kind == DELETE_ORDER:
        action = DELETE
    elif kind == REDUCE_SHORT:
        action = REDUCE
        shares = le16(buffer, at + 14)
    elif kind == REDUCE_LONG:
        action = REDUCE
        shares = le32(buffer, at + 14)
    elif kind == MODIFY_SHORT:
        action = MODIFY
        shares = le16(buffer, at + 14)
        price = read_price(state, le16(buffer, at + 16), SHORT_PRICE)
    elif kind == MODIFY_LONG:
        action = MODIFY
        shares = le32(buffer, at + 14)
        price = read_price(state, le64(buffer, at + 18), LONG_PRICE)
    elif kind == EXECUTED:
        action = EXECUTE
        shares = le32(buffer, at + 14)
        execution = le64(buffer, at + 18)
    elif kind == EXECUTED_AT:
        action = EXECUTE_AT
        shares = le32(buffer, at + 14)
        remaining = le32(buffer, at + 18)
        execution = le64(buffer, at + 22)
        price = read_price(state, le64(buffer, at + 30), LONG_PRICE)
    elif kind == TRADE_BREAK:
        action = BREAK
        execution = le64(buffer, at + 6)
    elif kind == TRADING_STATUS:
        symbol_at = 6
        symbol_width = 8
    elif kind == UNIT_CLEAR:
        counters[CLEARS] += 1
    elif kind == END_OF_SESSION:
        row = out.statuses[n]
        n += 1
        put_status(row, stamp, _CLOSED, NULL)
        row["venue_state"] = _LIVE
        counters[STATUSES] += 1

    if symbol_at > 0:
        symbol = read_symbol(symbols, buffer, at + symbol_at, symbol_width)
        if symbol < 0:
            counters[NO_SYMBOL if symbol == -1 else MESSAGE] += 1
            return n
        if kind == TRADING_STATUS:
            trading = u8(buffer, at + 14)
            short_sale = u8(buffer, at + 15)
            if trading <= 32 or trading > 126 or short_sale < 32 or short_sale > 126:
                counters[MESSAGE] += 1
                return n
            if short_sale == 32:
                short_sale = 0
            told = Stamp(symbol, stamp.venue, stamp.tape, stamp.sequence, stamp.event_ns, stamp.recv_ns)
            return tell_status(state, out, n, told, unit, trading, short_sale)
        side_code = u8(buffer, at + 14)
        if side_code != _BUY and side_code != _SELL:
            counters[MESSAGE] += 1
            return n
        if side_code == _SELL:
            side = ASK
    if action == NOTHING:
        return n
    if action != BREAK and action != PRINT:
        order_id = le64(buffer, at + 6)
    return apply(
        state,
        out,
        n,
        action,
        order_id,
        symbol,
        side,
        price,
        shares,
        remaining,
        execution,
        unit,
        stamp,
        day_ns,
    )


@lean_kernel
def decode(
    buffer: Any,
    blocks: Any,
    first: int,
    venue: int,
    day_ns: int,
    next_day_ns: int,
    sizes: Any,
    symbols: Any,
    state: Any,
    out: Any,
) -> tuple[int, int]:
    """Decode blocks from number ``first``; return the first block not taken and the rows written.

    Stops early when ``out`` might not hold what comes next (empty it and call again; where it stopped is in
    ``state.progress``) and before a block that was received outside of [``day_ns``, ``next_day_ns``), midnights in
    New York. ``out`` must hold ROWS_A_MESSAGE rows for each message of a block. ``sizes`` is `message_bytes`.
    """
    counters = state.counters
    progress = state.progress
    n = 0
    i = first
    while i < blocks.size:
        block = blocks[i]
        kind = block["kind"]
        recv_ns = block["recv_ns"]
        if kind != DATA and kind != GAP and kind != RESTART:
            i += 1
            continue
        if recv_ns < day_ns or recv_ns >= next_day_ns:
            break
        unit = find_unit(state.units, block["stream"])
        if unit < 0:
            counters[UNITS] += 1
            i += 1
            continue
        known_unit = state.units[unit]
        is_data = kind == DATA
        if not is_data and progress[WITHDRAWING] == 0:
            known_unit["withdraw"] = 1
            known_unit["forget"] = kind == RESTART
            known_unit["second_ns"] = NULL
            progress[WITHDRAWING] = 1
        count = block["count"] if is_data else 1  # a gap or restart is taken as one message
        done = max(block["skip"] if is_data else 0, progress[DONE])
        if is_data and out.quotes.size - n < ROWS_A_MESSAGE * (count - done):
            break
        numbered = block["first"] > 0
        at = block["start"]
        stop = block["stop"]
        m = 0
        while m < count:
            type_of = 0
            size = 0
            if is_data:
                size = u8(buffer, at) if at + 2 <= stop else 0
                if size < 2 or at + size > stop:
                    counters[LENGTH] += 1
                    break
                if m < done:
                    at += size
                    m += 1
                    continue
                type_of = u8(buffer, at + 1)
            number = block["first"] + m if is_data and numbered else NULL
            if number > LAST_NUMBER:
                number -= LAST_NUMBER
            event_ns = recv_ns
            if is_data and size >= 6 and known_unit["second_ns"] != NULL:
                event_ns = known_unit["second_ns"] + le32(buffer, at + 2)
            stamp = Stamp(0, venue, NULL, number, event_ns, recv_ns)
            if not is_data or (type_of == UNIT_CLEAR and size >= 6):
                if progress[WITHDRAWING] == 0:
                    known_unit["withdraw"] = 1
                    known_unit["forget"] = 0
                    progress[WITHDRAWING] = 1
                n = withdraw(state, symbols, out, n, unit, stamp)
                if known_unit["withdraw"] > 0:
                    progress[DONE] = m
                    return i, n
                progress[WITHDRAWING] = 0
                if not is_data:
                    break
                if out.quotes.size - n < ROWS_A_MESSAGE * (count - m):  # this message itself is counted anew then
                    progress[DONE] = m
                    return i, n

            n = message(buffer, at, size, type_of, sizes, symbols, state, out, n, unit, stamp, day_ns)
            at += size
            m += 1
        progress[DONE] = 0
        i += 1
    return i, n


def warm_up() -> None:
    """Compile or load the decoder with the live array types; there is no block to decode."""
    out = new_out(empty(1, EVENT))
    state = new_state(symbols_max=2, orders_max=1, levels_max=1, units_max=1, trades_max=1)
    blocks = np.zeros(0, BLOCK)
    decode(np.zeros(1, np.uint8), blocks, 0, 0, 0, 0, message_bytes(), SymbolTable(2).arrays, state, out)
