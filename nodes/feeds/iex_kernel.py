"""Messages of TOPS 1.6 and DEEP 1.0 -> rows, compiled (pure).

Every message is advanced over by its stated length and read only when it has the bytes of its type.
Sources: TOPS 1.6 and DEEP 1.0 specifications; offsets as in their tables, integers little-endian.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean, lean_kernel
from fabric.records import EVENT, NULL, PRICE_MAX, empty, pack
from fabric.symbols import SymbolTable
from nodes.feeds import level_book_kernel as level_book
from nodes.feeds.level_book_kernel import ASK, BID
from nodes.feeds.rows_kernel import CANCELS, Stamp, new_out, put_quote, put_status, put_trade
from nodes.feeds.wire_kernel import BLOCK, DATA, GAP, RESTART, le16, le32, le64, read_symbol, text, u8

PROTOCOL_TOPS = 0x8003
PROTOCOL_DEEP = 0x8004
WIRE_PRICE = 100_000
"""Whole units in the wire's 1/10000 of a dollar."""
ROW_BYTES_MIN = 12
"""A row comes from no less than this of a packet: two bytes of length and a system event (10)."""
TIME_MAX_NS = 1 << 62

# Columns of `counters`.
MESSAGES = 0
QUOTES = 1
TRADES = 2
BREAKS = 3
STATUSES = 4
WITHDRAWN = 5  # quotes withdrawn after lost messages and at a restart
UNKNOWN = 6  # messages of a type that the specification does not have
UNENCODABLE = 7  # sides and trades with a price that is negative or beyond PRICE_MAX, trades without shares
REFUSED = 8  # messages whose symbol the full table refused
MESSAGE = 9  # malformed: shorter than its type, or with an unreadable symbol or time
N_COUNTERS = 10

# Columns of `loss`.
LOSS_JOINED = 0  # 1 once a message of the session has come
LOSS_PARTIAL = 1  # 1 while the book may lack what was told before a loss: its quotes are not firm
FIRST_NUMBER = 1
"""Of a session's messages."""

SYMBOL_STATE = np.dtype(
    [
        ("stream", "<i8"),  # 1 + the stream that quoted it; 0 where nothing stands on the bus
        ("bid_px", "<i8"),  # the quote published last (DEEP: a new one goes out only when it differs)
        ("bid_size", "<i8"),
        ("ask_px", "<i8"),
        ("ask_size", "<i8"),
        ("trading", "<i8"),  # text: last trading status (H, O, P, T) and its reason
        ("reason", "<i8"),
        ("halted_here", "<i8"),  # 1 while operationally halted on IEX alone
        ("short_sale", "<i8"),  # text: 1 while the price test is in effect, else 0
        ("round_lot", "<i8"),  # shares
        ("published_trading", "<i8"),  # the status published last
        ("published_reason", "<i8"),
        ("published_short_sale", "<i8"),
        ("published_round_lot", "<i8"),
    ]
)


class State(NamedTuple):
    """What decoding one feed remembers. Symbol ids index ``symbols``."""

    symbols: npt.NDArray[np.void]  # [symbols_max] SYMBOL_STATE
    book: level_book.LevelBook  # DEEP only
    withdraw: npt.NDArray[np.int64]  # [1] after a loss or restart: next symbol whose quote is to go; 0 when done
    loss: npt.NDArray[np.int64]  # [2] LOSS_JOINED, LOSS_PARTIAL
    counters: npt.NDArray[np.int64]  # [N_COUNTERS]
    types: npt.NDArray[np.int64]  # [256] messages by type byte


def new_state(symbols_max: int, levels_max: int) -> State:
    """Nothing seen yet."""
    symbols = np.zeros(symbols_max, SYMBOL_STATE)
    for name in ("bid_px", "bid_size", "ask_px", "ask_size"):
        symbols[name] = NULL
    return State(
        symbols=symbols,
        book=level_book.new_book(symbols_max, levels_max),
        withdraw=np.zeros(1, np.int64),
        loss=np.zeros(2, np.int64),
        counters=np.zeros(N_COUNTERS, np.int64),
        types=np.zeros(256, np.int64),
    )


_Q, _T, _B, _S, _H, _O, _P, _D = (ord(c) for c in "QTBSHOPD")
_BUY, _SELL = ord("8"), ord("5")
_FIRM = pack("R")
_NOT_FIRM = pack("N")
_HALTED = pack("H")
_HERE_ALONE = pack("OPER")
_LIVE = pack("live")
_INTEREST, _EVENT, _PRICE, _AUCTION = (ord(c) for c in "IEXA")
_ON, _OFF = pack("1"), pack("0")
_REGULAR = pack("@")
_SALE_SWEEP, _SALE_EXTENDED, _SALE_ODD_LOT, _SALE_CROSS = pack("F"), pack("T"), pack("I"), pack("X")


@lean
def bytes_of_type(kind: int) -> int:
    """Length of a message type in both specifications; 0 for a type that they do not have."""
    if kind == 81:  # Q
        return 42
    if kind == 56 or kind == 53:  # 8, 5
        return 30
    if kind == 84 or kind == 66:  # T, B
        return 38
    if kind == 72:  # H
        return 22
    if kind == 79 or kind == 73 or kind == 69:  # O, I, E
        return 18
    if kind == 80:  # P
        return 19
    if kind == 88:  # X
        return 26
    if kind == 68:  # D
        return 31
    if kind == 65:  # A
        return 80
    if kind == 83:  # S
        return 10
    return 0


@lean
def sale_condition(flags: int) -> Any:
    """Sale flags as tape conditions, in the order of the tape's slots; ``@`` when there is none."""
    condition = np.int64(0)
    shift = 0
    if flags & 0x80:
        condition |= _SALE_SWEEP << shift
        shift += 8
    if flags & 0x40:
        condition |= _SALE_EXTENDED << shift
        shift += 8
    if flags & 0x20:
        condition |= _SALE_ODD_LOT << shift
        shift += 8
    if flags & 0x08:
        condition |= _SALE_CROSS << shift
        shift += 8
    return condition if shift else np.int64(_REGULAR)


@lean
def read_price(state: Any, data: Any, at: int) -> int:
    """The price at ``data[at]`` in whole units; NULL for zero, and (counted) for what no record can hold."""
    price = le64(data, at)
    if price == 0:
        return NULL
    if price < 0 or price > PRICE_MAX // WIRE_PRICE:
        state.counters[UNENCODABLE] += 1
        return NULL
    return price * WIRE_PRICE


@lean
def quote_message(state: Any, data: Any, at: int, stamp: Any, stream: int, row: Any) -> int:
    """TOPS ``Q``: it is the venue's whole best bid and offer."""
    bid_px = read_price(state, data, at + 22)
    bid_size = le32(data, at + 18)
    ask_px = read_price(state, data, at + 30)
    ask_size = le32(data, at + 38)
    if bid_px == NULL or bid_size == 0:
        bid_px = NULL
        bid_size = NULL
    if ask_px == NULL or ask_size == 0:
        ask_px = NULL
        ask_size = NULL
    condition = _NOT_FIRM if data[at + 1] & 0x80 else _FIRM
    put_quote(row, stamp, bid_px, bid_size, ask_px, ask_size, condition)
    state.symbols[stamp.symbol]["stream"] = stream + 1
    state.counters[QUOTES] += 1
    return 1


@lean
def firmness(state: Any) -> int:
    """The condition of a quote from a book: not firm while that may lack what was told before a loss."""
    return _NOT_FIRM if state.loss[LOSS_PARTIAL] else _FIRM


@lean
def note_loss(state: Any, block: Any) -> None:
    """Take note of what a block says of the book: lacking after a GAP and for who comes late, whole after a RESTART."""
    if block["kind"] == DATA:
        if state.loss[LOSS_JOINED] == 0:
            state.loss[LOSS_JOINED] = 1
            if block["first"] > FIRST_NUMBER:
                state.loss[LOSS_PARTIAL] = 1
    elif block["kind"] == GAP:
        state.loss[LOSS_PARTIAL] = 1
    elif block["kind"] == RESTART:
        state.loss[LOSS_JOINED] = 0
        state.loss[LOSS_PARTIAL] = 0


@lean
def level_message(state: Any, data: Any, at: int, side: int, stamp: Any, stream: int, row: Any) -> int:
    """DEEP ``8`` and ``5``: a level's whole size; a quote when the event is complete and the best has changed."""
    price = read_price(state, data, at + 22)
    if price != NULL:
        level_book.update(state.book, stamp.symbol, side, price, le32(data, at + 18))
    if not data[at + 1] & 0x01:
        return 0
    bid_px, bid_size = level_book.best(state.book, stamp.symbol, BID)
    ask_px, ask_size = level_book.best(state.book, stamp.symbol, ASK)
    published = state.symbols[stamp.symbol]
    published["stream"] = stream + 1
    if (
        bid_px == published["bid_px"]
        and bid_size == published["bid_size"]
        and ask_px == published["ask_px"]
        and ask_size == published["ask_size"]
    ):
        return 0
    published["bid_px"] = bid_px
    published["bid_size"] = bid_size
    published["ask_px"] = ask_px
    published["ask_size"] = ask_size
    put_quote(row, stamp, bid_px, bid_size, ask_px, ask_size, firmness(state))
    state.counters[QUOTES] += 1
    return 1


@lean
def trade_message(state: Any, data: Any, at: int, is_break: bool, stamp: Any, row: Any) -> int:
    """``T`` and ``B``: the same layout, a break naming the trade it undoes."""
    price = read_price(state, data, at + 22)
    size = le32(data, at + 18)
    if price == NULL:
        return 0
    if size == 0:
        state.counters[UNENCODABLE] += 1
        return 0
    trade_id = le64(data, at + 30)
    condition = sale_condition(u8(data, at + 1))
    if is_break:
        put_trade(row, stamp, price, size, condition, NULL, CANCELS, trade_id)
        state.counters[BREAKS] += 1
    else:
        put_trade(row, stamp, price, size, condition, trade_id, NULL, NULL)
        state.counters[TRADES] += 1
    return 1


@lean
def publish_status(state: Any, stamp: Any, row: Any) -> int:
    """A status row when what holds for the symbol has changed: trading status and IEX's own halt in one value."""
    known = state.symbols[stamp.symbol]
    trading = known["trading"]
    reason = known["reason"]
    if known["halted_here"] and trading != _HALTED:
        trading = np.int64(_HALTED)
        reason = np.int64(_HERE_ALONE)
    if (
        trading == known["published_trading"]
        and reason == known["published_reason"]
        and known["short_sale"] == known["published_short_sale"]
        and known["round_lot"] == known["published_round_lot"]
    ):
        return 0
    known["published_trading"] = trading
    known["published_reason"] = reason
    known["published_short_sale"] = known["short_sale"]
    known["published_round_lot"] = known["round_lot"]
    put_status(row, stamp, trading, reason)
    row["short_sale"] = known["short_sale"]
    if known["round_lot"] > 0:
        row["round_lot"] = known["round_lot"]
    state.counters[STATUSES] += 1
    return 1


@lean
def message(
    symbols: Any, state: Any, data: Any, at: int, size: int, protocol: int, stream: int, stamp: Any, out: Any, n: int
) -> int:
    """Apply one message; write at most one row, at ``n``; return how many. ``stamp`` has its number and receipt."""
    state.counters[MESSAGES] += 1
    if size == 0:
        state.counters[MESSAGE] += 1
        return 0
    kind = u8(data, at)
    state.types[kind] += 1
    wanted = bytes_of_type(kind)
    if (
        wanted == 0
        or (protocol == PROTOCOL_DEEP and kind == _Q)
        or (protocol == PROTOCOL_TOPS and (kind == _BUY or kind == _SELL))
    ):
        state.counters[UNKNOWN] += 1
        return 0
    event_ns = le64(data, at + 2) if size >= wanted else np.int64(-1)
    if event_ns < 0 or event_ns > TIME_MAX_NS:
        state.counters[MESSAGE] += 1
        return 0
    if kind == _S:
        venue_stamp = Stamp(np.int64(0), stamp.venue, stamp.tape, stamp.sequence, event_ns, stamp.recv_ns)
        put_status(out.statuses[n], venue_stamp, text(data, at + 1, 1), NULL)
        out.statuses[n]["venue_state"] = _LIVE
        state.counters[STATUSES] += 1
        return 1
    if kind == _INTEREST or kind == _EVENT or kind == _PRICE or kind == _AUCTION:
        return 0  # nothing on the bus has a place for them
    symbol = read_symbol(symbols, data, at + 10, 8)
    if symbol < 0:
        state.counters[REFUSED if symbol == -1 else MESSAGE] += 1
        return 0
    full_stamp = Stamp(np.int64(symbol), stamp.venue, stamp.tape, stamp.sequence, event_ns, stamp.recv_ns)
    if kind == _Q:
        return quote_message(state, data, at, full_stamp, stream, out.quotes[n])
    if kind == _BUY or kind == _SELL:
        return level_message(state, data, at, BID if kind == _BUY else ASK, full_stamp, stream, out.quotes[n])
    if kind == _T or kind == _B:
        return trade_message(state, data, at, kind == _B, full_stamp, out.trades[n])
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
    return publish_status(state, full_stamp, out.statuses[n])


@lean
def withdraw(state: Any, block: Any, venue: int, out: Any, n: int) -> int:
    """Withdraw what a stream quoted before a loss or restart, as far as there is room; return the rows written so far.

    The old quotes would otherwise stand until each symbol is next quoted. ``withdraw`` is 0 when all is done.
    """
    symbol = max(state.withdraw[0], 1)
    while symbol < state.symbols.size and n < out.quotes.size:
        old = state.symbols[symbol]
        if old["stream"] == block["stream"] + 1:
            level_book.clear(state.book, symbol)
            stamp = Stamp(symbol, np.int64(venue), np.int64(NULL), np.int64(NULL), block["sent_ns"], block["recv_ns"])
            put_quote(out.quotes[n], stamp, NULL, NULL, NULL, NULL, _FIRM)
            n += 1
            state.counters[WITHDRAWN] += 1
            old["stream"] = 0
            old["bid_px"] = NULL
            old["bid_size"] = NULL
            old["ask_px"] = NULL
            old["ask_size"] = NULL
        symbol += 1
    state.withdraw[0] = symbol if symbol < state.symbols.size else 0
    return n


@lean_kernel
def decode(
    buffer: Any, blocks: Any, taken: int, protocol: int, venue: int, symbols: Any, state: Any, out: Any
) -> tuple[int, int]:
    """Take blocks from number ``taken``; return the first not taken and the rows written.

    Stops early, between blocks, when ``out`` might not hold what the next one gives: empty it and call again.
    ``out`` must hold the rows of the longest block: its bytes // ROW_BYTES_MIN.
    """
    n = 0
    i = taken
    while i < blocks.size:
        block = blocks[i]
        note_loss(state, block)
        if block["kind"] == GAP or block["kind"] == RESTART:
            n = withdraw(state, block, venue, out, n)
            if state.withdraw[0] > 0:
                break
        elif block["kind"] == DATA:
            if out.quotes.size - n < (block["stop"] - block["start"]) // ROW_BYTES_MIN:
                break
            at = block["start"]
            for j in range(block["count"]):
                size = le16(buffer, at)
                if j >= block["skip"]:
                    stamp = Stamp(
                        np.int64(0),
                        np.int64(venue),
                        np.int64(NULL),
                        block["first"] + j,
                        np.int64(0),
                        block["recv_ns"],
                    )
                    n += message(symbols, state, buffer, at + 2, size, protocol, block["stream"], stamp, out, n)
                at += 2 + size
        i += 1
    return i, n


def warm_up() -> None:
    """Compile or load the decoder with the live array types; there is no block to take."""
    out = new_out(empty(1, EVENT))
    state = new_state(symbols_max=2, levels_max=1)
    decode(np.zeros(1, np.uint8), np.zeros(0, BLOCK), 0, PROTOCOL_TOPS, 0, SymbolTable(2).arrays, state, out)
