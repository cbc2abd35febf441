"""An independent, plain reading of IEX captures: struct and dicts only, written from the specification tables.

The slow, obvious twin of `nodes.feeds.capture` and `nodes.feeds.iex`. It knows little-endian captures with
Ethernet or Linux cooked frames and IPv4, which is all that the recorded samples hold.
"""

import gzip
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


def frames(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(time in ns, link type, frame) of each packet of a little-endian pcap or pcapng file, gzip or not."""
    raw = path.read_bytes()
    data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    magic = struct.unpack_from("<I", data)[0]
    if magic == 0x0A0D0D0A:
        yield from _pcapng_frames(data)
        return
    unit = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}[magic]
    link = struct.unpack_from("<I", data, 20)[0]
    at = 24
    while at < len(data):
        seconds, fraction, captured, _ = struct.unpack_from("<IIII", data, at)
        yield seconds * 10**9 + fraction * unit, link, data[at + 16 : at + 16 + captured]
        at += 16 + captured


def _pcapng_frames(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    interfaces: list[tuple[int, int]] = []
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        if kind == 1:
            resolution, option = 10**6, at + 16
            while option < at + length - 4:
                code, size = struct.unpack_from("<HH", data, option)
                if code == 9:
                    resolution = 10 ** data[option + 4]
                option += 4 + (size + 3) // 4 * 4
            interfaces.append((struct.unpack_from("<H", data, at + 8)[0], resolution))
        elif kind == 6:
            interface, high, low, captured, _ = struct.unpack_from("<IIIII", data, at + 8)
            link, resolution = interfaces[interface]
            yield (high << 32 | low) * 10**9 // resolution, link, data[at + 28 : at + 28 + captured]
        at += length


def udp_payloads(path: Path) -> Iterator[tuple[int, bytes]]:
    """(time in ns, UDP payload) of each IPv4 UDP packet."""
    for time_ns, link, frame in frames(path):
        packet = frame[{1: 14, 113: 16, 101: 0}[link] :]
        if packet[0] >> 4 == 4 and packet[9] == 17:
            udp = packet[(packet[0] & 15) * 4 :]
            yield time_ns, udp[8 : struct.unpack_from(">H", udp, 4)[0]]


@dataclass
class Message:
    time_ns: int
    sequence: int
    type: str
    body: bytes

    @property
    def event_ns(self) -> int:
        return struct.unpack_from("<q", self.body, 2)[0]

    @property
    def symbol(self) -> str:
        return self.body[10:18].decode().rstrip(" ")


def messages(path: Path) -> Iterator[Message]:
    """Every message of an IEX-TP capture, duplicates and all."""
    for time_ns, payload in udp_payloads(path):
        count, _, sequence = struct.unpack_from("<Hqq", payload, 14)
        at = 40
        for i in range(count):
            size = struct.unpack_from("<H", payload, at)[0]
            body = payload[at + 2 : at + 2 + size]
            yield Message(time_ns, sequence + i, chr(body[0]), body)
            at += 2 + size


Side = tuple[int, int] | None
"""(price in 1/10000, size) or None where there is no side."""


def quote_sides(body: bytes) -> tuple[Side, Side]:
    """Bid and ask of a TOPS quote."""
    bid_size, bid, ask, ask_size = struct.unpack_from("<IqqI", body, 18)
    return (bid, bid_size) if bid and bid_size else None, (ask, ask_size) if ask and ask_size else None


@dataclass
class NaiveBook:
    """Price levels as dicts; the best is found by looking at all of them."""

    levels: dict[tuple[str, str], dict[int, int]] = field(default_factory=dict)
    published: dict[str, tuple[Side, Side]] = field(default_factory=dict)
    removals: int = 0
    absent: int = 0

    def update(self, symbol: str, side: str, price: int, size: int) -> None:
        level = self.levels.setdefault((symbol, side), {})
        if size:
            level[price] = size
            return
        self.removals += 1
        self.absent += price not in level
        level.pop(price, None)

    def best(self, symbol: str) -> tuple[Side, Side]:
        bids, asks = self.levels.get((symbol, "8"), {}), self.levels.get((symbol, "5"), {})
        return (
            (max(bids), bids[max(bids)]) if bids else None,
            (min(asks), asks[min(asks)]) if asks else None,
        )

    def apply(self, message: Message) -> tuple[Side, Side] | None:
        """Apply a price level message; return the new best where one is to be published."""
        size, price = struct.unpack_from("<Iq", message.body, 18)
        self.update(message.symbol, message.type, price, size)
        best = self.best(message.symbol)
        if not message.body[1] & 1 or self.published.get(message.symbol, (None, None)) == best:
            return None
        self.published[message.symbol] = best
        return best
