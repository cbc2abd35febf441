"""Messages of DEEP+ 1.0 (IEX's single orders) -> order book -> rows, compiled (pure).

What DEEP+ shares with TOPS and DEEP (trades and their breaks, statuses, directory) is `iex_kernel`'s. Its own
messages, offsets from the type byte, integers little-endian, time i64 @2, symbol @10, order id u64 @18:

| type | bytes | fields |
|---|---|---|
| a add | 38 | side @1 (8 buy, 5 sell), size u32 @26, price i64 @30 |
| M modify | 38 | @1 bit 0: loses its priority; new size u32 @26 and price i64 @30 |
| R delete | 26 | |
| L executed | 46 | sale flags @1, size u32 @26, price i64 @30, trade id i64 @38 |
| C clear | 18 | all orders of the symbol go; no order id |

T is an execution of orders that were not displayed: it does not touch the book.
Sources: DEEP+ 1.0.2 as defined by the Open Markets Initiative, and the recorded packets, which it reads whole.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import inlined, kernel
from fabric.records import EVENT, NULL, empty, pack
from fabric.symbols import SymbolTable
from nodes.feeds import iex_kernel as iex
from nodes.feeds import order_book_kernel as order_book
from nodes.feeds.order_book_kernel import ASK, BID
from nodes.feeds.rows_kernel import Stamp, new_out, put_quote, put_status, put_trade
from nodes.feeds.wire_kernel import BLOCK, DATA, GAP, RESTART, le16, le32, le64, read_symbol, text, u8

PROTOCOL_DEEP_PLUS = 0x8005
ROW_BYTES_MIN = 12
"""A row comes from no less than this of a block: two bytes of length and a system event (10)."""


class State(NamedTuple):
    """What decoding remembers; named as in `iex_kernel.State`, whose functions take it."""

    symbols: npt.NDArray[np.void]  # [symbols_max] iex_kernel.SYMBOL_STATE
    book: order_book.OrderBook
    withdraw: npt.NDArray[np.int64]  # [1] after a loss: the next symbol whose quote is to be withdrawn; 0 when done
    loss: npt.NDArray[np.int64]  # [2] iex_kernel.LOSS_JOINED, LOSS_PARTIAL
    counters: npt.NDArray[np.int64]  # [iex_kernel.N_COUNTERS]
    types: npt.NDArray[np.int64]  # [256] messages by type byte


def new_state(symbols_max: int, orders_max: int, levels_max: int) -> State:
    """Nothing seen yet."""
    symbols = np.zeros(symbols_max, iex.SYMBOL_STATE)
    for name in ("bid_px", "bid_size", "ask_px", "ask_size"):
        symbols[name] = NULL
    book = order_book.new_book(symbols_max, orders_max, levels_max)
    withdraw, loss = np.zeros(1, np.int64), np.zeros(2, np.int64)
    return State(symbols, book, withdraw, loss, np.zeros(iex.N_COUNTERS, np.int64), np.zeros(256, np.int64))


_ADD, _MODIFY, _DELETE, _EXECUTED, _CLEAR = (ord(c) for c in "aMRLC")
_T, _B, _S, _H, _O, _P, _I, _E = (ord(c) for c in "TBSHOPIE")
_BUY, _SELL = ord("8"), ord("5")
_FIRM = pack("R")
_LIVE = pack("live")
_ON, _OFF = pack("1"), pack("0")


@inlined
def bytes_of_type(kind: int) -> int:
    """Length of a message type in the specification; 0 for a type that it does not have."""
    if kind == 97 or kind == 77:  # a, M
        return 38
    if kind == 82:  # R
        return 26
    if kind == 76:  # L
        return 46
    if kind == 67:  # C
        return 18
    if kind == 84 or kind == 66:  # T, B
        return 38
    if kind == 72:  # H
        return 22
    if kind == 79 or kind == 73 or kind == 69:  # O, I, E
        return 18
    if kind == 80:  # P
        return 19
    if kind == 68:  # D
        return 31
    if kind == 83:  # S
        return 10
    return 0


@kernel
def tell_best(state: Any, stamp: Any, stream: int, row: Any) -> int:
    """A quote when the best of the book is another than the one that was published last."""
    bid_px, bid_size = order_book.best(state.book, stamp.symbol, BID)
    ask_px, ask_size = order_book.best(state.book, stamp.symbol, ASK)
    published = state.symbols[stamp.symbol]
    if (
        bid_px == published["bid_px"]
        and bid_size == published["bid_size"]
        and ask_px == published["ask_px"]
        and ask_size == published["ask_size"]
    ):
        return 0
    published["stream"] = stream + 1
    published["bid_px"] = bid_px
    published["bid_size"] = bid_size
    published["ask_px"] = ask_px
    published["ask_size"] = ask_size
    put_quote(row, stamp, bid_px, bid_size, ask_px, ask_size, iex.firmness(state))
    state.counters[iex.QUOTES] += 1
    return 1


@kernel
def order_message(state: Any, data: Any, at: int, kind: int, stamp: Any, stream: int, out: Any, n: int) -> int:
    """Apply a message about an order; write a trade where it tells one, and a quote where the best changes."""
    book = state.book
    order_id = le64(data, at + 18)
    price: Any = NULL
    size: Any = 0
    if kind != _DELETE:
        size = le32(data, at + 26)
        price = iex.read_price(state, data, at + 30)
    told = 0
    if kind == _ADD:
        side = u8(data, at + 1)
        if order_id < 0 or (side != _BUY and side != _SELL):
            state.counters[iex.MESSAGE] += 1
            return 0
        if price == NULL:
            return 0
        order_book.add(book, stamp.symbol, BID if side == _BUY else ASK, order_id, price, size)
    else:
        if kind == _EXECUTED and size == 0:
            state.counters[iex.UNENCODABLE] += 1
        elif kind == _EXECUTED and price != NULL:
            flags = u8(data, at + 1)
            put_trade(out.trades[n], stamp, price, size, iex.sale_condition(flags), le64(data, at + 38), NULL, NULL)
            state.counters[iex.TRADES] += 1
            told = 1
        slot = order_book.find(book, order_id)
        if slot < 0 or order_book.symbol_of(book, slot) != stamp.symbol:
            book.counters[order_book.ORPHANS] += 1
            return told
        if kind == _EXECUTED:
            order_book.reduce(book, slot, size)
        elif kind == _DELETE or price == NULL:
            order_book.remove(book, slot)
        else:
            order_book.change(book, slot, price, size)
    return told + tell_best(state, stamp, stream, out.quotes[n + told])


@kernel
def message(symbols: Any, state: Any, data: Any, at: int, size: int, stream: int, stamp: Any, out: Any, n: int) -> int:
    """Apply one message; write its rows from ``n``; return how many. ``stamp`` has its number and receipt."""
    state.counters[iex.MESSAGES] += 1
    if size == 0:
        state.counters[iex.MESSAGE] += 1
        return 0
    kind = u8(data, at)
    state.types[kind] += 1
    wanted = bytes_of_type(kind)
    if wanted == 0:
        state.counters[iex.UNKNOWN] += 1
        return 0
    event_ns = le64(data, at + 2) if size >= wanted else np.int64(-1)
    if event_ns < 0 or event_ns > iex.TIME_MAX_NS:
        state.counters[iex.MESSAGE] += 1
        return 0
    if kind == _S:
        venue_stamp = Stamp(np.int64(0), stamp.venue, stamp.tape, stamp.sequence, event_ns, stamp.recv_ns)
        put_status(out.statuses[n], venue_stamp, text(data, at + 1, 1), NULL)
        out.statuses[n]["venue_state"] = _LIVE
        state.counters[iex.STATUSES] += 1
        return 1
    if kind == _I or kind == _E:
        return 0  # nothing on the bus has a place for them
    symbol = read_symbol(symbols, data, at + 10, 8)
    if symbol < 0:
        state.counters[iex.REFUSED if symbol == -1 else iex.MESSAGE] += 1
        return 0
    full_stamp = Stamp(np.int64(symbol), stamp.venue, stamp.tape, stamp.sequence, event_ns, stamp.recv_ns)
    if kind == _ADD or kind == _MODIFY or kind == _DELETE or kind == _EXECUTED:
        return order_message(state, data, at, kind, full_stamp, stream, out, n)
    if kind == _CLEAR:
        order_book.clear(state.book, symbol)
        return tell_best(state, full_stamp, stream, out.quotes[n])
    if kind == _T or kind == _B:
        return iex.trade_message(state, data, at, kind == _B, full_stamp, out.trades[n])
    known = state.symbols[symbol]
    if kind == _H:
        known["trading"] = text(data, at + 1, 1)
        known["reason"] = text(data, at + 18, 4)
    elif kind == _O:
        known["halted_here"] = 1 if data[at + 1] == _O else 0
    elif kind == _P:
        known["short_sale"] = _ON if data[at + 1] == 1 else _OFF
    else:
        known["round_lot"] = le32(data, at + 18)
    return iex.publish_status(state, full_stamp, out.statuses[n])


@kernel
def withdraw(state: Any, block: Any, venue: int, out: Any, n: int) -> int:
    """Void the orders of a stream and withdraw its quotes, as far as there is room; return the rows written so far.

    What is left of a book after lost messages cannot be trusted. ``withdraw`` is 0 when all is done.
    """
    symbol = max(state.withdraw[0], 1)
    while symbol < state.symbols.size and n < out.quotes.size:
        old = state.symbols[symbol]
        if old["stream"] == block["stream"] + 1:
            order_book.clear(state.book, symbol)
            event_ns = block["sent_ns"] if block["sent_ns"] else block["recv_ns"]
            stamp = Stamp(symbol, np.int64(venue), np.int64(NULL), np.int64(NULL), event_ns, block["recv_ns"])
            put_quote(out.quotes[n], stamp, NULL, NULL, NULL, NULL, _FIRM)
            n += 1
            state.counters[iex.WITHDRAWN] += 1
            old["stream"] = 0
            old["bid_px"] = NULL
            old["bid_size"] = NULL
            old["ask_px"] = NULL
            old["ask_size"] = NULL
        symbol += 1
    state.withdraw[0] = symbol if symbol < state.symbols.size else 0
    return n


@kernel
def decode(buffer: Any, blocks: Any, first: int, venue: int, symbols: Any, state: Any, out: Any) -> tuple[int, int]:
    """Decode blocks from number ``first``; return the first not taken and the rows written.

    Stops early, before a block whose rows might not fit: empty ``out`` and call again. It must hold those of the
    longest block: its bytes // ROW_BYTES_MIN.
    """
    n: Any = np.int64(0)
    i = first
    while i < blocks.size:
        block = blocks[i]
        kind = block["kind"]
        iex.note_loss(state, block)
        if kind == GAP or kind == RESTART:
            n = withdraw(state, block, venue, out, n)
            if state.withdraw[0] > 0:
                break
        elif kind == DATA:
            if out.quotes.size - n < (block["stop"] - block["start"]) // ROW_BYTES_MIN:
                break
            at = block["start"]
            for number in range(block["count"]):
                size = le16(buffer, at)
                if number >= block["skip"]:
                    sequence = block["first"] + number
                    stamp = Stamp(np.int64(0), np.int64(venue), np.int64(NULL), sequence, np.int64(0), block["recv_ns"])
                    n += message(symbols, state, buffer, at + 2, size, block["stream"], stamp, out, n)
                at += 2 + size
        i += 1
    return i, n


def warm_up() -> None:
    """Compile or load the decoder with the live array types; there is no block."""
    out = new_out(empty(1, EVENT))
    decode(np.zeros(1, np.uint8), np.zeros(0, BLOCK), 0, 0, SymbolTable(2).arrays, new_state(2, 4, 4), out)
