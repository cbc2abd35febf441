"""TotalView-ITCH 5.0 as its specification's tables have it: fields by type, messages put together from them, at random.

Offsets are from the type byte. What stands here was written from the tables and not from our kernels.
"""

import random
from collections.abc import Iterator

TEXT, CHAR, INT, PRICE = "text", "char", "int", "price"
Field = tuple[str, int, int, str]
"""Name, offset, bytes, what it is."""

FIELDS: dict[str, tuple[Field, ...]] = {
    "S": (("code", 11, 1, CHAR),),
    "R": (
        ("stock", 11, 8, TEXT),
        ("category", 19, 1, CHAR),
        ("financial_status", 20, 1, CHAR),
        ("round_lot", 21, 4, INT),
        ("round_lots_only", 25, 1, CHAR),
        ("classification", 26, 1, CHAR),
        ("subtype", 27, 2, TEXT),
        ("authenticity", 29, 1, CHAR),
        ("short_sale_threshold", 30, 1, CHAR),
        ("ipo", 31, 1, CHAR),
        ("luld_tier", 32, 1, CHAR),
        ("etp", 33, 1, CHAR),
        ("etp_leverage", 34, 4, INT),
        ("inverse", 38, 1, CHAR),
    ),
    "H": (("stock", 11, 8, TEXT), ("state", 19, 1, CHAR), ("reason", 21, 4, TEXT)),
    "h": (("stock", 11, 8, TEXT), ("market", 19, 1, CHAR), ("action", 20, 1, CHAR)),
    "Y": (("stock", 11, 8, TEXT), ("action", 19, 1, CHAR)),
    "L": (
        ("participant", 11, 4, TEXT),
        ("stock", 15, 8, TEXT),
        ("primary", 23, 1, CHAR),
        ("mode", 24, 1, CHAR),
        ("state", 25, 1, CHAR),
    ),
    "V": (("level_1", 11, 8, INT), ("level_2", 19, 8, INT), ("level_3", 27, 8, INT)),
    "W": (("level", 11, 1, CHAR),),
    "K": (("stock", 11, 8, TEXT), ("release_s", 19, 4, INT), ("qualifier", 23, 1, CHAR), ("price", 24, 4, PRICE)),
    "J": (
        ("stock", 11, 8, TEXT),
        ("reference", 19, 4, PRICE),
        ("upper", 23, 4, PRICE),
        ("lower", 27, 4, PRICE),
        ("extension", 31, 4, INT),
    ),
    "A": (
        ("id", 11, 8, INT),
        ("side", 19, 1, CHAR),
        ("shares", 20, 4, INT),
        ("stock", 24, 8, TEXT),
        ("px", 32, 4, PRICE),
    ),
    "F": (
        ("id", 11, 8, INT),
        ("side", 19, 1, CHAR),
        ("shares", 20, 4, INT),
        ("stock", 24, 8, TEXT),
        ("price", 32, 4, PRICE),
        ("participant", 36, 4, TEXT),
    ),
    "E": (("id", 11, 8, INT), ("shares", 19, 4, INT), ("match", 23, 8, INT)),
    "C": (
        ("id", 11, 8, INT),
        ("shares", 19, 4, INT),
        ("match", 23, 8, INT),
        ("printable", 31, 1, CHAR),
        ("price", 32, 4, PRICE),
    ),
    "X": (("id", 11, 8, INT), ("shares", 19, 4, INT)),
    "D": (("id", 11, 8, INT),),
    "U": (("id", 11, 8, INT), ("new_id", 19, 8, INT), ("shares", 27, 4, INT), ("price", 31, 4, PRICE)),
    "P": (
        ("id", 11, 8, INT),
        ("side", 19, 1, CHAR),
        ("shares", 20, 4, INT),
        ("stock", 24, 8, TEXT),
        ("price", 32, 4, PRICE),
        ("match", 36, 8, INT),
    ),
    "Q": (
        ("shares", 11, 8, INT),
        ("stock", 19, 8, TEXT),
        ("price", 27, 4, PRICE),
        ("match", 31, 8, INT),
        ("cross", 39, 1, CHAR),
    ),
    "B": (("match", 11, 8, INT),),
    "I": (
        ("paired", 11, 8, INT),
        ("imbalance", 19, 8, INT),
        ("direction", 27, 1, CHAR),
        ("stock", 28, 8, TEXT),
        ("far", 36, 4, PRICE),
        ("near", 40, 4, PRICE),
        ("reference", 44, 4, PRICE),
        ("cross", 48, 1, CHAR),
        ("variation", 49, 1, CHAR),
    ),
    "N": (("stock", 11, 8, TEXT), ("flag", 19, 1, CHAR)),
    "O": (
        ("stock", 11, 8, TEXT),
        ("eligible", 19, 1, CHAR),
        ("minimum", 20, 4, PRICE),
        ("maximum", 24, 4, PRICE),
        ("near", 28, 4, PRICE),
        ("near_ns", 32, 8, INT),
        ("lower", 40, 4, PRICE),
        ("upper", 44, 4, PRICE),
    ),
}
LENGTHS = {"S": 12, "R": 39, "H": 25, "h": 21, "Y": 20, "L": 26, "V": 35, "W": 12, "K": 28, "J": 35, "A": 36, "F": 40}
LENGTHS |= {"E": 31, "C": 36, "X": 23, "D": 19, "U": 35, "P": 44, "Q": 40, "B": 19, "I": 50, "N": 20, "O": 48}
CHARS = {"side": "BS", "printable": "YYN", "code": "OSQMEC", "state": "HPQT", "market": "QBX", "action": "HT"}
CHARS |= {"cross": "OCHI", "category": "QGSNAPZV", "level": "123"}

Value = int | str


def assemble(kind: str, locate: int, time_ns: int, *values: Value, tracking: int = 0) -> bytes:
    """A message of the values of its fields, in the order of `FIELDS`; prices in 1/10000."""
    raw = bytearray(b" " * LENGTHS[kind])
    raw[:1] = kind.encode()
    raw[1:3], raw[3:5], raw[5:11] = locate.to_bytes(2, "big"), tracking.to_bytes(2, "big"), time_ns.to_bytes(6, "big")
    for (_, at, width, _), value in zip(FIELDS[kind], values, strict=True):
        raw[at : at + width] = value.encode().ljust(width) if isinstance(value, str) else value.to_bytes(width, "big")
    return bytes(raw)


def random_messages(
    chance: random.Random, count: int, kinds: str = "".join(FIELDS)
) -> Iterator[tuple[str, int, int, int, list[Value]]]:
    """``count`` messages of every type: kind, locate, tracking, time and the values of its fields.

    Four stocks, few order ids and few prices, so that orders meet, repeat, and are missing.
    """
    weights = [40 if kind in "AF" else 20 if kind in "EXDUC" else 1 for kind in kinds]
    for kind in chance.choices(kinds, weights, k=count):
        locate = chance.randrange(1, 5)
        values = [_random_value(chance, kind, locate, field) for field in FIELDS[kind]]
        time_ns = chance.randrange(86_400 * 10**9)
        yield kind, (0 if kind in "SVW" else locate), chance.randrange(1 << 16), time_ns, values


def _random_value(chance: random.Random, kind: str, locate: int, field: Field) -> Value:
    name, _, width, what = field
    if name == "stock":
        return f"STOCK.{locate}"
    if what == TEXT:
        return chance.choice(("", "T1", "LUDP", "GSCO"))[:width]
    if what == CHAR:
        letters = "012" if kind == "Y" else CHARS.get(name, "YN ")
        return chance.choice(letters)
    if name in ("id", "new_id"):
        return chance.randrange(1, 60)
    if name in ("match", "near_ns"):
        return chance.randrange(1 << 62)
    if what == PRICE:
        return (
            chance.choice((0, *range(10_000, 10_010), 2**32 - 1)) if chance.random() < 0.02 else chance.randrange(9, 30)
        )
    if name in ("shares", "round_lot"):
        return chance.choice((0, 1, 50, 100, 100, 200, 1_000)) if chance.random() < 0.9 else chance.randrange(1 << 32)
    return chance.randrange(1 << (8 * width))
