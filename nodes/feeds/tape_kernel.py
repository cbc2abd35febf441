"""What the decoders of both consolidated tapes (CTA and UTP) share, compiled (pure).

Besides the rows, a tape states the national best bid and offer as its processor has it. That is kept for each symbol
(`OFFICIAL`), and each change is written to a log of NBBO rows (`Log`) that never goes to the bus: it is what
our own NBBO is checked against (`nodes.feeds.tape_check`). After lost messages the official value is not known until
it is stated anew; a row of the empty symbol with the bit ``stale`` says so in the log.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean, lean_kernel
from fabric.records import KIND_NBBO, NULL, PRICE_MAX, STATE_STALE, Rows, pack
from fabric.symbols_kernel import find_word, learn
from nodes.feeds.rows_kernel import CANCELS, Stamp, is_level, put_breaker, put_quote, put_status, put_trade
from nodes.feeds.wire_kernel import be16, be32, be64, is_name, le16, le32, le64, text, u8

LONG_PRICE = 1_000
"""Whole units in a millionth of a dollar, the price of long forms."""
SHORT_PRICE = 10_000_000
"""Whole units in a cent, the price of short forms."""
FRACTION = 1_000_000
"""Parts of a share in which fractional volumes count."""
TIME_MAX_NS = 1 << 62

# Columns of `counters`.
MESSAGES = 0
QUOTES = 1
TRADES = 2
CANCELLED = 3  # trades withdrawn
CORRECTED = 4
STATUSES = 5
OFFICIALS = 6  # changes of the official NBBO
WITHDRAWN = 7  # quotes withdrawn at a restart and by wipe-outs
FORGOTTEN = 8  # official NBBOs no longer known after lost messages
UNKNOWN = 9  # messages of a type that the specification does not have
FRACTIONAL = 10  # trades whose volume is not whole: rounded down, and left out below one share
UNENCODABLE = 11  # sides and trades with a price that is negative or beyond PRICE_MAX
REFUSED = 12  # messages whose symbol the full table refused
MESSAGE = 13  # malformed: shorter than its type, or with an unreadable symbol, participant, time or breaker level
N_COUNTERS = 14

NAMES = (
    "messages",
    "quotes",
    "trades",
    "trade_cancels",
    "trade_corrections",
    "statuses",
    "official_changes",
    "withdrawn",
    "official_forgotten",
    "unknown",
    "fractional",
    "unencodable",
    "refused",
    "malformed_message",
)

# What a quote says of one side of the official NBBO.
KEEPS = 0
IS_QUOTE = 1
SHORT_FORM = 2
LONG_FORM = 3
NO_SIDE = 4

OFFICIAL = np.dtype(
    [
        ("px", "<i8", (2,)),  # bid and ask; a side that is not there has NULL price, size and venue
        ("size", "<i8", (2,)),
        ("venue", "<i8", (2,)),
        ("known", "<i8"),  # bit 0 the bid, bit 1 the ask: stated since messages were lost last
        ("_line", "<i8"),
    ]
)
"""A symbol's official NBBO: a cache line."""

SYMBOL_STATE = np.dtype(
    [
        ("stream", "<i8"),  # that quoted it last
        ("venues", "<i8"),  # mask of the venues whose quote stands on the bus
        ("trading", "<i8"),  # text; what is known of the symbol and told in each of its statuses
        ("reason", "<i8"),
        ("upper_px", "<i8"),
        ("lower_px", "<i8"),
        ("indicator", "<i8"),
        ("short_sale", "<i8"),
        ("round_lot", "<i8"),
        ("tape", "<i8"),
    ]
)

# Columns of `cursor`.
_SYMBOL = 0  # of the restart or wipe-out in progress: the next symbol to be withdrawn; 0 when none is
DONE = 1  # messages of the block that stopped early which are done
N_CURSOR = 2
ALL_VENUES = -1


# Columns of `layouts`.
READ = 0  # bytes of a message that are read; COUNTED for one that makes no row, 0 for a type that there is not
NAME_AT = 1  # where its symbol is
NAME_BYTES = 2
PRIMARY_AT = 3  # where its listing market is; 0 where it has none
COUNTED = -1


class State(NamedTuple):
    """What decoding a tape remembers. Symbol ids index ``symbols`` and ``official``."""

    symbols: npt.NDArray[np.void]  # [symbols_max] SYMBOL_STATE
    official: npt.NDArray[np.void]  # [symbols_max] OFFICIAL
    counters: npt.NDArray[np.int64]  # [N_COUNTERS]
    types: npt.NDArray[np.int64]  # [65536] messages by category << 8 | type
    cursor: npt.NDArray[np.int64]
    units: npt.NDArray[np.int64]  # [n, 2] quote sizes count so many shares, from that UTC time on; ascending
    layouts: npt.NDArray[np.int64]  # [65536, 4] READ to PRIMARY_AT by category << 8 | type


class Log(NamedTuple):
    """Changes of the official NBBO since the log was emptied last."""

    rows: npt.NDArray[np.void]  # NBBO
    used: npt.NDArray[np.int64]  # [1]


def new_layouts(rows: dict[str, tuple[int, int, int, int]], counted: dict[str, str]) -> npt.NDArray[np.int64]:
    """`State.layouts` from the columns of each type that makes rows, and the types of each category that make none."""
    layouts = np.zeros((65_536, 4), np.int64)
    for name, columns in rows.items():
        layouts[ord(name[0]) << 8 | ord(name[1])] = columns
    for category, types in counted.items():
        for kind in types:
            layouts[ord(category) << 8 | ord(kind), READ] = COUNTED
    return layouts


def new_state(symbols_max: int, units: npt.NDArray[np.int64], layouts: npt.NDArray[np.int64]) -> State:
    """Nothing seen yet; ``units`` and ``layouts`` are as in `State`."""
    symbols = np.zeros(symbols_max, SYMBOL_STATE)
    for name in ("upper_px", "lower_px", "round_lot"):
        symbols[name] = NULL
    official = np.zeros(symbols_max, OFFICIAL)
    for name in ("px", "size", "venue"):
        official[name] = NULL
    counters, cursor = np.zeros(N_COUNTERS, np.int64), np.zeros(N_CURSOR, np.int64)
    return State(symbols, official, counters, np.zeros(65_536, np.int64), cursor, units, layouts)


def new_log(rows: Rows) -> Log:
    """An empty log over ``rows`` (NBBO)."""
    return Log(rows, np.zeros(1, np.int64))


_FIRM = pack("R")
_REGULAR = pack("@")


@lean
def read_symbol(symbols: Any, data: Any, at: int, width: int) -> int:
    """Intern the symbol in ``width`` (11 or 5) bytes at ``data[at]``: its id, -1 if the table is full, -2 for no name.

    Blanks or zeros follow it.
    """
    if width == 11:
        low = le64(data, at)
        high = le16(data, at + 8) | u8(data, at + 10) << 16
    else:
        low = le32(data, at) | u8(data, at + 4) << 32
        high = 0
    length = width
    while length > 0 and (u8(data, at + length - 1) == 32 or u8(data, at + length - 1) == 0):
        length -= 1
    if length == 0:
        return -2
    if length < 8:
        low &= (1 << (8 * length)) - 1
    high &= (1 << (8 * max(length - 8, 0))) - 1
    found = find_word(symbols.ids, symbols.words, low, high)
    if found >= 0:
        return found
    if not is_name(data, at, length):
        return -2
    return learn(symbols, -1 - found, low, high, length)


@lean
def is_venue(letter: int) -> bool:
    """Whether a byte can be a participant."""
    return 65 <= letter <= 90


@lean
def read_price(counters: Any, data: Any, at: int, is_long: bool) -> int:
    """The price at ``data[at]`` in whole units; NULL for zero, and (counted) for what no record can hold."""
    if not is_long:
        cents = be16(data, at)
        return cents * SHORT_PRICE if cents > 0 else NULL
    price = be64(data, at)
    if price == 0:
        return NULL
    if price < 0 or price > PRICE_MAX // LONG_PRICE:
        counters[UNENCODABLE] += 1
        return NULL
    return price * LONG_PRICE


@lean
def read_shares(counters: Any, data: Any, at: int, width: int) -> int:
    """The volume of a trade in whole shares: plain in 2 or 4 bytes, in millionths (rounded down, counted) in 8.

    Short fractional volumes are in 4 bytes too: ask with ``width`` -4.
    """
    if width == 2:
        return be16(data, at)
    if width == 4:
        return be32(data, at)
    parts = be32(data, at) if width == -4 else be64(data, at)
    if parts < 0:
        return 0
    if parts % FRACTION:
        counters[FRACTIONAL] += 1
    return parts // FRACTION


@lean
def unit_at(units: Any, time_ns: int) -> int:
    """How many shares one of a quote's size is at that time."""
    i = units.shape[0] - 1
    while i > 0 and units[i, 0] > time_ns:
        i -= 1
    return units[i, 1]


@lean
def conditions(data: Any, at: int) -> int:
    """The four slots of sale conditions with the blanks left out; ``@`` when all are blank."""
    packed = 0
    shift = 0
    for i in range(4):
        code = u8(data, at + i)
        if code > 32 and code < 127:
            packed |= code << shift
            shift += 8
    return packed if shift else _REGULAR


@lean_kernel
def state_side(
    counters: Any,
    official: Any,
    side: Any,
    says: int,
    px: int,
    size: int,
    venue: int,
    data: Any,
    venue_at: int,
    px_at: int,
    unit: int,
) -> bool:
    """Take what a quote says of one side of the official NBBO; say whether that is news.

    ``px``, ``size``, ``venue`` are the quote's own; an appendage has its venue at ``venue_at`` and its price, with the
    size behind it, at ``px_at``.
    """
    if says == KEEPS:
        return False
    if says == SHORT_FORM or says == LONG_FORM:
        venue = u8(data, venue_at)
        px = read_price(counters, data, px_at, says == LONG_FORM)
        size = (be32(data, px_at + 8) if says == LONG_FORM else be16(data, px_at + 2)) * unit
    if says == NO_SIDE or px == NULL or size == NULL or size == 0:
        px = NULL
        size = NULL
        venue = NULL
    changed = px != official["px"][side] or size != official["size"][side] or venue != official["venue"][side]
    official["px"][side] = px
    official["size"][side] = size
    official["venue"][side] = venue
    if not official["known"] >> side & 1:
        official["known"] |= 1 << side
        return True
    return changed


@lean_kernel
def log_official(state: Any, stamp: Any, log: Any) -> None:
    """Write a symbol's official NBBO to the log once both sides are known; the caller has seen to the room."""
    official = state.official[stamp.symbol]
    if official["known"] != 3:
        return
    row = log.rows[log.used[0]]
    log.used[0] += 1
    put_empty(row, stamp.symbol, stamp.sequence, stamp.event_ns, stamp.recv_ns)
    row["bid_px"] = official["px"][0]
    row["bid_size"] = official["size"][0]
    row["bid_venue"] = official["venue"][0]
    row["ask_px"] = official["px"][1]
    row["ask_size"] = official["size"][1]
    row["ask_venue"] = official["venue"][1]
    state.counters[OFFICIALS] += 1


@lean
def put_empty(row: Any, symbol: int, sequence: int, event_ns: int, recv_ns: int) -> None:
    """Write an NBBO row without sides."""
    row["kind"] = KIND_NBBO
    row["symbol"] = symbol
    row["venue"] = 0
    row["seq"] = NULL
    row["epoch"] = NULL
    row["position"] = NULL
    row["exchange_seq"] = sequence
    row["event_ns"] = event_ns
    row["recv_ns"] = recv_ns
    row["feed_ns"] = NULL
    row["proc_ns"] = NULL
    row["bid_px"] = NULL
    row["bid_size"] = NULL
    row["bid_venue"] = NULL
    row["ask_px"] = NULL
    row["ask_size"] = NULL
    row["ask_venue"] = NULL
    row["bid_mask"] = 0
    row["ask_mask"] = 0
    row["last_px"] = NULL
    row["state"] = 0
    row["scope"] = 0


@lean_kernel
def forget_official(state: Any, block: Any, log: Any) -> None:
    """Messages of a stream are lost: what they said of the official NBBO is not known, and the log says so, once."""
    for symbol in range(state.symbols.size):
        if state.symbols[symbol]["stream"] == block["stream"] and state.official[symbol]["known"]:
            state.official[symbol]["known"] = 0
            state.counters[FORGOTTEN] += 1
    used = log.used[0]
    if used > 0 and log.rows[used - 1]["state"] == STATE_STALE:
        return
    log.used[0] = used + 1
    put_empty(log.rows[used], 0, NULL, block["sent_ns"], block["recv_ns"])
    log.rows[used]["state"] = STATE_STALE


@lean
def note_quote(state: Any, symbol: int, venue: int, stream: int) -> None:
    """Remember that a venue's quote stands on the bus."""
    known = state.symbols[symbol]
    known["stream"] = stream
    known["venues"] |= 1 << (venue - 65)


@lean_kernel
def withdraw(state: Any, block: Any, venues: int, out: Any, n: int) -> int:
    """Withdraw what a stream has quoted for a mask of venues, as far as there is room; return the rows so far.

    All is done when the cursor is back at 0.
    """
    symbol = max(state.cursor[_SYMBOL], 1)
    while symbol < state.symbols.size:
        known = state.symbols[symbol]
        if known["stream"] == block["stream"]:
            venue = 0
            while known["venues"] & venues and n < out.quotes.size:
                if known["venues"] & venues & 1 << venue:
                    known["venues"] &= ~(1 << venue)
                    event_ns = block["sent_ns"] if block["sent_ns"] else block["recv_ns"]
                    stamp = Stamp(symbol, venue + 65, known["tape"], NULL, event_ns, block["recv_ns"])
                    put_quote(out.quotes[n], stamp, NULL, NULL, NULL, NULL, _FIRM)
                    state.counters[WITHDRAWN] += 1
                    n += 1
                venue += 1
            if known["venues"] & venues:
                break
        symbol += 1
    state.cursor[_SYMBOL] = symbol if symbol < state.symbols.size else 0
    return n


@lean_kernel
def tell_status(state: Any, stamp: Any, trading: int, reason: int, row: Any) -> int:
    """A STATUS row with all that is known of the symbol, but for the trading state, which is the caller's."""
    known = state.symbols[stamp.symbol]
    put_status(row, stamp, trading, reason)
    row["upper_px"] = known["upper_px"]
    row["lower_px"] = known["lower_px"]
    row["indicator"] = known["indicator"]
    row["short_sale"] = known["short_sale"]
    row["round_lot"] = known["round_lot"]
    state.counters[STATUSES] += 1
    return 1


@lean_kernel
def tell_breaker(state: Any, venue: int, level: int, sequence: int, event_ns: int, recv_ns: int, row: Any) -> int:
    """A STATUS row of the processor itself (the empty symbol) with a level of the market-wide circuit breaker."""
    if not is_level(level):
        state.counters[MESSAGE] += 1
        return 0
    put_breaker(row, Stamp(np.int64(0), np.int64(venue), np.int64(NULL), sequence, event_ns, recv_ns), level)
    state.counters[STATUSES] += 1
    return 1


@lean
def tell_trade(
    state: Any, stamp: Any, px: int, size: int, condition: int, trade_id: int, mark: int, original_id: int, row: Any
) -> int:
    """A TRADE row, unless its price or volume is none: a trade, or the withdrawal or correction of ``original_id``."""
    if px == NULL or size <= 0:
        return 0
    put_trade(row, stamp, px, size, condition, trade_id, mark, original_id)
    state.counters[TRADES if mark == NULL else CANCELLED if mark == CANCELS else CORRECTED] += 1
    return 1


@lean
def letter(data: Any, at: int) -> int:
    """One character as a text column has it; 0 for a blank."""
    return text(data, at, 1)


def warm_up() -> None:
    """Nothing to do: these helpers are compiled with the decoders that use them."""
