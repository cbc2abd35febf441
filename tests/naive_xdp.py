"""An independent, plain reading of NYSE packets: struct and dicts only, written from the specification's tables.

The slow, obvious twin of `nodes.feeds.pillar_kernel` (framing) and `nodes.feeds.xdp` (messages). Rows are tuples:
("quote", symbol, bid, ask, condition), ("trade", symbol, price, size, conditions, id, mark, original) and
("status", symbol, trading, reason, short sale, round lot, lower, upper, indicator); prices in 1e-9, a side is
(price, size) or None.
"""

import struct
from collections import Counter
from dataclasses import dataclass, field

FLAGS_LIVE = (1, 10, 11, 12)
FLAGS_AGAIN = (13, 15)
FLAGS_REFRESH = (17, 18, 19, 20)
SECOND_NS = 10**9

LENGTHS = {
    1: 14, 2: 16, 3: 44, 31: 14, 32: 20, 34: 46, 35: 16,
    100: 39, 101: 35, 102: 25, 103: 42, 104: 42, 105: 67, 106: 43, 110: 33, 111: 29, 112: 20, 113: 24, 114: 17,
    140: 34, 210: 48, 212: 52, 213: 48, 214: 44, 216: 24, 220: 36, 221: 24, 222: 40, 223: 36,
}  # fmt: skip
MARKETS = {1: "N", 3: "P", 9: "A", 10: "C", 11: "M"}
SESSIONS = {"P": "O", "B": "O", "E": "T", "O": "T", "L": "T", "X": "C"}
CROSSES = {"O": "@O", "5": "@5", "6": "@6", "E": "@ T"}
PRICE_MAX = 2_250_000 * 10**9


def u16(data: bytes, at: int) -> int:
    return struct.unpack_from("<H", data, at)[0]


def u32(data: bytes, at: int) -> int:
    return struct.unpack_from("<I", data, at)[0]


def i64(data: bytes, at: int) -> int:
    return struct.unpack_from("<q", data, at)[0]


@dataclass
class Block:
    stream: int
    session: int
    heartbeat: bool
    first: int
    messages: list[bytes]
    sent_ns: int


@dataclass
class NaiveFraming:
    """One packet at a time into a block, or None."""

    counters: Counter[str] = field(default_factory=Counter)
    resets: dict[int, tuple[int, int]] = field(default_factory=dict)  # group -> how many, when the last was sent

    def frame(self, packet: bytes, group: int) -> Block | None:
        if len(packet) < 16:
            self.counters["malformed_short"] += 1
            return None
        size, flag, count, first, seconds, sub_ns = struct.unpack_from("<HBBIII", packet)
        if sub_ns >= SECOND_NS:
            self.counters["malformed_time"] += 1
            return None
        sent_ns = seconds * SECOND_NS + sub_ns
        if flag == 21:
            self.counters["packets"] += 1
            self.counters["unavailable"] += 1
            return None
        if flag not in FLAGS_LIVE + FLAGS_AGAIN + FLAGS_REFRESH:
            self.counters["malformed_flag"] += 1
            return None
        count = 0 if flag == 1 else count
        inside = packet[: max(16, min(size, len(packet)))]
        messages, at = [], 16
        while len(messages) < count and at + 4 <= len(inside) and 4 <= u16(inside, at) <= len(inside) - at:
            messages.append(inside[at : at + u16(inside, at)])
            at += u16(inside, at)
        if len(messages) < count or at != len(packet) or size != len(packet):
            self.counters["malformed_length"] += 1
            if count and not messages:
                return None
        session, reset_ns = self.resets.get(group, (0, 0))
        says_reset = flag in (10, 11, 12) and messages and u16(messages[0], 2) == 1 and len(messages[0]) >= 14
        if says_reset and first == 1 and size == len(packet) and abs(sent_ns - reset_ns) > SECOND_NS:
            session, reset_ns = session + 1, sent_ns
            self.counters["resets"] += 1
            self.resets[group] = session, reset_ns
        if flag in FLAGS_LIVE and reset_ns - 5 * SECOND_NS <= sent_ns < reset_ns:
            self.counters["late"] += 1
            return None
        self.counters["packets"] += 1
        self.counters["refreshed"] += flag in FLAGS_REFRESH
        self.counters["retransmitted"] += flag in FLAGS_AGAIN
        self.counters["heartbeats"] += not messages
        stream = group << 16 | (flag in FLAGS_REFRESH)
        return Block(stream, session, not messages, first, messages, sent_ns)


Side = tuple[int, int] | None


@dataclass
class Listing:
    mapped: bool = False
    name: str = ""
    venue: str = ""
    tape: str = ""
    unit: int = 0
    engine: int = 0
    own: int = 0
    refreshed: int = 0
    lost: bool = False
    books: bool = False
    bid: Side = None
    ask: Side = None
    cross: tuple[int, int | None] | None = None
    trading: str = ""
    reason: str = ""
    short_sale: str = ""
    round_lot: int | None = None
    lower: int | None = None
    upper: int | None = None
    indicator: str = ""

    def status(self) -> tuple[object, ...]:
        return self.trading, self.reason, self.short_sale, self.round_lot, self.lower, self.upper, self.indicator

    def price(self, raw: int) -> int | None:
        price = raw * self.unit
        return price if 0 < price <= PRICE_MAX else None


@dataclass
class Refresh:
    part: int
    parts: int
    as_of: int
    own: int
    key: tuple[int, int] | None = None


@dataclass
class NaiveXdp:
    """Blocks in order into rows: (kind, symbol, venue, tape, number, time, then the kind's own)."""

    counters: Counter[str] = field(default_factory=Counter)
    types: Counter[int] = field(default_factory=Counter)
    listings: dict[tuple[int, int], Listing] = field(default_factory=dict)  # by channel and index
    orders: dict[int, tuple[tuple[int, int], str, int, int]] = field(default_factory=dict)  # listing, side, price, size
    seconds: dict[tuple[int, int], int] = field(default_factory=dict)
    refreshes: dict[int, Refresh] = field(default_factory=dict)
    as_of: Counter[int] = field(default_factory=Counter)
    sent: Counter[int] = field(default_factory=Counter)
    rows: list[tuple[object, ...]] = field(default_factory=list)

    def row(self, listing: Listing, number: int | None, time_ns: int, kind: str, *own: object) -> None:
        self.rows.append((kind, listing.name, listing.venue, listing.tape, number, time_ns, *own))

    def quote(self, listing: Listing, number: int | None, time_ns: int, bid: Side, ask: Side, condition: str) -> None:
        listing.bid, listing.ask = bid, ask
        self.row(listing, number, time_ns, "quote", bid, ask, condition)

    def best(self, key: tuple[int, int], side: str) -> Side:
        prices = [price for at, its_side, price, _ in self.orders.values() if (at, its_side) == (key, side)]
        if not prices:
            return None
        top = max(prices) if side == "B" else min(prices)
        return top, sum(size for at, its, price, size in self.orders.values() if (at, its, price) == (key, side, top))

    def void(self, key: tuple[int, int], number: int | None, time_ns: int) -> None:
        listing = self.listings[key]
        self.orders = {order: held for order, held in self.orders.items() if held[0] != key}
        if listing.bid or listing.ask:
            self.counters["withdrawn"] += 1
            self.quote(listing, number, time_ns, None, None, "R")

    def gap(self, stream: int, restart: bool) -> None:
        channel = stream & ~1
        self.end_refresh(channel)
        if stream & 1:
            return
        self.seconds = {key: second for key, second in self.seconds.items() if key[0] != channel}
        for key, listing in self.listings.items():
            if key[0] == channel and listing.mapped:
                self.void(key, None, self.sent[channel])
                if restart:
                    listing.mapped = listing.lost = False
                else:
                    listing.lost = listing.lost or listing.books

    def block(self, block: Block, skip: int = 0) -> None:
        channel = block.stream & ~1
        self.sent[channel] = block.sent_ns
        for i, message in enumerate(block.messages):
            if i >= skip:
                self.message(channel, bool(block.stream & 1), message, block.first + i)
        if block.stream & 1:
            self.finish_refresh(channel)

    def end_refresh(self, channel: int) -> None:
        refresh = self.refreshes.pop(channel, None)
        self.counters["refreshes_broken"] += bool(refresh and refresh.key)

    def start_refresh(self, channel: int, key: tuple[int, int]) -> bool:
        refresh, listing = self.refreshes.get(channel), self.listings[key]
        if refresh and refresh.key == key:
            return True
        if not refresh or refresh.part != 1 or refresh.key or not listing.lost:
            return False
        if refresh.own < listing.own:
            self.counters["refreshes_old"] += 1
            del self.refreshes[channel]
            return False
        self.orders = {order: held for order, held in self.orders.items() if held[0] != key}
        refresh.key = key
        return True

    def finish_refresh(self, channel: int) -> None:
        refresh = self.refreshes.get(channel)
        if not refresh or not refresh.key or refresh.part != refresh.parts:
            return
        del self.refreshes[channel]
        self.counters["refreshes"] += 1
        listing = self.listings[refresh.key]
        listing.refreshed = listing.own = refresh.own
        if listing.lost:
            listing.lost = False
            bid, ask = self.best(refresh.key, "B"), self.best(refresh.key, "S")
            if bid or ask:
                self.counters["quotes"] += 1
                self.quote(listing, refresh.as_of, self.sent[channel], bid, ask, "R")

    def mapping(self, channel: int, refreshing: bool, data: bytes, number: int) -> None:
        index, scale, market = u32(data, 4), data[24], MARKETS.get(u16(data, 20))
        name = data[8:19].split(b"\0")[0].rstrip(b" ")
        root, _, suffix = name.partition(b" ")
        if suffix:
            suffix = b"-" + suffix[2:] if suffix.startswith(b"PR") else b"." + suffix
        bad = not root or any(not 32 < c < 127 or c == 124 for c in root + suffix)
        if index >= 1 << 17 or scale > 9 or market is None or bad:
            self.counters["malformed_message"] += 1
            return
        unit, sent = 10 ** (9 - scale), self.sent[channel]
        key = channel, index
        listing = self.listings.setdefault(key, Listing())
        text = (root + suffix).decode()
        if not listing.mapped or (listing.name, listing.venue, listing.unit) != (text, market, unit):
            if listing.mapped:
                self.void(key, number, sent)
            for field_name, value in vars(Listing(True, text, market, "", unit, lost=refreshing)).items():
                setattr(listing, field_name, value)
        listing.tape = {"N": "A", "Q": "C", "A": "B", "P": "B", "V": "B", "Z": "B", "C": "B"}.get(chr(data[23]), "")
        listing.engine = data[22]
        if u16(data, 26) != listing.round_lot:
            listing.round_lot = u16(data, 26)
            self.counters["statuses"] += 1
            self.row(listing, number, sent, "status", *listing.status())
        if refreshing:
            self.start_refresh(channel, key)

    def message(self, channel: int, refreshing: bool, data: bytes, number: int) -> None:
        kind = u16(data, 2)
        self.counters["messages"] += 1
        if kind < 256:
            self.types[kind] += 1
        if kind not in LENGTHS:
            self.counters["unknown"] += 1
            return
        if len(data) < LENGTHS[kind]:
            self.counters["malformed_message"] += 1
            return
        if refreshing:
            number = self.as_of[channel]
        if kind == 3:
            self.mapping(channel, refreshing, data, number)
            return
        if kind == 2:
            if not refreshing and u32(data, 4) < 256:
                self.seconds[channel, u32(data, 4)] = u32(data, 12)
            return
        if kind == 35:
            if refreshing:
                self.finish_refresh(channel)
                part, parts, as_of, own = struct.unpack_from("<HHII", data, 4)
                old = self.refreshes.get(channel)
                if part != 1 and old and (part, parts, own) == (old.part + 1, old.parts, old.own):
                    old.part, old.as_of = part, as_of
                else:
                    self.end_refresh(channel)
                    if part == 1:
                        self.refreshes[channel] = Refresh(part, parts, as_of, own)
                self.as_of[channel] = as_of
            return
        if kind in (1, 31, 105, 114, 223) or 210 <= kind <= 216:
            return
        if (refreshing and kind not in (34, 106, 140)) or (kind == 106 and not refreshing):
            return
        whole = kind in (32, 34, 106) or kind >= 220
        about = 8 if whole else 4
        sub_ns, index, own = struct.unpack_from("<III", data, about)
        key = channel, index
        listing = self.listings.get(key)
        if listing is None or not listing.mapped:
            self.counters["no_mapping"] += 1
            return
        if sub_ns >= SECOND_NS:
            self.counters["malformed_message"] += 1
            return
        sent = self.sent[channel]
        if whole:
            time_ns = u32(data, 4) * SECOND_NS + sub_ns
        elif self.seconds.get((channel, listing.engine)):
            time_ns = self.seconds[channel, listing.engine] * SECOND_NS + sub_ns
        else:
            second = sent // SECOND_NS
            time_ns = min(
                (s * SECOND_NS + sub_ns for s in (second, second - 1, second + 1)), key=lambda t: abs(t - sent)
            )
        if refreshing:
            if not self.start_refresh(channel, key) and kind != 34:
                return
        elif kind == 32:
            if channel in self.refreshes and self.refreshes[channel].key == key:
                self.end_refresh(channel)
            listing.own = listing.refreshed = 0
            listing.lost = False
            self.void(key, number, time_ns)
            return
        else:
            if own <= listing.refreshed:
                self.counters["had_in_refresh"] += 1
                return
            refresh = self.refreshes.get(channel)
            if refresh and refresh.key == key and own > refresh.own:
                self.end_refresh(channel)
            listing.own = own
        if kind in (100, 101, 102, 103, 104, 106):
            self.order(key, listing, kind, data, number, time_ns)
        elif kind == 140:
            ask_px, ask_size, bid_px, bid_size = struct.unpack_from("<IIII", data, 16)
            sides: list[Side] = []
            for raw, size in ((bid_px, bid_size), (ask_px, ask_size)):
                price = listing.price(raw)
                sides.append((price, size) if price and size else None)
                self.counters["no_price"] += (price is None) != (size == 0)
            listing.books, listing.lost = True, False
            self.counters["quotes"] += 1
            condition = chr(data[32]) if 32 < data[32] < 127 else ""
            self.quote(listing, number, time_ns, sides[0], sides[1], condition)
        elif kind == 34:
            self.status(listing, data, number, time_ns)
        else:
            self.trade(listing, kind, data, number, time_ns)

    def order(self, key: tuple[int, int], listing: Listing, kind: int, data: bytes, number: int, time_ns: int) -> None:
        at = 20 if kind == 106 else 16
        order_id, new_id, side, raw, size = i64(data, at), 0, "", 0, 0
        if kind in (100, 106):
            raw, size, side = u32(data, at + 8), u32(data, at + 12), chr(data[at + 16])
            if side not in "BS":
                self.counters["malformed_message"] += 1
                return
        elif kind == 101:
            raw, size = u32(data, at + 8), u32(data, at + 12)
        elif kind == 104:
            new_id, raw, size = i64(data, at + 8), u32(data, at + 16), u32(data, at + 20)
        if order_id < 0 or new_id < 0:
            self.counters["malformed_message"] += 1
            return
        price = listing.price(raw)
        if kind == 103:
            size = u32(data, 32)
            if data[36] == 1:
                self.print(listing, number, time_ns, u32(data, 28), size, data[38:42], u32(data, 24))
            else:
                self.counters["not_printed"] += 1
        elif kind != 102 and (price is None or size == 0):
            self.counters["no_price"] += 1
            if kind in (100, 106):
                return
            kind = 102
        listing.books = True
        if kind in (100, 106):
            if order_id in self.orders:
                self.counters["orders_duplicate"] += 1
                return
            self.orders[order_id] = key, side, price or 0, size
        else:
            held = self.orders.get(order_id)
            if not held or held[0] != key:
                self.counters["orphans"] += 1
                return
            side = held[1]
            if kind == 103 and size < held[3]:
                self.orders[order_id] = key, side, held[2], held[3] - size
            else:
                self.counters["overdrawn"] += kind == 103 and size > held[3]
                del self.orders[order_id]
            if kind == 101:
                self.orders[order_id] = key, side, price or 0, size
            elif kind == 104:
                if new_id in self.orders:
                    self.counters["orders_duplicate"] += 1
                else:
                    self.orders[new_id] = key, side, price or 0, size
        if kind == 106 or listing.lost:
            return
        best = self.best(key, side)
        if best != (listing.bid if side == "B" else listing.ask):
            self.counters["quotes"] += 1
            bid, ask = (best, listing.ask) if side == "B" else (listing.bid, best)
            self.quote(listing, number, time_ns, bid, ask, "R")

    def print(
        self,
        listing: Listing,
        number: int,
        time_ns: int,
        raw: int,
        size: int,
        slots: bytes,
        trade_id: int,
        mark: str = "",
        original: int | None = None,
    ) -> None:
        price = listing.price(raw)
        if price is None or not size:
            self.counters["no_price"] += 1
            return
        text = "".join(chr(c) if 32 < c < 127 else " " for c in slots).rstrip() or "@"
        self.counters["trade_breaks" if mark else "trades"] += 1
        self.row(listing, number, time_ns, "trade", price, size, text, trade_id, mark, original)

    def trade(self, listing: Listing, kind: int, data: bytes, number: int, time_ns: int) -> None:
        if kind in (112, 221):
            self.counters["trade_breaks"] += 1
            gone = u32(data, 16 if kind == 112 else 20)
            self.row(listing, number, time_ns, "trade", None, None, "", None, "x", gone)
        elif kind == 110:
            if data[28] == 1:
                trade_id, raw, size = struct.unpack_from("<III", data, 16)
                self.print(listing, number, time_ns, raw, size, data[29:33], trade_id)
            else:
                self.counters["not_printed"] += 1
        elif kind == 111:
            cross_id, raw, size = struct.unpack_from("<III", data, 16)
            listing.cross = cross_id, raw
            slots = CROSSES.get(chr(data[28]), "@").encode()
            self.print(listing, number, time_ns, raw, size, slots, cross_id)
        elif kind == 113:
            cross_id, size = struct.unpack_from("<II", data, 16)
            if listing.cross is None or listing.cross[0] != cross_id:
                self.counters["unmatched_corrections"] += 1
            else:
                self.print(listing, number, time_ns, listing.cross[1] or 0, size, b"@", cross_id, "c", cross_id)
        elif kind == 220:
            trade_id, raw, size = struct.unpack_from("<III", data, 20)
            self.print(listing, number, time_ns, raw, size, data[32:36], trade_id)
        else:
            original, trade_id, raw, size = struct.unpack_from("<IIII", data, 20)
            self.print(listing, number, time_ns, raw, size, data[36:40], trade_id, "c", original)

    def status(self, listing: Listing, data: bytes, number: int, time_ns: int) -> None:
        before = listing.status()
        code, halt, ssr, session = (chr(data[at]) for at in (20, 21, 43, 44))
        halted = 32 < ord(halt) < 126
        if code in "346" or (halted and code != "5"):
            listing.trading, listing.reason = "H", halt if halted else code
        elif code in "5PBEOLX":
            session = session if code in "5B" else code
            listing.trading = "O" if code == "B" or session == "P" else "C" if session == "X" else "T"
            listing.reason = session if "A" <= session <= "Z" else ""
        if code == "A":
            listing.short_sale = "1"
        elif code == "C":
            listing.short_sale = "2"
        elif code == "D" or ssr == "~":
            listing.short_sale = "0"
        elif ssr == "E" and listing.short_sale != "2":
            listing.short_sale = "1"
        if code in "IG":
            prices = [price for at in (26, 30) if (price := listing.price(u32(data, at)))]
            listing.lower, listing.upper = (min(prices), max(prices)) if prices else (None, None)
            listing.indicator = code
        elif listing.trading in ("T", "C"):
            listing.lower, listing.upper, listing.indicator = None, None, ""
        if listing.status() != before:
            self.counters["statuses"] += 1
            self.row(listing, number, time_ns, "status", *listing.status())
