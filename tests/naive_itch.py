"""A plain reading of TotalView-ITCH 5.0: struct and dicts only, written from the specification's tables.

The slow, obvious twin of `nodes.feeds.itch`: messages in, rows out as plain tuples.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

from naive_book import ASK, BID, NaiveBook

LENGTHS = {"S": 12, "R": 39, "H": 25, "h": 21, "Y": 20, "L": 26, "V": 35, "W": 12, "K": 28, "J": 35, "A": 36, "F": 40}
LENGTHS |= {"E": 31, "C": 36, "X": 23, "D": 19, "U": 35, "P": 44, "Q": 40, "B": 19, "I": 50, "N": 20, "O": 48}
HOUR_NS = 3_600 * 10**9
CROSSES = {"O": "O", "C": "6", "H": "5"}
TAPES = {"N": "A", "Q": "C", "G": "C", "S": "C"}

Row = tuple[Any, ...]
"""Kind, number, time since midnight, symbol; then quote: bid, ask, condition, tape; trade: price, size, condition, id,
mark, original id, tape; status: trading, reason, short sale, round lot, upper, lower, tape. Prices in 1/10000."""
Side = tuple[int, int] | None


@dataclass
class Stock:
    best: list[Side] = field(default_factory=lambda: [None, None])
    firm: bool = True
    tape: str = ""
    round_lot: int | None = None
    trading: str = ""
    reason: str = ""
    halted_here: bool = False
    short_sale: str = ""
    collars: tuple[int | None, int | None] = (None, None)


@dataclass
class NaiveItch:
    venue: str = "Q"
    book: NaiveBook = field(default_factory=NaiveBook)
    locates: dict[int, str] = field(default_factory=dict)
    stocks: dict[str, Stock] = field(default_factory=dict)
    open: bool | None = None
    types: dict[str, int] = field(default_factory=dict)
    orphans: int = 0
    malformed: int = 0
    unknown: int = 0

    def apply(self, body: bytes, number: int) -> list[Row]:
        """The rows of one message."""
        if not body:
            self.malformed += 1
            return []
        kind = body[:1].decode("latin-1")
        self.types[kind] = self.types.get(kind, 0) + 1
        if kind not in LENGTHS:
            self.unknown += 1
            return []
        if len(body) < LENGTHS[kind] or int.from_bytes(body[5:11], "big") > 25 * HOUR_NS:
            self.malformed += 1
            return []
        time_ns = int.from_bytes(body[5:11], "big")
        if kind == "S":
            code = chr(body[11])
            self.open = code == "Q" if code in "OSQMEC" else self.open
            return [("status", number, time_ns, "", code, "", "", None, None, None, "")]
        if kind == "W":
            if chr(body[11]) not in "123":
                self.malformed += 1
                return []
            return [("status", number, time_ns, "", "", f"MWC{chr(body[11])}", "", None, None, None, "")]
        if kind in "AFEXCDU":
            return self._order(kind, body, number, time_ns)
        return self._other(kind, body, number, time_ns)

    def _stock(self, locate: int, name: bytes, *, anew: bool = False) -> str | None:
        if anew or locate not in self.locates:
            text = name.rstrip(b" ")
            if not text or any(c <= 32 or c > 126 or c == ord("|") for c in text):
                self.malformed += 1
                return None
            self.locates[locate] = text.decode()
        symbol = self.locates[locate]
        self.stocks.setdefault(symbol, Stock())
        return symbol

    def _order(self, kind: str, body: bytes, number: int, time_ns: int) -> list[Row]:
        rows: list[Row] = []
        locate, order_id = struct.unpack_from(">H8xQ", body, 1)
        if kind in "AF":
            side, size, name, price = struct.unpack_from(">cI8sI", body, 19)
            if side not in (b"B", b"S"):
                self.malformed += 1
                return []
            symbol = self._stock(locate, name)
            if symbol is None:
                return []
            if price and size:
                self.book.add(self._key(symbol), ASK if side == b"S" else BID, order_id, price, size)
            touched = BID if side == b"B" else ASK
        elif order_id not in self.book.orders:
            self.orphans += 1
            return []
        else:
            order = self.book.orders[order_id]
            symbol, touched, price = list(self.stocks)[order.symbol], order.side, order.price
            if kind == "D":
                del self.book.orders[order_id]
            elif kind == "U":
                new_id, size, price = struct.unpack_from(">QII", body, 19)
                del self.book.orders[order_id]
                if price and size:
                    self.book.add(order.symbol, order.side, new_id, price, size)
            else:
                size = struct.unpack_from(">I", body, 19)[0]
                self.book.reduce(order_id, size)
                if kind in "EC":
                    match = struct.unpack_from(">q", body, 23)[0]
                    printable = kind == "E"
                    if kind == "C":
                        printable, price = body[31:32] == b"Y", struct.unpack_from(">I", body, 32)[0]
                    if printable and price and size:
                        rows.append(self._trade(symbol, number, time_ns, price, size, match))
        stock = self.stocks[symbol]
        best = self.book.best(self._key(symbol), touched)
        if best != stock.best[touched]:
            stock.best[touched] = best
            rows.append(self._quote(symbol, number, time_ns))
        return rows

    def _other(self, kind: str, body: bytes, number: int, time_ns: int) -> list[Row]:
        at = {"R": 11, "H": 11, "h": 11, "Y": 11, "J": 11, "P": 24, "Q": 19}.get(kind)
        locate = struct.unpack_from(">H", body, 1)[0]
        if kind == "B":
            symbol = self.locates.get(locate)
            match = struct.unpack_from(">q", body, 11)[0]
            if symbol is None:
                return []
            return [("trade", number, time_ns, symbol, None, None, "", None, "x", match, self.stocks[symbol].tape)]
        if at is None:
            return []
        symbol = self._stock(locate, body[at : at + 8], anew=kind == "R")
        if symbol is None:
            return []
        stock = self.stocks[symbol]
        if kind == "P":
            size, price, match = struct.unpack_from(">I8xIq", body, 20)
            return [self._trade(symbol, number, time_ns, price, size, match)] if price and size else []
        if kind == "Q":
            size, price, match, cross = struct.unpack_from(">Q8xIqc", body, 11)
            if not 0 < size < 2**63 or not price:
                return []
            condition = CROSSES.get(cross.decode("latin-1"), "X")
            return [("trade", number, time_ns, symbol, price, size, condition, match, "", None, stock.tape)]
        if kind == "R":
            stock.tape = TAPES.get(chr(body[19]), "B")
            stock.round_lot = struct.unpack_from(">I", body, 21)[0] or 100
        elif kind == "H":
            stock.trading, stock.reason = _text(body[19:20]), _text(body[21:25])
            if stock.trading == "T":
                stock.collars = (None, None)
        elif kind == "h":
            if chr(body[19]) != self.venue:
                return []
            stock.halted_here = body[20:21] == b"H"
        elif kind == "Y":
            stock.short_sale = _text(body[19:20])
        else:
            stock.collars = struct.unpack_from(">II", body, 23)
        return self._status(symbol, number, time_ns)

    def _status(self, symbol: str, number: int, time_ns: int) -> list[Row]:
        stock = self.stocks[symbol]
        told = (stock.trading, stock.reason)
        if stock.halted_here and stock.trading != "H":
            told = ("H", "OPER")
        rows: list[Row] = [
            ("status", number, time_ns, symbol, *told, stock.short_sale, stock.round_lot, *stock.collars, stock.tape)
        ]
        trades = stock.trading == "T" or (not stock.trading and stock.round_lot is None)
        firm = trades and not stock.halted_here
        if firm != stock.firm:
            stock.firm = firm
            if stock.best != [None, None]:
                rows.append(self._quote(symbol, number, time_ns))
        return rows

    def _quote(self, symbol: str, number: int, time_ns: int) -> Row:
        stock = self.stocks[symbol]
        return ("quote", number, time_ns, symbol, *stock.best, "R" if stock.firm else "N", stock.tape)

    def _trade(self, symbol: str, number: int, time_ns: int, price: int, size: int, match: int) -> Row:
        stock = self.stocks[symbol]
        market_hours = 9.5 * HOUR_NS <= time_ns < 16 * HOUR_NS if self.open is None else self.open
        condition = ("" if market_hours else "T") + ("I" if size < (stock.round_lot or 100) else "")
        return ("trade", number, time_ns, symbol, price, size, condition or "@", match, "", None, stock.tape)

    def _key(self, symbol: str) -> int:
        """The book's number of a stock: the order in which they were first told."""
        return list(self.stocks).index(symbol)


def _text(raw: bytes) -> str:
    text = raw.rstrip(b" ")
    return text.decode() if all(32 <= c <= 126 for c in text) else ""
