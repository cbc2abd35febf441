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
    resets: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # stream -> session, time in it, sent

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
        session, reset_ns, reset_sent_ns = self.resets.get(group, (0, 0, 0))
        if flag in (10, 11, 12):
            says = bool(messages) and u16(messages[0], 2) == 1 and len(messages[0]) >= 14
            if says or flag == 12:
                when = u32(messages[0], 4) * SECOND_NS + u32(messages[0], 8) if says else sent_ns
                if not (reset_sent_ns and when == reset_ns and sent_ns <= reset_sent_ns + SECOND_NS):
                    session, reset_ns, reset_sent_ns = session + 1, when, sent_ns
                    self.counters["resets"] += 1
                    self.resets[group] = session, reset_ns, reset_sent_ns
        if flag in FLAGS_LIVE and sent_ns < reset_sent_ns:
            self.counters["late"] += 1
            return None
        self.counters["packets"] += 1
        self.counters["refreshed"] += flag in FLAGS_REFRESH
        self.counters["retransmitted"] += flag in FLAGS_AGAIN
        self.counters["heartbeats"] += not messages
        stream = group << 16 | (flag in FLAGS_REFRESH)
        return Block(stream, session, not messages, first, messages, sent_ns)
