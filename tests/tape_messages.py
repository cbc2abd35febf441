"""Random messages of both consolidated tapes and the rows that must come of them: encoder and decoder must agree."""

import random
from typing import Any

import numpy as np

from fabric.records import NULL, QUOTE, STATUS, TRADE, pack
from fabric.symbols import SymbolTable
from support import random_count

MESSAGES = random_count(1_000)
"""Of each type."""
DAY_NS = 1_775_540_000 * 10**9
NAMES = ["A", "IBM", "BRK.A", "LVWR.WS", "JENAr", "ABCDEFGHIJK"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CENT = 10_000_000


def names(width: int) -> list[np.ndarray]:
    return [np.frombuffer(name.encode().ljust(16, b"\0"), np.uint8) for name in NAMES if len(name) <= width]


class Chance:
    """Random fields of a message, the same that the rows must have."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.long_names, self.short_names = names(11), names(5)

    def venue(self) -> int:
        return ord(self.random.choice(LETTERS))

    def time_ns(self) -> int:
        return DAY_NS + self.random.randrange(86_400 * 10**9)

    def name(self, *, is_long: bool) -> np.ndarray:
        return self.random.choice(self.long_names if is_long else self.short_names)

    def px(self, *, is_long: bool) -> int:
        if self.random.random() < 0.1:
            return 0
        return self.random.randrange(1, 10**12) * 1_000 if is_long else self.random.randrange(1, 65_536) * CENT

    def size(self, *, is_long: bool) -> int:
        return self.random.randrange(2**32 if is_long else 2**16)

    def reference(self) -> int:
        return self.random.randrange(-(2**63) + 1, 2**63)

    def conditions(self) -> int:
        return pack("".join(self.random.choice("  @FTIZ4") for _ in range(4)))


def side(px: int, size: int) -> tuple[int, int]:
    return (px, size) if px and size else (NULL, NULL)


def packed(conditions: int) -> int:
    text = conditions.to_bytes(8, "little").decode().replace(" ", "").replace("\0", "")
    return pack(text or "@")


Made = tuple[int, list[tuple[Any, ...]]]
"""(bytes, rows that must come of them)."""


def sale(kind: str, head: tuple[Any, ...], px: int, shares: int, *rest: int) -> list[tuple[Any, ...]]:
    return [(kind, *head, px, shares, *rest)] if px and shares else []


def volume(c: Chance, *, is_fraction: bool, is_long: bool = True) -> tuple[int, int]:
    """(as on the wire, whole shares)."""
    if not is_fraction:
        shares = c.size(is_long=is_long)
        return shares, shares
    parts = c.random.randrange(2**62 if is_long else 2**32)
    return parts, parts // 10**6


def as_made(symbols: SymbolTable, rows: np.ndarray) -> list[Any]:
    """Rows of the bus in the form of `Made`."""
    found: list[Any] = []
    common = zip(rows["venue"].tolist(), rows["event_ns"].tolist(), rows["symbol"].tolist(), strict=True)
    for i, (kind, head) in enumerate(zip(rows["kind"].tolist(), common, strict=True)):
        if kind == 1:
            row = rows.view(QUOTE)[i]
            names = ("bid_px", "bid_size", "ask_px", "ask_size", "condition", "tape")
            found.append(("quote", *head[:2], symbols.name(head[2]), *(int(row[name]) for name in names)))
        elif kind == 2:
            row = rows.view(TRADE)[i]
            names = ("price", "size", "condition", "trade_id", "mark", "original_id", "tape")
            found.append(("trade", *head[:2], symbols.name(head[2]), *(int(row[name]) for name in names)))
        else:
            found.append(("status", *head[:2], symbols.name(head[2]), rows.view(STATUS)[i]))
    return found


def assert_same(got: Any, expected: tuple[Any, ...], label: str) -> None:
    """One row of the bus beside the row that was meant."""
    name = bytes(expected[3]).rstrip(b"\0").decode()
    if expected[0] == "status":
        assert got[:4] == (*expected[:3], name), label
        assert {key: int(got[4][key]) for key in expected[4]} == expected[4], label
    else:
        assert got == (*expected[:3], name, *expected[4:]), label
