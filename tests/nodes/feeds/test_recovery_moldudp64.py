"""MoldUDP64 recovery over real sockets: golden request bytes, whole ranges, servers that are away, silent or lie."""

import socket
import struct
from contextlib import closing

import pytest

from fabric.clock import SECOND_NS
from naive_recovery import SESSION, message, packet
from nodes.exchanges.request_server import MOLD_PER_SECOND, MoldUdp64Server
from nodes.feeds.recovery import text_session
from nodes.feeds.recovery_kernel import MOLDUDP64
from nodes.feeds.recovery_moldudp64 import LIMITS, MoldUdp64Recovery
from nodes.feeds.wire import from_payloads
from recovery_rig import LINE, Loop, Sent, body, numbers_in

GROUP = 3
STREAM = GROUP << 16
HASH = text_session(SESSION)
LOOPBACK = ("127.0.0.1", 0)


@pytest.fixture
def sent():
    return Sent(MOLDUDP64, 500)


@pytest.fixture
def server(sent):
    with closing(MoldUdp64Server(LOOPBACK, sent.store, SESSION)) as made:
        yield made


@pytest.fixture
def loop(server):
    with closing(MoldUdp64Recovery(GROUP, LINE, (server.address,))) as client:
        client.observe(from_payloads([packet(MOLDUDP64, 1, [b"x"])]))
        yield Loop(client, server)


@pytest.fixture
def silent():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(LOOPBACK)
        made.settimeout(5)
        yield made


def framed(first: int, stop: int) -> dict[int, bytes]:
    return {number: message(MOLDUDP64, body(number)) for number in range(first, stop)}


def test_a_request_is_a_header_as_the_specification_has_it(silent):
    with closing(MoldUdp64Recovery(GROUP, LINE, (silent.getsockname(),))) as client:
        client.learn(SESSION)
        client.request(STREAM, HASH, 0x0102, 5, SECOND_NS)
        client.tick(SECOND_NS)
    request = silent.recv(100)
    assert request == bytes.fromhex("3230323631313232 4120 0000000000000102 0005")


def test_a_range_comes_whole_however_many_packets_it_takes(loop):
    loop.client.request(STREAM, HASH, 11, 300, loop.now_ns)
    loop.until(lambda: loop.client.wanted.missing == 0)
    assert numbers_in(MOLDUDP64, loop.payloads) == framed(11, 311)
    counts = loop.client.counters()
    assert counts["recovery_messages"] == 300
    assert counts["recovery_requests"] == counts["recovery_packets"] < 20
    assert counts["recovery_repeats"] == counts["recovery_abandoned"] == counts["recovery_missing"] == 0


def test_the_session_is_learned_from_packets_when_it_is_needed(server):
    with closing(MoldUdp64Recovery(GROUP, LINE, (server.address,))) as client:
        loop = Loop(client, server)
        client.observe(from_payloads([b"short", packet(MOLDUDP64, 9, [], session=b"YESTERDAY ")]))
        client.request(STREAM, HASH, 11, 3, loop.now_ns)
        loop.turn()
        assert client.counters()["recovery_nameless"] == 1
        client.observe(from_payloads([packet(MOLDUDP64, 9, [], session=b"YESTERDAY "), packet(MOLDUDP64, 9, [])]))
        loop.until(lambda: client.wanted.missing == 0)
        assert numbers_in(MOLDUDP64, loop.payloads) == framed(11, 14)


def test_the_second_server_is_asked_when_the_first_is_silent_or_away(server, silent):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as away:
        away.bind(LOOPBACK)
        nobody = away.getsockname()
    servers = (silent.getsockname(), nobody, server.address)
    with closing(MoldUdp64Recovery(GROUP, LINE, servers)) as client:
        client.learn(SESSION)
        loop = Loop(client, server)
        client.request(STREAM, HASH, 11, 3, loop.now_ns)
        loop.until(lambda: client.wanted.missing == 0)
        counts = client.counters()
        assert (counts["recovery_requests"], counts["recovery_repeats"]) == (3, 2)
        assert counts["recovery_errors"] > 0


def test_a_silent_server_costs_the_range_and_no_more(silent):
    with closing(MoldUdp64Recovery(GROUP, LINE, (silent.getsockname(),))) as client:
        client.learn(SESSION)
        loop = Loop(client)
        for _ in range(6_000):
            if client.wanted.abandoned:
                break
            client.request(STREAM, HASH, 11, 3, loop.now_ns)
            loop.turn()
        counts = client.counters()
        assert (counts["recovery_abandoned"], counts["recovery_requests"]) == (3, LIMITS.tries_max)


def test_what_is_too_old_or_never_was_is_not_answered(loop, server):
    loop.client.request(STREAM, HASH, 501, 1, loop.now_ns)
    loop.turn()
    loop.turn()
    assert server.counters()["unavailable"] == 1
    assert loop.payloads == []


def test_answers_that_lie_are_dropped(silent):
    with closing(MoldUdp64Recovery(GROUP, LINE, (silent.getsockname(),))) as client:
        client.learn(SESSION)
        loop = Loop(client)
        client.request(STREAM, HASH, 11, 3, loop.now_ns)
        loop.turn()
        _, source = silent.recvfrom(100)
        lies = [
            b"",
            b"garbage",
            packet(MOLDUDP64, 11, [b"x"], session=b"OTHER     "),
            packet(MOLDUDP64, 1_000_000, [b"x"]),
            packet(MOLDUDP64, 11, []),
            struct.pack(">10sQH", SESSION, 11, 0xFFFF),
            struct.pack(">10sQH", SESSION, 11, 3) + message(MOLDUDP64, b"x"),
            bytes(range(256)),
        ]
        for lie in lies:
            silent.sendto(lie, source)
        assert loop.turn() == []
        counts = client.counters()
        assert counts["recovery_malformed"] + counts["recovery_unasked"] == len(lies)
        silent.sendto(packet(MOLDUDP64, 11, [b"1", b"2", b"3"]), source)
        assert loop.turn() == [packet(MOLDUDP64, 11, [b"1", b"2", b"3"])]


def test_the_server_ignores_and_counts_what_is_no_request_of_its_session(server, silent):
    for request in (b"", b"x" * 19, struct.pack(">10sQH", b"OTHER     ", 1, 1), b"x" * 2_000):
        silent.sendto(request, server.address)
    silent.sendto(struct.pack(">10sQH", SESSION, 1 << 63, 0xFFFF), server.address)
    silent.sendto(struct.pack(">10sQH", SESSION, 1, 0), server.address)
    server.serve(SECOND_NS)
    counts = server.counters()
    assert (counts["requests"], counts["malformed"], counts["wrong_session"], counts["unavailable"]) == (6, 3, 1, 2)
    silent.setblocking(False)
    with pytest.raises(BlockingIOError):
        silent.recv(100)


def test_the_server_answers_so_many_requests_a_second(server, silent):
    request = struct.pack(">10sQH", SESSION, 1, 1)
    for _ in range(MOLD_PER_SECOND + 100):
        silent.sendto(request, server.address)
        server.serve(SECOND_NS)
    assert server.counters()["limited"] == 100
    silent.sendto(request, server.address)
    server.serve(2 * SECOND_NS)
    assert server.counters()["limited"] == 100
