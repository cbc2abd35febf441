"""NYSE packets for tests: messages put together with struct, a feed of framing and decoder, rows as tuples."""

import random
import struct

import numpy as np

import naive_xdp
from fabric.records import KIND_QUOTE, KIND_TRADE, NULL, QUOTE, STATUS, TRADE, Rows, unpack
from fabric.symbols import SymbolTable
from nodes.feeds import pillar_kernel, xdp, xdp_kernel
from nodes.feeds.wire import from_payloads
from nodes.feeds.wire_kernel import BLOCK, GAP, RESTART

SECOND_NS = 1_000_000_000
SECOND = 1_692_711_000
"""2023-08-22 13:30:00 UTC."""
SENT_NS = SECOND * SECOND_NS + 748_288
GROUPS = np.array([0, 0, 1, 1], np.int64)
Row = tuple[object, ...]


def packet(*messages: bytes, flag: int = 11, first: int = 1, sent_ns: int = SENT_NS) -> bytes:
    body = b"".join(messages)
    header = struct.pack("<HBBIII", 16 + len(body), flag, len(messages), first, *divmod(sent_ns, SECOND_NS))
    return header + body


def message(kind: int, layout: str, *values: object, size: int = 0) -> bytes:
    """A message whose fields follow its size and type; zeros up to ``size``."""
    body = struct.pack("<" + layout, *values)
    return struct.pack("<HH", max(4 + len(body), size), kind) + body.ljust(size - 4, b"\0")


def mapping(
    index: int = 1,
    name: str = "ACP",
    market: int = 1,
    scale: int = 4,
    engine: int = 5,
    listed: str = "N",
    lot: int = 100,
) -> bytes:
    own = (index, name.encode(), 0, market, engine, listed.encode(), scale, b"C", lot)
    return message(3, "I11sBHBcBcH", *own, size=44)


def quote(
    own: int, bid: int, bid_size: int, ask: int, ask_size: int, index: int = 1, ns: int = 700_000, condition: str = "R"
) -> bytes:
    return message(140, "IIIIIIIcc", ns, index, own, ask, ask_size, bid, bid_size, condition.encode(), b" ")


def add(own: int, order: int, side: str, price: int, size: int, index: int = 1, ns: int = 700_000) -> bytes:
    return message(100, "IIIQIIc5sB", ns, index, own, order, price, size, side.encode(), b"FIRM ", 0)


def add_refresh(own: int, order: int, side: str, price: int, size: int, index: int = 1) -> bytes:
    return message(106, "IIIIQIIc5sB", SECOND, 7, index, own, order, price, size, side.encode(), b"FIRM ", 0)


def modify(own: int, order: int, price: int, size: int, index: int = 1) -> bytes:
    return message(101, "IIIQIIBBB", 700_000, index, own, order, price, size, 0, 66, 0)


def delete(own: int, order: int, index: int = 1) -> bytes:
    return message(102, "IIIQB", 700_000, index, own, order, 0)


def execution(
    own: int, order: int, price: int, size: int, printed: int = 1, conditions: bytes = b"@   ", index: int = 1
) -> bytes:
    return message(103, "IIIQIIIBB4s", 700_000, index, own, order, 900 + own, price, size, printed, 0, conditions)


def replace(own: int, order: int, new: int, price: int, size: int, index: int = 1) -> bytes:
    return message(104, "IIIQQIIBB", 700_000, index, own, order, new, price, size, 66, 0)


def non_displayed(own: int, trade_id: int, price: int, size: int, printed: int = 1, index: int = 1) -> bytes:
    return message(110, "IIIIIIB4s", 700_000, index, own, trade_id, price, size, printed, b"@  I")


def cross(own: int, cross_id: int, price: int, size: int, kind: str = "O", index: int = 1) -> bytes:
    return message(111, "IIIIIIc", 700_000, index, own, cross_id, price, size, kind.encode())


def cross_correction(own: int, cross_id: int, size: int, index: int = 1) -> bytes:
    return message(113, "IIIII", 700_000, index, own, cross_id, size)


def trade_break(own: int, trade_id: int, index: int = 1) -> bytes:
    return message(112, "IIII", 700_000, index, own, trade_id)


def trade(own: int, trade_id: int, price: int, size: int, conditions: bytes = b"@   ", index: int = 1) -> bytes:
    return message(220, "IIIIIII4s", SECOND, 7, index, own, trade_id, price, size, conditions)


def trade_cancel(own: int, trade_id: int, index: int = 1) -> bytes:
    return message(221, "IIIII", SECOND, 7, index, own, trade_id)


def trade_correction(own: int, old: int, new: int, price: int, size: int, index: int = 1) -> bytes:
    return message(222, "IIIIIIII4s", SECOND, 7, index, own, old, new, price, size, b"@   ")


def status(
    own: int,
    code: str,
    halt: str = "~",
    ssr: str = "~",
    session: str = "O",
    prices: tuple[int, int] = (0, 0),
    index: int = 1,
) -> bytes:
    head = message(34, "IIIIccIII", SECOND, 7, index, own, code.encode(), halt.encode(), 0, *prices, size=46)
    return head[:43] + ssr.encode() + session.encode() + b" "


def clear(next_own: int = 1, index: int = 1) -> bytes:
    return message(32, "IIII", SECOND, 7, index, next_own)


def time_reference(engine: int, second: int) -> bytes:
    return message(2, "III", engine, 0, second)


def refresh_header(part: int, parts: int, as_of: int, own: int) -> bytes:
    return message(35, "HHII", part, parts, as_of, own)


def reset(second: int) -> bytes:
    return message(1, "IIBB", second, 0, 3, 1)


class Feed:
    """Framing and decoder with small tables, and no sequencer between: what is sent has come."""

    def __init__(self, decode=xdp_kernel.decode, symbols_max: int = 64, **options) -> None:
        self.symbols = SymbolTable(symbols_max)
        self.xdp = xdp.Xdp(self.symbols, orders_max=4_096, levels_max=4_096, **options)
        self._streams = pillar_kernel.new_streams(8)
        self._counters = np.zeros(pillar_kernel.N_COUNTERS, np.int64)
        self._decode = decode

    def frame(self, payloads: list[bytes], line: int = 0) -> tuple[np.ndarray, np.ndarray]:
        packets = from_payloads(payloads, recv_ns=SENT_NS + 1, line=line)
        blocks = np.zeros(len(payloads), BLOCK)
        _, made = self.frame_arrays(*packets, blocks)
        return packets.buffer, blocks[:made]

    def frame_arrays(self, *arrays: np.ndarray) -> tuple[int, int]:
        """Packets as arrays, and the blocks that they become: packets taken and blocks made."""
        *packets, blocks = arrays
        return pillar_kernel.frame(*packets, GROUPS, 0, blocks, self._counters, self._streams)

    def take(self, buffer: np.ndarray, blocks: np.ndarray) -> list[Row]:
        rows: list[Row] = []
        if self._decode is xdp_kernel.decode:
            for part in self.xdp.decode(buffer, blocks):
                rows += self.tuples(part)
            return rows
        taken, wire = 0, self.xdp
        while taken < blocks.size:
            taken, n = self._decode(buffer, blocks, taken, 0, self.symbols.arrays, wire.state, wire._out)
            rows += self.tuples(wire._rows[:n])
        return rows

    def __call__(self, *payloads: bytes, line: int = 0) -> list[Row]:
        return self.take(*self.frame(list(payloads), line))

    def lose(self, stream: int = 0, restart: bool = False) -> list[Row]:
        block = np.zeros(1, BLOCK)
        block["stream"], block["kind"], block["recv_ns"] = stream, RESTART if restart else GAP, SENT_NS + 1
        return self.take(np.zeros(1, np.uint8), block)

    def tuples(self, rows: Rows) -> list[Row]:
        """Rows as the twin writes them."""
        found: list[Row] = []
        for row in rows:
            assert row["recv_ns"] == SENT_NS + 1
            assert row["seq"] == row["epoch"] == row["position"] == row["feed_ns"] == row["proc_ns"] == NULL
            if row["kind"] == KIND_QUOTE:
                own = row.view(QUOTE)
                head = self._head(own, "quote")
                bid, ask = ((_known(own[f"{s}_px"]), _known(own[f"{s}_size"])) for s in ("bid", "ask"))
                sides = [None if side == (None, None) else side for side in (bid, ask)]
                found.append((*head, *sides, unpack(own["condition"])))
            elif row["kind"] == KIND_TRADE:
                own = row.view(TRADE)
                texts = unpack(own["condition"]), unpack(own["mark"])
                price, size, number, old = (_known(own[n]) for n in ("price", "size", "trade_id", "original_id"))
                found.append((*self._head(own, "trade"), price, size, texts[0], number, texts[1], old))
            else:
                own = row.view(STATUS)
                texts = tuple(unpack(own[name]) for name in ("trading", "reason", "short_sale"))
                numbers = tuple(_known(own[name]) for name in ("round_lot", "lower_px", "upper_px"))
                assert own["venue_state"] == own["gap_from"] == own["gap_to"] == NULL
                found.append((*self._head(own, "status"), *texts, *numbers, unpack(own["indicator"])))
        return found

    def _head(self, row: np.void, kind: str) -> Row:
        name, venue = self.symbols.name(int(row["symbol"])), chr(row["venue"])
        return kind, name, venue, unpack(row["tape"]), _known(row["exchange_seq"]), int(row["event_ns"])


def _known(value: np.int64) -> int | None:
    return None if value == NULL else int(value)


class Twin:
    """The twin behind the same two calls."""

    def __init__(self) -> None:
        self.framing, self.xdp = naive_xdp.NaiveFraming(), naive_xdp.NaiveXdp()

    def _rows(self) -> list[Row]:
        rows, self.xdp.rows = self.xdp.rows, []
        return rows

    def __call__(self, *payloads: bytes, line: int = 0) -> list[Row]:
        for payload in payloads:
            block = self.framing.frame(payload, int(GROUPS[line]))
            if block is not None and not block.heartbeat:
                self.xdp.block(block)
        return self._rows()

    def lose(self, stream: int = 0, restart: bool = False) -> list[Row]:
        self.xdp.gap(stream, restart)
        return self._rows()


NAMES = ("ACP", "LGF A", "AHL PRC", "BRK B")
INDEXES = (1, 2, 3, 70_000)


def random_message(rng: random.Random, own: dict[int, int]) -> bytes:
    """Any message, about few symbols, orders and prices, so that they meet. ``own`` has each symbol's number."""
    index = rng.choice(INDEXES)
    own[index] = own.get(index, 0) + 1
    mine, order, other = own[index], rng.randrange(1, 60), rng.randrange(1, 60)
    price = rng.choice([0, 1, 100_000, 100_100, 100_200, 100_300, 4_000_000_000])
    size, side = rng.choice([0, 1, 100, 100, 200, 5_000]), rng.choice("BSBSX")
    conditions = rng.choice([b"@   ", b"@F I", b"    ", b"\0\0\0\0", b"@ T\xff"])
    kind = rng.choices(
        [100, 101, 102, 103, 104, 140, 220, 221, 222, 110, 111, 112, 113, 34, 3, 2, 32, 35, 106, 0],
        [300, 60, 120, 90, 60, 60, 20, 4, 4, 10, 6, 4, 4, 12, 3, 3, 1, 12, 40, 10],
    )[0]
    match kind:
        case 100:
            return add(
                mine, order, side, price, size, index, ns=rng.choice([7, 999_999_999, 1_000_000_000, 500_000_000])
            )
        case 101:
            return modify(mine, order, price, size, index)
        case 102:
            return delete(mine, order, index)
        case 103:
            return execution(mine, order, price, size, rng.randint(0, 1), conditions, index)
        case 104:
            return replace(mine, order, other, price, size, index)
        case 140:
            return quote(mine, price, size, price + 100, size, index, condition=rng.choice("RO \0"))
        case 220:
            return trade(mine, order, price, size, conditions, index)
        case 221:
            return trade_cancel(mine, order, index)
        case 222:
            return trade_correction(mine, order, other, price, size, index)
        case 110:
            return non_displayed(mine, order, price, size, rng.randint(0, 1), index)
        case 111:
            return cross(mine, order % 3, price, size, rng.choice("O56E?"), index)
        case 112:
            return trade_break(mine, order, index)
        case 113:
            return cross_correction(mine, order % 3, size, index)
        case 34:
            halt, ssr = rng.choice("~~~ MDP"), rng.choice("~E ")
            code, session = rng.choice("3456ACDIGPBEOLXTR"), rng.choice("POEX~")
            return status(mine, code, halt, ssr, session, (price, rng.choice([0, 100_500])), index)
        case 3:
            changes = {"market": rng.choice([1, 1, 1, 3, 99]), "scale": rng.choice([4, 4, 4, 6, 10])}
            name = rng.choice([NAMES[INDEXES.index(index)]] * 5 + ["", "A|B", "X Y Z", "\x01"])
            return mapping(index, name, engine=rng.randint(4, 5), listed=rng.choice("NQPX"), **changes)
        case 2:
            return time_reference(rng.choice([4, 5, 300]), SECOND + rng.randint(-1, 1))
        case 32:
            own[index] = 0
            return clear(1, index)
        case 35:
            return refresh_header(
                rng.choice([1, 1, 2, 3]), rng.choice([1, 2, 3]), 77, max(0, mine + rng.randint(-2, 2))
            )
        case 106:
            return add_refresh(mine, order, side, price, size, index)
    return message(rng.choice([1, 31, 105, 114, 210, 216, 223, 9, 99, 300]), "", size=rng.choice([4, 17, 80]))
