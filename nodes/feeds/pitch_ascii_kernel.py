"""Lines of Cboe's legacy TCP PITCH (ASCII 1.15), as recorded -> order book -> rows, compiled (pure).

A line is a message: an optional ``S`` (sequenced data of SOUP), milliseconds since midnight in New York @0 (8 digits),
type @8, then the fields of the type; offsets as in the specification's tables, without that S. Ids are numbers of
base 36. What a line says is done by `pitch_kernel.apply`, so book and rows are those of Multicast PITCH.
Times of several units interleave, so they may step backwards by a few milliseconds.
"""

from typing import Any

import numpy as np

from fabric.compiled import lean, lean_kernel
from fabric.records import EVENT, NULL, PRICE_MAX, empty
from fabric.symbols import SymbolTable
from nodes.feeds import pitch_kernel as pitch
from nodes.feeds.order_book_kernel import ASK, BID
from nodes.feeds.rows_kernel import Stamp, new_out
from nodes.feeds.wire_kernel import read_symbol, u8

ADD = ord("A")
ADD_LONG = ord("d")
EXECUTED = ord("E")
CANCEL = ord("X")
TRADE = ord("P")
TRADE_LONG = ord("r")
TRADE_BREAK = ord("B")
TRADING_STATUS = ord("H")
SYMBOL_CLEAR = ord("s")
AUCTION_UPDATE = ord("I")
AUCTION_SUMMARY = ord("J")

PRICE = 100_000
"""Whole units in the 1/10000 of a dollar of prices."""
MILLISECOND_NS = 1_000_000
MILLISECONDS_MAX = 90_000_000
_SEQUENCED = ord("S")
_NEW_LINE = 10
_RETURN = 13
_BUY = ord("B")
_SELL = ord("S")

# Columns of `progress`.
LINES = 0  # read so far, empty ones not counted: the number of the last one
N_PROGRESS = 1


@lean
def line_bytes(kind: int) -> int:
    """Length of a type; 0 for a type that the specification does not have."""
    length = 0
    if kind == ADD:
        length = 45
    elif kind == ADD_LONG:
        length = 47
    elif kind == EXECUTED:
        length = 39
    elif kind == CANCEL:
        length = 27
    elif kind == TRADE:
        length = 56
    elif kind == TRADE_LONG:
        length = 58
    elif kind == TRADE_BREAK:
        length = 21
    elif kind == TRADING_STATUS:
        length = 19
    elif kind == SYMBOL_CLEAR:
        length = 17
    elif kind == AUCTION_UPDATE or kind == AUCTION_SUMMARY:
        length = 9
    return length


@lean_kernel
def number(data: Any, at: int, width: int, base: int) -> int:
    """The digits of ``base`` (10 or 36) at ``data[at]``; -1 when they are not that."""
    value = 0
    for i in range(width):
        character = u8(data, at + i)
        digit = base
        if 48 <= character <= 57:
            digit = character - 48
        elif 65 <= character <= 90:
            digit = character - 55
        if digit >= base:
            return -1
        value = value * base + digit
    return value


@lean_kernel
def message(
    buffer: Any, at: int, size: int, line: int, venue: int, day_ns: int, symbols: Any, state: Any, out: Any, n: int
) -> int:
    """Apply the line of ``size`` bytes at ``buffer[at]``; return the row behind those it gave."""
    counters = state.counters
    counters[pitch.MESSAGES] += 1
    milliseconds = number(buffer, at, 8, 10) if size > 8 else -1
    if milliseconds < 0 or milliseconds >= MILLISECONDS_MAX:
        counters[pitch.MESSAGE] += 1
        return n
    kind = u8(buffer, at + 8)
    state.types[kind] += 1
    if line_bytes(kind) == 0:
        counters[pitch.UNKNOWN] += 1
        return n
    if size < line_bytes(kind):
        counters[pitch.MESSAGE] += 1
        return n
    event_ns = day_ns + milliseconds * MILLISECOND_NS
    stamp = Stamp(0, venue, NULL, line, event_ns, event_ns)

    action = pitch.NOTHING
    symbol = 0
    symbol_at = 0
    symbol_width = 8
    side = BID
    price = NULL
    shares = 0
    execution = 0
    order_id = 0
    wire_px = 0
    if kind == ADD or kind == TRADE or kind == ADD_LONG or kind == TRADE_LONG:
        symbol_at = 28
        if kind == ADD or kind == TRADE:
            symbol_width = 6
        action = pitch.ADD
        shares = number(buffer, at + 22, 6, 10)
        wire_px = number(buffer, at + 28 + symbol_width, 10, 10)
        if kind == TRADE or kind == TRADE_LONG:
            action = pitch.PRINT
            execution = number(buffer, at + 38 + symbol_width, 12, 36)
        side_code = u8(buffer, at + 21)
        if side_code == _SELL:
            side = ASK
        elif side_code != _BUY:
            shares = -1
    elif kind == EXECUTED:
        action = pitch.EXECUTE
        shares = number(buffer, at + 21, 6, 10)
        execution = number(buffer, at + 27, 12, 36)
    elif kind == CANCEL:
        action = pitch.REDUCE
        shares = number(buffer, at + 21, 6, 10)
    elif kind == TRADE_BREAK:
        action = pitch.BREAK
        execution = number(buffer, at + 9, 12, 36)
    elif kind == TRADING_STATUS or kind == SYMBOL_CLEAR:
        symbol_at = 9
    if action != pitch.NOTHING and action != pitch.BREAK:
        order_id = number(buffer, at + 9, 12, 36)
    if order_id < 0 or shares < 0 or execution < 0 or wire_px < 0:
        counters[pitch.MESSAGE] += 1
        return n
    if symbol_at > 0:
        symbol = read_symbol(symbols, buffer, at + symbol_at, symbol_width)
        if symbol < 0:
            counters[pitch.NO_SYMBOL if symbol == -1 else pitch.MESSAGE] += 1
            return n
        told = Stamp(symbol, venue, NULL, line, event_ns, event_ns)
        if kind == SYMBOL_CLEAR:
            counters[pitch.CLEARS] += 1
            return pitch.void_symbol(state, out, n, told)
        if kind == TRADING_STATUS:
            trading = u8(buffer, at + 17)
            short_sale = u8(buffer, at + 18)
            if trading <= 32 or trading > 126 or short_sale < 32 or short_sale > 126:
                counters[pitch.MESSAGE] += 1
                return n
            if short_sale == 32:
                short_sale = 0
            return pitch.tell_status(state, out, n, told, 0, trading, short_sale)
        if wire_px == 0 or wire_px > PRICE_MAX // PRICE:
            counters[pitch.UNENCODABLE] += 1
        else:
            price = wire_px * PRICE
    if action == pitch.NOTHING:
        return n
    return pitch.apply(state, out, n, action, order_id, symbol, side, price, shares, 0, execution, 0, stamp, day_ns)


@lean_kernel
def decode(
    buffer: Any, start: int, stop: int, venue: int, day_ns: int, symbols: Any, state: Any, progress: Any, out: Any
) -> tuple[int, int]:
    """Decode the whole lines of ``buffer[start:stop]``; return the place behind the last one taken and the rows.

    Stops early when ``out`` might not hold what the next line gives, and before a line without its end.
    """
    n = 0
    at = start
    while out.quotes.size - n >= pitch.ROWS_A_MESSAGE:
        end = at
        while end < stop and buffer[end] != _NEW_LINE:
            end += 1
        if end == stop:
            break
        begin = at
        at = end + 1
        if end > begin and buffer[end - 1] == _RETURN:
            end -= 1
        if end == begin:
            continue
        progress[LINES] += 1
        if buffer[begin] == _SEQUENCED:
            begin += 1
        n = message(buffer, begin, end - begin, progress[LINES], venue, day_ns, symbols, state, out, n)
    return at, n


def warm_up() -> None:
    """Compile or load the decoder with the live array types; there is no line to decode."""
    out = new_out(empty(2, EVENT))
    state = pitch.new_state(symbols_max=2, orders_max=1, levels_max=1, units_max=1, trades_max=1)
    progress = np.zeros(N_PROGRESS, np.int64)
    decode(np.zeros(1, np.uint8), 0, 0, 0, 0, SymbolTable(2).arrays, state, progress, out)
