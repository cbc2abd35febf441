"""IEX-TP gap fill over real sockets: golden request bytes, ranges beyond one answer, servers that lie."""

import socket
import struct
from contextlib import closing

import pytest

from fabric.clock import SECOND_NS
from naive_recovery import IEX_PROTOCOL, IEX_SESSION, UNIT, message, packet
from nodes.exchanges.request_server import IexTpServer
from nodes.feeds.recovery_iextp import IexTpRecovery
from nodes.feeds.recovery_kernel import IEXTP
from recovery_rig import LINE, Loop, Sent, body, numbers_in

GROUP = 3
CHANNEL = UNIT[IEXTP]
STREAM = GROUP << 16 | CHANNEL
LOOPBACK = ("127.0.0.1", 0)


@pytest.fixture
def sent():
    return Sent(IEXTP, 3_000)


@pytest.fixture
def server(sent):
    with closing(IexTpServer(LOOPBACK, sent.store, IEX_PROTOCOL, CHANNEL, IEX_SESSION)) as made:
        yield made


@pytest.fixture
def loop(server):
    with closing(IexTpRecovery(GROUP, LINE, (server.address,), IEX_PROTOCOL)) as client:
        yield Loop(client, server)


@pytest.fixture
def peer():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(LOOPBACK)
        made.settimeout(5)
        yield made


def ask(*ranges: tuple[int, int], version=1, kind=1, protocol=IEX_PROTOCOL, channel=CHANNEL, session=IEX_SESSION):
    data = struct.pack("<BBHIII", version, kind, protocol, channel, session, len(ranges))
    return data + b"".join(struct.pack("<qq", *span) for span in ranges)


def test_a_request_is_as_the_specification_has_it(peer):
    with closing(IexTpRecovery(GROUP, LINE, (peer.getsockname(),), IEX_PROTOCOL)) as client:
        client.request(STREAM, IEX_SESSION, 0x0102, 3, SECOND_NS)
        client.tick(SECOND_NS)
    assert peer.recv(100) == bytes.fromhex(
        "01 01 0380 01000000 4d000000 01000000"  # version, by sequence, TOPS 1.6, channel 1, session 77, one range
        "0201000000000000 0501000000000000"  # from the first that is missing to the first that is there
    )


def test_a_range_comes_whole_in_as_many_requests_as_it_takes(loop):
    loop.client.request(STREAM, IEX_SESSION, 11, 2_500, loop.now_ns)
    loop.until(lambda: loop.client.wanted.missing == 0)
    expected = {number: message(IEXTP, body(number)) for number in range(11, 2_511)}
    found = numbers_in(IEXTP, loop.payloads)
    assert {number: data for number, data in found.items() if 11 <= number < 2_511} == expected
    assert set(found) - set(expected) <= {2_511}  # the end of a range may come with it
    assert loop.client.counters()["recovery_requests"] < 20  # 3, and more where a small socket buffer loses answers


def test_a_stream_without_a_channel_in_it_is_asked_for_on_the_feeds_channel(peer):
    with closing(IexTpRecovery(GROUP, LINE, (peer.getsockname(),), IEX_PROTOCOL, channel=9)) as client:
        client.request(GROUP << 16, IEX_SESSION, 1, 1, SECOND_NS)
        client.tick(SECOND_NS)
    assert struct.unpack_from("<I", peer.recv(100), 4)[0] == 9


def test_answers_of_another_session_or_channel_are_dropped(peer):
    with closing(IexTpRecovery(GROUP, LINE, (peer.getsockname(),), IEX_PROTOCOL)) as client:
        loop = Loop(client)
        client.request(STREAM, IEX_SESSION, 11, 3, loop.now_ns)
        loop.turn()
        _, source = peer.recvfrom(100)
        peer.sendto(packet(IEXTP, 11, [b"x"], iex_session=78), source)
        peer.sendto(packet(IEXTP, 11, [b"x"], unit=2), source)
        peer.sendto(packet(IEXTP, 11, [b"x"])[:-1], source)
        assert loop.turn() == []
        assert (client.answers.unasked, client.answers.malformed) == (2, 1)


def test_one_answer_has_a_thousand_messages_at_most(server, peer):
    peer.sendto(ask((1, 600), (700, 2_900)), server.address)
    server.serve(SECOND_NS)
    assert server.counters()["messages"] == 1_000


def test_a_request_without_ranges_is_answered_with_the_next_number(server, sent, peer):
    peer.sendto(ask(), server.address)
    server.serve(SECOND_NS)
    fields = struct.unpack("<BBHIIHHqqq", peer.recv(100))
    last = struct.unpack_from("<BBHIIHHqqq", sent.payloads[-1])
    assert fields[:7] == (1, 0, IEX_PROTOCOL, CHANNEL, IEX_SESSION, 0, 0)
    assert fields[7:] == (last[7] + last[5], 3_001, SECOND_NS)


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        ask((1, 2))[:-1],
        ask((1, 2)) + b"x",
        ask((1, 2), version=2),
        ask((1, 2), kind=2),
        ask((1, 5), (5, 6)),
        ask((6, 5)),
        ask((-1, 5)),
        ask((1, 1 << 62)),
        ask((1, 2), session=78),
        ask((1, 2), protocol=0x8004),
        ask((1, 2), channel=2),
        struct.pack("<BBHIII", 1, 1, IEX_PROTOCOL, CHANNEL, IEX_SESSION, 0xFFFFFFFF),
    ],
)
def test_requests_that_are_not_valid_are_ignored_and_counted(server, peer, request_):
    peer.sendto(request_, server.address)
    server.serve(SECOND_NS)
    counts = server.counters()
    assert counts["requests"] == 1
    assert counts.get("malformed", 0) + counts.get("wrong_session", 0) == 1
    assert "packets" not in counts
