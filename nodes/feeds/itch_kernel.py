"""TotalView-ITCH 5.0 messages -> order book -> rows, compiled (pure).

Blocks hold {length u16, message}; every message is passed over by its stated length. Integers are big-endian and
unsigned, prices u32 in 1/10000 of a dollar, times nanoseconds since midnight in New York. An order message that
changes the best of its symbol's side gives one QUOTE, an execution one TRADE before it.

Who has lost messages, or begins in the middle of a session, does not know the orders that rested then, and no message
of this protocol tells them. What can be known of a side follows from price priority: an execution says that no
displayed order is left at a better price, and so it stays for those from before, as all later ones are known. At better
prices than the worst of an execution a side is whole, and while its best lies there, the best is told; else none is.
Only a replacement of an unknown order is a later order that is not known: its price is, and mostly its side.

`decode` counts no references, and what most messages need is part of its own machine code; the others go through
`rare_message`. Source: NASDAQ TotalView-ITCH 5.0, offsets as in its tables.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean, lean_kernel
from fabric.native import prefetch
from fabric.records import EVENT, NULL, empty, pack
from fabric.symbols_kernel import make_symbols
from nodes.feeds import order_book_kernel as order_book
from nodes.feeds.order_book_kernel import ASK, BID, SIZE_BITS, SIZE_MAX
from nodes.feeds.rows_kernel import CANCELS, Stamp, is_level, new_out, put_breaker, put_quote, put_status, put_trade
from nodes.feeds.wire_kernel import BLOCK, DATA, GAP, RESTART, be16, be32, be64, read_symbol, text, u8

int64: Any = np.int64

WIRE_PRICE = 100_000
"""Whole units in the wire's 1/10000 of a dollar."""
LOCATES = 1 << 16
ROW_BYTES_MIN = 11
"""A row comes from no less than this of a block: an operational halt (21 and its length) may give two."""
TIME_NS_MAX = 25 * 3_600 * 1_000_000_000
"""No day is longer, not even the one on which the clocks go back."""
ROUND_LOT = 100
"""Shares, where no directory has told."""
OPENS_NS = 34_200 * 1_000_000_000
CLOSES_NS = 57_600 * 1_000_000_000

# Columns of `counters`.
MESSAGES = 0
QUOTES = 1
TRADES = 2
BREAKS = 3
STATUSES = 4
WITHDRAWN = 5  # quotes withdrawn after a gap or restart
UNKNOWN = 6  # messages of a type that the specification does not have
UNPRINTED = 7  # executions and crosses that are no trade for the tape: not printable, or no shares
UNENCODABLE = 8  # orders and trades with price 0
UNLISTED = 9  # messages about a locate code that nothing has named
REFUSED = 10  # messages whose symbol the full table refused
MESSAGE = 11  # malformed: shorter than its type, or with an impossible time, side, symbol or breaker level
N_COUNTERS = 12

# Columns of `progress`.
PHASE = 0  # CLOSED or OPEN; UNTOLD until a system event says
WITHDRAW = 1  # after a gap or restart: next symbol whose quote is to be withdrawn; 0 when done
JOINED = 2  # 1 once the first message of the session, or a later one, has come
PARTIAL = 3  # 1 while sides may lack orders from before a loss: `whole` counts
N_PROGRESS = 4

UNPROVEN = (1 << 63) - 1
"""In `whole`: nothing is known to be whole."""

UNTOLD = 0
OPEN = 1
CLOSED = 2
FIRST_NUMBER = 1
"""Of a session's messages."""
EXPECT_BYTES = 4_096
"""Messages whose memory is asked for at once: about a hundred; the first has come when the last is asked for."""
ORDER_MESSAGE_BYTES = 19
"""The shortest message about an order."""

SYMBOL_STATE = np.dtype(
    [
        ("px", "<i8", 2),  # by side: the best as it was published, NULL where there is none
        ("size", "<i8", 2),
        ("condition", "<i8"),  # text: of its quotes
        ("tape", "<i8"),  # text, NULL until the directory has told
        ("round_lot", "<i8"),  # ROUND_LOT until the directory has told
        ("listed", "<i8"),  # 1 once the directory has told
    ]
)
SYMBOL_BYTES = SYMBOL_STATE.itemsize
STATUS_STATE = np.dtype(
    [
        ("trading", "<i8"),  # text: last trading state (H, P, Q, T) and its reason; 0 until told
        ("reason", "<i8"),
        ("halted_here", "<i8"),  # 1 while operationally halted on this market alone
        ("short_sale", "<i8"),  # text, NULL until told
        ("upper_px", "<i8"),  # auction collars, NULL where there are none
        ("lower_px", "<i8"),
    ]
)


class State(NamedTuple):
    """What decoding one feed remembers. Symbol ids index ``symbols`` and ``statuses``."""

    symbols: npt.NDArray[np.void]  # [symbols_max] SYMBOL_STATE
    statuses: npt.NDArray[np.void]  # [symbols_max] STATUS_STATE
    locates: npt.NDArray[np.int64]  # [LOCATES] symbol id, 0 where nothing has named it
    book: order_book.OrderBook
    whole: npt.NDArray[np.int64]  # [symbols_max * 2] while PARTIAL: a side lacks nothing from that rank on
    progress: npt.NDArray[np.int64]  # [N_PROGRESS]
    counters: npt.NDArray[np.int64]  # [N_COUNTERS]
    types: npt.NDArray[np.int64]  # [256] messages by type byte


def new_state(symbols_max: int, orders_max: int, levels_max: int) -> State:
    """Nothing seen yet."""
    state = State(
        symbols=np.zeros(symbols_max, SYMBOL_STATE),
        statuses=np.zeros(symbols_max, STATUS_STATE),
        locates=np.zeros(LOCATES, np.int64),
        book=order_book.new_book(symbols_max, orders_max, levels_max),
        whole=np.full(symbols_max * 2, UNPROVEN, np.int64),
        progress=np.zeros(N_PROGRESS, np.int64),
        counters=np.zeros(N_COUNTERS, np.int64),
        types=np.zeros(256, np.int64),
    )
    state.symbols["px"] = state.symbols["size"] = state.symbols["tape"] = NULL
    state.symbols["condition"] = _FIRM
    state.symbols["round_lot"] = ROUND_LOT
    for name in ("short_sale", "upper_px", "lower_px"):
        state.statuses[name] = NULL
    return state


LENGTHS = {
    "S": 12,
    "R": 39,
    "H": 25,
    "h": 21,
    "Y": 20,
    "L": 26,
    "V": 35,
    "W": 12,
    "K": 28,
    "J": 35,
    "A": 36,
    "F": 40,
    "E": 31,
    "C": 36,
    "X": 23,
    "D": 19,
    "U": 35,
    "P": 44,
    "Q": 40,
    "B": 19,
    "I": 50,
    "N": 20,
    "O": 48,
}
"""Bytes of each message type; a later version may append to them."""

_BYTES = np.array([LENGTHS.get(chr(kind), 0) for kind in range(256)], np.int64)
_A, _B, _C, _D, _E, _F, _G, _H, _J, _M, _N = (ord(c) for c in "ABCDEFGHJMN")
_O, _P, _Q, _R, _S, _U, _W, _X, _Y = (ord(c) for c in "OPQRSUWXY")
_HALT_HERE = ord("h")
_FIRM = pack("R")
_NOT_FIRM = pack("N")
_TRADING = pack("T")
_HALTED = pack("H")
_HERE_ALONE = pack("OPER")
_LIVE = pack("live")
_REGULAR = pack("@")
_EXTENDED = pack("T")
_ODD_LOT = pack("I")
_OPENING, _CLOSING, _REOPENING, _CROSS = pack("O"), pack("6"), pack("5"), pack("X")
_TAPE_A, _TAPE_B, _TAPE_C = pack("A"), pack("B"), pack("C")
_TIME_MASK = (1 << 48) - 1


@lean_kernel
def learn(symbols: Any, locates: Any, counters: Any, data: Any, locate: int, name_at: int) -> int:
    """Give a locate code the name at ``data[name_at]``; its symbol, or -1 (counted)."""
    symbol = read_symbol(symbols, data, name_at, 8)
    if symbol < 0:
        counters[REFUSED if symbol == -1 else MESSAGE] += 1
        return -1
    locates[locate] = symbol
    return symbol


@lean
def symbol_of(symbols: Any, state: Any, data: Any, locate: int, name_at: int) -> int:
    """The symbol of a locate code, learnt from the message itself where the directory was missed; -1 (counted)."""
    symbol = state.locates[locate]
    if symbol == 0:
        return learn(symbols, state.locates, state.counters, data, locate, name_at)
    return symbol


@lean
def sale_condition(size: int, round_lot: int, phase: int, since_midnight_ns: int) -> Any:
    """Sale conditions on the tape: T outside of market hours, I for an odd lot, in this order; ``@`` for neither."""
    extended = phase == CLOSED or (phase == UNTOLD and (since_midnight_ns < OPENS_NS or since_midnight_ns >= CLOSES_NS))
    condition = int64(_EXTENDED) if extended else int64(0)
    if size < round_lot:
        condition |= int64(_ODD_LOT) << (8 if extended else 0)
    return condition if condition != 0 else int64(_REGULAR)


@lean
def quote(state: Any, stamp: Any, row: Any) -> None:
    """Write what stands in the symbol's state as a QUOTE."""
    known = state.symbols[stamp.symbol]
    put_quote(
        row, stamp, known["px"][BID], known["size"][BID], known["px"][ASK], known["size"][ASK], known["condition"]
    )
    state.counters[QUOTES] += 1


@lean
def publish_status(state: Any, stamp: Any, row: Any) -> None:
    """Write all that is known of the symbol's status: who comes late has the last row only."""
    known = state.statuses[stamp.symbol]
    trading = known["trading"]
    reason = known["reason"]
    if known["halted_here"] and trading != _HALTED:
        trading = int64(_HALTED)
        reason = int64(_HERE_ALONE)
    put_status(row, stamp, trading if trading != 0 else int64(NULL), reason if reason != 0 else int64(NULL))
    row["short_sale"] = known["short_sale"]
    row["upper_px"] = known["upper_px"]
    row["lower_px"] = known["lower_px"]
    if state.symbols[stamp.symbol]["listed"]:
        row["round_lot"] = state.symbols[stamp.symbol]["round_lot"]
    state.counters[STATUSES] += 1


@lean
def status_changed(state: Any, stamp: Any, out: Any, n: int) -> int:
    """Write the symbol's status, and its quote when that has become firm or ceased to be; return how many rows."""
    publish_status(state, stamp, out.statuses[n])
    status = state.statuses[stamp.symbol]
    known = state.symbols[stamp.symbol]
    trades = status["trading"] == _TRADING or (status["trading"] == 0 and known["listed"] == 0)
    condition = int64(_FIRM) if trades and not status["halted_here"] else int64(_NOT_FIRM)
    if condition == known["condition"]:
        return 1
    known["condition"] = condition
    if known["px"][BID] == NULL and known["px"][ASK] == NULL:
        return 1
    quote(state, stamp, out.quotes[n + 1])
    return 2


@lean
def directory(state: Any, data: Any, at: int, symbol: int) -> None:
    """``R``: tape and round lot; from now on the symbol does not trade until an ``H`` says so."""
    known = state.symbols[symbol]
    listing = u8(data, at + 19)
    known["tape"] = _TAPE_B
    if listing == _N:
        known["tape"] = _TAPE_A
    elif listing == _Q or listing == _G or listing == _S:
        known["tape"] = _TAPE_C
    round_lot = be32(data, at + 21)
    known["round_lot"] = round_lot if round_lot > 0 else int64(ROUND_LOT)
    known["listed"] = 1


@lean_kernel
def rare_message(
    symbols: Any,
    state: Any,
    data: Any,
    at: int,
    kind: int,
    venue: int,
    sequence: int,
    midnight_ns: int,
    recv_ns: int,
    out: Any,
    n: int,
) -> int:
    """Apply a message that is not about an order in the book; write at most two rows from ``n``; return how many."""
    counters = state.counters
    locate = be16(data, at + 1)
    since_midnight_ns = be64(data, at + 3) & _TIME_MASK
    event_ns = midnight_ns + since_midnight_ns
    if kind == _S:
        code = u8(data, at + 11)
        if code == _Q:
            state.progress[PHASE] = OPEN
        elif code == _O or code == _S or code == _M or code == _E or code == _C:
            state.progress[PHASE] = CLOSED
        stamp = Stamp(int64(0), venue, int64(NULL), sequence, event_ns, recv_ns)
        put_status(out.statuses[n], stamp, text(data, at + 11, 1), NULL)
        out.statuses[n]["venue_state"] = _LIVE
        counters[STATUSES] += 1
        return 1
    if kind == _W:
        level = u8(data, at + 11)
        if not is_level(level):
            counters[MESSAGE] += 1
            return 0
        stamp = Stamp(int64(0), venue, int64(NULL), sequence, event_ns, recv_ns)
        put_breaker(out.statuses[n], stamp, level)
        counters[STATUSES] += 1
        return 1
    if kind == _R:
        symbol = learn(symbols, state.locates, counters, data, locate, at + 11)
    elif kind == _H or kind == _HALT_HERE or kind == _Y or kind == _J:
        symbol = symbol_of(symbols, state, data, locate, at + 11)
    elif kind == _P:
        symbol = symbol_of(symbols, state, data, locate, at + 24)
    elif kind == _Q:
        symbol = symbol_of(symbols, state, data, locate, at + 19)
    elif kind == _B:
        symbol = state.locates[locate]
        if symbol == 0:
            counters[UNLISTED] += 1
            return 0
    else:
        return 0  # L, V, K, I, N, O: nothing on the bus has a place for them
    if symbol < 0:
        return 0
    if kind == _R:
        directory(state, data, at, symbol)
    known = state.symbols[symbol]
    stamp = Stamp(int64(symbol), venue, known["tape"], sequence, event_ns, recv_ns)
    status = state.statuses[symbol]
    if kind == _R:
        return status_changed(state, stamp, out, n)
    if kind == _H:
        status["trading"] = text(data, at + 19, 1)
        status["reason"] = text(data, at + 21, 4)
        if status["trading"] == _TRADING:
            status["upper_px"] = NULL
            status["lower_px"] = NULL
        return status_changed(state, stamp, out, n)
    if kind == _HALT_HERE:
        if u8(data, at + 19) != venue:
            return 0  # of a sister market
        status["halted_here"] = 1 if u8(data, at + 20) == _H else 0
        return status_changed(state, stamp, out, n)
    if kind == _Y:
        status["short_sale"] = text(data, at + 19, 1)
        return status_changed(state, stamp, out, n)
    if kind == _J:
        status["upper_px"] = be32(data, at + 23) * WIRE_PRICE
        status["lower_px"] = be32(data, at + 27) * WIRE_PRICE
        return status_changed(state, stamp, out, n)
    if kind == _B:
        put_trade(out.trades[n], stamp, NULL, NULL, NULL, NULL, CANCELS, be64(data, at + 11))
        counters[BREAKS] += 1
        return 1
    if kind == _P:
        size = be32(data, at + 20)
        price = be32(data, at + 32) * WIRE_PRICE
        match = be64(data, at + 36)
        condition = sale_condition(size, known["round_lot"], state.progress[PHASE], since_midnight_ns)
    else:
        size = be64(data, at + 11)
        price = be32(data, at + 27) * WIRE_PRICE
        match = be64(data, at + 31)
        cross = u8(data, at + 39)
        condition = int64(_CROSS)
        if cross == _O:
            condition = int64(_OPENING)
        elif cross == _C:
            condition = int64(_CLOSING)
        elif cross == _H:
            condition = int64(_REOPENING)
    if size <= 0:
        counters[UNPRINTED] += 1
        return 0
    if price == 0:
        counters[UNENCODABLE] += 1
        return 0
    put_trade(out.trades[n], stamp, price, size, condition, match, NULL, NULL)
    counters[TRADES] += 1
    return 1


@lean_kernel
def lose(state: Any) -> None:
    """Orders from before are unknown: no side is whole."""
    for key in range(state.whole.size):
        state.whole[key] = UNPROVEN
    state.progress[PARTIAL] = 1


@lean_kernel
def doubt(state: Any, symbol: int, price: int, stamp: Any, row: Any) -> int:
    """An unknown order has been given this price: no side is whole at it or worse; return the rows (a quote or none).

    It is a bid if there are bids at its price or above, for it would cross if it were an ask, and the other way round.
    """
    known = state.symbols[symbol]
    firm = known["condition"] == _FIRM
    bid_px = order_book.best(state.book, symbol, BID)[0]
    ask_px = order_book.best(state.book, symbol, ASK)[0]
    changed = False
    for side in range(2):
        if firm and side == ASK and bid_px != NULL and price <= bid_px:
            continue
        if firm and side == BID and ask_px != NULL and price >= ask_px:
            continue
        key = symbol * 2 + side
        rank = order_book.rank_of(key, price) + 1
        if state.whole[key] == UNPROVEN or rank <= state.whole[key]:
            continue
        state.whole[key] = rank
        if known["px"][side] != NULL and order_book.rank_of(key, known["px"][side]) < rank:
            known["px"][side] = NULL
            known["size"][side] = NULL
            changed = True
    if changed:
        quote(state, stamp, row)
        return 1
    return 0


@lean_kernel
def withdraw(state: Any, block: Any, venue: int, out: Any, n: int) -> int:
    """Empty the book after a gap or restart and withdraw what stands on the bus, as far as there is room.

    Returns the rows written so far; progress[WITHDRAW] is 0 when all is done. After a restart nothing is left of
    the names and statuses either: the new session tells them.
    """
    progress = state.progress
    restart = block["kind"] == RESTART
    if progress[WITHDRAW] == 0:
        order_book.clear_all(state.book)
        progress[WITHDRAW] = 1
        lose(state)
        if restart:
            progress[PHASE] = UNTOLD
            progress[JOINED] = 0
            progress[PARTIAL] = 0
            for locate in range(LOCATES):
                state.locates[locate] = 0
    symbol = progress[WITHDRAW]
    while symbol < state.symbols.size and n < out.quotes.size:
        known = state.symbols[symbol]
        if known["px"][BID] != NULL or known["px"][ASK] != NULL:
            for side in range(2):
                known["px"][side] = NULL
                known["size"][side] = NULL
            stamp = Stamp(symbol, venue, known["tape"], int64(NULL), block["recv_ns"], block["recv_ns"])
            put_quote(out.quotes[n], stamp, NULL, NULL, NULL, NULL, known["condition"])
            n += 1
            state.counters[WITHDRAWN] += 1
        if restart:
            known["condition"] = _FIRM
            known["listed"] = 0
            status = state.statuses[symbol]
            status["trading"] = 0
            status["reason"] = 0
            status["halted_here"] = 0
            status["short_sale"] = NULL
            status["upper_px"] = NULL
            status["lower_px"] = NULL
        symbol += 1
    progress[WITHDRAW] = symbol if symbol < state.symbols.size else 0
    return n


@lean_kernel
def expect(buffer: Any, blocks: Any, first: int, state: Any) -> int:
    """Ask for the memory that the orders of the next blocks need, all at once; return the first block left out.

    Orders and levels of a whole market do not fit into a processor's caches, and each message waits for two or three
    lines of them in turn. Asked for together they come together: first orders and ladders, then what those name.
    """
    last = first
    size = 0
    while last < blocks.size and size < EXPECT_BYTES:
        if blocks[last]["kind"] == DATA:
            size += blocks[last]["stop"] - blocks[last]["start"]
        last += 1
    for named in range(2):
        for i in range(first, last):
            pos = blocks[i]["start"]
            stop = blocks[i]["stop"] if blocks[i]["kind"] == DATA else pos
            while pos + 2 + ORDER_MESSAGE_BYTES < stop:
                at = pos + 2
                kind = u8(buffer, at)
                pos = at + be16(buffer, pos)
                if pos > stop:
                    break
                if pos - at < ORDER_MESSAGE_BYTES:
                    continue
                if kind == _A or kind == _F or kind == _D or kind == _U or kind == _E or kind == _X or kind == _C:
                    order_id = be64(buffer, at + 11)
                    symbol = state.locates[be16(buffer, at + 1)]
                    if not named:
                        order_book.expect_order(state.book, order_id)
                        order_book.expect_ladder(state.book, symbol)
                        prefetch(state.symbols.ctypes.data + symbol * SYMBOL_BYTES)
                    elif kind == _A or kind == _F:
                        order_book.expect_rungs(state.book, symbol * 2 + (u8(buffer, at + 19) & 1))
                    else:
                        order_book.expect_level_of(state.book, order_id)
    return last


@lean_kernel
def decode(
    buffer: Any,
    blocks: Any,
    taken: int,
    venue: int,
    midnight_ns: int,
    next_midnight_ns: int,
    symbols: Any,
    state: Any,
    out: Any,
) -> tuple[int, int]:
    """Decode blocks from number ``taken``; return the first block not taken and the rows written.

    Stops early, between blocks, when ``out`` might not hold what the next one gives: empty it and call again; and
    before a block that was not received between the two midnights (UTC ns): find the right ones and call again.
    ``out`` must hold the rows of the longest block: its bytes // ROW_BYTES_MIN.
    """
    book = state.book
    counters = state.counters
    phase = state.progress
    n = 0
    i = taken
    expected = taken
    while i < blocks.size:
        if i == expected:
            expected = expect(buffer, blocks, i, state)
        block = blocks[i]
        if block["kind"] == GAP or block["kind"] == RESTART:
            n = withdraw(state, block, venue, out, n)
            if state.progress[WITHDRAW] != 0:
                break
            i += 1
            continue
        if block["kind"] != DATA:
            i += 1
            continue
        pos = block["start"]
        stop = block["stop"]
        recv_ns = block["recv_ns"]
        if recv_ns < midnight_ns or recv_ns >= next_midnight_ns:
            break
        if out.quotes.size - n < (stop - pos) // ROW_BYTES_MIN:
            break
        i += 1
        if phase[JOINED] == 0:
            phase[JOINED] = 1
            if block["first"] > FIRST_NUMBER:
                lose(state)
        is_partial = phase[PARTIAL] != 0
        sequence = block["first"] - 1
        wanted_from = block["first"] + block["skip"]
        while pos + 2 <= stop:
            at = pos + 2
            size = be16(buffer, pos)
            pos = at + size
            sequence += 1
            if pos > stop:
                break
            if sequence < wanted_from:
                continue
            counters[MESSAGES] += 1
            if size == 0:
                counters[MESSAGE] += 1
                continue
            kind = u8(buffer, at)
            state.types[kind] += 1
            if size < _BYTES[kind] or _BYTES[kind] == 0:
                counters[UNKNOWN if _BYTES[kind] == 0 else MESSAGE] += 1
                continue
            since_midnight_ns = be64(buffer, at + 3) & _TIME_MASK
            if since_midnight_ns > TIME_NS_MAX:
                counters[MESSAGE] += 1
                continue
            order_id = be64(buffer, at + 11) if size >= 19 else int64(0)
            adds = False
            trade_size = int64(0)
            trade_px = int64(0)
            trade_id = int64(0)
            key = int64(0)
            price = int64(0)
            shares = int64(0)
            if kind == _A or kind == _F:
                side = u8(buffer, at + 19)
                if side != _B and side != _S:
                    counters[MESSAGE] += 1
                    continue
                symbol = symbol_of(symbols, state, buffer, be16(buffer, at + 1), at + 24)
                if symbol < 0:
                    continue
                key = symbol * 2 + (ASK if side == _S else BID)
                shares = be32(buffer, at + 20)
                price = be32(buffer, at + 32) * WIRE_PRICE
                adds = True
            elif kind == _D or kind == _U or kind == _E or kind == _X or kind == _C:
                slot = order_book.find(book, order_id)
                if slot < 0:
                    book.counters[order_book.ORPHANS] += 1
                    symbol = state.locates[be16(buffer, at + 1)]
                    if is_partial and kind == _U and symbol > 0:
                        tape = state.symbols[symbol]["tape"]
                        stamp = Stamp(symbol, venue, tape, sequence, midnight_ns + since_midnight_ns, recv_ns)
                        n += doubt(state, symbol, be32(buffer, at + 31) * WIRE_PRICE, stamp, out.quotes[n])
                    continue
                word = book.orders[slot]["word"]
                level = book.levels[word >> SIZE_BITS]
                key = level["key"]
                reduced = word & SIZE_MAX
                if kind == _U:
                    order_id = be64(buffer, at + 19)
                    shares = be32(buffer, at + 27)
                    price = be32(buffer, at + 31) * WIRE_PRICE
                    adds = True
                elif kind != _D:
                    reduced = be32(buffer, at + 19)
                    if kind == _E:
                        trade_size = reduced
                        trade_px = level["price"]
                        trade_id = be64(buffer, at + 23)
                    elif kind == _C:
                        trade_id = be64(buffer, at + 23)
                        trade_px = be32(buffer, at + 32) * WIRE_PRICE
                        if u8(buffer, at + 31) == _Y and trade_px > 0:
                            trade_size = reduced
                        else:
                            counters[UNPRINTED] += 1
                order_book.reduce(book, slot, reduced)
            else:
                n += rare_message(symbols, state, buffer, at, kind, venue, sequence, midnight_ns, recv_ns, out, n)
                continue
            if adds:
                if price == 0:
                    counters[UNENCODABLE] += 1
                else:
                    order_book.insert(book, key, order_id, price, shares)
            symbol = key >> 1
            known = state.symbols[symbol]
            best = book.levels[book.ladders[key]["best"]]
            side = key & 1
            best_px = best["price"]
            best_size = best["size"]
            if is_partial:
                if kind == _E:
                    state.whole[key] = min(state.whole[key], order_book.rank_of(key, trade_px) + 1)
                if best_px != NULL and order_book.rank_of(key, best_px) < state.whole[key]:
                    best_px = int64(NULL)
                    best_size = int64(NULL)
            if trade_size > 0:
                stamp = Stamp(symbol, venue, known["tape"], sequence, midnight_ns + since_midnight_ns, recv_ns)
                condition = sale_condition(trade_size, known["round_lot"], phase[PHASE], since_midnight_ns)
                put_trade(out.trades[n], stamp, trade_px, trade_size, condition, trade_id, NULL, NULL)
                counters[TRADES] += 1
                n += 1
            if known["px"][side] != best_px or known["size"][side] != best_size:
                known["px"][side] = best_px
                known["size"][side] = best_size
                stamp = Stamp(symbol, venue, known["tape"], sequence, midnight_ns + since_midnight_ns, recv_ns)
                quote(state, stamp, out.quotes[n])
                n += 1
    return i, n


def warm_up() -> None:
    """Compile or load the decoder with the live array types; there is no block."""
    state = new_state(symbols_max=2, orders_max=2, levels_max=2)
    symbols = make_symbols(2)
    decode(np.zeros(1, np.uint8), np.zeros(0, BLOCK), 0, 0, 0, 0, symbols, state, new_out(empty(1, EVENT)))
