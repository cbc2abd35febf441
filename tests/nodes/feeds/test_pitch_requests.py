"""Cboe's request messages against bytes written by hand from the specification's tables, and mutated ones."""

import random

import pytest

from nodes.feeds import pitch_requests
from nodes.feeds.pitch_requests import (
    GapRequest,
    GapResponse,
    Login,
    LoginResponse,
    Other,
    SpinAvailable,
    SpinFinished,
    SpinRequest,
    SpinResponse,
    decode,
    encode,
)

# Sequenced Unit Header (length u16, count, unit, sequence u32), then the message.
GOLDEN = [
    (Login("0001", "FIRM", "ABCD00"), "1e00 01 00 00000000  16 01 30303031 4649524d 2020 41424344303020202020"),
    (LoginResponse("A"), "0b00 01 00 00000000  03 02 41"),
    (GapRequest(1, 3_002, 50), "1100 01 00 00000000  09 03 01 ba0b0000 3200"),
    (GapResponse(1, 3_002, 50, "S"), "1200 01 00 00000000  0a 04 01 ba0b0000 3200 53"),
    (SpinAvailable(310_169), "0e00 01 00 00000000  06 80 99bb0400"),
    (SpinRequest(310_169), "0e00 01 00 00000000  06 81 99bb0400"),
    (SpinResponse(310_169, 256, "A"), "1300 01 00 00000000  0b 82 99bb0400 00010000 41"),
    (SpinFinished(310_169), "0e00 01 00 00000000  06 83 99bb0400"),
    (Other(bytes.fromhex("0620 98850000")), "0e00 01 00 00000000  06 20 98850000"),
]


@pytest.mark.parametrize(("message", "text"), GOLDEN)
def test_a_message_on_the_wire(message, text):
    golden = bytes.fromhex(text)
    assert encode(message) == golden
    packet = decode(golden + b"rest")
    assert packet is not None
    assert type(packet.messages[0]) is type(message)
    assert (packet.messages, packet.size, packet.unit, packet.sequence) == ((message,), len(golden), 0, 0)
    for size in range(len(golden)):
        assert decode(golden[:size]) is None


def test_a_heartbeat_is_a_packet_without_messages():
    assert bytes.fromhex("0800 00 00 00000000") == pitch_requests.HEARTBEAT
    packet = decode(pitch_requests.HEARTBEAT)
    assert packet is not None
    assert (packet.messages, packet.size) == ((), 8)


def test_several_messages_in_one_packet_and_a_longer_form_of_one():
    data = bytes.fromhex("1500 02 00 00000000  07 80 01000000 ff  06 83 01000000")
    packet = decode(data)
    assert packet is not None
    assert packet.messages == (SpinAvailable(1), SpinFinished(1))
    assert encode(SpinAvailable(1), SpinFinished(1)) == bytes.fromhex(
        "1400 02 00 00000000 06 80 01000000 06 83 01000000"
    )


def test_a_message_too_short_for_its_type_is_an_other():
    for kind in (0x01, 0x02, 0x03, 0x04, 0x80, 0x81, 0x82, 0x83):
        packet = decode(encode(Other(bytes((2, kind)))))
        assert packet is not None
        assert packet.messages == (Other(bytes((2, kind))),)


@pytest.mark.parametrize(
    "data",
    [
        "0700 00 00 00000000",  # shorter than its header
        "0900 00 00 00000000 00",  # bytes behind the last message
        "0800 01 00 00000000",  # a message that is not there
        "0900 01 00 00000000 01",  # a message without a type
        "0a00 01 00 00000000 0320",  # a message longer than the packet
    ],
)
def test_what_cannot_be_a_packet_is_refused(data):
    with pytest.raises(ValueError, match="bytes"):
        decode(bytes.fromhex(data))


def test_text_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="at most 4"):
        encode(Login("0001", "LONGER", "x"))


def test_mutated_packets_are_read_or_refused_and_nothing_else():
    seed = random.randrange(1 << 32)
    random_ = random.Random(seed)
    packets = [bytes.fromhex(golden) for _, golden in GOLDEN]
    for _ in range(20_000):
        data = bytearray(random_.choice(packets))
        for _ in range(random_.randrange(4)):
            data[random_.randrange(len(data))] = random_.randrange(256)
        del data[random_.randrange(len(data) + 1) :]
        try:
            packet = decode(data)
        except ValueError:
            continue
        assert packet is None or 8 <= packet.size <= len(data), f"seed {seed}"
