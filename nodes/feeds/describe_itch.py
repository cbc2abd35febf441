"""TotalView-ITCH 5.0 for people: its messages, in daily files and in MoldUDP64 packets; see `describe`.

Fields are named and placed as in NASDAQ's tables; prices are u32 in 1/10000 of a dollar (levels u64 in 1/100000000).
"""

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from nodes.feeds import itch_file
from nodes.feeds.itch import TYPE_NAMES
from nodes.feeds.itch_kernel import LENGTHS
from nodes.feeds.trading_day import TradingDay

Message = dict[str, Any]

_HEAD: Final = struct.Struct(">10sQH")
_PRICE: Final = "price"
_LEVEL: Final = "level"
_SIDE: Final = (("side", 19, "c"),)
_ORDER: Final = (("order_id", 11, "Q"), *_SIDE, ("shares", 20, "I"))
_EXECUTION: Final = (("order_id", 11, "Q"), ("shares", 19, "I"), ("match", 23, "Q"))

# Place of the symbol (0: none), then name, offset and format of each field behind type, locate, tracking and time.
_FIELDS: Final[dict[str, tuple[int, tuple[tuple[str, int, str], ...]]]] = {
    "S": (0, (("event", 11, "c"),)),
    "R": (
        11,
        (
            ("market", 19, "c"),
            ("financial_status", 20, "c"),
            ("round_lot", 21, "I"),
            ("round_lots_only", 25, "c"),
            ("class", 26, "c"),
            ("subtype", 27, "2s"),
            ("authenticity", 29, "c"),
            ("short_sale_threshold", 30, "c"),
            ("ipo", 31, "c"),
            ("luld_tier", 32, "c"),
            ("etp", 33, "c"),
            ("etp_leverage", 34, "I"),
            ("inverse", 38, "c"),
        ),
    ),
    "H": (11, (("state", 19, "c"), ("reason", 21, "4s"))),
    "h": (11, (("market", 19, "c"), ("action", 20, "c"))),
    "Y": (11, (("action", 19, "c"),)),
    "L": (15, (("participant", 11, "4s"), ("primary", 23, "c"), ("mode", 24, "c"), ("state", 25, "c"))),
    "V": (0, (("level_1", 11, _LEVEL), ("level_2", 19, _LEVEL), ("level_3", 27, _LEVEL))),
    "W": (0, (("level", 11, "c"),)),
    "K": (11, (("release_s", 19, "I"), ("qualifier", 23, "c"), ("price", 24, _PRICE))),
    "J": (11, (("reference", 19, _PRICE), ("upper", 23, _PRICE), ("lower", 27, _PRICE), ("extension", 31, "I"))),
    "A": (24, (*_ORDER, ("price", 32, _PRICE))),
    "F": (24, (*_ORDER, ("price", 32, _PRICE), ("participant", 36, "4s"))),
    "E": (0, _EXECUTION),
    "C": (0, (*_EXECUTION, ("printable", 31, "c"), ("price", 32, _PRICE))),
    "X": (0, (("order_id", 11, "Q"), ("shares", 19, "I"))),
    "D": (0, (("order_id", 11, "Q"),)),
    "U": (0, (("order_id", 11, "Q"), ("new_order_id", 19, "Q"), ("shares", 27, "I"), ("price", 31, _PRICE))),
    "P": (24, (*_ORDER, ("price", 32, _PRICE), ("match", 36, "Q"))),
    "Q": (19, (("shares", 11, "Q"), ("price", 27, _PRICE), ("match", 31, "Q"), ("cross", 39, "c"))),
    "B": (0, (("match", 11, "Q"),)),
    "I": (
        28,
        (
            ("paired", 11, "Q"),
            ("imbalance", 19, "Q"),
            ("direction", 27, "c"),
            ("far", 36, _PRICE),
            ("near", 40, _PRICE),
            ("reference", 44, _PRICE),
            ("cross", 48, "c"),
            ("variation", 49, "c"),
        ),
    ),
    "N": (11, (("interest", 19, "c"),)),
    "O": (
        11,
        (
            ("eligible", 19, "c"),
            ("minimum", 20, _PRICE),
            ("maximum", 24, _PRICE),
            ("near", 28, _PRICE),
            ("near_ns", 32, "Q"),
            ("lower", 40, _PRICE),
            ("upper", 44, _PRICE),
        ),
    ),
}


class Itch:
    """Messages of one recording, which name a symbol at first and then its locate code alone."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._day = TradingDay()

    def packet(self, payload: bytes, time_ns: int) -> Iterator[Message]:
        """The messages of a packet that `is_itch`."""
        _, number, count = _HEAD.unpack_from(payload)
        if count in (0, 0xFFFF):
            kind = "heartbeat" if count == 0 else "end_of_session"
            yield {"t": time_ns, "sequence": number, "type": kind, "symbol": None}
        for i, body in enumerate(_blocks(payload)):
            yield self.message(body, number + i, time_ns)

    def message(self, body: bytes, sequence: int, time_ns: int) -> Message:
        """One message, of the day in New York of ``time_ns``."""
        kind = chr(body[0]) if body else ""
        if kind not in _FIELDS or len(body) < LENGTHS[kind]:
            name = "malformed" if kind in _FIELDS else "unknown"
            return {"t": time_ns, "sequence": sequence, "type": name, "symbol": None, "hex": body.hex()}
        name_at, fields = _FIELDS[kind]
        locate = int.from_bytes(body[1:3], "big")
        if name_at:
            self._names[locate] = _text(body[name_at : name_at + 8])
        return {
            "t": self._day.at(time_ns) + int.from_bytes(body[5:11], "big"),
            "sequence": sequence,
            "type": TYPE_NAMES[kind],
            "symbol": self._names.get(locate),
            "locate": locate,
            **{name: _value(body, at, code) for name, at, code in fields},
        }


def is_itch(payload: bytes) -> bool:
    """Whether a packet is one of MoldUDP64 whose blocks add up and begin as messages of ITCH do."""
    if len(payload) < _HEAD.size or not all(32 <= character < 127 for character in payload[:10]):
        return False
    _, _, count = _HEAD.unpack_from(payload)
    if count in (0, 0xFFFF):
        return len(payload) == _HEAD.size
    blocks = list(_blocks(payload))
    sound = all(block and len(block) >= LENGTHS.get(chr(block[0]), 1) for block in blocks)
    known = any(chr(block[0]) in LENGTHS for block in blocks if block)
    whole = _HEAD.size + sum(2 + len(block) for block in blocks) == len(payload)
    return len(blocks) == count and whole and sound and known


def file_messages(path: Path, counts: Counter[str]) -> Iterator[Message]:
    """Every message of a daily file, numbered from 1; raises CaptureError where it breaks."""
    itch = Itch()
    for packets in itch_file.read(path):
        places = zip(packets.offsets.tolist(), packets.lengths.tolist(), packets.recv_ns.tolist(), strict=True)
        for at, length, time_ns in places:
            for message in itch.packet(packets.buffer[at : at + length].tobytes(), time_ns):
                counts[message["type"]] += 1
                yield message


def _blocks(payload: bytes) -> Iterator[bytes]:
    """What lies behind the lengths in a packet, as far as it is whole."""
    at = _HEAD.size
    while at + 2 <= len(payload):
        stop = at + 2 + int.from_bytes(payload[at : at + 2], "big")
        if stop > len(payload):
            return
        yield payload[at + 2 : stop]
        at = stop


def _value(body: bytes, at: int, code: str) -> int | float | str:
    if code in (_PRICE, _LEVEL):
        width, unit = (4, 10_000) if code == _PRICE else (8, 100_000_000)
        return int.from_bytes(body[at : at + width], "big") / unit
    value: int | bytes = struct.unpack_from(f">{code}", body, at)[0]
    return _text(value) if isinstance(value, bytes) else value


def _text(raw: bytes) -> str:
    return raw.decode("ascii", "backslashreplace").rstrip(" ")
