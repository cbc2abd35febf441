"""Bus rows -> WebSocket messages, JSON or msgpack, compiled (pure).

`MESSAGES` says, message by message, which keys it has, how each is written and which column it comes from;
one loop over that table writes both encodings, so they cannot drift apart, and compiles in seconds where a
function for each message took a minute. JSON prices are the shortest exact decimal of the 1e-9 integer,
msgpack prices are float64; JSON times are RFC 3339 with nanoseconds, msgpack times the Timestamp extension
(-1). Integers take msgpack's shortest form, as every library writes them.

A **form** is what one message looks like to one class of clients: ``dialect * 2 + encoding``. The Alpaca
dialects have no null: a missing price or size is 0 and a missing venue ``" "``, as stock clients expect.

Sources: Alpaca's real-time stock data reference (message keys, halt texts), msgpack's specification, RFC 3339.
"""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean, lean_kernel
from fabric.records import BAR, EVENT, NBBO, NULL, PRICE_UNIT, QUOTE, STATE_STALE, STATUS, TRADE, columns, empty, pack

JSON: Final = 0
MSGPACK: Final = 1
SIP: Final = 0  # /v2/sip: Alpaca's dialect over the composite
VENUE: Final = 1  # /v2/<venue>: Alpaca's dialect over one venue
STREAM: Final = 2  # /stream: our own, with nulls
FORMS: Final = 6

MESSAGE_MAX: Final = 1_024
"""Bytes, 16 of them to write over; no message is longer: an escaped symbol (98), nine numbers (21 each), four escaped
texts of 8, two of 48; four instants (38 each), three numbers (26 each) that `append_stamps` adds."""

SCRATCH: Final = 40
"""Bytes that `encode` works in: eight characters, then the text of the second that it wrote last, and which it was."""
_SECOND_TEXT_AT: Final = 8
_SECOND_AT: Final = 32

# How a column is written.
(_PRICE, _AMOUNT, _INT, _FLAG, _TEXT, _LIST, _LETTER, _TIME, _NAME, _CHANNEL, _STATUS, _REASON) = range(12)
_NOWHERE: Final = ""  # the value is not known here: undefined

_Field = tuple[str, int, str] | tuple[str, int, str, str]
_SYMBOL: Final = ("S", _NAME, "symbol")
_STAMP: Final = ("t", _TIME, "event_ns")
_TAPE: Final = ("z", _TEXT, "tape")


def _sides(bid_venue: str, ask_venue: str) -> tuple[_Field, ...]:
    """Both sides of a quote; a side without a price has no venue either."""
    return (
        ("bx", _LETTER, bid_venue, "bid_px"),
        ("bp", _PRICE, "bid_px"),
        ("bs", _AMOUNT, "bid_size"),
        ("ax", _LETTER, ask_venue, "ask_px"),
        ("ap", _PRICE, "ask_px"),
        ("as", _AMOUNT, "ask_size"),
    )


_OWN_SIDES: Final = (*_sides("venue", "venue"), ("c", _LIST, "condition"), _TAPE, _STAMP)
_BAR: Final = (
    _SYMBOL,
    ("o", _PRICE, "open_px"),
    ("h", _PRICE, "high_px"),
    ("l", _PRICE, "low_px"),
    ("c", _PRICE, "close_px"),
    ("v", _AMOUNT, "volume"),
    _STAMP,
    ("n", _AMOUNT, "trades"),
    ("vw", _PRICE, "vwap_px"),
    ("rev", _AMOUNT, "rev"),
    ("fin", _FLAG, "final"),
    ("gap", _FLAG, "gap"),
)
GAP_REPORT: Final = np.dtype([("symbol", "<i8"), ("channel", "<i8"), ("missed", "<i8")])
SLOW_REPORT: Final = np.dtype([("ms", "<i8"), ("missed", "<i8")])
BEAT_REPORT: Final = np.dtype([("n", "<i8"), ("sent", "<i8"), ("interval_ms", "<i8"), ("time_ns", "<i8")])
MODE_REPORT: Final = np.dtype([("mode", "<i8"), ("interval_ms", "<i8")])

MESSAGES: Final[tuple[tuple[str, np.dtype[np.void], tuple[_Field, ...]], ...]] = (
    ("q", NBBO, (_SYMBOL, *_sides("bid_venue", "ask_venue"), ("c", _LIST, _NOWHERE), ("z", _TEXT, _NOWHERE), _STAMP)),
    ("q", QUOTE, (_SYMBOL, *_OWN_SIDES)),
    ("vq", QUOTE, (_SYMBOL, ("x", _LETTER, "venue"), *_OWN_SIDES)),
    ("now", BAR, _BAR),
    (
        "t",
        TRADE,
        (
            _SYMBOL,
            ("i", _INT, "trade_id"),
            ("x", _LETTER, "venue"),
            ("p", _PRICE, "price"),
            ("s", _AMOUNT, "size"),
            ("c", _LIST, "condition"),
            _TAPE,
            _STAMP,
        ),
    ),
    (
        "x",
        TRADE,
        (
            _SYMBOL,
            ("i", _INT, "original_id"),
            ("x", _LETTER, "venue"),
            ("p", _PRICE, "price"),
            ("s", _AMOUNT, "size"),
            ("a", _TEXT, _NOWHERE),  # cancelled or in error: the wires do not say
            _TAPE,
            _STAMP,
        ),
    ),
    (
        "c",
        TRADE,
        (
            _SYMBOL,
            ("x", _LETTER, "venue"),
            ("oi", _INT, "original_id"),
            ("op", _PRICE, _NOWHERE),
            ("os", _AMOUNT, _NOWHERE),
            ("oc", _LIST, _NOWHERE),
            ("ci", _INT, "trade_id"),
            ("cp", _PRICE, "price"),
            ("cs", _AMOUNT, "size"),
            ("cc", _LIST, "condition"),
            _TAPE,
            _STAMP,
        ),
    ),
    ("b", BAR, _BAR),
    ("u", BAR, _BAR),
    ("b5m", BAR, _BAR),
    ("b1h", BAR, _BAR),
    ("d", BAR, _BAR),
    ("eoi", BAR, (("channel", _CHANNEL, "venue"), _STAMP)),
    (
        "s",
        STATUS,
        (
            _SYMBOL,
            ("sc", _TEXT, "trading"),
            ("sm", _STATUS, "trading"),
            ("rc", _TEXT, "reason"),
            ("rm", _REASON, "reason"),
            _TAPE,
            _STAMP,
        ),
    ),
    (
        "l",
        STATUS,
        (_SYMBOL, ("u", _PRICE, "upper_px"), ("d", _PRICE, "lower_px"), ("i", _TEXT, "indicator"), _TAPE, _STAMP),
    ),
    (
        "venue",
        STATUS,
        (
            ("x", _LETTER, "venue"),
            ("state", _TEXT, "venue_state"),
            ("rc", _TEXT, "reason"),
            ("rm", _REASON, "reason"),
            ("from", _INT, "gap_from"),
            ("to", _INT, "gap_to"),
            _STAMP,
        ),
    ),
    ("gap", GAP_REPORT, (("channel", _CHANNEL, "channel"), _SYMBOL, ("missed", _INT, "missed"))),
    ("slow", SLOW_REPORT, (("ms", _INT, "ms"), ("missed", _INT, "missed"))),
    (
        "hb",
        BEAT_REPORT,
        (("n", _INT, "n"), ("sent", _INT, "sent"), ("interval_ms", _INT, "interval_ms"), ("t", _TIME, "time_ns")),
    ),
    ("mode", MODE_REPORT, (("mode", _TEXT, "mode"), ("interval_ms", _INT, "interval_ms"))),
)
"""Every message: its ``T``, the record it is written from, and its other keys as (key, how, column[, exists if])."""

# Index into `MESSAGES`.
(BEST, OWN, OWN_ELSEWHERE, NOW, TRADED, CANCEL, CORRECTION, CLOSED, REVISED, CLOSED_5M, CLOSED_1H) = range(11)
(CLOSED_1D, COMPLETED) = range(11, 13)
(HALT, BANDS, LINE, MISSED, LAGGED, BEAT, MODE) = range(13, len(MESSAGES))

CHANNEL_TEXTS: Final = ("trades", "bars", "updatedBars", "bars5m", "bars1h", "dailyBars", "statuses", "lulds")
"""Channels that are queued, in the order of `fanout_kernel`'s planes: what a ``gap`` names."""

STATUS_TEXTS: Final = {
    "2": "Trading Halt",
    "3": "Resume",
    "H": "Trading Halt",
    "O": "Order Acceptance",
    "P": "Volatility Trading Pause",
    "Q": "Quotation Resumption",
    "T": "Trading Resumption",
}
"""``sm`` of each ``sc`` (CTA digits, UTP and IEX letters)."""

REASON_TEXTS: Final = {
    "1": "Market-Wide Circuit Breaker Level 1 Breached",
    "2": "Market-Wide Circuit Breaker Level 2 Breached",
    "3": "Market-Wide Circuit Breaker Level 3 Breached",
    "D": "News Released",
    "ERRORS": "Line Sends Malformed Packets",
    "GAPS": "Line Loses Messages",
    "H4": "Halt - Non Compliance",
    "H9": "Halt - Filings Not Current",
    "H10": "Halt - SEC Trading Suspension",
    "H11": "Halt - Regulatory Concern",
    "I": "Order Imbalance",
    "IPO1": "IPO Issue Not Yet Trading",
    "LUDP": "Volatility Trading Pause",
    "LUDS": "Volatility Trading Pause - Straddle Condition",
    "M": "Limit Up-Limit Down Trading Pause",
    "M1": "Corporate Action",
    "M2": "Quotation Not Available",
    "MWC0": "Circuit Breaker Carried Over From Previous Day",
    "MWC1": "Market-Wide Circuit Breaker Level 1",
    "MWC2": "Market-Wide Circuit Breaker Level 2",
    "MWC3": "Market-Wide Circuit Breaker Level 3",
    "MCB1": "Market-Wide Circuit Breaker Level 1 Breached",
    "MCB2": "Market-Wide Circuit Breaker Level 2 Breached",
    "MCB3": "Market-Wide Circuit Breaker Level 3 Breached",
    "P": "News Pending",
    "SILENCE": "Line Is Silent",
    "SKEW": "Clock Of The Exchange Is Off",
    "T1": "Halt - News Pending",
    "T2": "Halt - News Dissemination",
    "T3": "News And Resumption Times",
    "T5": "Single Stock Trading Pause In Effect",
    "T6": "Halt - Extraordinary Market Activity",
    "T8": "Halt - Exchange-Traded Fund",
    "T12": "Halt - Additional Information Requested",
    "X": "Operational",
    "Y": "Sub-Penny Trading",
}
"""``rm`` of each ``rc``: CTA letters and digits, UTP codes, IEX's of the breaker, and a feed's own of its line."""


def _table(texts: list[bytes], width: int = 0) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Byte strings as ``uint8[n, width]``, by default of the longest, and their lengths."""
    lengths = np.array([len(text) for text in texts], np.int64)
    table = np.zeros((len(texts), width or int(lengths.max())), np.uint8)
    for row, text in zip(table, texts, strict=True):
        row[: len(text)] = np.frombuffer(text, np.uint8)
    return table, lengths


def _short(text: str) -> bytes:
    """Text of up to 31 bytes in msgpack (fixstr)."""
    return bytes([0xA0 | len(text)]) + text.encode()


def _layouts() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Each message's fields as (key, how, column or -1, column that must exist or -1), and how many they are."""
    counts = np.array([len(fields) for _, _, fields in MESSAGES], np.int64)
    layouts = np.full((len(MESSAGES), int(counts.max()), 4), -1, np.int64)
    for message, (_, dtype, fields) in enumerate(MESSAGES):
        assert dtype.names is not None
        for place, (key, how, *names) in enumerate(fields):
            layouts[message, place, :2] = KEYS.index(key), how
            for column, name in enumerate(names, start=2):
                if name != _NOWHERE:
                    layouts[message, place, column] = dtype.names.index(name)
    return layouts, counts


KEYS: Final = sorted({key for _, _, fields in MESSAGES for key, *_ in fields} | {"st", "k"})
assert len(KEYS) < 63, "a set of keys is one int64"
_ALWAYS = ("S", "x")  # with the type they say what a message is about
_STATE_KEY = KEYS.index("st")
_REPLACED_KEY = KEYS.index("k")
_STATE_COLUMN = (NBBO.names or ()).index("state")
_LAYOUT, _FIELDS = _layouts()
# Row `encoding * n + index` of each table.
_WORD: Final = 16  # no key and no opening is longer
_KEY, _KEY_SIZE = _table([f',"{key}":'.encode() for key in KEYS] + [_short(key) for key in KEYS], _WORD)
_OPEN, _OPEN_SIZE = _table(
    [f'{{"T":"{type_}"'.encode() for type_, *_ in MESSAGES] + [_short("T") + _short(type_) for type_, *_ in MESSAGES],
    _WORD,
)
_N_KEYS = len(KEYS)
_N_MESSAGES = len(MESSAGES)
_TEXTS, _TEXTS_SIZE = _table(
    [text.encode() for text in (*CHANNEL_TEXTS, *STATUS_TEXTS.values(), *REASON_TEXTS.values())]
)
_N_CHANNELS = len(CHANNEL_TEXTS)
_N_STATUSES = len(STATUS_TEXTS)
_CODES = np.array([*range(_N_CHANNELS), *map(pack, STATUS_TEXTS), *map(pack, REASON_TEXTS)], np.int64)
_MAP_16: Final = 0xDE
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


TRACE: Final = 1
"""Of `append_stamps`: when each hop had the message, `t1` to `t4`."""
PLACE: Final = 2
"""Of `append_stamps`: where the message stands in its publisher's log, `E`, `N` and `O`."""
_TRACE_COLUMNS = tuple((EVENT.names or ()).index(name) for name in ("recv_ns", "feed_ns", "proc_ns"))
_PLACE_COLUMNS = tuple((EVENT.names or ()).index(name) for name in ("epoch", "seq", "position"))
_STAMP_KEYS = ("t1", "t2", "t3", "t4", "E", "N", "O")
_N_STAMPS = len(_STAMP_KEYS)
_STAMP_KEY, _STAMP_KEY_SIZE = _table(
    [f',"{key}":'.encode() for key in _STAMP_KEYS] + list(map(_short, _STAMP_KEYS)), _WORD
)


def fields() -> list[str]:
    """The keys that a client may choose from: those of data, but for what is in every message."""
    found = {key for _, _, keys in MESSAGES[:LINE] for key, *_ in keys}
    return sorted(found - set(_ALWAYS))


def mask_of(chosen: Iterable[str]) -> int:
    """The set of keys, for `encode`, that has the ``chosen`` ones of `fields` and those that every message has."""
    return sum(1 << KEYS.index(key) for key in {*chosen, *_ALWAYS})


@lean
def _copy(out: Any, at: int, table: Any, sizes: Any, index: int) -> int:
    """Write a row of ``table``; always all of it, which is one instruction, and what is too much is written over."""
    for i in range(_WORD):
        out[at + i] = table[index, i]
    return at + sizes[index]


@lean
def _big_endian(out: Any, at: int, value: int, size: int) -> int:
    for i in range(size):
        out[at + i] = (value >> (8 * (size - 1 - i))) & 0xFF
    return at + size


@lean
def _digits(out: Any, at: int, value: int) -> int:
    """Write ``value >= 0`` in decimal."""
    if value < 10:
        out[at] = 48 + value
        return at + 1
    if value < 100:
        out[at] = 48 + value // 10
        out[at + 1] = 48 + value % 10
        return at + 2
    if value < 1_000:
        out[at] = 48 + value // 100
        out[at + 1] = 48 + value // 10 % 10
        out[at + 2] = 48 + value % 10
        return at + 3
    size = 1
    rest = value // 10
    while rest > 0:
        rest //= 10
        size += 1
    for i in range(size):
        out[at + size - 1 - i] = 48 + value % 10
        value //= 10
    return at + size


@lean
def _padded(out: Any, at: int, value: int, size: int) -> int:
    """Write ``value`` in decimal with ``size`` digits, zeros in front."""
    for i in range(size):
        out[at + size - 1 - i] = 48 + value % 10
        value //= 10
    return at + size


@lean_kernel
def _packed_size(text: int) -> int:
    """Number of characters in a packed text."""
    size = 0
    if text != NULL:
        while text != 0:
            text >>= 8
            size += 1
    return size


@lean_kernel
def _put_second(out: Any, at: int, seconds: int) -> None:
    """Write a second as the 20 characters ``YYYY-MM-DDTHH:MM:SS.``."""
    # Civil date from days since 1970-03-01 of the proleptic Gregorian calendar, eras of 400 years (Howard Hinnant).
    days = seconds // 86_400 + 719_468
    era = days // 146_097
    day_of_era = days - era * 146_097
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    second = seconds % 86_400
    _padded(out, at, year_of_era + era * 400 + (1 if month <= 2 else 0), 4)
    out[at + 4] = 45
    _padded(out, at + 5, month, 2)
    out[at + 7] = 45
    _padded(out, at + 8, day_of_year - (153 * shifted + 2) // 5 + 1, 2)
    out[at + 10] = 84
    _padded(out, at + 11, second // 3_600, 2)
    out[at + 13] = 58
    _padded(out, at + 14, second // 60 % 60, 2)
    out[at + 16] = 58
    _padded(out, at + 17, second % 60, 2)
    out[at + 19] = 46


@lean_kernel
def _put_time(out: Any, at: int, encoding: int, time_ns: int, chars: Any) -> int:
    """Write an instant that is not NULL."""
    kept: Any = np.int64(0)
    seconds = time_ns // 1_000_000_000
    nanos = time_ns % 1_000_000_000
    if encoding == MSGPACK:
        if seconds < 0:  # timestamp 96
            out[at] = 0xC7
            out[at + 1] = 12
            out[at + 2] = 0xFF
            return _big_endian(out, _big_endian(out, at + 3, nanos, 4), seconds, 8)
        if nanos == 0 and seconds < 1 << 32:  # timestamp 32
            out[at] = 0xD6
            out[at + 1] = 0xFF
            return _big_endian(out, at + 2, seconds, 4)
        out[at] = 0xD7  # timestamp 64: 2^34 seconds are more than an int64 of nanoseconds holds
        out[at + 1] = 0xFF
        return _big_endian(out, at + 2, (nanos << 34) | seconds, 8)
    out[at] = 34
    for i in range(8):
        kept = (kept << 8) | np.int64(chars[_SECOND_AT + i])
    if kept != seconds or chars[_SECOND_TEXT_AT] == 0:  # many messages in a row are of one second
        _put_second(chars, _SECOND_TEXT_AT, seconds)
        _big_endian(chars, _SECOND_AT, seconds, 8)
    for i in range(20):
        out[at + 1 + i] = chars[_SECOND_TEXT_AT + i]
    _padded(out, at + 21, nanos // 1_000_000, 3)
    _padded(out, at + 24, nanos // 1_000 % 1_000, 3)
    _padded(out, at + 27, nanos % 1_000, 3)
    out[at + 30] = 90
    out[at + 31] = 34
    return at + 32


@lean
def _put_null(out: Any, at: int, encoding: int) -> int:
    if encoding == MSGPACK:
        out[at] = 0xC0
        return at + 1
    out[at] = 110
    out[at + 1] = 117
    out[at + 2] = 108
    out[at + 3] = 108
    return at + 4


@lean
def _put_bool(out: Any, at: int, encoding: int, value: bool) -> int:
    if encoding == MSGPACK:
        out[at] = 0xC3 if value else 0xC2
        return at + 1
    if value:
        out[at] = 116
        out[at + 1] = 114
        out[at + 2] = 117
    else:
        out[at] = 102
        out[at + 1] = 97
        out[at + 2] = 108
        out[at + 3] = 115
        at += 1
    out[at + 3] = 101
    return at + 4


@lean
def _put_int(out: Any, at: int, encoding: int, value: int) -> int:
    """Write an integer that is not NULL; in msgpack's shortest form."""
    if encoding == JSON:
        if value < 0:
            out[at] = 45
            at += 1
            value = -value
        return _digits(out, at, value)
    if -32 <= value < 128:
        out[at] = value & 0xFF
        return at + 1
    width = 0  # 1, 2, 4 or 8 bytes
    if value >= 0:
        while width < 3 and value >= 1 << (8 << width):
            width += 1
        out[at] = 0xCC + width
    else:
        while width < 3 and value < -(1 << ((8 << width) - 1)):
            width += 1
        out[at] = 0xD0 + width
    return _big_endian(out, at + 1, value, 1 << width)


@lean
def _put_price(out: Any, at: int, encoding: int, value: int) -> int:
    """Write a price that is not NULL."""
    if encoding == MSGPACK:
        out[at] = 0xCB
        bits: Any = np.float64(value / PRICE_UNIT).view(np.int64)
        return _big_endian(out, at + 1, bits, 8)
    if value < 0:
        out[at] = 45
        at += 1
        value = -value
    at = _digits(out, at, value // PRICE_UNIT)
    fraction = value % PRICE_UNIT
    if fraction == 0:
        return at
    out[at] = 46
    if fraction % 10_000_000 == 0:  # cents, as nearly always
        at = _padded(out, at + 1, fraction // 10_000_000, 2)
    elif fraction % 100_000 == 0:
        at = _padded(out, at + 1, fraction // 100_000, 4)
    else:
        at = _padded(out, at + 1, fraction, 9)
    while out[at - 1] == 48:
        at -= 1
    return at


@lean_kernel
def _put_chars(out: Any, at: int, encoding: int, source: Any, size: int) -> int:
    """Write ``source[:size]`` (at most 255 bytes) as a text.

    What is not ASCII becomes ``?``; what a JSON text must not hold is escaped.
    """
    if encoding == JSON:
        out[at] = 34
        at += 1
    elif size < 32:
        out[at] = 0xA0 | size
        at += 1
    else:
        out[at] = 0xD9
        out[at + 1] = size
        at += 2
    for i in range(size):
        code: Any = np.int64(source[i])
        if code >= 128:
            code = 63
        if encoding == JSON and (code < 32 or code == 34 or code == 92):
            out[at] = 92
            if code < 32:
                out[at + 1] = 117
                out[at + 2] = 48
                out[at + 3] = 48
                out[at + 4] = _HEX[code >> 4]
                at += 5
                code = np.int64(_HEX[code & 15])
            else:
                at += 1
        out[at] = code
        at += 1
    if encoding == JSON:
        out[at] = 34
        at += 1
    return at


@lean_kernel
def _unpack(text: int, chars: Any) -> int:
    """Write the characters of a packed text into ``chars``; return how many they are, 0 for NULL."""
    size = 0
    if text != NULL:
        while text != 0:
            chars[size] = text & 0xFF
            text >>= 8
            size += 1
    return size


@lean_kernel
def _put_list(out: Any, at: int, encoding: int, chars: Any, size: int) -> int:
    """Write each of ``chars[:size]`` as a text of its own, in a list."""
    out[at] = 91 if encoding == JSON else 0x90 | size
    at += 1
    for i in range(size):
        if encoding == JSON and i > 0:
            out[at] = 44
            at += 1
        at = _put_chars(out, at, encoding, chars[i : i + 1], 1)
    if encoding == JSON:
        out[at] = 93
        at += 1
    return at


@lean_kernel
def _meaning(how: int, code: int) -> int:
    """The row of ``_TEXTS`` that a code stands for, or -1."""
    first = 0
    last = _N_CHANNELS
    if how == _STATUS:
        first = _N_CHANNELS
        last = first + _N_STATUSES
    elif how == _REASON:
        first = _N_CHANNELS + _N_STATUSES
        last = _CODES.size
    for i in range(first, last):
        if _CODES[i] == code:
            return i
    return -1


@lean
def _absent(how: int, value: int) -> bool:
    """Whether a column is undefined: NULL, and for texts and letters 0 as well."""
    return value == NULL or (value == 0 and (how == _TEXT or how == _LETTER))


@lean_kernel
def encode(
    out: Any, at: int, form: int, message: int, row: Any, name: Any, name_size: int, stale: bool, chars: Any, mask: int
) -> int:
    """Write ``row`` as ``message`` at ``out[at]``, where MESSAGE_MAX bytes are free; return where it ends.

    ``stale`` sets that bit of ``st``, which is written when it is not 0. ``chars`` is uint8[SCRATCH] to work in, zeros
    at first. Of data only the keys in ``mask`` (`mask_of`) are written, and ``st``; with 0 all are.
    """
    encoding = form & 1
    nulls = form // 2 == STREAM
    if message == OWN and form // 2 != VENUE:
        message = OWN_ELSEWHERE
    state = STATE_STALE if stale else 0
    if message == BEST and row[_STATE_COLUMN] != NULL:
        state |= row[_STATE_COLUMN]
    fields = _FIELDS[message]
    if message >= LINE:
        mask = 0
    if encoding == MSGPACK:
        kept = fields
        if mask != 0:
            for i in range(fields):
                kept -= 1 - ((mask >> _LAYOUT[message, i, 0]) & 1)
        out[at] = 0x80 | (kept + (1 if state == 0 else 2))
        at += 1
    at = _copy(out, at, _OPEN, _OPEN_SIZE, encoding * _N_MESSAGES + message)
    for i in range(fields + (0 if state == 0 else 1)):
        if i == fields:
            key = _STATE_KEY
            how = _INT
            value = state
        else:
            key = _LAYOUT[message, i, 0]
            if mask != 0 and (mask >> key) & 1 == 0:
                continue
            how = _LAYOUT[message, i, 1]
            column = _LAYOUT[message, i, 2]
            condition = _LAYOUT[message, i, 3]
            value = row[column] if column >= 0 and (condition < 0 or row[condition] != NULL) else NULL
        at = _copy(out, at, _KEY, _KEY_SIZE, encoding * _N_KEYS + key)
        size = -1  # of a text
        text = -1
        if how == _STATUS or how == _REASON or how == _CHANNEL:
            text = _meaning(how, value)
            how = _TEXT
            value = NULL
        if text >= 0:
            at = _put_chars(out, at, encoding, _TEXTS[text], _TEXTS_SIZE[text])
            continue
        if how == _NAME:
            at = _put_chars(out, at, encoding, name, name_size)
            continue
        if _absent(how, value) and how != _LIST:
            if nulls or how == _INT or how == _FLAG:
                at = _put_null(out, at, encoding)
                continue
            value = 32 if how == _LETTER else 0  # a stock client calls methods on times and adds numbers
        if how == _PRICE:
            at = _put_price(out, at, encoding, value)
        elif how == _AMOUNT or how == _INT:
            at = _put_int(out, at, encoding, value)
        elif how == _TIME:
            at = _put_time(out, at, encoding, value, chars)
        elif how == _FLAG:
            at = _put_bool(out, at, encoding, value == 1)
        else:
            size = _unpack(value, chars)
            if how == _LIST:
                at = _put_list(out, at, encoding, chars, size)
            else:
                at = _put_chars(out, at, encoding, chars, size)
    if encoding == JSON:
        out[at] = 125
        at += 1
    return at


@lean_kernel
def append_count(out: Any, start: int, at: int, form: int, replaced: int) -> int:
    """Add ``k``, how many updates this one replaced, to the whole message in ``out[start:at]``."""
    encoding = form & 1
    if encoding == MSGPACK:
        out[start + (2 if out[start] == _MAP_16 else 0)] += 1  # 15 keys at most in a short map
    else:
        at -= 1
    at = _copy(out, at, _KEY, _KEY_SIZE, encoding * _N_KEYS + _REPLACED_KEY)
    at = _put_int(out, at, encoding, replaced)
    if encoding == JSON:
        out[at] = 125
        at += 1
    return at


@lean_kernel
def _put_digits(out: Any, at: int, encoding: int, value: int) -> int:
    """Write an epoch as a text: as a number it is more than a double holds, which is what JavaScript reads."""
    value = max(value, 0)
    if encoding == JSON:
        out[at] = 34
        end = _digits(out, at + 1, value)
        out[end] = 34
        return end + 1
    end = _digits(out, at + 1, value)
    out[at] = 0xA0 | (end - at - 1)  # 19 digits at most
    return end


@lean_kernel
def append_stamps(
    out: Any, start: int, at: int, form: int, message: int, row: Any, stamps: int, now_ns: int, chars: Any
) -> int:
    """Add to the whole ``message`` in ``out[start:at]`` what its row says of its way: return where it ends.

    ``stamps``: `TRACE`, whose ``t4`` is ``now_ns``, `PLACE` or both. Notices have no way.
    """
    if message > LINE:
        return at
    encoding = form & 1
    if encoding == MSGPACK:  # a map of 16 or more, for which two bytes more are needed
        for i in range(at - 1, start, -1):
            out[i + 2] = out[i]
        out[start + 1] = 0
        out[start + 2] = (out[start] & 0x0F) + (4 if stamps & TRACE != 0 else 0) + (3 if stamps & PLACE != 0 else 0)
        out[start] = _MAP_16
        at += 2
    else:
        at -= 1
    for i in range(_N_STAMPS):
        trace = i < 4
        if stamps & (TRACE if trace else PLACE) == 0:
            continue
        at = _copy(out, at, _STAMP_KEY, _STAMP_KEY_SIZE, encoding * _N_STAMPS + i)
        value = now_ns
        if i < 3:
            value = row[_TRACE_COLUMNS[i]]
        elif i > 3:
            value = row[_PLACE_COLUMNS[i - 4]]
        if value == NULL:
            at = _put_null(out, at, encoding)
        elif trace:
            at = _put_time(out, at, encoding, value, chars)
        elif i == 4:
            at = _put_digits(out, at, encoding, value)
        else:
            at = _put_int(out, at, encoding, value)
    if encoding == JSON:
        out[at] = 125
        at += 1
    return at


def warm_up() -> None:
    """Compile or load every entry kernel with the array types of the live path."""
    out = np.zeros(2 * MESSAGE_MAX, np.uint8)
    row = columns(empty(1, EVENT))[0]
    at = encode(out, 0, 0, BEST, row, np.zeros(16, np.uint8), 0, False, np.zeros(SCRATCH, np.uint8), 0)
    append_count(out, 0, at, 0, 1)
    append_stamps(out, 0, at, 0, BEST, row, PLACE, 0, np.zeros(SCRATCH, np.uint8))
