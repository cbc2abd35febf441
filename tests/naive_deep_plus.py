"""An independent, plain reading of DEEP+ messages: struct and dicts only. The slow twin of `deep_plus_kernel`.

Rows are tuples: ("quote", symbol, bid, ask), ("trade", symbol, price, size, conditions, id, mark, original),
("status", symbol, trading, reason, short sale, round lot); prices in 1/10000 of a dollar, None where there is none.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

PRICE_MAX = 2_250_000 * 10_000
LENGTHS = {"a": 38, "M": 38, "R": 26, "L": 46, "C": 18, "T": 38, "B": 38, "H": 22, "O": 18, "I": 18, "E": 18, "P": 19}
LENGTHS |= {"D": 31, "S": 10}


def price(value: int) -> int | None:
    return value if 0 < value <= PRICE_MAX else None


def text(raw: bytes) -> str:
    found = raw.rstrip(b" ")
    return found.decode() if all(31 < c < 127 for c in found) else ""


def conditions(flags: int) -> str:
    return "".join(c for bit, c in ((0x80, "F"), (0x40, "T"), (0x20, "I"), (0x08, "X")) if flags & bit) or "@"


@dataclass
class NaiveDeepPlus:
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    orders: dict[int, list[Any]] = field(default_factory=dict)  # id -> [symbol, side, price, size]
    published: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    told: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    orphans: int = 0
    duplicates: int = 0
    refused: int = 0
    bad: int = 0

    def apply(self, body: bytes) -> None:
        """Apply one message."""
        if not body:
            self.bad += 1
            return
        kind = chr(body[0])
        if kind not in LENGTHS:
            return
        if len(body) < LENGTHS[kind] or not 0 <= struct.unpack_from("<q", body, 2)[0] <= 2**62:
            self.bad += 1
            return
        if kind == "S":
            self.rows.append(("status", "", text(body[1:2]), "", "", None))
            return
        if kind in "IE":
            return
        raw = body[10:18].rstrip(b" ")
        if not raw or any(c <= 32 or c > 126 or c == ord("|") for c in raw):
            self.bad += 1
            return
        symbol = raw.decode()
        if kind in "aMRL":
            self.order(kind, body, symbol)
        elif kind == "C":
            self.orders = {key: order for key, order in self.orders.items() if order[0] != symbol}
            self.best(symbol)
        elif kind in "TB":
            size, px, trade_id = struct.unpack_from("<Iqq", body, 18)
            self.trade(symbol, px, size, body[1], trade_id, broken=kind == "B")
        else:
            self.status(kind, body, symbol)

    def order(self, kind: str, body: bytes, symbol: str) -> None:
        order_id = struct.unpack_from("<q", body, 18)[0]
        size, px = struct.unpack_from("<Iq", body, 26) if kind != "R" else (0, 0)
        if kind == "a":
            if order_id < 0 or body[1:2] not in (b"8", b"5"):
                self.bad += 1
                return
            if price(px) is None:
                return
            if size == 0:
                self.refused += 1
            elif order_id in self.orders:
                self.duplicates += 1
            else:
                self.orders[order_id] = [symbol, chr(body[1]), px, size]
        else:
            if kind == "L":
                self.trade(symbol, px, size, body[1], struct.unpack_from("<q", body, 38)[0], broken=False)
            order = self.orders.get(order_id)
            if order is None or order[0] != symbol:
                self.orphans += 1
                return
            if kind == "L":
                order[3] -= min(size, order[3])
            elif kind == "R" or price(px) is None:
                order[3] = 0
            else:
                order[2:] = [px, size]
            if order[3] == 0:
                del self.orders[order_id]
        self.best(symbol)

    def best(self, symbol: str) -> None:
        sides = []
        for side, choose in (("8", max), ("5", min)):
            levels: dict[int, int] = {}
            for name, of, px, size in self.orders.values():
                if (name, of) == (symbol, side):
                    levels[px] = levels.get(px, 0) + size
            sides.append((choose(levels), levels[choose(levels)]) if levels else None)
        best = (sides[0], sides[1])
        if best != self.published.get(symbol, (None, None)):
            self.published[symbol] = best
            self.rows.append(("quote", symbol, *best))

    def trade(self, symbol: str, px: int, size: int, flags: int, trade_id: int, *, broken: bool) -> None:
        if price(px) is not None and size > 0:
            ids = (None, "x", trade_id) if broken else (trade_id, "", None)
            self.rows.append(("trade", symbol, px, size, conditions(flags), *ids))

    def status(self, kind: str, body: bytes, symbol: str) -> None:
        known = self.known.setdefault(symbol, {"trading": "", "reason": "", "halted": False, "short": "", "lot": 0})
        if kind == "H":
            known["trading"], known["reason"] = text(body[1:2]), text(body[18:22])
        elif kind == "O":
            known["halted"] = body[1:2] == b"O"
        elif kind == "P":
            known["short"] = "1" if body[1] == 1 else "0"
        else:
            known["lot"] = struct.unpack_from("<I", body, 18)[0]
        trading, reason = known["trading"], known["reason"]
        if known["halted"] and trading != "H":
            trading, reason = "H", "OPER"
        now = (trading, reason, known["short"], known["lot"])
        if now != self.told.get(symbol, ("", "", "", 0)):
            self.told[symbol] = now
            self.rows.append(("status", symbol, trading, reason, known["short"], known["lot"] or None))
