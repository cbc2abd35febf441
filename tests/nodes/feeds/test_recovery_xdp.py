"""NYSE's request server and its client over real sockets: ranges, refreshes, refusals, heartbeats, lies."""

import socket
import struct
from contextlib import closing

import pytest

from fabric.clock import MILLISECOND_NS, SECOND_NS
from naive_recovery import message, packet
from nodes.exchanges.request_server_xdp import Image, XdpServer
from nodes.feeds import xdp_requests
from nodes.feeds.recovery_kernel import PILLAR
from nodes.feeds.recovery_xdp import LIMITS, REFRESH_NS, XdpRecovery
from nodes.feeds.xdp_requests import ACCEPTED, Other, Response, Retransmission, Unavailable
from recovery_rig import LINE, Loop, Sent, body, numbers_in

GROUP = 3
STREAM = GROUP << 16
LOOPBACK = ("127.0.0.1", 0)
PRODUCT, CHANNEL, SOURCE = 3, 7, "FABRIC"


class Book:
    """Three symbols, the second with more orders than one packet holds."""

    def refresh(self, index: int) -> list[Image]:
        images = [Image(400 + i, 40 + i, [order(i, n) for n in range(1 if i != 2 else 100)]) for i in (1, 2, 3)]
        return [image for i, image in enumerate(images, 1) if index in (0, i)]

    def mappings(self, index: int) -> list[bytes]:
        return [message(PILLAR, b"mapping %d" % i) for i in (1, 2, 3) if index in (0, i)]


def order(symbol: int, number: int) -> bytes:
    return message(PILLAR, b"order %d of %d ............" % (number, symbol))


def framed(first: int, stop: int) -> dict[int, bytes]:
    return {number: message(PILLAR, body(number)) for number in range(first, stop)}


@pytest.fixture
def sent():
    return Sent(PILLAR, 3_000)


@pytest.fixture
def server(sent):
    with closing(XdpServer(LOOPBACK, sent.store, PRODUCT, CHANNEL, [SOURCE], Book())) as made:
        yield made


def new_client(*servers, source=SOURCE, product=PRODUCT, channel=CHANNEL, groups=()):
    return closing(XdpRecovery(GROUP, LINE, servers, source, product, channel, groups))


@pytest.fixture
def loop(server):
    with new_client(server.address) as client:
        yield Loop(client, server)


@pytest.fixture
def listener():
    with socket.create_server(LOOPBACK) as made:
        made.settimeout(5)
        yield made


def ask(loop: Loop, first: int, count: int) -> None:
    loop.client.request(STREAM, 0, first, count, loop.now_ns)


def connected(loop: Loop, listener) -> socket.socket:
    loop.turn()
    peer, _ = listener.accept()
    peer.settimeout(5)
    for _ in range(5):
        loop.turn()
    return peer


def test_a_request_on_the_wire(listener):
    with new_client(listener.getsockname()) as client:
        loop = Loop(client)
        ask(loop, 0x0102, 3)
        with connected(loop, listener) as peer:
            assert peer.recv(100) == bytes.fromhex(
                "2800 0b 01 01000000 00000000 00000000"  # 40 bytes, original, one message, our packet 1, no time
                "1800 0a00 02010000 04010000 46414252494300000000 03 07"  # 0x102 to 0x104, FABRIC, product 3, channel 7
            )


def test_a_range_comes_on_the_connection_in_as_many_requests_as_it_takes(loop):
    ask(loop, 11, 2_500)
    loop.until(lambda: loop.client.wanted.missing == 0)
    assert numbers_in(PILLAR, loop.payloads) == framed(11, 2_511)
    assert loop.client.counters()["recovery_requests"] == 3
    assert {payload[2] for payload in loop.payloads} == {15}


def test_a_range_comes_on_the_retransmission_group(sent):
    with new_client(("127.0.0.1", 9), groups=[LOOPBACK, LOOPBACK]) as client:
        again, refreshed = client.addresses
        with closing(XdpServer(LOOPBACK, sent.store, PRODUCT, CHANNEL, [SOURCE], Book(), again, refreshed)) as server:
            client._link._addresses = [server.address]
            loop = Loop(client, server)
            ask(loop, 11, 2)
            ask(loop, 100, 50)
            client.refresh()
            loop.until(lambda: client.wanted.missing == 0 and client.counters()["recovery_refreshes"] == 5)
            retransmitted = [payload for payload in loop.payloads if payload[2] in (13, 15)]
            assert numbers_in(PILLAR, retransmitted) == framed(11, 13) | framed(100, 150)


def test_refreshes_come_in_packets_with_a_header_that_tells_the_parts(loop):
    loop.client.refresh()
    loop.client.refresh()  # asked for once
    loop.until(lambda: loop.client.counters()["recovery_refreshes"] == 5)
    flags = [payload[2] for payload in loop.payloads]
    assert flags == [17, 18, 19, 20, 17]
    numbers = [struct.unpack_from("<BI", payload, 3) for payload in loop.payloads]
    assert [first for _, first in numbers[1:]] == [first + count for count, first in numbers[:-1]]
    heads = [struct.unpack_from("<HHHHII", payload, 16) for payload in loop.payloads]
    assert heads == [
        (16, 35, 1, 1, 401, 41),
        *((16, 35, part, 3, 402, 42) for part in (1, 2, 3)),
        (16, 35, 1, 1, 403, 43),
    ]
    told = b"".join(payload[32:] for payload in loop.payloads[1:4])
    assert told == b"".join(order(2, n) for n in range(100))
    assert max(map(len, loop.payloads)) <= 1_500


def test_mappings_and_single_symbols_can_be_had(loop):
    loop.client.mapping()
    loop.client.refresh(3)
    loop.client.refresh(99)  # there is none
    loop.until(lambda: loop.client.counters()["recovery_refreshes"] == 2)
    assert loop.payloads[0][16:] == b"".join(Book().mappings(0))
    assert loop.payloads[1][32:] == order(3, 0)


def test_a_refresh_can_be_asked_for_again_after_a_while(loop):
    for _ in range(2):
        loop.client.refresh(1)
        loop.turn()
    loop.until(lambda: loop.client.counters()["recovery_refreshes"] == 1)
    loop.turn(REFRESH_NS + MILLISECOND_NS)
    loop.client.refresh(1)
    loop.until(lambda: loop.client.counters()["recovery_refreshes"] == 2)


def test_what_is_no_longer_kept_is_said_to_be_unavailable():
    sent = Sent(PILLAR, 3_000, packets_max=100)
    oldest, _ = sent.store.bounds(0)
    with (
        closing(XdpServer(LOOPBACK, sent.store, PRODUCT, CHANNEL, [SOURCE])) as server,
        new_client(server.address) as client,
    ):
        loop = Loop(client, server)
        ask(loop, oldest - 10, 30)
        loop.until(lambda: client.wanted.missing == 0, turns=50)
        assert numbers_in(PILLAR, loop.payloads) == framed(oldest, oldest + 20)
        counts = client.counters()
        assert (counts["recovery_abandoned"], counts["recovery_unavailable"]) == (10, 1)


@pytest.mark.parametrize(
    ("options", "first"),
    [({"source": "NOBODY"}, 11), ({"product": 4}, 11), ({"channel": 8}, 11), ({}, 2_999), ({}, 5_000)],
)
def test_a_refused_request_costs_the_range(server, options, first):
    with new_client(server.address, **options) as client:
        loop = Loop(client, server)
        ask(loop, first, 5)
        loop.until(lambda: client.wanted.missing == 0, turns=100)
        counts = client.counters()
        assert (counts["recovery_refused"], counts["recovery_abandoned"], counts["recovery_requests"]) == (1, 5, 1)
        assert loop.payloads == []


def test_heartbeats_are_answered(loop, server):
    loop.turn()
    for _ in range(600):
        loop.turn(SECOND_NS)
    assert len(server.peers) == 1
    assert server.counts["silent"] == 0


def test_who_does_not_answer_a_heartbeat_is_dropped(server):
    with socket.create_connection(server.address, 5) as peer:
        for second in range(1, 80):
            server.serve(second * SECOND_NS)
        assert server.counters()["silent"] == 1
        assert peer.recv(100)[2] == xdp_requests.FLAG_HEARTBEAT


def test_a_connection_that_is_lost_is_made_anew_and_its_requests_sent_again(loop, server, sent):
    ask(loop, 11, 100)
    loop.turn()
    for _ in range(5):
        server.serve(loop.now_ns)
    for peer in list(server.peers):
        server.drop(peer)
    loop.until(lambda: loop.client.wanted.missing == 0)
    assert numbers_in(PILLAR, loop.payloads) == framed(11, 111)


@pytest.mark.parametrize("garbage", [b"\x00" * 16, b"\x14\x00\x0b\x01" + b"\0" * 16, b"\xff" * 70_000])
def test_a_server_that_speaks_otherwise_is_left(listener, garbage):
    with new_client(listener.getsockname()) as client:
        loop = Loop(client)
        ask(loop, 11, 5)
        with connected(loop, listener) as peer:
            peer.sendall(garbage)
            loop.until(lambda: client.counters()["recovery_failures"] == 1, turns=100)
            assert client.counters()["recovery_broken"] == 1
            assert loop.payloads == []


def test_answers_that_lie_are_dropped(listener):
    with new_client(listener.getsockname()) as client:
        loop = Loop(client)
        ask(loop, 11, 5)
        with connected(loop, listener) as peer:
            again = {"flag": 15}
            for lie in (
                packet(PILLAR, 11, [b"live"]),  # not marked as sent again
                packet(PILLAR, 500, [b"x"], **again),
                packet(PILLAR, 11, [], **again),
                xdp_requests.unavailable(Unavailable(11, 15, PRODUCT + 1, CHANNEL), 1),
                xdp_requests.encode(Response(99, 11, 15, SOURCE, PRODUCT, CHANNEL, "3"), 2),
                xdp_requests.encode(Other(999, b"what"), 3),
            ):
                peer.sendall(lie)
            for _ in range(20):
                loop.turn()
            counts = client.counters()
            assert loop.payloads == []
            assert (counts["recovery_malformed"], counts["recovery_unasked"], counts["recovery_refused"]) == (2, 2, 1)
            assert counts["recovery_missing"] == 5
            peer.sendall(packet(PILLAR, 11, [b"1", b"2", b"3", b"4", b"5"], **again))
            loop.until(lambda: client.wanted.missing == 0, turns=20)


def test_a_silent_server_costs_the_range(listener):
    with new_client(listener.getsockname()) as client:
        loop = Loop(client)
        with connected(loop, listener) as peer:
            while not client.wanted.abandoned:
                ask(loop, 11, 5)
                loop.turn(10 * MILLISECOND_NS)
            assert client.counters()["recovery_requests"] == LIMITS.tries_max
            assert len(peer.recv(10_000)) == 40 * LIMITS.tries_max


def test_the_server_refuses_a_range_of_more_than_a_thousand_and_what_it_does_not_know(server):
    with socket.create_connection(server.address, 5) as peer:
        peer.sendall(xdp_requests.encode(Retransmission(1, 1_001, SOURCE, PRODUCT, CHANNEL), 5))
        peer.sendall(xdp_requests.encode(Other(999, b"?"), 6))
        for _ in range(5):
            server.serve(SECOND_NS)
        data = peer.recv(1_000)
        answers = []
        while data:
            decoded = xdp_requests.decode(data)
            assert decoded is not None
            answers += [(answer.request, answer.status) for answer in decoded.messages]
            data = data[decoded.size :]
        assert answers == [(5, xdp_requests.TOO_MANY), (6, xdp_requests.BAD_MESSAGE)]
        assert ACCEPTED not in dict(answers).values()
