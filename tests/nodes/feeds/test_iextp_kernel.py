"""IEX-TP framing: golden bytes from the specification's offsets, and packets that lie."""

import struct

import numpy as np
import pytest

from nodes.feeds import iextp_kernel as kernel
from nodes.feeds.wire import from_payloads
from nodes.feeds.wire_kernel import BLOCK, DATA, HEARTBEAT

TOPS = 0x8003
# Written by hand from the table "Segment Header": version 1 @0, protocol @2, channel @4, session @8, length @12,
# count @14, stream offset @16, first number @24, time of sending @32.
GOLDEN = bytes.fromhex(
    "01 00 0380 01000000 0000cd43 0900 0200 0000000000000000 0700000000000000 0500000000000000"
    "0300 616263"  # a message of three bytes
    "0200 6465"  # and one of two
)
GROUPS = np.array([0, 0, 3], np.int64)


def framed(*payloads: bytes, line: int = 0, room: int = 8) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    blocks, counters = np.zeros(room, BLOCK), np.zeros(kernel.N_COUNTERS, np.int64)
    packets = from_payloads(list(payloads), 99, line)
    taken, made = kernel.frame(*packets, GROUPS, 0, blocks, counters, TOPS)
    assert (blocks[made:]["stop"] == 0).all()
    return blocks[:made], counters, (taken, made)


def test_golden_bytes_make_this_block() -> None:
    blocks, counters, result = framed(GOLDEN, line=2)
    assert result == (1, 1)
    assert dict(zip(BLOCK.names or (), blocks[0].tolist(), strict=True)) == {
        "stream": 3 << 16 | 1, "session": 0x43CD0000, "kind": DATA, "first": 7, "count": 2, "skip": 0, "start": 40,
        "stop": 49, "sent_ns": 5, "recv_ns": 99, "line": 2,
    }  # fmt: skip
    assert counters.tolist() == [1, 0, 0, 0, 0, 0, 0]


def test_a_heartbeat_tells_the_next_number() -> None:
    blocks, counters, _ = framed(GOLDEN[:12] + bytes(4) + GOLDEN[16:40])
    assert (blocks[0]["kind"], blocks[0]["first"], blocks[0]["count"]) == (HEARTBEAT, 7, 0)
    assert (counters[kernel.PACKETS], counters[kernel.HEARTBEATS]) == (1, 1)


@pytest.mark.parametrize(
    ("payload", "counter"),
    [
        pytest.param(b"", kernel.SHORT, id="empty"),
        pytest.param(GOLDEN[:39], kernel.SHORT, id="short"),
        pytest.param(b"\2" + GOLDEN[1:], kernel.VERSION, id="version"),
        pytest.param(GOLDEN[:2] + b"\4" + GOLDEN[3:], kernel.PROTOCOL, id="protocol"),
        pytest.param(GOLDEN[:24] + struct.pack("<q", -1) + GOLDEN[32:], kernel.SEQUENCE, id="number"),
        pytest.param(GOLDEN[:32] + struct.pack("<q", -1) + GOLDEN[40:], kernel.SEQUENCE, id="time"),
        pytest.param(GOLDEN[:42], kernel.LENGTH, id="no message whole"),
    ],
)
def test_a_packet_that_is_not_ours_makes_no_block(payload: bytes, counter: int) -> None:
    blocks, counters, result = framed(payload, GOLDEN)
    assert result == (2, 1)
    assert counters[counter] == 1
    assert counters.sum() == 2
    assert blocks[0]["start"] == len(payload) + 40


@pytest.mark.parametrize(
    ("payload", "count", "size"),
    [
        pytest.param(GOLDEN[:-1], 1, 5, id="cut"),
        pytest.param(GOLDEN[:14] + b"\xff\xff" + GOLDEN[16:], 2, 9, id="too many stated"),
        pytest.param(GOLDEN + b"rest", 2, 9, id="bytes left over"),
        pytest.param(GOLDEN[:12] + b"\x05\x00" + GOLDEN[14:], 1, 5, id="length too small"),
    ],
)
def test_what_is_whole_in_a_packet_that_lies_is_used(payload: bytes, count: int, size: int) -> None:
    blocks, counters, _ = framed(payload)
    assert (blocks[0]["count"], blocks[0]["stop"] - blocks[0]["start"]) == (count, size)
    assert (counters[kernel.PACKETS], counters[kernel.LENGTH]) == (1, 1)


def test_no_more_blocks_than_there_is_room_for() -> None:
    _, _, result = framed(*[GOLDEN] * 5, room=3)
    assert result == (3, 3)
