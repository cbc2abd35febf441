"""Rows to Redis commands, compiled (pure): which values are due, and their bytes in the Redis protocol (RESP).

redis-py packs about 100,000 commands a second; 5,000 symbols four times a second, each set and published, are
40,000. So whole pipelines are written here, and sent as they are. A reply to any of these commands is one line.

Source: RESP specification, redis.io/docs/latest/develop/reference/protocol-spec.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from fabric.compiled import inlined, kernel, lean_kernel
from fabric.records import BAR, KIND_BAR_1M, KIND_NBBO, NBBO, NULL, STATE_HALTED, Rows, empty
from gateway.latest_kernel import CANDLE, INTERVALS, make, nbbo_stale

WRITTEN = np.dtype([("epoch", "<i8"), ("seq", "<i8"), ("at_ns", "<i8")])
"""What of a value was last handed over to be written, and when by the monotonic clock; ``seq`` NULL: nothing."""
COMMANDS_BYTES = 1_024
"""More than the commands of one row ever take: two keys of at most 40 bytes, two values of at most 300."""
INTERVAL_NS = np.array([60, 300, 3_600, 86_400], np.int64) * 1_000_000_000
_UNIT = 1_000_000_000
_MINUS, _POINT, _ZERO, _QUOTE = ord("-"), ord("."), ord("0"), ord('"')


def _text(text: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text, np.uint8)


_SET = _text(b"*5\r\n$3\r\nSET\r\n$")
_PX = _text(b"\r\n$2\r\nPX\r\n$")
_PUBLISH = _text(b"*3\r\n$7\r\nPUBLISH\r\n$")
_END = _text(b"\r\n")
_LENGTH = _text(b"\r\n$")
_QUOTE_KEY = _text(b"quote:")
_QUOTES_CHANNEL = _text(b"quotes:")
_CANDLE_KEY = _text(b"candle:")
_INTERVAL_NAMES = _text(b":1m:5m:1h:1d")
_BID, _ASK, _LAST = _text(b'{"bid":'), _text(b',"ask":'), _text(b',"last":')
_TS, _BID_SIZE, _ASK_SIZE = _text(b',"ts":'), _text(b',"bid_size":'), _text(b',"ask_size":')
_BID_VENUE, _ASK_VENUE = _text(b',"bid_venue":'), _text(b',"ask_venue":')
_LIVE, _HALTED = _text(b',"state":"live"}'), _text(b',"state":"halted"}')
_OPEN, _HIGH, _LOW, _CLOSE = _text(b'{"open":'), _text(b',"high":'), _text(b',"low":'), _text(b',"close":')
_VOLUME, _START, _CLOSING = _text(b',"volume":'), _text(b',"start":'), _text(b"}")
_NULL = _text(b"null")


@lean_kernel
def due_quotes(
    tables: Any, letters: Any, symbols: int, written: Any, now_ns: int, refresh_ns: int, out: Any, changed: Any
) -> int:
    """Copy the quotes to be written now to ``out`` and note them in ``written``; return how many.

    Due is what is live and has changed (1 in ``changed``) or was written ``refresh_ns`` ago. A stale quote is
    never due, so that it expires. ``now_ns`` is monotonic.
    """
    count = 0
    for symbol in range(1, symbols):
        row = tables.nbbo[symbol]
        if nbbo_stale(tables, letters, symbol):
            continue
        last = written[symbol]
        new = row["seq"] != last["seq"] or row["epoch"] != last["epoch"]
        if new or now_ns - last["at_ns"] >= refresh_ns:
            out[count] = row
            changed[count] = new
            last["seq"] = row["seq"]
            last["epoch"] = row["epoch"]
            last["at_ns"] = now_ns
            count += 1
    return count


@lean_kernel
def due_bars(tables: Any, symbols: int, written: Any, now_ns: int, out: Any) -> int:
    """Copy the bars that changed to ``out`` and note them in ``written[4, symbols]``; return how many.

    A bar that ended a whole interval before ``now_ns`` (UTC) would have expired already and is not due.
    """
    count = 0
    for interval in range(tables.bars.shape[0]):
        for symbol in range(1, symbols):
            row = tables.bars[interval, symbol]
            if row["seq"] == NULL or row["event_ns"] + 2 * INTERVAL_NS[interval] <= now_ns:
                continue
            last = written[interval, symbol]
            if row["seq"] != last["seq"] or row["epoch"] != last["epoch"] or row["event_ns"] != last["at_ns"]:
                out[count] = row
                last["seq"] = row["seq"]
                last["epoch"] = row["epoch"]
                last["at_ns"] = row["event_ns"]
                count += 1
    return count


@inlined
def put(out: Any, at: int, text: Any) -> int:
    """Write ``text`` at ``out[at]``; return where it ends."""
    for i in range(text.size):
        out[at + i] = text[i]
    return at + text.size


@inlined
def put_int(out: Any, at: int, value: int) -> int:
    """Write a whole number, or null."""
    if value == NULL:
        return put(out, at, _NULL)
    if value < 0:
        out[at] = _MINUS
        at += 1
        value = -value
    end = at + 1
    rest = value // 10
    while rest > 0:
        end += 1
        rest //= 10
    for i in range(end - 1, at - 1, -1):
        out[i] = _ZERO + value % 10
        value //= 10
    return end


@inlined
def put_decimal(out: Any, at: int, value: int, unit: int, digits_min: int) -> int:
    """Write ``value / unit`` (``unit`` a power of ten) with as many decimals as it needs, at least ``digits_min``."""
    if value == NULL:
        return put(out, at, _NULL)
    if value < 0:
        out[at] = _MINUS
        at += 1
        value = -value
    at = put_int(out, at, value // unit)
    out[at] = _POINT
    at += 1
    rest = value % unit
    digits = 0
    while rest > 0 or digits < digits_min:
        unit //= 10
        out[at] = _ZERO + rest // unit
        rest %= unit
        at += 1
        digits += 1
    return at


@inlined
def put_letter(out: Any, at: int, letter: int) -> int:
    """Write a venue's letter as JSON text, or null."""
    if letter <= 0:
        return put(out, at, _NULL)
    out[at] = _QUOTE
    out[at + 1] = letter & 0x7F
    out[at + 2] = _QUOTE
    return at + 3


@inlined
def put_quote(out: Any, at: int, row: Any) -> int:
    """Write the JSON value of an NBBO row; ``ts`` in seconds with microseconds, which a double still holds."""
    at = put_decimal(out, put(out, at, _BID), row["bid_px"], _UNIT, 2)
    at = put_decimal(out, put(out, at, _ASK), row["ask_px"], _UNIT, 2)
    at = put_decimal(out, put(out, at, _LAST), row["last_px"], _UNIT, 2)
    event_us = NULL if row["event_ns"] == NULL else row["event_ns"] // 1_000
    at = put_decimal(out, put(out, at, _TS), event_us, 1_000_000, 3)
    at = put_int(out, put(out, at, _BID_SIZE), row["bid_size"])
    at = put_int(out, put(out, at, _ASK_SIZE), row["ask_size"])
    at = put_letter(out, put(out, at, _BID_VENUE), row["bid_venue"])
    at = put_letter(out, put(out, at, _ASK_VENUE), row["ask_venue"])
    return put(out, at, _HALTED if row["state"] & STATE_HALTED else _LIVE)


@inlined
def put_candle(out: Any, at: int, row: Any) -> int:
    """Write the JSON value of a BAR row; ``start`` in seconds."""
    at = put_decimal(out, put(out, at, _OPEN), row["open_px"], _UNIT, 2)
    at = put_decimal(out, put(out, at, _HIGH), row["high_px"], _UNIT, 2)
    at = put_decimal(out, put(out, at, _LOW), row["low_px"], _UNIT, 2)
    at = put_decimal(out, put(out, at, _CLOSE), row["close_px"], _UNIT, 2)
    at = put_int(out, put(out, at, _VOLUME), row["volume"])
    at = put_int(out, put(out, at, _START), row["event_ns"] // _UNIT)
    return put(out, at, _CLOSING)


@inlined
def put_key(out: Any, at: int, prefix: Any, name: Any, suffix: Any) -> int:
    """Write the length and text of ``prefix + name + suffix``, after the ``$`` that was written."""
    at = put(out, put_int(out, at, prefix.size + name.size + suffix.size), _END)
    return put(out, put(out, put(out, at, prefix), name), suffix)


@inlined
def put_value(out: Any, at: int, value: Any) -> int:
    """Write a bulk string, from the line end before it."""
    at = put(out, put_int(out, put(out, at, _LENGTH), value.size), _END)
    return put(out, at, value)


@inlined
def put_expiry(out: Any, at: int, ttl_ms: int) -> int:
    """Write ``PX ttl_ms`` and end the command."""
    digits = 1
    while ttl_ms >= 10**digits:
        digits += 1
    at = put(out, put_int(out, put(out, at, _PX), digits), _END)
    return put(out, put_int(out, at, ttl_ms), _END)


@kernel
def encode_quotes(rows: Any, changed: Any, names: Any, lengths: Any, ttl_ms: int, out: Any, value: Any) -> Any:
    """Write ``SET quote:<symbol>`` for each NBBO row, and PUBLISH where it changed; return (bytes, commands).

    ``value`` is scratch for one value.
    """
    assert out.size >= rows.size * COMMANDS_BYTES
    at = 0
    commands = 0
    none = _END[:0]
    for i in range(rows.size):
        symbol = rows[i]["symbol"]
        name = names[symbol, : lengths[symbol]]
        text = value[: put_quote(value, 0, rows[i])]
        at = put_key(out, put(out, at, _SET), _QUOTE_KEY, name, none)
        at = put_expiry(out, put_value(out, at, text), ttl_ms)
        commands += 1
        if changed[i]:
            at = put_key(out, put(out, at, _PUBLISH), _QUOTES_CHANNEL, name, none)
            at = put(out, put_value(out, at, text), _END)
            commands += 1
    return at, commands


@kernel
def encode_candles(rows: Any, names: Any, lengths: Any, out: Any, value: Any) -> Any:
    """Write ``SET candle:<symbol>:<interval>`` for each BAR row; return (bytes, commands)."""
    assert out.size >= rows.size * COMMANDS_BYTES
    at = 0
    for i in range(rows.size):
        symbol = rows[i]["symbol"]
        interval = rows[i]["kind"] - KIND_BAR_1M
        text = value[: put_candle(value, 0, rows[i])]
        name = names[symbol, : lengths[symbol]]
        suffix = _INTERVAL_NAMES[3 * interval : 3 * interval + 3]
        at = put_key(out, put(out, at, _SET), _CANDLE_KEY, name, suffix)
        at = put_expiry(out, put_value(out, at, text), INTERVAL_NS[interval] // 1_000_000)
    return at, rows.size


def written(*shape: int) -> Rows:
    """An array of WRITTEN that says nothing was."""
    made = np.zeros(shape, WRITTEN)
    made["seq"] = NULL
    return made


def warm_up() -> None:
    """Compile or load every entry kernel with the array types of the live path."""
    tables = make(1, 0, 1, np.zeros((INTERVALS, 1, 1), CANDLE))
    names, lengths = np.zeros((1, 16), np.uint8), np.zeros(1, np.int64)
    out, value = np.empty(COMMANDS_BYTES, np.uint8), np.empty(COMMANDS_BYTES, np.uint8)
    quotes, bars, changed = empty(1, NBBO, KIND_NBBO), empty(1, BAR, KIND_BAR_1M), np.zeros(1, np.bool_)
    due_quotes(tables, names, 1, written(1), 0, 0, quotes, changed)
    due_bars(tables, 1, written(INTERVALS, 1), 0, bars)
    encode_quotes(quotes, changed, names, lengths, 1_000, out, value)
    encode_candles(bars, names, lengths, out, value)
