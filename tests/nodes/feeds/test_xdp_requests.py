"""NYSE's request protocol: golden bytes from the specification's tables, parts of packets, lies, mutations."""

import random

import pytest

from nodes.feeds import xdp_requests as xdp
from support import random_count

# Written by hand: packet header (size u16, delivery flag, count, number u32, seconds u32, ns u32), then the message.
HEADER = "{size} 0b 01 07000000 587fe464 40420f00"
SENT_NS = 0x64E47F58 * 1_000_000_000 + 1_000_000
GOLDEN = {
    "retransmission": (
        xdp.Retransmission(1_000, 1_999, "FABRIC", 3, 1),
        "2800",
        "1800 0a00 e8030000 cf070000 46414252494300000000 03 01",
    ),
    "response": (
        xdp.Response(7, 1_000, 1_999, "FABRIC", 3, 1, xdp.TOO_MANY),
        "2d00",
        "1d00 0b00 07000000 e8030000 cf070000 46414252494300000000 03 01 33",
    ),
    "heartbeat response": (xdp.HeartbeatResponse("TENLETTERS"), "1e00", "0e00 0c00 54454e4c455454455253"),
    "mapping": (xdp.Mapping(4_669, "FABRIC", 4, 2), "2500", "1500 0d00 3d120000 46414252494300000000 04 02 00"),
    "refresh": (xdp.Refresh(0, "FABRIC", 4, 2), "2400", "1400 0f00 00000000 46414252494300000000 04 02"),
    "unavailable": (xdp.Unavailable(5, 6, 3, 1), "1e00", "0e00 1f00 05000000 06000000 03 01"),
}


def golden(name: str) -> tuple[xdp.Message, bytes]:
    message, size, body = GOLDEN[name]
    return message, bytes.fromhex(HEADER.format(size=size) + body)


@pytest.mark.parametrize("name", GOLDEN)
def test_each_message_is_the_specification_s(name: str) -> None:
    message, expected = golden(name)
    assert xdp.encode(message, 7, SENT_NS).hex(" ") == expected.hex(" ")
    assert xdp.decode(expected) == xdp.Packet(xdp.FLAG_ORIGINAL, 7, SENT_NS, (message,), len(expected))


def test_a_heartbeat_is_a_header_alone() -> None:
    data = xdp.heartbeat(7, SENT_NS)
    assert data.hex(" ") == bytes.fromhex("1000 01 00 07000000 587fe464 40420f00").hex(" ")
    packet = xdp.decode(data)
    assert packet is not None
    assert packet.is_heartbeat
    assert packet.messages == ()


def test_what_is_gone_has_its_own_delivery_flag() -> None:
    packet = xdp.decode(xdp.unavailable(xdp.Unavailable(5, 6, 3, 1), 7))
    assert packet is not None
    assert (packet.flag, packet.messages) == (21, (xdp.Unavailable(5, 6, 3, 1),))


@pytest.mark.parametrize("name", GOLDEN)
def test_a_packet_that_has_not_come_whole_is_waited_for(name: str) -> None:
    _, data = golden(name)
    assert all(xdp.decode(data[:length]) is None for length in range(len(data)))
    packet = xdp.decode(data + b"\x10\x00")
    assert packet is not None
    assert packet.size == len(data)


def test_messages_of_another_type_or_a_short_one_are_handed_on_whole() -> None:
    other = xdp.Other(140, bytes(30))
    short = xdp.Other(10, bytes(19))
    for message in (other, short):
        packet = xdp.decode(xdp.encode(message, 1))
        assert packet is not None
        assert packet.messages == (message,)


def test_fields_appended_to_a_message_are_passed_over() -> None:
    packet = xdp.decode(xdp.encode(xdp.Other(15, bytes.fromhex("00000000 46414252494300000000 04 02 ffff")), 1))
    assert packet is not None
    assert packet.messages == (xdp.Refresh(0, "FABRIC", 4, 2),)


@pytest.mark.parametrize(
    "data",
    [
        "0f00 0b 01 07000000 00000000 00000000",  # shorter than its header
        "1000 0b 01 07000000 00000000 00000000",  # a message that is not there
        "1400 0b 01 07000000 00000000 00000000 0300 0a00",  # a message shorter than its header
        "1400 0b 01 07000000 00000000 00000000 0500 0a00",  # a message longer than the packet
        "1500 0b 01 07000000 00000000 00000000 0400 0a00 00",  # a byte too many
    ],
)
def test_a_packet_that_lies_ends_the_connection(data: str) -> None:
    with pytest.raises(ValueError, match="bytes"):
        xdp.decode(bytes.fromhex(data))


def test_a_source_id_has_ten_characters() -> None:
    with pytest.raises(ValueError, match="at most 10"):
        xdp.encode(xdp.HeartbeatResponse("ELEVENCHARS"), 1)


def test_mutated_packets_are_read_or_refused() -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    samples = [golden(name)[1] for name in GOLDEN]
    for _ in range(random_count(20_000)):
        data = bytearray(rng.choice(samples))
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            packet = xdp.decode(data[: rng.randint(0, len(data))])
        except ValueError:
            continue
        assert packet is None or 16 <= packet.size <= len(data), f"seed {seed}"
