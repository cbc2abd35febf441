"""Sequenced Unit framing: golden bytes from the specification's table, heartbeats, lies, mutations, real packets."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import naive_pitch
from naive_pitch import packet
from nodes.feeds import sequenced_unit_kernel as kernel
from nodes.feeds.wire import from_payloads
from nodes.feeds.wire_kernel import BLOCK, DATA, HEARTBEAT
from support import random_count

FUZZ = random_count(20_000)
# Written by hand from the table: 8 + 6 + 2 bytes, 2 messages, unit 3, number 305,419,896; Time, and a type of 2 bytes.
GOLDEN = bytes.fromhex("1000 02 03 78563412 0620 98850000 02ee")


def frame(*payloads: bytes, use: Callable[..., Any] = kernel.frame) -> tuple[list[dict[str, int]], dict[str, int]]:
    """The blocks of packets on lines 0, 1, 0, 1, ... of groups 4 and 5, and the counters that are not 0."""
    packets = from_payloads(list(payloads), recv_ns=99)._replace(lines=np.arange(len(payloads)) % 2)
    blocks, counters = np.zeros(len(payloads), BLOCK), np.zeros(kernel.N_COUNTERS, np.int64)
    taken, made = use(*packets, np.array([4, 5]), 0, blocks, counters)
    assert taken == len(payloads)
    counts = {name: count for name, count in zip(kernel.COUNTER_NAMES, counters.tolist(), strict=True) if count}
    return [dict(zip(BLOCK.names or (), block.tolist(), strict=True)) for block in blocks[:made]], counts


def plain(payload: bytes) -> tuple[int, int, int, int, int] | None:
    """(kind, unit, first, count, bytes of the messages) as a plain reading has it."""
    if len(payload) < 8 or payload[4:8] == bytes(4):
        return None
    first, count, end = int.from_bytes(payload[4:8], "little"), payload[2], int.from_bytes(payload[:2], "little")
    at = read = 0
    body = payload[8:end]
    while read < count and at < len(body) - 1 and 2 <= body[at] <= len(body) - at:
        at += body[at]
        read += 1
    if count and not read:
        return None
    return (DATA if count else HEARTBEAT), payload[3], first, read, at


@pytest.mark.parametrize("use", [kernel.frame, kernel.frame.py_func], ids=["compiled", "python"])
def test_golden_packet(use: Callable[..., Any]) -> None:
    blocks, counts = frame(GOLDEN, use=use)
    assert blocks == [
        {
            **dict.fromkeys(BLOCK.names or (), 0),
            "stream": 4 << 16 | 3,
            "kind": DATA,
            "first": 305_419_896,
            "count": 2,
            "start": 8,
            "stop": 16,
            "recv_ns": 99,
        }
    ]
    assert counts == {"packets": 1}


def test_units_and_groups_are_streams() -> None:
    blocks, _ = frame(*(packet(b"\x02x", unit=unit) for unit in (1, 1, 2, 255)))
    assert [(block["stream"] >> 16, block["stream"] & 0xFFFF, block["line"]) for block in blocks] == [
        (4, 1, 0),
        (5, 1, 1),
        (4, 2, 0),
        (5, 255, 1),
    ]


def test_a_heartbeat_tells_the_next_number_and_number_0_is_outside_of_any() -> None:
    blocks, counts = frame(packet(sequence=2**32 - 1), packet(sequence=0), packet(b"\x02x", sequence=0))
    assert [(block["kind"], block["first"], block["count"]) for block in blocks] == [(HEARTBEAT, 2**32 - 1, 0)]
    assert counts == {"packets": 3, "heartbeats": 1, "unsequenced": 2}


@pytest.mark.parametrize(
    ("bad", "made", "counter"),
    [
        pytest.param(b"", None, "malformed_short", id="empty"),
        pytest.param(GOLDEN[:7], None, "malformed_short", id="short of a header"),
        pytest.param(GOLDEN[:-1], 1, "malformed_length", id="cut message"),
        pytest.param(packet(b"\x02x", count=3), 1, "malformed_length", id="count too high"),
        pytest.param(packet(b"\x02x", b"\x02y", count=1), 1, "malformed_length", id="bytes behind"),
        pytest.param(packet(b"\x02x") + b"\0", 1, "malformed_length", id="bytes behind the stated length"),
        pytest.param(packet(b"\x02x", b"\x01y"), 1, "malformed_length", id="a message shorter than its head"),
        pytest.param(packet(b"\0\0"), None, "malformed_length", id="a message without length"),
        pytest.param(packet(b"\x09x"), None, "malformed_length", id="no whole message"),
        pytest.param(b"\x00\x00" + packet(b"\x02x")[2:], None, "malformed_length", id="no length stated"),
        pytest.param(packet(b"\x02x", count=0), 0, "malformed_length", id="heartbeat with bytes"),
    ],
)
def test_lies_cost_themselves(bad: bytes, made: int | None, counter: str) -> None:
    blocks, counts = frame(packet(b"\x02x"), bad, packet(b"\x02x", sequence=2))
    assert counts[counter] == 1
    assert [block["count"] for block in blocks] == [1, *([] if made is None else [made]), 1]


def test_stops_when_the_blocks_are_full_and_goes_on() -> None:
    packets = from_payloads([packet(b"\x02x", sequence=i) for i in range(1, 6)])
    blocks, counters = np.zeros(2, BLOCK), np.zeros(kernel.N_COUNTERS, np.int64)
    taken, found = 0, []
    while taken < 5:
        taken, made = kernel.frame(*packets, np.zeros(1, np.int64), taken, blocks, counters)
        found.append(blocks["first"][:made].tolist())
    assert found == [[1, 2], [3, 4], [5]]


def test_mutations_equal_a_plain_reading() -> None:
    seed = 20_261_122
    chance = random.Random(seed)
    for _ in range(max(1, FUZZ // 100)):
        payloads = []
        for _ in range(100):
            messages = [bytes([size, *bytes(size - 1)]) for size in (chance.randrange(2, 60) for _ in range(3))]
            raw = bytearray(packet(*messages[: chance.randrange(4)], sequence=chance.choice((1, 2**31, 2**32 - 1))))
            for _ in range(chance.randrange(4)):
                raw[chance.randrange(len(raw))] = chance.choice((0, 1, 2, 40, 0x7F, 0xFF))
            payloads.append(bytes(raw[: chance.choice((len(raw), len(raw), chance.randrange(len(raw) + 1)))]))
        found, _ = frame(*payloads)
        seen = [
            (block["kind"], block["stream"] & 0xFF, block["first"], block["count"], block["stop"] - block["start"])
            for block in found
        ]
        assert seen == [reading for payload in payloads if (reading := plain(payload))], f"seed {seed}"


def test_real_packets_are_walked_to_their_last_byte(shared_data: Path) -> None:
    captures = sorted((shared_data / "omi_packets/Cboe").rglob("*.pcap"))
    payloads = [payload for path in captures for _, payload in naive_pitch.udp_payloads(path)]
    blocks, counts = frame(*payloads)
    assert counts == {"packets": 16, "heartbeats": 2, "unsequenced": 1}
    assert sum(block["count"] for block in blocks) == 9 + 21 + 6
    byx = [block for block in blocks if block["stream"] & 0xFFFF == 15]
    assert [(block["first"], block["count"]) for block in byx] == [(47_690, 2), (47_692, 1), (47_693, 2)]


def test_warming_up_compiles_what_the_live_path_calls() -> None:
    kernel.warm_up()
    compiled = list(kernel.frame.signatures)
    frame(GOLDEN)
    assert kernel.frame.signatures == compiled
