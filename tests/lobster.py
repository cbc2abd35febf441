"""NASDAQ's order flow as LOBSTER publishes it, as ITCH 5.0 messages again: written with struct from the tables.

LOBSTER numbers and prices orders as ITCH did, but begins in the middle of a day: the orders that rest then are
known only as the ten levels of the first row of its book. They become one order a level, and a message about an
order that was never added is one about the order of its level; where there is none, its id stays unknown.
"""

import csv
import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

SECOND_NS = 1_000_000_000
RESTING_ID = 1 << 40
"""Orders that rest at the start are numbered from here, far from LOBSTER's own."""


@dataclass(frozen=True)
class Event:
    time_ns: int  # since midnight in New York
    type: int
    order_id: int
    size: int
    price: int  # 1/10000 of a dollar
    is_buy: bool


Level = tuple[int, int, bool]
"""Price in 1/10000 of a dollar, size, whether it is a bid."""


def read_events(path: Path) -> list[Event]:
    """The rows of a message file."""
    with gzip.open(path, "rt") as lines:
        return [
            Event(_nanoseconds(time), int(kind), int(order_id), int(size), int(price), direction == "1")
            for time, kind, order_id, size, price, direction in csv.reader(lines)
        ]


def _nanoseconds(text: str) -> int:
    seconds, _, fraction = text.partition(".")
    return int(seconds) * SECOND_NS + int(fraction.ljust(9, "0")[:9])


def read_levels(path: Path) -> list[list[Level]]:
    """The rows of a book file: ask and bid of each level, empty levels left out."""
    with gzip.open(path, "rt") as lines:
        rows = [[int(field) for field in row] for row in csv.reader(lines)]
    return [
        [(row[at], row[at + 1], at % 4 == 2) for at in range(0, len(row), 2) if row[at + 1] > 0 and row[at] > 0]
        for row in rows
    ]


class Encoder:
    """One stock's events as messages."""

    def __init__(self, locate: int = 1, stock: str = "AAPL", id_offset: int = 0) -> None:
        self._locate, self._stock, self._id_offset = locate, stock.encode().ljust(8), id_offset
        self._resting: dict[tuple[int, bool], list[int]] = {}  # price and side -> id and shares left
        self._known: set[int] = set()
        self._match = 0
        self.orphans = 0

    def start(self, time_ns: int, levels: list[Level]) -> list[bytes]:
        """Directory, release, and the orders that rest at the start."""
        directory = self._message("R", time_ns, self._stock + b"QN" + struct.pack(">I", 100) + b"NCZ PNN1N")
        directory += struct.pack(">I", 0) + b"N"
        messages = [directory, self._message("H", time_ns, self._stock + b"T     ")]
        for number, (price, size, is_bid) in enumerate(levels):
            self._resting[price, is_bid] = [RESTING_ID + number, size]
            messages.append(self._add(time_ns, RESTING_ID + number, is_bid, size, price))
        return messages

    def encode(self, event: Event) -> bytes:
        """One event as one message."""
        if event.type == 1:
            self._known.add(event.order_id)
            return self._add(event.time_ns, event.order_id, event.is_buy, event.size, event.price)
        self._match += 1
        if event.type == 5:
            return self._message(
                "P",
                event.time_ns,
                struct.pack(">QcI8sIQ", 0, b"B", event.size, self._stock, event.price, self._match),
            )
        if event.type == 7:
            return self._message("H", event.time_ns, self._stock + (b"H" if event.price == -1 else b"T") + b"     ")
        order_id, gone = event.order_id, event.type == 3
        if order_id not in self._known:
            resting = self._resting.get((event.price, event.is_buy))
            if resting is None or resting[1] < event.size:
                self.orphans += 1
            else:
                order_id = resting[0]
                resting[1] -= event.size
                gone = resting[1] == 0
        number = struct.pack(">Q", order_id + self._id_offset)
        if event.type == 4:
            return self._message("E", event.time_ns, number + struct.pack(">IQ", event.size, self._match))
        if gone:
            return self._message("D", event.time_ns, number)
        return self._message("X", event.time_ns, number + struct.pack(">I", event.size))

    def _add(self, time_ns: int, order_id: int, is_buy: bool, size: int, price: int) -> bytes:
        side = b"B" if is_buy else b"S"
        body = struct.pack(">QcI8sI", order_id + self._id_offset, side, size, self._stock, price)
        return self._message("A", time_ns, body)

    def _message(self, kind: str, time_ns: int, body: bytes) -> bytes:
        return struct.pack(">cHH6s", kind.encode(), self._locate, 0, time_ns.to_bytes(6, "big")) + body


def framed(messages: list[bytes]) -> bytes:
    """Messages with their lengths, as in a daily file."""
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages)


def packets(messages: list[bytes], session: bytes = b"LOBSTER001", bytes_max: int = 1_400) -> list[bytes]:
    """Messages in MoldUDP64 packets."""
    found: list[bytes] = []
    first = at = 0
    while first < len(messages):
        size = 20
        while at < len(messages) and size + 2 + len(messages[at]) <= bytes_max:
            size += 2 + len(messages[at])
            at += 1
        found.append(session + struct.pack(">QH", first + 1, at - first) + framed(messages[first:at]))
        first = at
    return found
