"""IEX-TP packets with TOPS 1.6 or DEEP 1.0 -> rows, compiled (pure).

Every packet is walked by the lengths it states, each checked against the bytes that are there, so a packet
that lies costs at most itself. Numbers are taken as read only for messages that were read: what a short
packet left out shows as a gap at the next one.

Sources: IEX-TP 1.25, TOPS 1.6 and DEEP 1.0 specifications; offsets as in their tables, integers little-endian.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import inlined, kernel
from fabric.records import (
    EVENT,
    KIND_QUOTE,
    KIND_STATUS,
    KIND_TRADE,
    NULL,
    PRICE_MAX,
    QUOTE,
    STATUS,
    TRADE,
    Rows,
    empty,
    pack,
)
from fabric.symbols import SymbolTable
from fabric.symbols_kernel import intern
from nodes.feeds import level_book_kernel as level_book
from nodes.feeds.level_book_kernel import ASK, BID
from nodes.feeds.wire_kernel import le16, le32, le64, text, u8

PROTOCOL_TOPS = 0x8003
PROTOCOL_DEEP = 0x8004
HEADER_BYTES = 40
WIRE_PRICE = 100_000
"""Whole units in the wire's 1/10000 of a dollar."""
ROW_BYTES_MIN = 12
"""A row comes from no less than this of a packet: two bytes of length and a system event (10)."""
PACKET_ROWS_EXTRA = 1
"""A row beyond those: the gap before the packet."""
RESTART_AFTER_NS = 50_000_000
"""A number below the expected one, sent this much later than anything before it, is a restart and not a late copy."""
RESTART_BEHIND = 65_536
"""... and so is one that is further behind than any late copy, whatever its clock says."""
SEQUENCE_MAX = 1 << 60
TIME_MAX_NS = 1 << 62

# Columns of `counters`.
PACKETS = 0  # taken: of this protocol and sound enough to be read
MESSAGES = 1
HEARTBEATS = 2
GAPS = 3
LOST = 4  # messages inside those gaps
DUPLICATES = 5  # messages that had been seen
RESTARTS = 6
QUOTES = 7
TRADES = 8
BREAKS = 9
STATUSES = 10
WITHDRAWN = 11  # quotes withdrawn at a restart
UNKNOWN = 12  # messages of a type that the specification does not have
UNENCODABLE = 13  # sides and trades with a price that is negative or beyond PRICE_MAX
REFUSED = 14  # messages whose symbol the full table refused
SHORT = 15  # malformed from here: packet shorter than its header
VERSION = 16  # transport version is not 1
PROTOCOL = 17  # another protocol id than this feed's
SEQUENCE = 18  # sequence number negative or absurd
CHANNELS = 19  # more channels than the table holds
LENGTH = 20  # stated lengths and counts do not agree with the bytes
MESSAGE = 21  # a message shorter than its type, or with an unreadable symbol or time
N_COUNTERS = 22

CHANNEL = np.dtype(
    [
        ("channel", "<i8"),
        ("session", "<i8"),
        ("expected", "<i8"),  # number of the next message; NULL where the row is free
        ("sent_ns", "<i8"),  # latest send time seen
        ("withdraw", "<i8"),  # after a restart: next symbol whose quote is to be withdrawn; 0 when done
    ]
)

SYMBOL_STATE = np.dtype(
    [
        ("channel", "<i8"),  # 1 + row of the channel that quoted it; 0 where nothing stands on the bus
        ("bid_px", "<i8"),  # the quote published last (DEEP: a new one goes out only when it differs)
        ("bid_size", "<i8"),
        ("ask_px", "<i8"),
        ("ask_size", "<i8"),
        ("trading", "<i8"),  # text: last trading status (H, O, P, T) and its reason
        ("reason", "<i8"),
        ("halted_here", "<i8"),  # 1 while operationally halted on IEX alone
        ("published_trading", "<i8"),  # the status published last
        ("published_reason", "<i8"),
    ]
)


class State(NamedTuple):
    """What decoding one feed remembers. Symbol ids index ``symbols``."""

    channels: npt.NDArray[np.void]  # [channels_max] CHANNEL
    symbols: npt.NDArray[np.void]  # [symbols_max] SYMBOL_STATE
    book: level_book.LevelBook  # DEEP only
    counters: npt.NDArray[np.int64]  # [N_COUNTERS]
    types: npt.NDArray[np.int64]  # [256] messages by type byte


class Out(NamedTuple):
    """One array of rows under the names of each kind that is written."""

    quotes: npt.NDArray[np.void]
    trades: npt.NDArray[np.void]
    statuses: npt.NDArray[np.void]


class Stamp(NamedTuple):
    """What every row of one message has in common."""

    symbol: Any
    venue: Any
    sequence: Any
    event_ns: Any
    recv_ns: Any


def new_state(symbols_max: int, levels_max: int, channels_max: int) -> State:
    """Nothing seen yet."""
    channels = np.zeros(channels_max, CHANNEL)
    channels["expected"] = NULL
    symbols = np.zeros(symbols_max, SYMBOL_STATE)
    for name in ("bid_px", "bid_size", "ask_px", "ask_size"):
        symbols[name] = NULL
    return State(
        channels=channels,
        symbols=symbols,
        book=level_book.new_book(symbols_max, levels_max),
        counters=np.zeros(N_COUNTERS, np.int64),
        types=np.zeros(256, np.int64),
    )


def new_out(rows: Rows) -> Out:
    """``rows`` (EVENT) under every kind's names."""
    return Out(rows.view(QUOTE), rows.view(TRADE), rows.view(STATUS))


_Q, _T, _B, _S, _H, _O = (ord(c) for c in "QTBSHO")
_BUY, _SELL = ord("8"), ord("5")
_FIRM = pack("R")
_NOT_FIRM = pack("N")
_CANCELS = pack("x")
_HALTED = pack("H")
_HERE_ALONE = pack("OPER")
_LIVE = pack("live")
_GAP = pack("gap")
_REGULAR = pack("@")
_SALE_SWEEP, _SALE_EXTENDED, _SALE_ODD_LOT, _SALE_CROSS = pack("F"), pack("T"), pack("I"), pack("X")


@inlined
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


@kernel
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


@inlined
def put_header(row: Any, kind: int, stamp: Any) -> None:
    """Write the columns that every kind has; the sender's own are left undefined."""
    row["kind"] = kind
    row["symbol"] = stamp.symbol
    row["venue"] = stamp.venue
    row["seq"] = NULL
    row["epoch"] = NULL
    row["position"] = NULL
    row["exchange_seq"] = stamp.sequence
    row["event_ns"] = stamp.event_ns
    row["recv_ns"] = stamp.recv_ns
    row["feed_ns"] = NULL
    row["proc_ns"] = NULL


@kernel
def put_quote(row: Any, stamp: Any, bid_px: int, bid_size: int, ask_px: int, ask_size: int, condition: int) -> None:
    """Write a QUOTE row."""
    put_header(row, KIND_QUOTE, stamp)
    row["bid_px"] = bid_px
    row["bid_size"] = bid_size
    row["ask_px"] = ask_px
    row["ask_size"] = ask_size
    row["condition"] = condition
    row["tape"] = NULL


@kernel
def put_trade(row: Any, stamp: Any, price: int, size: int, condition: int, trade_id: int, broken_id: int) -> None:
    """Write a TRADE row; a break has ``broken_id`` and no id of its own."""
    put_header(row, KIND_TRADE, stamp)
    row["price"] = price
    row["size"] = size
    row["condition"] = condition
    row["trade_id"] = trade_id
    row["tape"] = NULL
    row["mark"] = NULL if broken_id == NULL else _CANCELS
    row["original_id"] = broken_id


@kernel
def put_status(row: Any, stamp: Any, trading: int, reason: int, venue_state: int, gap_from: int, gap_to: int) -> None:
    """Write a STATUS row."""
    put_header(row, KIND_STATUS, stamp)
    row["trading"] = trading
    row["reason"] = reason
    row["upper_px"] = NULL
    row["lower_px"] = NULL
    row["indicator"] = NULL
    row["venue_state"] = venue_state
    row["gap_from"] = gap_from
    row["gap_to"] = gap_to
    row["tape"] = NULL


@kernel
def read_symbol(symbols: Any, data: Any, at: int) -> int:
    """Intern the eight-byte symbol at ``data[at]``: its id, -1 when the table is full, -2 when it is not a name.

    A name is printable ASCII with neither a space inside nor ``|``, which ends the symbol in a topic.
    """
    length = 8
    while length > 0 and data[at + length - 1] == 32:
        length -= 1
    if length == 0:
        return -2
    for i in range(length):
        character = data[at + i]
        if character <= 32 or character > 126 or character == 124:
            return -2
    return intern(symbols, data, at, length)


@kernel
def read_price(state: Any, data: Any, at: int) -> int:
    """The price at ``data[at]`` in whole units; NULL for zero, and (counted) for what no record can hold."""
    price = le64(data, at)
    if price == 0:
        return NULL
    if price < 0 or price > PRICE_MAX // WIRE_PRICE:
        state.counters[UNENCODABLE] += 1
        return NULL
    return price * WIRE_PRICE


@kernel
def quote_message(state: Any, data: Any, at: int, stamp: Any, channel: int, row: Any) -> int:
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
    state.symbols[stamp.symbol]["channel"] = channel + 1
    state.counters[QUOTES] += 1
    return 1


@kernel
def level_message(state: Any, data: Any, at: int, side: int, stamp: Any, channel: int, row: Any) -> int:
    """DEEP ``8`` and ``5``: a level's whole size; a quote when the event is complete and the best has changed."""
    price = read_price(state, data, at + 22)
    if price != NULL:
        level_book.update(state.book, stamp.symbol, side, price, le32(data, at + 18))
    if not data[at + 1] & 0x01:
        return 0
    bid_px, bid_size = level_book.best(state.book, stamp.symbol, BID)
    ask_px, ask_size = level_book.best(state.book, stamp.symbol, ASK)
    published = state.symbols[stamp.symbol]
    published["channel"] = channel + 1
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
    put_quote(row, stamp, bid_px, bid_size, ask_px, ask_size, _FIRM)
    state.counters[QUOTES] += 1
    return 1


@kernel
def trade_message(state: Any, data: Any, at: int, is_break: bool, stamp: Any, row: Any) -> int:
    """``T`` and ``B``: the same layout, a break naming the trade it undoes."""
    price = read_price(state, data, at + 22)
    if price == NULL:
        return 0
    size = le32(data, at + 18)
    trade_id = le64(data, at + 30)
    condition = sale_condition(u8(data, at + 1))
    if is_break:
        put_trade(row, stamp, price, size, condition, NULL, trade_id)
        state.counters[BREAKS] += 1
    else:
        put_trade(row, stamp, price, size, condition, trade_id, NULL)
        state.counters[TRADES] += 1
    return 1


@kernel
def publish_status(state: Any, stamp: Any, row: Any) -> int:
    """A status row when what holds for the symbol has changed: trading status and IEX's own halt in one value."""
    known = state.symbols[stamp.symbol]
    trading = known["trading"]
    reason = known["reason"]
    if known["halted_here"] and trading != _HALTED:
        trading = np.int64(_HALTED)
        reason = np.int64(_HERE_ALONE)
    if trading == 0 or (trading == known["published_trading"] and reason == known["published_reason"]):
        return 0
    known["published_trading"] = trading
    known["published_reason"] = reason
    put_status(row, stamp, trading, reason, NULL, NULL, NULL)
    state.counters[STATUSES] += 1
    return 1


@kernel
def message(
    symbols: Any, state: Any, data: Any, at: int, size: int, protocol: int, channel: int, stamp: Any, out: Any, n: int
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
        venue_stamp = Stamp(np.int64(0), stamp.venue, stamp.sequence, event_ns, stamp.recv_ns)
        put_status(out.statuses[n], venue_stamp, text(data, at + 1, 1), NULL, _LIVE, NULL, NULL)
        state.counters[STATUSES] += 1
        return 1
    if not (kind == _Q or kind == _BUY or kind == _SELL or kind == _T or kind == _B or kind == _H or kind == _O):
        return 0  # D, P, I, E, X, A: nothing on the bus has a place for them
    symbol = read_symbol(symbols, data, at + 10)
    if symbol < 0:
        state.counters[REFUSED if symbol == -1 else MESSAGE] += 1
        return 0
    full_stamp = Stamp(np.int64(symbol), stamp.venue, stamp.sequence, event_ns, stamp.recv_ns)
    if kind == _Q:
        return quote_message(state, data, at, full_stamp, channel, out.quotes[n])
    if kind == _BUY or kind == _SELL:
        return level_message(state, data, at, BID if kind == _BUY else ASK, full_stamp, channel, out.quotes[n])
    if kind == _T or kind == _B:
        return trade_message(state, data, at, kind == _B, full_stamp, out.trades[n])
    known = state.symbols[symbol]
    if kind == _H:
        known["trading"] = text(data, at + 1, 1)
        known["reason"] = text(data, at + 18, 4)
    else:
        known["halted_here"] = 1 if data[at + 1] == _O else 0
    return publish_status(state, full_stamp, out.statuses[n])


@kernel
def find_channel(channels: Any, channel: int) -> int:
    """The row of a channel, taking a free one for a new channel; -1 when there is none."""
    for row in range(channels.size):
        if channels[row]["expected"] == NULL:
            channels[row]["channel"] = channel
            channels[row]["session"] = NULL
            return row
        if channels[row]["channel"] == channel:
            return row
    return -1


@kernel
def is_restart(known: Any, session: int, sequence: int, sent_ns: int) -> bool:
    """Whether a packet begins a new numbering rather than repeating the old one.

    IEX's own sample keeps one session id over 12 restarts, so the session alone does not tell.
    """
    if session != known["session"]:
        return True
    behind = known["expected"] - sequence
    return behind > 0 and (behind > RESTART_BEHIND or sent_ns > known["sent_ns"] + RESTART_AFTER_NS)


@kernel
def withdraw(state: Any, channel: int, venue: int, recv_ns: int, out: Any, n: int) -> int:
    """Withdraw what a channel quoted before its restart, as far as there is room; return the rows written so far.

    The old quotes would otherwise stand until each symbol is next quoted. ``withdraw`` is 0 when all is done.
    """
    known = state.channels[channel]
    symbol = known["withdraw"]
    while symbol < state.symbols.size and n < out.quotes.size:
        old = state.symbols[symbol]
        if old["channel"] == channel + 1:
            level_book.clear(state.book, symbol)
            stamp = Stamp(np.int64(symbol), np.int64(venue), np.int64(NULL), known["sent_ns"], np.int64(recv_ns))
            put_quote(out.quotes[n], stamp, NULL, NULL, NULL, NULL, _FIRM)
            n += 1
            state.counters[WITHDRAWN] += 1
            old["channel"] = 0
            old["bid_px"] = NULL
            old["bid_size"] = NULL
            old["ask_px"] = NULL
            old["ask_size"] = NULL
        symbol += 1
    known["withdraw"] = symbol if symbol < state.symbols.size else 0
    return n


@kernel
def decode(
    buffer: Any,
    offsets: Any,
    lengths: Any,
    recv_ns: Any,
    first: int,
    protocol: int,
    venue: int,
    symbols: Any,
    state: Any,
    out: Any,
) -> tuple[int, int]:
    """Decode packets from number ``first``; return the first packet not taken and the rows written.

    Stops early, between packets, when ``out`` might not hold what the next one gives: empty it and call again.
    ``out`` must hold the rows of the longest packet: its bytes // ROW_BYTES_MIN + PACKET_ROWS_EXTRA.
    """
    counters = state.counters
    n = 0
    i = first
    while i < offsets.size:
        at = offsets[i]
        length = lengths[i]
        if length < HEADER_BYTES:
            counters[SHORT] += 1
            i += 1
            continue
        if buffer[at] != 1:
            counters[VERSION] += 1
            i += 1
            continue
        if le16(buffer, at + 2) != protocol:
            counters[PROTOCOL] += 1
            i += 1
            continue
        session = le32(buffer, at + 8)
        stated = le16(buffer, at + 12)
        count = le16(buffer, at + 14)
        sequence = le64(buffer, at + 24)
        sent_ns = le64(buffer, at + 32)
        if sequence < 0 or sequence > SEQUENCE_MAX or sent_ns < 0 or sent_ns > TIME_MAX_NS:
            counters[SEQUENCE] += 1
            i += 1
            continue
        channel = find_channel(state.channels, le32(buffer, at + 4))
        if channel < 0:
            counters[CHANNELS] += 1
            i += 1
            continue
        known = state.channels[channel]
        if known["expected"] == NULL:
            known["session"] = session
            known["expected"] = sequence
            known["sent_ns"] = sent_ns
        elif known["withdraw"] == 0 and is_restart(known, session, sequence, sent_ns):
            counters[RESTARTS] += 1
            known["session"] = session
            known["expected"] = sequence
            known["sent_ns"] = sent_ns
            known["withdraw"] = 1
        if known["withdraw"] > 0:
            n = withdraw(state, channel, venue, recv_ns[i], out, n)
        if known["withdraw"] > 0 or out.quotes.size - n < length // ROW_BYTES_MIN + PACKET_ROWS_EXTRA:
            break

        counters[PACKETS] += 1
        i += 1
        known["sent_ns"] = max(known["sent_ns"], sent_ns)
        expected = known["expected"]
        if sequence > expected:
            counters[GAPS] += 1
            counters[LOST] += sequence - expected
            gap_stamp = Stamp(np.int64(0), np.int64(venue), np.int64(NULL), sent_ns, recv_ns[i - 1])
            put_status(out.statuses[n], gap_stamp, NULL, NULL, _GAP, expected, sequence - 1)
            n += 1
        if count == 0:
            counters[HEARTBEATS] += 1
        pos = at + HEADER_BYTES
        end = min(pos + stated, at + length)
        read = 0
        while read < count and pos + 2 <= end:
            size = le16(buffer, pos)
            if pos + 2 + size > end:
                break
            if sequence + read < expected:
                counters[DUPLICATES] += 1
            else:
                stamp = Stamp(np.int64(0), np.int64(venue), sequence + read, np.int64(0), recv_ns[i - 1])
                n += message(symbols, state, buffer, pos + 2, size, protocol, channel, stamp, out, n)
            pos += 2 + size
            read += 1
        if read < count or pos != at + length or HEADER_BYTES + stated != length:
            counters[LENGTH] += 1
        known["expected"] = max(expected, sequence + read)
    return i, n


def warm_up() -> None:
    """Compile or load the decoder with the live array types; the packet is too short to do anything."""
    out = new_out(empty(1, EVENT))
    one = np.zeros(1, np.int64)
    state = new_state(symbols_max=2, levels_max=1, channels_max=1)
    decode(np.zeros(1, np.uint8), one, one, one, 0, PROTOCOL_TOPS, 0, SymbolTable(2).arrays, state, out)
