"""Records <-> bytes of the bus: the one table of keys, and Python's way to both directions.

`FIELDS` is the whole contract of the payloads: kind -> (key, column, wire type) in wire order. Both the
compiled writer and the compiled walker (`codec_kernel`) work from it; no other module knows a key.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from fabric import codec_kernel as ck
from fabric.codec_kernel import WIRE_COUNT, WIRE_FLAG, WIRE_INT, WIRE_LIST, WIRE_PRICE, WIRE_TEXT
from fabric.errors import CodecError
from fabric.records import (
    CHANNELS,
    DTYPES,
    EVENT,
    KIND_BAR_1D,
    KIND_BAR_1H,
    KIND_BAR_1M,
    KIND_BAR_5M,
    KIND_BOLO,
    KIND_NBBO,
    KIND_QUOTE,
    KIND_STATUS,
    KIND_TRADE,
    KIND_WHY,
    SCHEMA_VERSION,
    VENUE_CHANNELS,
    WIDTH,
    Rows,
    columns,
    pack,
)
from fabric.symbols import SymbolTable

Field = tuple[str, str, int]

_ENVELOPE: Final[tuple[Field, ...]] = (
    ("E", "epoch", WIRE_INT),
    ("N", "seq", WIRE_INT),
    ("O", "position", WIRE_INT),
    ("X", "exchange_seq", WIRE_INT),
    ("t1", "recv_ns", WIRE_INT),
    ("t2", "feed_ns", WIRE_INT),
    ("t3", "proc_ns", WIRE_INT),
)
_BAR: Final[tuple[Field, ...]] = (
    ("t", "event_ns", WIRE_INT),
    ("o", "open_px", WIRE_PRICE),
    ("h", "high_px", WIRE_PRICE),
    ("l", "low_px", WIRE_PRICE),
    ("c", "close_px", WIRE_PRICE),
    ("v", "volume", WIRE_COUNT),
    ("n", "trades", WIRE_COUNT),
    ("vw", "vwap_px", WIRE_PRICE),
    ("te", "last_ns", WIRE_INT),
    ("rev", "rev", WIRE_COUNT),
    ("fin", "final", WIRE_FLAG),
    ("gap", "gap", WIRE_FLAG),
    ("oo", "official_open_px", WIRE_PRICE),
    ("oc", "official_close_px", WIRE_PRICE),
)
_MARKET: Final[dict[int, tuple[Field, ...]]] = {
    KIND_QUOTE: (
        ("t", "event_ns", WIRE_INT),
        ("bp", "bid_px", WIRE_PRICE),
        ("bs", "bid_size", WIRE_COUNT),
        ("ap", "ask_px", WIRE_PRICE),
        ("as", "ask_size", WIRE_COUNT),
        ("c", "condition", WIRE_LIST),
        ("z", "tape", WIRE_TEXT),
    ),
    KIND_TRADE: (
        ("t", "event_ns", WIRE_INT),
        ("p", "price", WIRE_PRICE),
        ("s", "size", WIRE_COUNT),
        ("x", "venue", WIRE_TEXT),
        ("c", "condition", WIRE_LIST),
        ("i", "trade_id", WIRE_INT),
        ("z", "tape", WIRE_TEXT),
        ("m", "mark", WIRE_TEXT),
        ("oi", "original_id", WIRE_INT),
    ),
    KIND_STATUS: (
        ("t", "event_ns", WIRE_INT),
        ("sc", "trading", WIRE_TEXT),
        ("rc", "reason", WIRE_TEXT),
        ("u", "upper_px", WIRE_PRICE),
        ("d", "lower_px", WIRE_PRICE),
        ("i", "indicator", WIRE_TEXT),
        ("ssr", "short_sale", WIRE_TEXT),
        ("lot", "round_lot", WIRE_COUNT),
        ("vs", "venue_state", WIRE_TEXT),
        ("g0", "gap_from", WIRE_INT),
        ("g1", "gap_to", WIRE_INT),
        ("z", "tape", WIRE_TEXT),
    ),
    KIND_NBBO: (
        ("t", "event_ns", WIRE_INT),
        ("bp", "bid_px", WIRE_PRICE),
        ("bs", "bid_size", WIRE_COUNT),
        ("bx", "bid_venue", WIRE_TEXT),
        ("ap", "ask_px", WIRE_PRICE),
        ("as", "ask_size", WIRE_COUNT),
        ("ax", "ask_venue", WIRE_TEXT),
        ("bv", "bid_mask", WIRE_INT),
        ("av", "ask_mask", WIRE_INT),
        ("lp", "last_px", WIRE_PRICE),
        ("st", "state", WIRE_INT),
        ("sc", "scope", WIRE_INT),
        ("bt", "bid_total", WIRE_COUNT),
        ("at", "ask_total", WIRE_COUNT),
    ),
    KIND_BOLO: (
        ("t", "event_ns", WIRE_INT),
        ("bp", "bid_px", WIRE_PRICE),
        ("bs", "bid_size", WIRE_COUNT),
        ("bx", "bid_venue", WIRE_TEXT),
        ("ap", "ask_px", WIRE_PRICE),
        ("as", "ask_size", WIRE_COUNT),
        ("ax", "ask_venue", WIRE_TEXT),
    ),
    KIND_WHY: (
        ("t", "event_ns", WIRE_INT),
        ("lot", "round_lot", WIRE_COUNT),
        ("bc", "bid_condition", WIRE_INT),
        ("ac", "ask_condition", WIRE_INT),
        ("bo", "bid_odd_lot", WIRE_INT),
        ("ao", "ask_odd_lot", WIRE_INT),
        ("bl", "bid_slow", WIRE_INT),
        ("al", "ask_slow", WIRE_INT),
        ("sh", "shut", WIRE_INT),
        ("lo", "lost", WIRE_INT),
        ("cl", "closed", WIRE_INT),
        ("ha", "halting", WIRE_INT),
        ("u", "upper_px", WIRE_PRICE),
        ("d", "lower_px", WIRE_PRICE),
    ),
    KIND_BAR_1M: _BAR,
    KIND_BAR_5M: _BAR,
    KIND_BAR_1H: _BAR,
    KIND_BAR_1D: _BAR,
}

FIELDS: Final[dict[int, tuple[Field, ...]]] = {kind: _ENVELOPE + fields for kind, fields in _MARKET.items()}

REASONS: Final = (
    "ok",
    "not_a_map",
    "truncated",
    "trailing_bytes",
    "extension",
    "missing_key",
    "wrong_type",
    "newer_version",
    "bad_price",
    "bad_size",
    "nesting",
    "bad_topic",
    "symbols_full",
    "frames",
    "too_long",
    "topic_mismatch",
    "not_ours",
    "bad_text",
)
assert len(REASONS) == ck.REASON_COUNT

Frames = tuple[bytes, bytes]
"""Topic and payload of one message."""


def _word(raw: bytes) -> int:
    return int.from_bytes(raw.ljust(8, b"\0"), "little", signed=True)


def _build_schema() -> npt.NDArray[np.int64]:
    schema = np.zeros((max(CHANNELS.values()) + 1, ck.SCHEMA_WIDTH), np.int64)
    for channel, kind in CHANNELS.items():
        if kind not in FIELDS:
            continue
        fields = FIELDS[kind]
        columns_of_kind = DTYPES[kind].names
        assert columns_of_kind is not None
        name = channel.encode()
        head = b"\xde" + (len(fields) + 3).to_bytes(2, "big")
        head += b"\xa1V" + bytes([SCHEMA_VERSION]) + b"\xa1T" + bytes([0xA0 | len(name)]) + name
        row = schema[kind]
        row[ck.S_FIELDS] = len(fields)
        row[ck.S_KIND_TEXT] = pack(channel)
        row[ck.S_HAS_VENUE] = channel in VENUE_CHANNELS
        row[ck.S_CHANNEL_BYTES] = len(name) + 1
        row[ck.S_CHANNEL] = _word(name + b".")
        row[ck.S_HEAD_BYTES] = len(head)
        for i in range(ck.HEAD_WORDS):
            row[ck.S_HEAD + i] = _word(head[8 * i : 8 * i + 8])
        for f, (key, column, wire) in enumerate(fields):
            at = ck.S_FIELD + 4 * f
            row[at] = columns_of_kind.index(column)
            row[at + 1] = wire
            row[at + 2] = _word(bytes([0xA0 | len(key)]) + key.encode())
            row[at + 3] = 1 + len(key)
    return schema


SCHEMA: Final = _build_schema()


def encode(rows: Rows, symbols: SymbolTable) -> list[Frames]:
    """Return topic and payload of each row; raises CodecError("bad_price", ...) for one that a float cannot carry."""
    out = np.empty(rows.size * (ck.TOPIC_MAX + ck.PAYLOAD_MAX) + ck.PAYLOAD_MAX, np.uint8)
    ends = np.zeros((rows.size, 2), np.int64)
    ck.encode_rows(SCHEMA, symbols.arrays.words, columns(rows), out, ends)
    data = out.tobytes()
    frames = []
    start = 0
    for i, (middle, end) in enumerate(ends.tolist()):
        if middle == end:
            name = symbols.name(int(columns(rows)[i, 1]))
            raise CodecError("bad_price", f"row {i} ({name!r}) holds a price beyond 2,250,000")
        frames.append((data[start:middle], data[middle:end]))
        start = end
    return frames


def lay_out(frames: Iterable[Frames]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Put frames one after the other, as the kernels read them: the bytes and the two ends of each pair."""
    pieces: list[bytes] = []
    ends: list[tuple[int, int]] = []
    pos = 0
    for topic, payload in frames:
        pieces += (topic, payload)
        ends.append((pos + len(topic), pos + len(topic) + len(payload)))
        pos += len(topic) + len(payload)
    data = np.frombuffer(b"".join([*pieces, bytes(ck.READ_PAD)]), np.uint8).copy()
    return data, np.array(ends, np.int64).reshape(len(ends), 2)


def decode(frames: Sequence[Frames], symbols: SymbolTable) -> Rows:
    """Return one EVENT row for each frame pair, in order; raises CodecError naming the first that is refused."""
    data, ends = lay_out(frames)
    rows = np.empty((len(frames) + 1, WIDTH), np.int64)
    reasons = np.zeros(len(frames), np.int64)
    count = ck.decode_frames(SCHEMA, symbols.arrays, data, ends, rows, reasons, np.zeros(ck.DEPTH_MAX, np.int64))
    for i, reason in enumerate(reasons.tolist()):
        if reason != ck.OK:
            topic, payload = frames[i]
            raise CodecError(REASONS[reason], f"topic {topic!r}, payload begins {payload[:32].hex()}")
    return rows[:count].view(EVENT).reshape(count)
