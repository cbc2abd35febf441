"""Blocks of the CTA plan: golden bytes from the specification's table, heartbeats, retransmissions, lies, mutations."""

import random
import struct
from collections.abc import Callable

import numpy as np
import pytest

import naive_tape
from nodes.feeds import cta_block_kernel as kernel
from nodes.feeds.wire import from_payloads
from nodes.feeds.wire_kernel import BLOCK, DATA, HEARTBEAT
from support import random_count
from tape_support import DAY_S, GROUPS, cta_block, frame

FUZZ = random_count(20_000)
CONTROL = bytes.fromhex("001a 43 41 53 69d49658 0001a632 01 00000000 0000000000000000")  # C A, start of day
INTEGRITY = CONTROL[:3] + b"T" + CONTROL[4:]

# By hand from the table: version 2, 46 bytes, T, O, number 0, 1 message, seconds, nanoseconds, checksum; then C A.
# It is the recorded start of day of CTS 2.11b: the sum of its other bytes is 0x07a5.
GOLDEN = bytes.fromhex("02 002e 54 4f 00000000 01 69d49658 0006703a 07a5") + CONTROL


def names(counters: list[int]) -> dict[str, int]:
    return {name: count for name, count in zip(kernel.NAMES, counters, strict=True) if count}


def test_golden_block() -> None:
    _, blocks, counters = frame(kernel, GOLDEN)
    (block,) = blocks
    assert {name: int(block[name]) for name in BLOCK.names or ()} == {
        "stream": 3 << 16 | ord("T"),
        "session": (0x69D49658 - 3 * 3600) // 86_400,
        "kind": DATA,
        "first": 0,
        "count": 1,
        "skip": 0,
        "start": 20,
        "stop": 46,
        "sent_ns": 0x69D49658 * 10**9 + 0x6703A,
        "recv_ns": 77,
        "line": 0,
    }
    assert names(counters) == {"packets": 1}


def test_line_integrity_is_a_heartbeat_and_consumes_no_number() -> None:
    _, blocks, counters = frame(kernel, cta_block(INTEGRITY, sequence=9), cta_block(CONTROL, INTEGRITY, sequence=9))
    assert [(int(b["kind"]), int(b["first"]), int(b["count"])) for b in blocks] == [(HEARTBEAT, 9, 0), (DATA, 9, 2)]
    assert names(counters) == {"packets": 2, "heartbeats": 1}


def test_odd_blocks_are_padded_and_retransmissions_counted() -> None:
    odd = bytes.fromhex("001b") + CONTROL[2:] + b"\x07"
    block = cta_block(odd, again=b"V")
    assert len(block) == 48
    _, blocks, counters = frame(kernel, block)
    assert int(blocks[0]["stop"]) == 47
    assert names(counters) == {"packets": 1, "retransmitted": 1}


def test_a_retransmitted_block_is_an_answer_of_its_group() -> None:
    packets = from_payloads([cta_block(CONTROL), cta_block(CONTROL, again=b"V")], line=2)
    blocks, counters = np.zeros(2, BLOCK), np.zeros(kernel.N_COUNTERS, np.int64)
    groups = np.array([0, 0, 1, 1, 0, 1])  # lines A and B of two groups, and the answers of each
    kernel.frame(*packets, groups, 0, blocks, counters)
    assert (blocks["line"].tolist(), (blocks["stream"] >> 16).tolist()) == ([2, 5], [1, 1])


def test_the_day_is_the_session() -> None:
    evening = cta_block(CONTROL, seconds=1_775_606_700)  # end of the day: 2026-04-08 00:05 UTC
    morning = cta_block(CONTROL, seconds=1_775_621_799)  # lines come up: 04:16
    _, blocks, _ = frame(kernel, cta_block(CONTROL, seconds=DAY_S), evening, morning)
    first, second, third = blocks["session"].tolist()
    assert (first, second + 1) == (second, third)


def with_header(block: bytes, offset: int, layout: str, value: int) -> bytes:
    """The block with one field of its header changed, and its checksum right again."""
    raw = bytearray(block)
    struct.pack_into(layout, raw, offset, value)
    raw[18:20] = b"\0\0"
    raw[18:20] = struct.pack(">H", sum(raw) % 65_536)
    return bytes(raw)


SOUND = cta_block(CONTROL, CONTROL)


@pytest.mark.parametrize(
    ("bad", "counted", "made"),
    [
        pytest.param(b"", "malformed_short", 0, id="empty"),
        pytest.param(SOUND[:19], "malformed_short", 0, id="short"),
        pytest.param(with_header(SOUND, 3, ">B", ord("X")), "malformed_protocol", 0, id="feed"),
        pytest.param(SOUND[:-1], "malformed_length", 0, id="cut"),
        pytest.param(with_header(SOUND, 1, ">H", 19), "malformed_length", 0, id="less than a header"),
        pytest.param(SOUND[:-1] + b"\x01", "malformed_checksum", 0, id="checksum"),
        pytest.param(with_header(SOUND, 14, ">I", 10**9), "malformed_time", 0, id="time"),
        pytest.param(with_header(SOUND, 9, ">B", 3), "malformed_length", 1, id="count too high"),
        pytest.param(with_header(SOUND, 9, ">B", 1), "malformed_length", 1, id="count too low"),
        pytest.param(with_header(SOUND, 20, ">H", 3), "malformed_length", 0, id="message without a name"),
        pytest.param(with_header(SOUND, 46, ">H", 27), "malformed_length", 1, id="message over the end"),
        pytest.param(SOUND + b"\0", "malformed_length", 1, id="bytes left over"),
    ],
)
def test_a_lie_is_counted_and_costs_nothing_after_it(bad: bytes, counted: str, made: int) -> None:
    _, blocks, counters = frame(kernel, bad, SOUND)
    assert names(counters) == {"packets": 1 + made, counted: 1}
    assert blocks.size == 1 + made
    assert int(blocks[-1]["count"]) == 2
    if made:
        assert int(blocks[0]["count"]) == (2 if bad[46:48] == b"\0\x1a" and bad[9] != 1 else 1)


def test_full_blocks_stop_and_go_on() -> None:
    packets = from_payloads([SOUND] * 3)
    blocks, counters = np.zeros(2, BLOCK), np.zeros(kernel.N_COUNTERS, np.int64)
    assert kernel.frame(*packets, GROUPS, 0, blocks, counters) == (2, 2)
    assert kernel.frame(*packets, GROUPS, 2, blocks, counters) == (3, 1)


def mutated(chance: random.Random, payload: bytes) -> bytes:
    """A packet with bytes changed, cut, doubled or taken out; its checksum right again in half the cases."""
    raw = bytearray(payload)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(raw)) if raw else 0
        match chance.randrange(5):
            case 0 | 1 if raw:
                raw[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            case 2:
                del raw[at:]
            case 3:
                raw[at:at] = raw[at : at + chance.randrange(60)]
            case 4:
                del raw[at : at + chance.randrange(60)]
    if len(raw) >= 20 and chance.random() < 0.5:
        size = min(struct.unpack_from(">H", raw, 1)[0], len(raw))
        raw[18:20] = struct.pack(">H", (sum(raw[:size]) - raw[18] - raw[19]) % 65_536)
    return bytes(raw)


@pytest.mark.parametrize("use", [kernel.frame, kernel.frame.py_func], ids=["compiled", "plain"])
def test_mutated_packets_read_as_the_plain_twin_reads_them(use: Callable[..., tuple[int, int]]) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    rounds = FUZZ // 10 if use is kernel.frame else 200
    counters = np.zeros(kernel.N_COUNTERS, np.int64)
    for _ in range(rounds // 10 + 1):
        messages = [chance.choice((CONTROL, INTEGRITY, CONTROL + b"\0")) for _ in range(chance.randrange(5))]
        payloads = [mutated(chance, cta_block(*messages)) for _ in range(10)]
        packets = from_payloads(payloads)
        blocks = np.zeros(10, BLOCK)
        taken, made = use(*packets, GROUPS, 0, blocks, counters)
        assert taken == 10, f"seed {seed}"
        found = [packets.buffer[block["start"] : block["stop"]].tobytes() for block in blocks[:made]]
        wanted = []
        for payload in payloads:
            believed = naive_tape.cta_blocks(payload)
            if believed is None or (payload[9] and not believed[1]):
                continue
            is_heartbeat = payload[9] == sum(message[2:4] == b"CT" for message in believed[1])
            wanted.append(b"" if is_heartbeat else b"".join(believed[1]))
        assert found == wanted, f"seed {seed}"
    assert counters[kernel.PACKETS] > 0
