"""MoldUDP64 framing: golden bytes from the specification's table, heartbeats, ends, lies, mutations."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nodes.feeds import moldudp64_kernel as kernel
from nodes.feeds.wire import from_payloads
from nodes.feeds.wire_kernel import BLOCK, DATA, END, HEARTBEAT
from support import random_count

# Written by hand from the specification's table: session, number 7, two messages of 3 and 0 bytes.
GOLDEN = bytes.fromhex("53455353494f4e303031 0000000000000007 0002 0003 414243 0000")
FUZZ = random_count(20_000)


def fnv1a(text: bytes) -> int:
    """FNV-1a as its authors give it, the uppermost bit cleared."""
    value = 0xCBF29CE484222325
    for byte in text:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value % 2**63


def packet(*messages: bytes, sequence: int = 1, session: bytes = b"SESSION001", count: int | None = None) -> bytes:
    """A packet; layout as in the specification."""
    head = session + sequence.to_bytes(8, "big") + (len(messages) if count is None else count).to_bytes(2, "big")
    return head + b"".join(len(message).to_bytes(2, "big") + message for message in messages)


def frame(*payloads: bytes, use: Callable[..., Any] = kernel.frame) -> tuple[list[dict[str, int]], list[int]]:
    """The blocks of packets on lines 0, 1, 0, 1, ... of groups 4 and 5, and the counters."""
    packets = from_payloads(list(payloads), recv_ns=99)._replace(lines=np.arange(len(payloads)) % 2)
    blocks, counters = np.zeros(len(payloads), BLOCK), np.zeros(kernel.N_COUNTERS, np.int64)
    taken, made = use(*packets, np.array([4, 5]), 0, blocks, counters)
    assert taken == len(payloads)
    return [dict(zip(BLOCK.names or (), block.tolist(), strict=True)) for block in blocks[:made]], counters.tolist()


def plain(payload: bytes) -> tuple[int, int, int, int] | None:
    """(kind, first, count, length of the messages) as a plain reading has it."""
    if len(payload) < 20:
        return None
    first, count = int.from_bytes(payload[10:18], "big"), int.from_bytes(payload[18:20], "big")
    if first > 2**60:
        return None
    if count in (0, 0xFFFF):
        return (END if count else HEARTBEAT), first, 0, 0
    at = read = 0
    body = payload[20:]
    while read < count and len(body) >= at + 2 and len(body) >= at + 2 + int.from_bytes(body[at : at + 2], "big"):
        at += 2 + int.from_bytes(body[at : at + 2], "big")
        read += 1
    return (DATA, first, read, at) if read else None


@pytest.mark.parametrize("use", [kernel.frame, kernel.frame.py_func], ids=["compiled", "python"])
def test_golden_packet(use: Callable[..., Any]) -> None:
    blocks, counters = frame(GOLDEN, use=use)
    assert blocks == [
        {
            **dict.fromkeys(BLOCK.names or (), 0),
            "stream": 4 << 16,
            "session": fnv1a(b"SESSION001"),
            "kind": DATA,
            "first": 7,
            "count": 2,
            "start": 20,
            "stop": 27,
            "recv_ns": 99,
        }
    ]
    assert counters == [1, 0, 0, 0, 0, 0]


def test_lines_of_other_groups_are_other_streams_and_sessions_are_told_apart() -> None:
    blocks, _ = frame(packet(b"x"), packet(b"x"), packet(b"x", session=b"SESSION002"))
    assert [(block["stream"] >> 16, block["line"]) for block in blocks] == [(4, 0), (5, 1), (4, 0)]
    assert blocks[0]["session"] == blocks[1]["session"] != blocks[2]["session"]
    assert all(block["session"] >= 0 for block in blocks)


def test_heartbeat_and_end_tell_the_next_number() -> None:
    blocks, counters = frame(packet(sequence=8), packet(sequence=9, count=0xFFFF))
    assert [(block["kind"], block["first"], block["count"]) for block in blocks] == [(HEARTBEAT, 8, 0), (END, 9, 0)]
    assert counters == [2, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("bad", "made", "column"),
    [
        pytest.param(b"", None, kernel.SHORT, id="empty"),
        pytest.param(GOLDEN[:19], None, kernel.SHORT, id="short of a header"),
        pytest.param(packet(b"x", sequence=2**60 + 1), None, kernel.SEQUENCE, id="absurd number"),
        pytest.param(packet(b"x", sequence=2**64 - 1), None, kernel.SEQUENCE, id="negative number"),
        pytest.param(packet(b"abc", b"de")[:-1], 1, kernel.LENGTH, id="cut message"),
        pytest.param(packet(b"abc", count=3), 1, kernel.LENGTH, id="count too high"),
        pytest.param(packet(b"abc", b"de", count=1), 1, kernel.LENGTH, id="bytes behind"),
        pytest.param(packet(b"abc")[:-1], None, kernel.LENGTH, id="no whole message"),
        pytest.param(packet(b"abc", count=0), 0, kernel.LENGTH, id="heartbeat with bytes"),
    ],
)
def test_lies_cost_themselves(bad: bytes, made: int | None, column: int) -> None:
    blocks, counters = frame(packet(b"before"), bad, packet(b"after", sequence=2))
    assert counters[column] == 1
    assert [block["count"] for block in blocks] == [1, *([] if made is None else [made]), 1]


def test_stops_when_the_blocks_are_full_and_goes_on() -> None:
    packets = from_payloads([packet(b"x", sequence=i) for i in range(1, 6)])
    blocks, counters = np.zeros(2, BLOCK), np.zeros(kernel.N_COUNTERS, np.int64)
    taken, found = 0, []
    while taken < 5:
        taken, made = kernel.frame(*packets, np.zeros(1, np.int64), taken, blocks, counters)
        found.append(blocks["first"][:made].tolist())
    assert found == [[1, 2], [3, 4], [5]]


def test_mutations_equal_a_plain_reading() -> None:
    seed = 20_261_122
    chance = random.Random(seed)
    for _ in range(FUZZ // 100):
        payloads = []
        for _ in range(100):
            messages = [bytes(chance.randrange(1, 50)) for _ in range(chance.randrange(4))]
            raw = bytearray(packet(*messages, sequence=chance.choice((1, 2**31, 2**40))))
            for _ in range(chance.randrange(4)):
                raw[chance.randrange(len(raw))] = chance.choice((0, 1, 40, 0x7F, 0xFF))
            payloads.append(bytes(raw[: chance.choice((len(raw), len(raw), chance.randrange(len(raw) + 1)))]))
        found, _ = frame(*payloads)
        seen = [(block["kind"], block["first"], block["count"], block["stop"] - block["start"]) for block in found]
        assert seen == [reading for payload in payloads if (reading := plain(payload))], f"seed {seed}"


def test_warming_up_compiles_what_the_live_path_calls() -> None:
    kernel.warm_up()
    compiled = list(kernel.frame.signatures)
    frame(GOLDEN)
    assert kernel.frame.signatures == compiled
