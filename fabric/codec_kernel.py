"""Rows <-> msgpack, compiled: one writer with constant key bytes, one strict walker that trusts nothing (pure).

Writer: fields in the table's order, each key copied as one eight-byte word, integers and prices at full
width, so a payload differs from the next only in its values; ``S`` last, at its exact length.

Walker: any order of keys, any width of integers; unknown keys are skipped; every length is checked before
it is believed; nothing recurses. It returns the reason for refusing a frame, never raises.

Source: the msgpack specification (github.com/msgpack/msgpack, spec.md).
"""

from typing import Any

import numpy as np

from fabric.compiled import lean, lean_kernel
from fabric.native import bits_float, bits_single, float_bits, load_int64, prefetch_read, store_int64, swap_bytes
from fabric.records import NULL, PRICE_MAX, SCHEMA_VERSION, SYMBOL_MAX, WIDTH
from fabric.symbols_kernel import find_word, home_slot, learn, make_symbols

int64: Any = np.int64
"""Widens an unsigned byte before it meets a signed number, which would make a float of both."""

# Wire types of a field.
WIRE_INT = 0  # int, any width
WIRE_COUNT = 1  # int, never negative: sizes and volumes
WIRE_PRICE = 2  # float64 of p / 1e9, above zero
WIRE_FLAG = 3  # bool
WIRE_TEXT = 4  # str of at most 8 ASCII characters
WIRE_LIST = 5  # array of one-character strings, at most 8

# Why a frame was refused: the labels of `fabric_bad_frames_total{reason}`, in `REASONS`' order.
OK = 0
NOT_A_MAP = 1
TRUNCATED = 2
TRAILING = 3
EXTENSION = 4
MISSING_KEY = 5
WRONG_TYPE = 6
NEWER_VERSION = 7
BAD_PRICE = 8
BAD_SIZE = 9
NESTING = 10
BAD_TOPIC = 11
SYMBOLS_FULL = 12
FRAMES = 13
TOO_LONG = 14
TOPIC_MISMATCH = 15
NOT_OURS = 16
BAD_TEXT = 17
REASON_COUNT = 18

DEPTH_MAX = 8
"""Containers inside one another, under a key that this build does not know."""
PAYLOAD_MAX = 1024
"""Bytes that the longest payload of this build takes, with room for the eight-byte key writes past its end."""
TOPIC_MAX = 64
READ_PAD = 24
"""Bytes that readers may load, and never use, past the end of a frame."""


# A kind's row of the schema, int64[kinds, SCHEMA_WIDTH]: constants, then four columns a field.
S_FIELDS = 0  # number of fields; 0 where the kind has no map
S_KIND_TEXT = 1  # T, packed
S_HAS_VENUE = 2  # 1 where the topic ends in a venue letter
S_CHANNEL_BYTES = 3
S_CHANNEL = 4  # "quote." in one word
S_HEAD_BYTES = 5
S_HEAD = 6  # map header, V and T in HEAD_WORDS words
HEAD_WORDS = 4
S_FIELD = 10  # then for each field: column, WIRE_*, msgpack fixstr of the key in one word, its bytes
SCHEMA_WIDTH = S_FIELD + 4 * WIDTH

KEY_V = 0x56A1
KEY_T = 0x54A1
KEY_S = 0x53A1
FIELD_BITS_MAX = 62


@lean
def _low_bytes(word: int, count: int) -> int:
    """The first ``count`` (0 to 8) bytes of a word, the others zero."""
    if count >= 8:
        return word
    return word & ((1 << (8 * count)) - 1)


@lean
def write_topic(schema: Any, words: Any, rows: Any, i: int, address: int) -> int:
    """Write the topic of ``rows[i]`` at ``address`` (room for TOPIC_MAX bytes); return its length."""
    kind = rows[i, 0]
    symbol = rows[i, 1]
    store_int64(address, schema[kind, S_CHANNEL])
    length = schema[kind, S_CHANNEL_BYTES]
    store_int64(address + length, words[symbol, 0])
    store_int64(address + length + 8, words[symbol, 1])
    length += words[symbol, 2]
    store_int64(address + length, 0x7C | (rows[i, 2] << 8))
    return length + (2 if schema[kind, S_HAS_VENUE] == 1 and rows[i, 2] > 0 else 1)


@lean
def write_payload(schema: Any, words: Any, rows: Any, i: int, address: int) -> int:
    """Write the map of ``rows[i]`` at ``address`` (room for PAYLOAD_MAX bytes); return its length, -1 for a price
    beyond PRICE_MAX.
    """
    kind = rows[i, 0]
    for word in range(HEAD_WORDS):
        store_int64(address + 8 * word, schema[kind, S_HEAD + word])
    pos = address + schema[kind, S_HEAD_BYTES]
    at = S_FIELD
    for _ in range(schema[kind, S_FIELDS]):
        value = rows[i, schema[kind, at]]
        wire = schema[kind, at + 1]
        store_int64(pos, schema[kind, at + 2])
        pos += schema[kind, at + 3]
        at += 4
        if value == NULL or (value == 0 and wire >= WIRE_TEXT):
            store_int64(pos, 0xC0)
            pos += 1
        elif wire <= WIRE_COUNT:
            store_int64(pos, 0xD3)
            store_int64(pos + 1, swap_bytes(value))
            pos += 9
        elif wire == WIRE_PRICE:
            if value > PRICE_MAX or value < -PRICE_MAX:
                return -1
            store_int64(pos, 0xCB)
            store_int64(pos + 1, swap_bytes(float_bits(value / 1e9)))
            pos += 9
        elif wire == WIRE_FLAG:
            store_int64(pos, 0xC3 if value != 0 else 0xC2)
            pos += 1
        else:
            length = 0
            while length < 8 and (value >> (8 * length)) & 0xFF:
                length += 1
            if wire == WIRE_TEXT:
                store_int64(pos, 0xA0 | length)
                store_int64(pos + 1, value)
                pos += 1 + length
            else:
                store_int64(pos, 0x90 | length)
                pos += 1
                for k in range(length):
                    store_int64(pos, 0xA1 | (((value >> (8 * k)) & 0xFF) << 8))
                    pos += 2
    symbol = rows[i, 1]
    length = words[symbol, 2]
    store_int64(pos, KEY_S | ((0xA0 | length) << 16))
    store_int64(pos + 3, words[symbol, 0])
    store_int64(pos + 11, words[symbol, 1])
    return pos + 3 + length - address


@lean_kernel
def encode_rows(schema: Any, words: Any, rows: Any, out: Any, ends: Any) -> int:
    """Write topic and payload of each row one after the other into ``out``; ``ends[i]`` are their two ends.

    Returns how many rows were written before ``out`` was full; a row that cannot be encoded has two equal ends.
    """
    base = out.ctypes.data
    pos = 0
    for i in range(rows.shape[0]):
        if pos + TOPIC_MAX + PAYLOAD_MAX > out.size:
            return i
        length = write_topic(schema, words, rows, i, base + pos)
        written = write_payload(schema, words, rows, i, base + pos + length)
        if written < 0:
            ends[i, 0] = pos
            ends[i, 1] = pos
        else:
            ends[i, 0] = pos + length
            pos += length + written
            ends[i, 1] = pos
    return rows.shape[0]


@lean
def read_topic(
    schema: Any, symbols: Any, ids: Any, words: Any, data: Any, start: int, stop: int, rows: Any, i: int
) -> int:
    """Read kind, symbol (learning it) and venue of the topic ``data[start:stop]`` into ``rows[i]``; return OK or the
    reason.

    ``ids`` and ``words`` are those of ``symbols``, taken out once by the caller: that halves the cost of a call. Like
    all readers here it may load, but never uses, up to `READ_PAD` bytes past the end: ``data`` has room for them.
    """
    base = data.ctypes.data
    first = load_int64(base + start)
    kind = 0
    for candidate in range(1, schema.shape[0]):
        n = schema[candidate, S_CHANNEL_BYTES]
        if n > 0 and n <= stop - start and _low_bytes(first, n) == schema[candidate, S_CHANNEL]:
            kind = candidate
            start += n
            break
    if kind == 0:
        return BAD_TOPIC
    end = start
    while end < stop and data[end] != 0x7C:
        if data[end] <= 0x20 or data[end] >= 0x7F:
            return BAD_TOPIC
        end += 1
    if end == stop or end - start > SYMBOL_MAX:
        return BAD_TOPIC
    venue = 0
    if stop - end == 2 and schema[kind, S_HAS_VENUE] == 1:
        venue = int64(data[end + 1])
        if venue < 0x41 or venue > 0x5A:
            return BAD_TOPIC
    elif stop - end != 1:
        return BAD_TOPIC
    low = _low_bytes(load_int64(base + start), min(end - start, 8))
    high = _low_bytes(load_int64(base + start + 8), max(end - start - 8, 0))
    symbol = find_word(ids, words, low, high)
    if symbol < 0:
        symbol = learn(symbols, -1 - symbol, low, high, end - start)
        if symbol < 0:
            return SYMBOLS_FULL
    rows[i, 0] = kind
    rows[i, 1] = symbol
    rows[i, 2] = venue
    return OK


@lean
def expect_topic(schema: Any, ids: Any, topic: int, size: int) -> None:
    """Ask for the memory in which `read_topic` will look for the symbol of the topic of ``size`` bytes at address
    ``topic``: the table of names is larger than the caches, and other work has driven it out.
    """
    first = load_int64(topic)
    for candidate in range(1, schema.shape[0]):
        n = schema[candidate, S_CHANNEL_BYTES]
        if n > 0 and n < size and _low_bytes(first, n) == schema[candidate, S_CHANNEL]:
            end = size - (2 if schema[candidate, S_HAS_VENUE] == 1 else 1)
            low = _low_bytes(load_int64(topic + n), min(max(end - n, 0), 8))
            high = _low_bytes(load_int64(topic + n + 8), max(end - n - 8, 0))
            prefetch_read(ids.ctypes.data + 8 * home_slot(ids, low, high))
            return


@lean
def _skip(data: Any, length: int, pos: int, waiting: Any) -> int:
    """Return the position after the value at ``pos``, or minus the reason; ``waiting`` is scratch, DEPTH_MAX counts."""
    depth = 0
    waiting[0] = 1
    while True:
        while waiting[depth] == 0:
            if depth == 0:
                return pos
            depth -= 1
        waiting[depth] -= 1
        if pos >= length:
            return -TRUNCATED
        tag = int64(data[pos])
        size = 0  # bytes that follow the tag
        width = 0  # bytes of a length that follow the tag
        count = -1  # values inside a container
        each = 1
        if tag <= 0x7F or tag >= 0xE0 or tag == 0xC0 or tag == 0xC2 or tag == 0xC3:
            size = 0
        elif tag <= 0x8F:
            count, each = tag & 15, 2
        elif tag <= 0x9F:
            count = tag & 15
        elif tag <= 0xBF:
            size = tag & 31
        elif tag == 0xC1:
            return -WRONG_TYPE
        elif (tag >= 0xC7 and tag <= 0xC9) or (tag >= 0xD4 and tag <= 0xD8):
            return -EXTENSION
        elif tag == 0xCA or tag == 0xCE or tag == 0xD2:
            size = 4
        elif tag == 0xCB or tag == 0xCF or tag == 0xD3:
            size = 8
        elif tag == 0xCC or tag == 0xD0:
            size = 1
        elif tag == 0xCD or tag == 0xD1:
            size = 2
        elif tag == 0xC4 or tag == 0xD9:
            width = 1
        elif tag == 0xC5 or tag == 0xDA or tag == 0xDC or tag == 0xDE:
            width = 2
        else:
            width = 4
        pos += 1
        if width > 0:
            if pos + width > length:
                return -TRUNCATED
            value = 0
            for i in range(width):
                value = (value << 8) | int64(data[pos + i])
            pos += width
            if tag >= 0xDC:
                count = value
                each = 2 if tag >= 0xDE else 1
            else:
                size = value
        if size > length - pos:
            return -TRUNCATED
        pos += size
        if count >= 0:
            if count * each > length - pos:  # each value takes a byte at least: a header that lies is refused at once
                return -TRUNCATED
            depth += 1
            if depth >= DEPTH_MAX:
                return -NESTING
            waiting[depth] = count * each


@lean
def _big_endian(data: Any, pos: int, width: int) -> int:
    value = 0
    for i in range(width):
        value = (value << 8) | int64(data[pos + i])
    return value


@lean
def _read_int(data: Any, length: int, pos: int) -> tuple[int, int]:
    """Return (value, position after it) of the integer at ``pos``; a position below 0 is minus the reason."""
    tag = int64(data[pos])
    pos += 1
    if tag == 0xD3 or tag == 0xCF:
        if pos + 8 > length:
            return 0, -TRUNCATED
        value = swap_bytes(load_int64(data.ctypes.data + pos))
        if tag == 0xCF and value < 0:  # beyond 2**63
            return 0, -WRONG_TYPE
        return value, pos + 8
    if tag <= 0x7F:
        return tag, pos
    if tag >= 0xE0:
        return tag - 256, pos
    width = 0
    if tag == 0xCC or tag == 0xD0:
        width = 1
    elif tag == 0xCD or tag == 0xD1:
        width = 2
    elif tag == 0xCE or tag == 0xD2:
        width = 4
    else:
        return 0, -(EXTENSION if (tag >= 0xC7 and tag <= 0xC9) or (tag >= 0xD4 and tag <= 0xD8) else WRONG_TYPE)
    if pos + width > length:
        return 0, -TRUNCATED
    value = _big_endian(data, pos, width)
    if tag >= 0xD0 and value >> (8 * width - 1):
        value -= 1 << (8 * width)
    return value, pos + width


@lean
def _read_price(data: Any, length: int, pos: int) -> tuple[int, int]:
    """As `_read_int`, for a decimal number above zero, as whole units of 1e-9."""
    tag = data[pos]
    if tag == 0xCB:
        if pos + 9 > length:
            return 0, -TRUNCATED
        number = bits_float(swap_bytes(load_int64(data.ctypes.data + pos + 1)))
        after = pos + 9
    elif tag == 0xCA:
        if pos + 5 > length:
            return 0, -TRUNCATED
        number = bits_single(_big_endian(data, pos + 1, 4))
        after = pos + 5
    else:
        whole, after = _read_int(data, length, pos)
        if after < 0:
            return 0, after
        number = np.float64(whole)
    if not (number > 0.0 and number * 1e9 <= PRICE_MAX):  # NaN fails both
        return 0, -BAD_PRICE
    return int64(np.rint(number * 1e9)), after


@lean
def _read_text(data: Any, length: int, pos: int) -> tuple[int, int]:
    """As `_read_int`, for a string of at most eight ASCII characters, packed."""
    tag = int64(data[pos])
    pos += 1
    if tag >= 0xA0 and tag <= 0xBF:
        size = tag & 31
    elif tag == 0xD9:
        if pos >= length:
            return 0, -TRUNCATED
        size = int64(data[pos])
        pos += 1
    else:
        return 0, -WRONG_TYPE
    if pos + size > length:
        return 0, -TRUNCATED
    if size > 8:
        return 0, -BAD_TEXT
    value = 0
    for i in range(size):
        if data[pos + i] < 0x20 or data[pos + i] >= 0x7F:
            return 0, -BAD_TEXT
        value |= int64(data[pos + i]) << (8 * i)
    return value, pos + size


@lean
def _read_list(data: Any, length: int, pos: int) -> tuple[int, int]:
    """As `_read_int`, for an array of at most eight one-character strings, packed."""
    tag = int64(data[pos])
    if tag < 0x90 or tag > 0x9F:
        return 0, -WRONG_TYPE
    count = tag & 15
    pos += 1
    if count > 8:
        return 0, -BAD_TEXT
    value = 0
    for i in range(count):
        if pos >= length:
            return 0, -TRUNCATED
        one, pos = _read_text(data, length, pos)
        if pos < 0:
            return 0, pos
        if one > 0x7F or one == 0:
            return 0, -BAD_TEXT
        value |= one << (8 * i)
    return value, pos


@lean
def _read_key(data: Any, length: int, pos: int) -> tuple[int, int]:
    """Return (fixstr header and key bytes packed, position after it); a longer key packs to 0, which is no key of
    ours.
    """
    tag = int64(data[pos])
    if tag >= 0xA0 and tag <= 0xA7:
        size = 1 + (tag & 7)
        if pos + size > length:
            return 0, -TRUNCATED
        return _low_bytes(load_int64(data.ctypes.data + pos), size), pos + size
    if tag >= 0xA8 and tag <= 0xBF:
        size = tag & 31
        pos += 1
    elif tag == 0xD9:
        if pos + 1 >= length:
            return 0, -TRUNCATED
        size = int64(data[pos + 1])
        pos += 2
    else:
        return 0, -WRONG_TYPE
    if pos + size > length:
        return 0, -TRUNCATED
    return 0, pos + size


@lean
def read_payload(schema: Any, words: Any, data: Any, start: int, length: int, rows: Any, i: int, waiting: Any) -> int:
    """Read the map ``data[start:length]`` into ``rows[i]``, whose kind, symbol and venue the topic has given; return
    OK or the reason.

    ``waiting`` is scratch of DEPTH_MAX counts.
    """
    if length - start < 1:
        return TRUNCATED
    kind = rows[i, 0]
    tag = int64(data[start])
    pos = start + 1
    if tag >= 0x80 and tag <= 0x8F:
        count = tag & 15
    elif tag == 0xDE and length - start >= 3:
        count = _big_endian(data, pos, 2)
        pos += 2
    elif tag == 0xDF and length - start >= 5:
        count = _big_endian(data, pos, 4)
        pos += 4
    elif tag == 0xDE or tag == 0xDF:
        return TRUNCATED
    else:
        return NOT_A_MAP
    if 2 * count > length - pos:
        return TRUNCATED
    for c in range(3, WIDTH):
        rows[i, c] = NULL
    base = data.ctypes.data
    fields = schema[kind, S_FIELDS]
    seen = 0
    guess = 0
    for _ in range(count):
        if pos >= length:
            return TRUNCATED
        packed, pos = _read_key(data, length, pos)
        if pos < 0:
            return -pos
        if pos >= length:
            return TRUNCATED
        field = -1
        if guess < fields and schema[kind, S_FIELD + 4 * guess + 2] == packed:
            field = guess
        elif packed != 0 and packed != KEY_V and packed != KEY_T and packed != KEY_S:
            for f in range(fields):
                if schema[kind, S_FIELD + 4 * f + 2] == packed:
                    field = f
                    break
        if field >= 0:
            guess = field + 1
            seen |= 1 << field
            column = schema[kind, S_FIELD + 4 * field]
            wire = schema[kind, S_FIELD + 4 * field + 1]
            tag = int64(data[pos])
            if tag == 0xC0:
                value = NULL
                pos += 1
            elif wire <= WIRE_COUNT:
                if tag == 0xD3 and pos + 9 <= length:
                    value = swap_bytes(load_int64(base + pos + 1))
                    pos += 9
                else:
                    value, pos = _read_int(data, length, pos)
                if pos > 0 and wire == WIRE_COUNT and value < 0:
                    return BAD_SIZE
            elif wire == WIRE_PRICE:
                value, pos = _read_price(data, length, pos)
            elif wire == WIRE_TEXT:
                value, pos = _read_text(data, length, pos)
            elif wire == WIRE_LIST:
                value, pos = _read_list(data, length, pos)
            elif tag == 0xC2 or tag == 0xC3:
                value = tag - 0xC2
                pos += 1
            else:
                return WRONG_TYPE
            if pos < 0:
                return -pos
            rows[i, column] = value
        elif packed == KEY_V:
            version, pos = _read_int(data, length, pos)
            if pos < 0:
                return -pos
            if version != SCHEMA_VERSION:
                return NEWER_VERSION
            seen |= 1 << FIELD_BITS_MAX
        elif packed == KEY_T:
            text, pos = _read_text(data, length, pos)
            if pos < 0:
                return -pos
            if text != schema[kind, S_KIND_TEXT]:
                return TOPIC_MISMATCH
            seen |= 1 << (FIELD_BITS_MAX - 1)
        elif packed == KEY_S:
            tag = int64(data[pos])
            size = tag & 31
            if tag < 0xA0 or tag > 0xBF:
                return WRONG_TYPE
            if pos + 1 + size > length:
                return TRUNCATED
            symbol = rows[i, 1]
            if size != words[symbol, 2]:
                return TOPIC_MISMATCH
            low = _low_bytes(load_int64(base + pos + 1), min(size, 8))
            high = _low_bytes(load_int64(base + pos + 9), max(size - 8, 0))
            if low != words[symbol, 0] or high != words[symbol, 1]:
                return TOPIC_MISMATCH
            pos += 1 + size
            seen |= 1 << (FIELD_BITS_MAX - 2)
        else:
            pos = _skip(data, length, pos, waiting)
            if pos < 0:
                return -pos
    if pos != length:
        return TRAILING
    if seen != (7 << (FIELD_BITS_MAX - 2)) | ((1 << fields) - 1):
        return MISSING_KEY
    return OK


@lean_kernel
def decode_frames(schema: Any, symbols: Any, data: Any, ends: Any, rows: Any, reasons: Any, waiting: Any) -> int:
    """Read topics and payloads laid out as `encode_rows` writes them; return how many rows came of them.

    ``reasons[i]`` is OK or why frame pair ``i`` gave no row. ``data`` has READ_PAD bytes after the last frame;
    ``waiting`` is scratch of DEPTH_MAX counts.
    """
    ids = symbols.ids
    words = symbols.words
    start = 0
    n = 0
    for i in range(ends.shape[0]):
        reason = read_topic(schema, symbols, ids, words, data, start, ends[i, 0], rows, n)
        if reason == OK:
            reason = read_payload(schema, words, data, ends[i, 0], ends[i, 1], rows, n, waiting)
        reasons[i] = reason
        if reason == OK:
            n += 1
        start = ends[i, 1]
    return n


def warm_up() -> None:
    """Compile or load what `fabric.codec` calls."""
    symbols = make_symbols(2)
    schema = np.zeros((1, SCHEMA_WIDTH), np.int64)
    rows, ends = np.zeros((0, WIDTH), np.int64), np.zeros((0, 2), np.int64)
    data = np.zeros(READ_PAD, np.uint8)
    encode_rows(schema, symbols.words, rows, data, ends)
    decode_frames(schema, symbols, data, ends, rows, np.zeros(0, np.int64), np.zeros(DEPTH_MAX, np.int64))
