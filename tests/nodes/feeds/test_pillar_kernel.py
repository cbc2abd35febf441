"""Framing of NYSE packets: golden bytes from the specification's table, flags, resets, lies, mutations, twin."""

import random
import struct

import numpy as np
import pytest

import naive_xdp
from nodes.feeds import pillar_kernel as pillar
from nodes.feeds.wire import from_payloads
from nodes.feeds.wire_kernel import BLOCK, DATA, HEARTBEAT
from support import random_count

GROUPS = np.array([0, 0, 1, 1], np.int64)
NAMES = {
    pillar.PACKETS: "packets",
    pillar.HEARTBEATS: "heartbeats",
    pillar.RESETS: "resets",
    pillar.RETRANSMITTED: "retransmitted",
    pillar.REFRESHED: "refreshed",
    pillar.UNAVAILABLE: "unavailable",
    pillar.LATE: "late",
    pillar.SHORT: "malformed_short",
    pillar.FLAG: "malformed_flag",
    pillar.TIME: "malformed_time",
    pillar.LENGTH: "malformed_length",
    pillar.STREAMS: "malformed_streams",
}
SECOND_NS = 1_000_000_000

# Written by hand from the table: size 32, delivery flag 11, 2 messages, number 513, 1,692,711,000 s, 748,288 ns;
# a message of 10 bytes of type 9 and one of 6 bytes of type 8.
GOLDEN = bytes.fromhex("2000 0b 02 01020000 58b8e464 006b0b00 0a00 0900 aabbccddeeff 0600 0800 1122")


class Framing:
    """The kernel with its arrays, one packet after the other."""

    def __init__(self, streams_max: int = 4, blocks_max: int = 8, frame=pillar.frame) -> None:
        self.streams = pillar.new_streams(streams_max)
        self.counted = np.zeros(pillar.N_COUNTERS, np.int64)
        self.blocks = np.zeros(blocks_max, BLOCK)
        self.frame = frame

    def __call__(self, *payloads: bytes, line: int = 0) -> np.ndarray:
        packets = from_payloads(list(payloads), recv_ns=99, line=line)
        made, taken = [], 0
        while taken < len(payloads):
            taken, n = self.frame(*packets, GROUPS, taken, self.blocks, self.counted, self.streams)
            made.append(self.blocks[:n].copy())
        return np.concatenate(made)

    def counters(self) -> dict[str, int]:
        return {name: int(self.counted[column]) for column, name in NAMES.items() if self.counted[column]}


def packet(*messages: bytes, flag: int = 11, first: int = 1, sent_ns: int = 5 * SECOND_NS, count: int = -1) -> bytes:
    body = b"".join(messages)
    stated = len(messages) if count < 0 else count
    return struct.pack("<HBBIII", 16 + len(body), flag, stated, first, *divmod(sent_ns, SECOND_NS)) + body


def message(kind: int = 9, body: bytes = b"") -> bytes:
    return struct.pack("<HH", 4 + len(body), kind) + body


def reset(seconds: int) -> bytes:
    return message(1, struct.pack("<IIBB", seconds, 0, 3, 1))


def test_golden_packet() -> None:
    framing = Framing()
    (block,) = framing(GOLDEN, line=2)
    assert (block["stream"], block["session"], block["kind"]) == (1 << 16, 0, DATA)
    assert (block["first"], block["count"], block["skip"]) == (513, 2, 0)
    assert (block["start"], block["stop"], block["line"]) == (16, 32, 2)
    assert (block["sent_ns"], block["recv_ns"]) == (1_692_711_000_000_748_288, 99)
    assert framing.counters() == {"packets": 1}


def test_a_heartbeat_tells_the_next_number() -> None:
    framing = Framing()
    (block,) = framing(packet(flag=1, first=77))
    assert (block["kind"], block["first"], block["count"]) == (HEARTBEAT, 77, 0)
    assert framing.counters() == {"packets": 1, "heartbeats": 1}


@pytest.mark.parametrize("flag", [10, 11, 13, 15])
def test_live_and_repeated_messages_are_one_stream(flag: int) -> None:
    (block,) = Framing()(packet(message(), flag=flag, first=7))
    assert (block["stream"], block["first"], block["count"]) == (0, 7, 1)


@pytest.mark.parametrize("flag", [17, 18, 19, 20])
def test_a_refresh_has_numbers_of_its_own(flag: int) -> None:
    (block,) = Framing()(packet(message(), flag=flag, first=7), line=2)
    assert block["stream"] == 1 << 16 | pillar.REFRESH


def test_a_range_that_cannot_be_had_makes_no_block() -> None:
    framing = Framing()
    assert framing(packet(message(31, bytes(10)), flag=21)).size == 0
    assert framing.counters() == {"packets": 1, "unavailable": 1}


class TestReset:
    def test_each_reset_is_another_session(self) -> None:
        framing = Framing()
        blocks = framing(
            packet(message(), first=900),
            packet(reset(1), flag=12),
            packet(message(), first=2),
            packet(reset(2), flag=12, sent_ns=7 * SECOND_NS),
        )
        assert blocks["session"].tolist() == [0, 1, 1, 2]
        assert framing.counters()["resets"] == 2

    def test_both_lines_carry_one_reset(self) -> None:
        framing = Framing()
        framing(packet(reset(1), flag=12), packet(message(), first=2))
        assert framing(packet(reset(1), flag=12), packet(message(), first=2), line=1)["session"].tolist() == [1, 1]

    @pytest.mark.parametrize(("apart_ns", "session"), [(pillar.RESET_COPY_NS, 1), (pillar.RESET_COPY_NS + 1, 2)])
    def test_resets_at_about_one_time_are_one(self, apart_ns: int, session: int) -> None:
        again = packet(reset(2), flag=12, sent_ns=5 * SECOND_NS + apart_ns)
        assert Framing()(packet(reset(1), flag=12), again)["session"].tolist() == [1, session]

    @pytest.mark.parametrize(("before_ns", "blocks"), [(1, 0), (pillar.LATE_NS, 0), (pillar.LATE_NS + 1, 1)])
    def test_a_line_that_lags_does_not_bring_the_old_numbers_back(self, before_ns: int, blocks: int) -> None:
        framing = Framing()
        framing(packet(reset(1), flag=12, sent_ns=9 * SECOND_NS))
        assert framing(packet(message(), first=900, sent_ns=9 * SECOND_NS - before_ns), line=1).size == blocks
        assert framing.counters().get("late", 0) == 1 - blocks

    @pytest.mark.parametrize(
        "wrong",
        [
            packet(message(), flag=12),  # the flag alone
            packet(reset(1), first=900),  # another number
            packet(message(1, bytes(9))),  # too short
            packet(reset(1), message())[:-1],  # cut
        ],
    )
    def test_a_packet_with_a_flipped_bit_is_no_reset(self, wrong: bytes) -> None:
        assert Framing()(wrong)["session"].tolist() == [0]

    def test_a_reset_that_is_sent_again_on_request_is_none(self) -> None:
        framing = Framing()
        framing(packet(reset(1), flag=12))
        assert framing(packet(reset(3), flag=13, sent_ns=9 * SECOND_NS))["session"].tolist() == [1]

    def test_channels_are_reset_apart(self) -> None:
        framing = Framing()
        framing(packet(reset(1), flag=12), line=0)
        assert framing(packet(message()), line=2)["session"].tolist() == [0]


class TestMalformed:
    @pytest.mark.parametrize("length", range(16))
    def test_shorter_than_the_header(self, length: int) -> None:
        framing = Framing()
        assert framing(GOLDEN[:length]).size == 0
        assert framing.counters() == {"malformed_short": 1}

    @pytest.mark.parametrize("length", range(16, len(GOLDEN)))
    def test_a_cut_packet_gives_the_messages_that_are_whole(self, length: int) -> None:
        framing = Framing()
        blocks = framing(GOLDEN[:length], GOLDEN)
        assert blocks["count"].tolist() == ([2] if length < 26 else [1, 2])
        assert framing.counters()["malformed_length"] == 1

    @pytest.mark.parametrize("size", [0, 3, 65_535])
    def test_a_message_that_cannot_be_that_long(self, size: int) -> None:
        framing = Framing()
        lying = struct.pack("<HH", size, 9) + bytes(8)
        (block,) = framing(packet(message(), lying))
        assert block["count"] == 1
        assert framing.counters() == {"packets": 1, "malformed_length": 1}

    def test_a_flag_that_nobody_knows(self) -> None:
        framing = Framing()
        assert framing(packet(message(), flag=99), packet(message())).size == 1
        assert framing.counters()["malformed_flag"] == 1

    def test_a_time_that_cannot_be(self) -> None:
        framing = Framing()
        assert framing(struct.pack("<HBBIII", 16, 1, 0, 1, 1, SECOND_NS)).size == 0
        assert framing.counters() == {"malformed_time": 1}

    def test_more_streams_than_there_is_room_for(self) -> None:
        framing = Framing(streams_max=1)
        framing(packet(message()))
        assert framing(packet(message()), line=2).size == 0
        assert framing.counters()["malformed_streams"] == 1


def random_packet(rng: random.Random) -> bytes:
    """A packet that may be sound, with few distinct times so that resets meet their copies."""
    messages = [
        message(rng.choice([1, 2, 9, 300]), rng.randbytes(rng.choice([0, 3, 10, 30]))) for _ in range(rng.randint(0, 4))
    ]
    is_reset = rng.random() < 0.2
    if is_reset:
        messages.insert(0, reset(rng.randint(1, 3)))
    data = bytearray(
        packet(
            *messages,
            flag=rng.choice([1, 10, 11, 11, 11, 12, 13, 15, 17, 18, 19, 20, 21, 33]),
            first=1 if is_reset and rng.random() < 0.8 else rng.randrange(1 << 32),
            sent_ns=rng.randint(3, 99) * SECOND_NS // 2,
            count=rng.choice([-1, -1, -1, 0, 255]),
        )
    )
    for _ in range(rng.choice([0, 0, 1, 3])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.choice([len(data), len(data), rng.randint(0, len(data))])])


@pytest.mark.parametrize("kernel", [pillar.frame, pillar.frame.py_func], ids=["compiled", "python"])
def test_mutated_packets_give_what_the_twin_gives(kernel) -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    framing, twin = Framing(blocks_max=3, frame=kernel), naive_xdp.NaiveFraming()
    total = random_count(20_000) if kernel is pillar.frame else 300
    done = 0
    while done < total:
        payloads = [random_packet(rng) for _ in range(50)]
        line = rng.randrange(4)
        done += len(payloads)
        expected = [block for data in payloads if (block := twin.frame(data, int(GROUPS[line])))]
        got = framing(*payloads, line=line)
        buffer = b"".join(payloads)
        assert [
            (b["stream"], b["session"], b["kind"] == HEARTBEAT, b["first"], b["count"], b["sent_ns"]) for b in got
        ] == [(b.stream, b.session, b.heartbeat, b.first, len(b.messages), b.sent_ns) for b in expected], f"seed {seed}"
        assert [buffer[b["start"] : b["stop"]] for b in got] == [b"".join(b.messages) for b in expected], f"seed {seed}"
    assert framing.counters() == {name: count for name, count in twin.counters.items() if count}, f"seed {seed}"
