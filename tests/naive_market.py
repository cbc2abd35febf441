"""An independent reader of IEX-TP with TOPS 1.6, in plain struct: written from the specification."""

import struct
from dataclasses import dataclass, field


@dataclass
class Message:
    type: str
    flags: int
    ts_ns: int
    symbol: str = ""
    values: tuple[int, ...] = ()


@dataclass
class Line:
    """One IEX-TP line as a receiver sees it; a broken promise of the transport is an AssertionError."""

    session: int | None = None
    sequence: int = 1
    offset: int = 0
    heartbeats: int = 0
    sent_ns: list[int] = field(default_factory=list)

    def read(self, packet: bytes) -> list[Message]:
        version, reserved, protocol, channel, session, length, count, offset, sequence, sent_ns = struct.unpack_from(
            "<BBHIIHHqqq", packet
        )
        assert (version, reserved, protocol, channel) == (1, 0, 0x8003, 1)
        assert self.session in {None, session}
        assert (sequence, offset) == (self.sequence, self.offset)
        assert len(packet) == 40 + length <= 1_400
        self.session = session
        self.sequence += count
        self.offset += length
        self.heartbeats += count == 0
        self.sent_ns.append(sent_ns)
        messages, at = [], 40
        for _ in range(count):
            (size,) = struct.unpack_from("<H", packet, at)
            messages.append(message(packet[at + 2 : at + 2 + size]))
            at += 2 + size
        assert at == len(packet)
        return messages


def message(raw: bytes) -> Message:
    """One message; its length must be that of its type."""
    kind, flags, ts_ns = struct.unpack_from("<cBq", raw)
    layout = {b"Q": "<IqqI", b"T": "<Iqq", b"H": "<4s", b"D": "<IqB", b"S": "", b"B": "<Iqq", b"P": "<c"}[kind]
    if kind == b"S":
        assert len(raw) == 10
        return Message("S", flags, ts_ns)
    assert len(raw) == 18 + struct.calcsize(layout)
    return Message(kind.decode(), flags, ts_ns, raw[10:18].decode().rstrip(), struct.unpack_from(layout, raw, 18))


@dataclass
class Book:
    """Checks that a stream of messages makes sense: listed before quoted, never locked, trades at the best."""

    lots: dict[str, int] = field(default_factory=dict)
    trading: set[str] = field(default_factory=set)
    quotes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    last_trade_id: int = 0
    trades: int = 0
    changes: int = 0

    def apply(self, m: Message) -> None:
        if m.type == "D":
            assert self.lots.get(m.symbol) in {None, m.values[0]}
            self.lots[m.symbol] = m.values[0]
        elif m.type == "H":
            assert m.symbol in self.lots
            if chr(m.flags) == "T":
                self.trading.add(m.symbol)
            else:
                assert chr(m.flags) == "H"
                self.trading.discard(m.symbol)
                self.quotes.pop(m.symbol, None)
        elif m.type == "Q" and m.flags & 0x80:
            assert m.values == (0, 0, 0, 0)
            assert m.symbol not in self.trading
        elif m.type == "Q":
            bid_size, bid, ask, ask_size = m.values
            assert m.symbol in self.trading
            assert 0 < bid < ask
            assert bid_size > 0 < ask_size
            assert bid_size % self.lots[m.symbol] == 0 == ask_size % self.lots[m.symbol]
            assert all(px % 100 == 0 for px in (bid, ask) if px >= 10_000)  # whole cents from one dollar up
            self.quotes[m.symbol] = m.values
            self.changes += 1
        elif m.type == "T":
            size, price, trade_id = m.values
            bid_size, bid, ask, ask_size = self.quotes[m.symbol]
            assert price in {bid, ask}
            assert 0 < size <= (bid_size if price == bid else ask_size)
            assert bool(m.flags & 0x20) == (size < self.lots[m.symbol])
            assert trade_id > self.last_trade_id
            self.last_trade_id = trade_id
            self.trades += 1
