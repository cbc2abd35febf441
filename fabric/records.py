"""The data dictionary: every message of the fabric is one row of 24 signed 64-bit columns.

One width for all kinds, so that a batch keeps the order of arrival across kinds, any batch can be
viewed as a plain ``int64[n, 24]`` by generic code (codec, sequence, snapshot), and compiled code never
meets an unsigned or unaligned field. A row is 192 bytes: three cache lines.

Units: prices are whole units of 1e-9 of the currency, sizes whole shares, times whole nanoseconds since
the Unix epoch UTC (names end in ``_ns``). ``NULL`` in any column means undefined, as in kdb+ and
numpy's NaT; it is written to the bus as nil. A side that does not exist has NULL price and NULL size.
Text of up to eight ASCII characters is packed into one column, first character in the lowest byte
(`pack`, `unpack`); 0 is the empty text and, like NULL, means undefined.

Source of the keys: contracts, "The bus".
"""

from typing import Final

import numpy as np
import numpy.typing as npt

WIDTH: Final = 24
NULL: Final = -(2**63)
PRICE_UNIT: Final = 1_000_000_000
"""Whole units in one unit of the currency."""
PRICE_MAX: Final = 2_250_000 * PRICE_UNIT
"""Beyond this a price no longer survives the way through a 64-bit float; the codec refuses it."""
SYMBOL_MAX: Final = 16
"""Bytes in the longest symbol."""
SCHEMA_VERSION: Final = 1
"""``V`` of every payload that this build writes; a newer major version is counted and dropped."""

# Kinds: column 0 of every row. Those below KIND_LINK are channels of the bus.
KIND_QUOTE: Final = 1
KIND_TRADE: Final = 2
KIND_STATUS: Final = 3
KIND_NBBO: Final = 4
KIND_BAR_1M: Final = 5
KIND_BAR_5M: Final = 6
KIND_BAR_1H: Final = 7
KIND_BAR_1D: Final = 8
KIND_ALERT: Final = 9
KIND_BOLO: Final = 10
KIND_WHY: Final = 11
KIND_LINK: Final = 12
"""Never on the wire: the inbox tells its node that a publisher came, went silent or was lost."""
KIND_GAP: Final = 13
"""Never on the wire: the inbox tells its node that messages of one topic were lost."""

CHANNELS: Final = {
    "quote": KIND_QUOTE,
    "trade": KIND_TRADE,
    "status": KIND_STATUS,
    "nbbo": KIND_NBBO,
    "bar.1m": KIND_BAR_1M,
    "bar.5m": KIND_BAR_5M,
    "bar.1h": KIND_BAR_1H,
    "bar.1d": KIND_BAR_1D,
    "alert": KIND_ALERT,
    "bolo": KIND_BOLO,
    "why": KIND_WHY,
}
"""Channel of the bus -> kind. The channel ``node`` carries heartbeats, which are maps and not rows."""
VENUE_CHANNELS: Final = ("quote", "trade", "status")
"""Channels with one value a symbol and venue; the others have one a symbol."""
STATE_CHANNELS: Final = ("quote", "nbbo", "bolo", "why", "bar.1m", "bar.5m", "bar.1h", "bar.1d", "status")
"""Channels that hold a state: published again when silent. Trades and alerts are never repeated."""

# State bits of an NBBO (``st``).
STATE_LOCKED: Final = 1
STATE_CROSSED: Final = 2
STATE_ONE_SIDED: Final = 4
STATE_HALTED: Final = 8
STATE_STALE: Final = 16
STATE_PARTIAL: Final = 32
STATE_LULD: Final = 64
"""A side stands at, or beyond, a price band of limit up, limit down."""
STATE_SLOW: Final = 128
"""A venue that holds a side calls it slow (manual): it counts, and is not protected."""
STATE_NATIONAL: Final = 256
"""Every venue of the market is read and alive: the value is the NBBO. Without it, a composite of those in ``scope``."""
STATE_NAMES: Final = {
    STATE_LOCKED: "locked",
    STATE_CROSSED: "crossed",
    STATE_ONE_SIDED: "one-sided",
    STATE_HALTED: "halted",
    STATE_STALE: "stale",
    STATE_PARTIAL: "partial",
    STATE_LULD: "luld",
    STATE_SLOW: "slow",
    STATE_NATIONAL: "national",
}

_HEADER = (
    "kind",  # which record this row is
    "symbol",  # id in this process's SymbolTable; 0 is the empty symbol (a whole venue)
    "venue",  # ASCII code of the participant letter; 0 where the topic has no venue
    "seq",  # N: number of this message on its topic, from 1
    "epoch",  # E: incarnation of the publisher
    "position",  # O: position in the publisher's log, from 1
    "exchange_seq",  # X: the exchange's own sequence number
    "event_ns",  # t: the exchange's time; for a bar the start of its interval
    "recv_ns",  # t1: received by the feed
    "feed_ns",  # t2: published by the feed
    "proc_ns",  # t3: published by the processor
)


def _record(*fields: str) -> np.dtype[np.void]:
    names = _HEADER + fields
    assert len(names) <= WIDTH
    spare = tuple(f"_spare{i}" for i in range(WIDTH - len(names)))
    return np.dtype([(name, "<i8") for name in names + spare])


EVENT: Final = _record()
"""A row of any kind: the header, the rest unnamed. ``rows.view(QUOTE)`` gives the names."""

QUOTE: Final = _record(
    "bid_px",
    "bid_size",
    "ask_px",
    "ask_size",
    "condition",  # text: quote conditions, one character each
    "tape",  # text: A, B or C
)

TRADE: Final = _record(
    "price",
    "size",
    "condition",  # text: sale conditions, one character each
    "trade_id",
    "tape",
    "mark",  # text: empty, "x" cancels or "c" corrects the trade `original_id`
    "original_id",
)

STATUS: Final = _record(  # a state: each row of a symbol tells all that its feed knows of it, not only what changed
    "trading",  # text: status code of the exchange (H halted, T trading, P paused, O order acceptance, ...)
    "reason",  # text: reason code of the exchange (T1, IPO1, ...)
    "upper_px",  # LULD bands
    "lower_px",
    "indicator",  # text: LULD indicator
    "short_sale",  # text: state of the short-sale price test, as the exchange says it (0 off, 1 or 2 on, ...)
    "round_lot",  # shares
    "venue_state",  # text: live, stale, gap or recover; set where the whole line is meant (empty symbol)
    "gap_from",  # first and last exchange sequence of a gap
    "gap_to",
    "tape",
)

NBBO: Final = _record(
    "bid_px",
    "bid_size",
    "bid_venue",  # text: one letter
    "ask_px",
    "ask_size",
    "ask_venue",
    "bid_mask",  # venues at the best bid: bit 0 is A, bit 25 is Z
    "ask_mask",
    "last_px",
    "state",  # STATE_* bits
    "scope",  # venues that feed this value, as a mask
    "bid_total",  # shares of all venues in `bid_mask` together; never the size of the best
    "ask_total",
)

BOLO: Final = _record(  # the best odd lots: sides that are smaller than a round lot, and so never in an NBBO
    "bid_px",
    "bid_size",
    "bid_venue",  # text: one letter
    "ask_px",
    "ask_size",
    "ask_venue",
)

WHY: Final = _record(  # who is left out of a symbol's NBBO, and for which reason: masks of venues
    "round_lot",  # shares: a side smaller than this is an odd lot
    "bid_condition",  # the quote's condition is not eligible
    "ask_condition",
    "bid_odd_lot",
    "ask_odd_lot",
    "bid_slow",  # not left out, but not protected
    "ask_slow",
    "shut",  # halted, suspended or closed at this venue alone
    "lost",  # its line or publisher is lost, and it has not quoted anew since
    "closed",  # the venue has ended its day
    "halting",  # says that the symbol is halted in the whole market
    "upper_px",  # LULD bands, as the tape says them
    "lower_px",
)

BAR: Final = _record(  # of the empty symbol: the interval is complete, `trades` bars of it were published
    "open_px",
    "high_px",
    "low_px",
    "close_px",
    "volume",
    "trades",
    "vwap_px",
    "last_ns",  # time of the last trade in it
    "rev",  # 0 while the interval runs, 1 when it closes, +1 at each revision after that
    "final",  # 1 when no revision can follow
    "gap",  # 1 when messages were lost inside it
    "official_open_px",  # as the listing market printed them; of a whole day only
    "official_close_px",
)

LINK: Final = _record(
    "publisher",  # index of the publisher among the inbox's sources
    "up",  # 1 fresh, 0 silent or lost: what it published is stale from now on
)

GAP: Final = _record(
    "publisher",
    "channel_kind",  # KIND_* of the topic that lost messages
    "gap_from",  # first and last sequence number lost
    "gap_to",
)

DTYPES: Final = {
    KIND_QUOTE: QUOTE,
    KIND_TRADE: TRADE,
    KIND_STATUS: STATUS,
    KIND_NBBO: NBBO,
    KIND_BAR_1M: BAR,
    KIND_BAR_5M: BAR,
    KIND_BAR_1H: BAR,
    KIND_BAR_1D: BAR,
    KIND_BOLO: BOLO,
    KIND_WHY: WHY,
    KIND_LINK: LINK,
    KIND_GAP: GAP,
}

Rows = npt.NDArray[np.void]


def empty(count: int, dtype: np.dtype[np.void], kind: int = 0) -> Rows:
    """Return ``count`` rows with every column NULL but ``kind``, ``symbol`` and ``venue``, which are set (0)."""
    rows = np.full((count, WIDTH), NULL, np.int64).view(dtype).reshape(count)
    rows["kind"], rows["symbol"], rows["venue"] = kind, 0, 0
    return rows


def columns(rows: Rows) -> npt.NDArray[np.int64]:
    """View rows of any kind as ``int64[n, WIDTH]``, sharing memory."""
    return rows.view(np.int64).reshape(rows.size, WIDTH)


def pack(text: str) -> int:
    """Pack up to eight ASCII characters into one column; raises ValueError for longer or other text."""
    raw = text.encode("ascii")
    if len(raw) > 8 or raw[7:8] >= b"\x80":
        raise ValueError(f"text {text!r} does not fit into one column: at most 8 ASCII characters")
    return int.from_bytes(raw.ljust(8, b"\0"), "little")


def unpack(value: int) -> str:
    """The text in a column; empty for 0 and NULL."""
    return "" if value in (0, NULL) else int(value).to_bytes(8, "little").rstrip(b"\0").decode("ascii")


def venue_mask(letters: str) -> int:
    """The mask with one bit for each venue letter: bit 0 is A."""
    mask = 0
    for letter in letters:
        mask |= 1 << (ord(letter) - ord("A"))
    return mask


def venue_letters(mask: int) -> str:
    """The venue letters of a mask, in alphabetical order."""
    return "".join(chr(ord("A") + bit) for bit in range(26) if mask >> bit & 1)
