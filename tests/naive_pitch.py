"""An independent, plain reading of Cboe's PITCH: struct and dicts only, written from the specification's tables.

The slow, obvious twin of `nodes.feeds.sequenced_unit_kernel`, `pitch_kernel` and `pitch_ascii_kernel`, and makers of
their messages. Times are nanoseconds, prices whole units of 1e-9, rows plain tuples.
"""

import random
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import naive_iex
from fabric.records import KIND_QUOTE, KIND_STATUS, KIND_TRADE, NULL, QUOTE, STATUS, TRADE, Rows, unpack
from fabric.symbols import SymbolTable

SECOND_NS = 10**9
DAY_NS = 86_400 * SECOND_NS
PRICE_MAX = 2_250_000 * 10**9

Row = tuple[object, ...]
"""("quote", symbol, number, time, bid, bid size, ask, ask size, condition), ("trade", symbol, number, time, price,
size, condition, id, mark, original id) or ("status", symbol, number, time, trading, short sale, venue state)."""


def golden(path: Path) -> dict[str, bytes]:
    """The named bytes of a file: a line ``name:``, then lines of hex; ``#`` begins a comment."""
    found: dict[str, str] = {}
    name = ""
    for line in path.read_text().splitlines():
        text = line.split("#")[0].strip()
        if text.endswith(":"):
            name = text[:-1]
            found[name] = ""
        else:
            found[name] = found.get(name, "") + text
    return {key: bytes.fromhex(value) for key, value in found.items() if key}


def udp_payloads(path: Path) -> Iterator[tuple[int, bytes]]:
    """(time in ns, UDP payload) of each IPv4 UDP packet of a capture, VLAN tag or not."""
    for time_ns, _, frame in naive_iex.frames(path):
        packet = frame[18:] if frame[12:14] == b"\x81\x00" else frame[14:]
        if packet[0] >> 4 == 4 and packet[9] == 17:
            udp = packet[(packet[0] & 15) * 4 :]
            yield time_ns, udp[8 : struct.unpack_from(">H", udp, 4)[0]]


def rows_of(rows: Rows, symbols: SymbolTable) -> list[Row]:
    """Rows of the bus as the twin makes them."""
    names, found = symbols.names(), []

    def number(value: int) -> int | None:
        return None if value == NULL else int(value)

    for event in rows:
        row = event.view({KIND_QUOTE: QUOTE, KIND_TRADE: TRADE, KIND_STATUS: STATUS}[int(event["kind"])])
        head = (names[row["symbol"]], number(row["exchange_seq"]), int(row["event_ns"]))
        if row["kind"] == KIND_QUOTE:
            sides = [number(row[name]) for name in ("bid_px", "bid_size", "ask_px", "ask_size")]
            found.append(("quote", *head, *sides, unpack(row["condition"])))
        elif row["kind"] == KIND_TRADE:
            ids = (number(row["trade_id"]), unpack(row["mark"]) or None, number(row["original_id"]))
            found.append(("trade", *head, row["price"], row["size"], unpack(row["condition"]), *ids))
        else:
            found.append(
                ("status", *head, unpack(row["trading"]), unpack(row["short_sale"]), unpack(row["venue_state"]))
            )
    return found


# --- Messages and packets, from the tables.


def packet(*messages: bytes, sequence: int = 1, unit: int = 1, count: int | None = None) -> bytes:
    body = b"".join(messages)
    return struct.pack("<HBBI", 8 + len(body), len(messages) if count is None else count, unit, sequence) + body


def message(kind: int, time: int, body: bytes) -> bytes:
    return struct.pack("<BBI", 6 + len(body), kind, time) + body


def name(symbol: str, width: int) -> bytes:
    return symbol.encode().ljust(width)


def time(second: int) -> bytes:
    return message(0x20, second, b"")


def unit_clear(at: int = 0) -> bytes:
    return message(0x97, at, b"")


def end_of_session(at: int = 0) -> bytes:
    return message(0x2D, at, b"")


def add_long(order: int, side: str, size: int, symbol: str, price: int, at: int = 0) -> bytes:
    return message(0x21, at, struct.pack("<QcI6sQB", order, side.encode(), size, name(symbol, 6), price, 1))


def add_short(order: int, side: str, size: int, symbol: str, price: int, at: int = 0) -> bytes:
    return message(0x22, at, struct.pack("<QcH6sHB", order, side.encode(), size, name(symbol, 6), price, 1))


def add_expanded(order: int, side: str, size: int, symbol: str, price: int, at: int = 0) -> bytes:
    body = struct.pack("<QcI8sQB4sc", order, side.encode(), size, name(symbol, 8), price, 1, b"    ", b" ")
    return message(0x2F, at, body)


def executed(order: int, size: int, execution: int, at: int = 0) -> bytes:
    return message(0x23, at, struct.pack("<QIQ", order, size, execution))


def executed_at(order: int, size: int, remaining: int, execution: int, price: int, at: int = 0) -> bytes:
    return message(0x24, at, struct.pack("<QIIQQ", order, size, remaining, execution, price))


def reduce_long(order: int, size: int, at: int = 0) -> bytes:
    return message(0x25, at, struct.pack("<QI", order, size))


def reduce_short(order: int, size: int, at: int = 0) -> bytes:
    return message(0x26, at, struct.pack("<QH", order, size))


def modify_long(order: int, size: int, price: int, at: int = 0) -> bytes:
    return message(0x27, at, struct.pack("<QIQB", order, size, price, 1))


def modify_short(order: int, size: int, price: int, at: int = 0) -> bytes:
    return message(0x28, at, struct.pack("<QHHB", order, size, price, 1))


def delete(order: int, at: int = 0) -> bytes:
    return message(0x29, at, struct.pack("<Q", order))


def trade_long(size: int, symbol: str, price: int, execution: int, at: int = 0) -> bytes:
    return message(0x2A, at, struct.pack("<QcI6sQQ", 7, b"B", size, name(symbol, 6), price, execution))


def trade_short(size: int, symbol: str, price: int, execution: int, at: int = 0) -> bytes:
    return message(0x2B, at, struct.pack("<QcH6sHQ", 7, b"B", size, name(symbol, 6), price, execution))


def trade_expanded(size: int, symbol: str, price: int, execution: int, at: int = 0) -> bytes:
    return message(0x30, at, struct.pack("<QcI8sQQ", 7, b"B", size, name(symbol, 8), price, execution))


def trade_break(execution: int, at: int = 0) -> bytes:
    return message(0x2C, at, struct.pack("<Q", execution))


def trading_status(symbol: str, trading: str, short_sale: str = "0", at: int = 0) -> bytes:
    return message(0x31, at, struct.pack("<8scc2s", name(symbol, 8), trading.encode(), short_sale.encode(), b"  "))


def auction_update(symbol: str, auction: str, *numbers: int, at: int = 0) -> bytes:
    """``numbers``: reference price, shares to buy and to sell, indicative and auction only price."""
    return message(0x95, at, struct.pack("<8scQIIQQ", name(symbol, 8), auction.encode(), *numbers))


def auction_summary(symbol: str, auction: str, price: int, size: int, at: int = 0) -> bytes:
    return message(0x96, at, struct.pack("<8scQI", name(symbol, 8), auction.encode(), price, size))


def retail_improvement(symbol: str, improvement: str, at: int = 0) -> bytes:
    return message(0x98, at, struct.pack("<8sc", name(symbol, 8), improvement.encode()))


def symbol_mapping() -> bytes:
    return struct.pack("<BB6s21sc", 30, 0x2E, b"000001", b"ZYZZ  161231C00100000", b"N")


# --- The book and what is published of it.


class NaiveBook:
    """Orders as a dict; the best is found by looking at all of a symbol's."""

    def __init__(self) -> None:
        self.orders: dict[int, list[int | str]] = {}  # id -> symbol, side, price, size
        self.of_symbol: dict[str, set[int]] = {}
        self.published: dict[str, list[int | None]] = {}
        self.condition: dict[str, str] = {}
        self.status: dict[str, tuple[str, str]] = {}
        self.unit: dict[str, int] = {}
        self.names: list[str] = []
        self.printed: dict[int, tuple[str, int, int]] = {}
        self.counts: Counter[str] = Counter()

    def meet(self, symbol: str) -> None:
        if symbol not in self.names:
            self.names.append(symbol)

    def best(self, symbol: str, side: str) -> tuple[int | None, int | None]:
        mine = [self.orders[i] for i in self.of_symbol.get(symbol, ()) if self.orders[i][1] == side]
        prices = [int(order[2]) for order in mine]
        if not prices:
            return None, None
        top = max(prices) if side == "B" else min(prices)
        return top, sum(int(order[3]) for order in mine if order[2] == top)

    def quote(self, symbol: str, number: int | None, when: int) -> Row:
        condition = self.condition.get(symbol, "R")
        return ("quote", symbol, number, when, *self.published.get(symbol, [None] * 4), condition)

    def look(self, symbol: str, number: int | None, when: int) -> list[Row]:
        now = [*self.best(symbol, "B"), *self.best(symbol, "S")]
        if now == self.published.get(symbol, [None] * 4):
            return []
        self.published[symbol] = now
        return [self.quote(symbol, number, when)]

    def trade(self, symbol: str, number: int | None, when: int, price: int, size: int, execution: int) -> list[Row]:
        self.printed[execution] = (symbol, price, size)
        return [("trade", symbol, number, when, price, size, condition_of(size, when), execution, None, None)]

    def take_away(self, order: int) -> None:
        self.of_symbol[str(self.orders.pop(order)[0])].discard(order)

    def set_size(self, order: int, size: int) -> None:
        if size > 0:
            self.orders[order][3] = size
        else:
            self.take_away(order)

    def clear(self, unit: int, number: int | None, when: int, forget: bool = False) -> list[Row]:
        rows: list[Row] = []
        for symbol in self.names:
            if self.unit.get(symbol) != unit:
                continue
            for order in list(self.of_symbol.get(symbol, ())):
                self.take_away(order)
            if forget:
                self.status.pop(symbol, None)
                self.condition.pop(symbol, None)
            if self.published.get(symbol, [None] * 4) != [None] * 4:
                self.published[symbol] = [None] * 4
                rows.append(self.quote(symbol, number, when))
        return rows

    def add(
        self, unit: int, number: int | None, when: int, order: int, side: str, size: int, symbol: str, price: int | None
    ) -> list[Row]:
        if price is None:
            return []
        self.unit[symbol] = unit
        if size > 0 and order not in self.orders:
            self.orders[order] = [symbol, side, price, size]
            self.of_symbol.setdefault(symbol, set()).add(order)
        elif size > 0:
            self.counts["orders_duplicate"] += 1
        return self.look(symbol, number, when)

    def known(self, order: int) -> bool:
        self.counts["orders_orphaned"] += order not in self.orders
        return order in self.orders

    def execute(self, number: int | None, when: int, order: int, size: int, execution: int) -> list[Row]:
        if not self.known(order):
            return []
        symbol, _, price, _ = self.orders[order]
        rows = self.trade(str(symbol), number, when, int(price), size, execution) if size else []
        return rows + self.cut(number, when, order, size)

    def cut(self, number: int | None, when: int, order: int, size: int) -> list[Row]:
        symbol, _, _, held = self.orders[order]
        self.counts["orders_overdrawn"] += size > int(held)
        self.set_size(order, int(held) - size)
        return self.look(str(symbol), number, when)

    def break_trade(self, number: int | None, when: int, execution: int) -> list[Row]:
        if execution not in self.printed:
            self.counts["unknown_breaks"] += 1
            return []
        symbol, price, size = self.printed.pop(execution)
        return [("trade", symbol, number, when, price, size, condition_of(size, when), None, "x", execution)]

    def tell(self, unit: int, number: int | None, when: int, symbol: str, trading: str, short_sale: str) -> list[Row]:
        if self.status.get(symbol) == (trading, short_sale):
            return []
        self.unit[symbol] = unit
        self.status[symbol] = (trading, short_sale)
        rows: list[Row] = [("status", symbol, number, when, trading, short_sale, "")]
        condition = "R" if trading == "T" else "N"
        if condition != self.condition.get(symbol, "R"):
            self.condition[symbol] = condition
            if self.published.get(symbol, [None] * 4) != [None] * 4:
                rows.append(self.quote(symbol, number, when))
        return rows


DAY = [0]
"""Midnight in New York of the day that conditions are judged by."""


def condition_of(size: int, when: int) -> str:
    regular = 34_200 * SECOND_NS <= when - DAY[0] < 57_600 * SECOND_NS
    return ("" if regular else "T") + ("I" if size < 100 else "") or "@"


def is_name(raw: bytes) -> bool:
    return bool(raw) and all(33 <= c <= 126 and c != 124 for c in raw)


SIZES = {
    0x20: 6, 0x21: 34, 0x22: 26, 0x23: 26, 0x24: 38, 0x25: 18, 0x26: 16, 0x27: 27, 0x28: 19, 0x29: 14, 0x2A: 41,
    0x2B: 33, 0x2C: 14, 0x2D: 6, 0x2F: 41, 0x30: 43, 0x31: 18, 0x95: 47, 0x96: 27, 0x97: 6, 0x98: 15,
}  # fmt: skip


class NaivePitch:
    """Multicast PITCH, one message at a time."""

    def __init__(self, day_ns: int) -> None:
        self.book = NaiveBook()
        self.day_ns = DAY[0] = day_ns
        self.second: dict[int, int] = {}
        self.counts = self.book.counts

    def void(self, unit: int, recv_ns: int, forget: bool) -> list[Row]:
        """A gap, or with ``forget`` a restart."""
        self.second.pop(unit, None)
        return self.book.clear(unit, None, recv_ns, forget)

    def price(self, value: int, scale: int) -> int | None:
        if value == 0 or value * scale > PRICE_MAX:
            self.counts["unencodable"] += 1
            return None
        return value * scale

    def apply(self, unit: int, number: int | None, raw: bytes, recv_ns: int) -> list[Row]:
        self.counts["messages"] += 1
        kind, size = raw[1], raw[0]
        if kind in (0x2E, 0xBB) or (kind, size) in ((0x22, 25), (0x28, 18)):
            self.counts["not_equities"] += 1
            return []
        if kind not in SIZES:
            self.counts["unknown"] += 1
            return []
        if size < SIZES[kind]:
            self.counts["malformed_message"] += 1
            return []
        offset = struct.unpack_from("<I", raw, 2)[0]
        if kind == 0x20:
            if offset >= 90_000:
                self.counts["malformed_message"] += 1
                return []
            second = self.day_ns + offset * SECOND_NS
            second -= DAY_NS if second > recv_ns + DAY_NS // 2 else 0
            second += DAY_NS if second < recv_ns - DAY_NS // 2 else 0
            self.second[unit] = second
            return []
        self.counts["untimed"] += unit not in self.second
        when = self.second[unit] + offset if unit in self.second else recv_ns
        book = self.book
        if kind == 0x97:
            self.counts["clears"] += 1
            return book.clear(unit, number, when)
        if kind == 0x2D:
            return [("status", "", number, when, "C", "", "live")]
        if kind in (0x21, 0x22, 0x2F, 0x2A, 0x2B, 0x30):
            return self._with_symbol(unit, number, raw, when)
        if kind == 0x31:
            symbol, trading, short_sale = struct.unpack_from("<8scc", raw, 6)
            if not self._is_symbol(symbol.rstrip(b" ")):
                return []
            if not 33 <= trading[0] <= 126 or not 32 <= short_sale[0] <= 126:
                self.counts["malformed_message"] += 1
                return []
            text = symbol.rstrip(b" ").decode()
            return book.tell(unit, number, when, text, trading.decode(), short_sale.decode().strip())
        if kind == 0x2C:
            return book.break_trade(number, when, struct.unpack_from("<q", raw, 6)[0])
        if kind in (0x95, 0x96, 0x98):
            return []
        return self._about_an_order(number, raw, when)

    def _is_symbol(self, raw: bytes) -> bool:
        if not is_name(raw):
            self.counts["malformed_message"] += 1
            return False
        self.book.meet(raw.decode())
        return True

    def _with_symbol(self, unit: int, number: int | None, raw: bytes, when: int) -> list[Row]:
        kind = raw[1]
        form, scale = {
            0x21: ("<qcI6sQ", 100_000), 0x22: ("<qcH6sH", 10_000_000), 0x2F: ("<qcI8sQ", 100_000),
            0x2A: ("<qcI6sQq", 100_000), 0x2B: ("<qcH6sHq", 10_000_000), 0x30: ("<qcI8sQq", 100_000),
        }[kind]  # fmt: skip
        order, side, size, name_raw, value, *more = struct.unpack_from(form, raw, 6)
        price = self.price(value, scale)
        if not self._is_symbol(name_raw.rstrip(b" ")):
            return []
        if side not in (b"B", b"S"):
            self.counts["malformed_message"] += 1
            return []
        symbol = name_raw.rstrip(b" ").decode()
        if more:
            return self.book.trade(symbol, number, when, price, size, more[0]) if price and size else []
        return self.book.add(unit, number, when, order, side.decode(), size, symbol, price)

    def _about_an_order(self, number: int | None, raw: bytes, when: int) -> list[Row]:
        kind, book = raw[1], self.book
        order = struct.unpack_from("<q", raw, 6)[0]
        price: int | None = None
        if kind in (0x24, 0x27, 0x28):
            at, form, scale = {
                0x24: (30, "<Q", 100_000), 0x27: (18, "<Q", 100_000), 0x28: (16, "<H", 10_000_000)
            }[kind]  # fmt: skip
            price = self.price(struct.unpack_from(form, raw, at)[0], scale)
        if kind == 0x23:
            return book.execute(number, when, order, *struct.unpack_from("<Iq", raw, 14))
        if not book.known(order):
            return []
        symbol = str(book.orders[order][0])
        rows: list[Row] = []
        if kind == 0x24:
            size, remaining, execution = struct.unpack_from("<IIq", raw, 14)
            if price and size:
                rows = book.trade(symbol, number, when, price, size, execution)
            book.set_size(order, remaining)
        elif kind in (0x25, 0x26):
            return book.cut(number, when, order, struct.unpack_from("<I" if kind == 0x25 else "<H", raw, 14)[0])
        elif kind in (0x27, 0x28):
            size = struct.unpack_from("<I" if kind == 0x27 else "<H", raw, 14)[0]
            book.orders[order][2] = price or 0
            book.set_size(order, size if price else 0)
        else:
            book.take_away(order)
        return rows + book.look(symbol, number, when)


# --- A seeded flow of messages, most of which make sense.


class Flow:
    """Messages of every type about orders that live, and now and then about others."""

    def __init__(self, chance: random.Random, symbols: list[str]) -> None:
        self.chance, self.symbols = chance, symbols
        self.live: list[int] = []
        self.orders = self.executions = 0
        self.second = 34_200

    def order(self) -> int:
        return self.chance.choice(self.live) if self.live and self.chance.random() < 0.97 else 10**15

    def take(self) -> int:
        at = self.chance.randrange(len(self.live)) if self.live else -1
        return self.live.pop(at) if at >= 0 else 10**15

    def next(self) -> bytes:
        chance = self.chance
        at = chance.randrange(10**9)
        symbol = chance.choice(self.symbols)
        long_name = len(symbol) > 6
        price = chance.randrange(990, 1010)
        self.executions += 1
        match chance.randrange(100):
            case 0:
                self.second += 1
                return time(self.second % 86_400)
            case 1 | 2 | 3:
                return chance.choice(
                    [
                        trade_long(chance.randrange(200), symbol[:6], price * 100, self.executions, at),
                        trade_short(chance.randrange(200), symbol[:6], price, self.executions, at),
                        trade_expanded(chance.randrange(200), symbol, price * 100, self.executions, at),
                    ]
                )
            case 4:
                return trade_break(max(1, self.executions - chance.randrange(1, 40)), at)
            case 5:
                return trading_status(symbol, chance.choice("AHQSTTTT"), chance.choice("01"), at)
            case 6:
                return self._rare(symbol, price, at)
            case n if n < 50:
                self.orders += 1
                self.live.append(self.orders)
                side, size = chance.choice("BS"), chance.randrange(1, 500)
                price += -10 if side == "B" else 10
                if long_name:
                    return add_expanded(self.orders, side, size, symbol, price * 100 + chance.randrange(100), at)
                if chance.random() < 0.8:
                    return add_short(self.orders, side, size, symbol, price, at)
                return add_long(self.orders, side, size * 1000, symbol, price * 100, at)
            case n if n < 75:
                return delete(self.take(), at)
            case n if n < 80:
                return executed(self.order(), chance.randrange(300), self.executions, at)
            case n if n < 84:
                return executed_at(
                    self.order(), chance.randrange(300), chance.choice((0, 50, 700)), self.executions, price * 100, at
                )
            case n if n < 90:
                return chance.choice([reduce_long, reduce_short])(self.order(), chance.randrange(400), at)
            case n if n < 95:
                return modify_short(self.order(), chance.randrange(300), price, at)
            case _:
                return modify_long(self.order(), chance.randrange(300), price * 100 + chance.choice((0, 33)), at)

    def _rare(self, symbol: str, price: int, at: int) -> bytes:
        chance = self.chance
        match chance.randrange(20):
            case 0:
                return unit_clear(at)
            case 1 | 2:
                return end_of_session(at)
            case 3 | 4:
                return symbol_mapping()
            case 5 | 6:
                return message(0xEE, at, b"?")
            case n if n < 10:
                return auction_update(symbol, chance.choice("OCHI"), price * 100, 5, 6, price * 100, price, at=at)
            case n if n < 15:
                return auction_summary(symbol, chance.choice("OCHI"), price * 100, chance.randrange(10**6), at)
            case _:
                return retail_improvement(symbol, chance.choice("BSAN"), at)
