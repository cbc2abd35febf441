"""What packets and recorded lines of Cboe's PITCH hold, message by message, for people: as `describe`, which uses it.

Every field of the specifications' tables, under their names; no state and no book. A packet is one of PITCH when its
Sequenced Unit Header and the lengths of its messages add up to its bytes exactly.
"""

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from nodes.feeds import pitch_ascii
from nodes.feeds.pitch import TYPE_NAMES
from nodes.feeds.trading_day import midnight_ns

Message = dict[str, Any]
_Fields = tuple[tuple[str, int, str], ...]

_HEADER: Final = struct.Struct("<HBBI")
_LONG: Final = "long price"
_SHORT: Final = "short price"
_ORDER: Final = (("order_id", 6, "Q"),)
_SYMBOL: Final = "symbol"

# Name, offset, format of each field behind length (0), type (1) and time offset (2).
_FIELDS: Final[dict[int, _Fields]] = {
    0x20: (("second", 2, "I"),),
    0x97: (),
    0x21: (
        *_ORDER, ("side", 14, "c"), ("size", 15, "I"), (_SYMBOL, 19, "6s"), ("price", 25, _LONG), ("flags", 33, "B")
    ),
    0x22: (
        *_ORDER, ("side", 14, "c"), ("size", 15, "H"), (_SYMBOL, 17, "6s"), ("price", 23, _SHORT), ("flags", 25, "B")
    ),
    0x2F: (
        *_ORDER, ("side", 14, "c"), ("size", 15, "I"), (_SYMBOL, 19, "8s"), ("price", 27, _LONG), ("flags", 35, "B"),
        ("participant", 36, "4s"), ("customer", 40, "c"),
    ),
    0x23: (*_ORDER, ("size", 14, "I"), ("execution_id", 18, "Q")),
    0x24: (
        *_ORDER, ("size", 14, "I"), ("remaining", 18, "I"), ("execution_id", 22, "Q"), ("price", 30, _LONG)
    ),
    0x25: (*_ORDER, ("size", 14, "I")),
    0x26: (*_ORDER, ("size", 14, "H")),
    0x27: (*_ORDER, ("size", 14, "I"), ("price", 18, _LONG), ("flags", 26, "B")),
    0x28: (*_ORDER, ("size", 14, "H"), ("price", 16, _SHORT), ("flags", 18, "B")),
    0x29: _ORDER,
    0x2A: (
        *_ORDER, ("side", 14, "c"), ("size", 15, "I"), (_SYMBOL, 19, "6s"), ("price", 25, _LONG),
        ("execution_id", 33, "Q"),
    ),
    0x2B: (
        *_ORDER, ("side", 14, "c"), ("size", 15, "H"), (_SYMBOL, 17, "6s"), ("price", 23, _SHORT),
        ("execution_id", 25, "Q"),
    ),
    0x30: (
        *_ORDER, ("side", 14, "c"), ("size", 15, "I"), (_SYMBOL, 19, "8s"), ("price", 27, _LONG),
        ("execution_id", 35, "Q"),
    ),
    0x2C: (("execution_id", 6, "Q"),),
    0x2D: (),
    0x31: ((_SYMBOL, 6, "8s"), ("status", 14, "c"), ("short_sale", 15, "c")),
    0x95: (
        (_SYMBOL, 6, "8s"), ("auction", 14, "c"), ("reference", 15, _LONG), ("buy", 23, "I"), ("sell", 27, "I"),
        ("indicative", 31, _LONG), ("auction_only", 39, _LONG),
    ),
    0x96: ((_SYMBOL, 6, "8s"), ("auction", 14, "c"), ("price", 15, _LONG), ("size", 23, "I")),
    0x98: ((_SYMBOL, 6, "8s"), ("improvement", 14, "c")),
}  # fmt: skip

# Name, offset and bytes of each field of a line behind time (0) and type (8).
_LINE_FIELDS: Final[dict[str, _Fields]] = {
    "A": (("order_id", 9, "12"), ("side", 21, "1"), ("size", 22, "6"), (_SYMBOL, 28, "6"), ("price", 34, "10")),
    "d": (("order_id", 9, "12"), ("side", 21, "1"), ("size", 22, "6"), (_SYMBOL, 28, "8"), ("price", 36, "10")),
    "E": (("order_id", 9, "12"), ("size", 21, "6"), ("execution_id", 27, "12")),
    "X": (("order_id", 9, "12"), ("size", 21, "6")),
    "P": (
        ("order_id", 9, "12"), ("side", 21, "1"), ("size", 22, "6"), (_SYMBOL, 28, "6"), ("price", 34, "10"),
        ("execution_id", 44, "12"),
    ),
    "r": (
        ("order_id", 9, "12"), ("side", 21, "1"), ("size", 22, "6"), (_SYMBOL, 28, "8"), ("price", 36, "10"),
        ("execution_id", 46, "12"),
    ),
    "B": (("execution_id", 9, "12"),),
    "H": ((_SYMBOL, 9, "8"), ("status", 17, "1"), ("short_sale", 18, "1")),
    "s": ((_SYMBOL, 9, "8"),),
    "I": (),
    "J": (),
}  # fmt: skip


def is_pitch(payload: bytes) -> bool:
    """Whether header and messages of a packet add up."""
    if len(payload) < _HEADER.size:
        return False
    size, count, _, _ = _HEADER.unpack_from(payload)
    at = _HEADER.size
    for _ in range(count):
        if at + 2 > len(payload) or payload[at] < 2:
            return False
        at += payload[at]
    return size == at == len(payload)


def packet(payload: bytes, time_ns: int) -> Iterator[Message]:
    """The messages of a packet that `is_pitch`, at its time: their offsets need a Time message that came before."""
    _, count, unit, number = _HEADER.unpack_from(payload)
    if count == 0:
        yield {"t": time_ns, "sequence": number, "type": "heartbeat", _SYMBOL: None, "unit": unit}
    at = _HEADER.size
    for i in range(count):
        body = payload[at : at + payload[at]]
        yield _message(body, number + i if number else None, unit, time_ns)
        at += len(body)


def lines(path: Path, counts: Counter[str]) -> Iterator[Message]:
    """Every line of a recording of ASCII PITCH; ``counts`` is kept by type; raises CaptureError."""
    midnight, rest, number = midnight_ns(pitch_ascii.day_of(path)), b"", 0
    for piece in pitch_ascii.pieces(path):
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if line.rstrip(b"\r"):
                number += 1
                yield _counted(_line(line, number, midnight), counts)
    if rest.strip():
        yield _counted(_line(rest, number + 1, midnight), counts)


def _counted(message: Message, counts: Counter[str]) -> Message:
    counts[message["type"]] += 1
    return message


def _message(body: bytes, number: int | None, unit: int, time_ns: int) -> Message:
    fields = _FIELDS.get(body[1])
    head = {"t": time_ns, "sequence": number}
    try:
        if fields is None or len(body) < 6:
            raise struct.error
        values = {name: _value(body, at, code) for name, at, code in fields}
        symbol = values.pop(_SYMBOL, None)
        offset = {} if body[1] == 0x20 else {"offset_ns": struct.unpack_from("<I", body, 2)[0]}
    except struct.error:
        name = "malformed" if fields is not None else TYPE_NAMES.get(body[1], "unknown")
        return {**head, "type": name, _SYMBOL: None, "unit": unit, "hex": body.hex()}
    return {**head, "type": TYPE_NAMES[body[1]], _SYMBOL: symbol, "unit": unit, **offset, **values}


def _value(body: bytes, at: int, code: str) -> int | float | str:
    if code in (_LONG, _SHORT):
        price: int = struct.unpack_from("<Q" if code == _LONG else "<H", body, at)[0]
        return price / (10_000 if code == _LONG else 100)
    value: int | bytes = struct.unpack_from(f"<{code}", body, at)[0]
    return value.decode("ascii", "backslashreplace").rstrip(" ") if isinstance(value, bytes) else value


def _line(line: bytes, number: int, midnight: int) -> Message:
    text = line.rstrip(b"\r").removeprefix(b"S").decode("ascii", "backslashreplace")
    kind, known = text[8:9], text[:8].isdigit()
    time_ns = midnight + int(text[:8]) * 1_000_000 if known else midnight
    head = {"t": time_ns, "sequence": number}
    fields = _LINE_FIELDS.get(kind)
    ends = [at + int(width) for _, at, width in fields or ()]
    if not known or fields is None or len(text) < max(ends, default=9):
        name = "malformed" if fields is not None or not known else "unknown"
        return {**head, "type": name, _SYMBOL: None, "line": text}
    values: Message = {name: text[at : at + int(width)].strip() for name, at, width in fields}
    if "price" in values and values["price"].isdigit():
        values["price"] = int(values["price"]) / 10_000
    if "size" in values and values["size"].isdigit():
        values["size"] = int(values["size"])
    return {**head, "type": pitch_ascii.TYPE_NAMES[kind], _SYMBOL: values.pop(_SYMBOL, None), **values}
