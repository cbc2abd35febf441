"""SoupBinTCP over real sockets: golden log-in bytes, re-log-in at the next number, heartbeats, servers that lie."""

import socket
import struct
from contextlib import closing

import pytest

from fabric.clock import SECOND_NS
from naive_recovery import SESSION, message, packet
from nodes.exchanges.request_server import SoupServer
from nodes.feeds.recovery import INPUT_BYTES_MAX, text_session
from nodes.feeds.recovery_kernel import MOLDUDP64
from nodes.feeds.recovery_soupbintcp import LIMITS, SoupLine, SoupRecovery, login_request
from recovery_rig import LINE, Loop, Sent, body, numbers_in

GROUP = 3
STREAM = GROUP << 16
HASH = text_session(SESSION)
LOOPBACK = ("127.0.0.1", 0)
USERS = {"alice": "secret"}


@pytest.fixture
def sent():
    return Sent(MOLDUDP64, 500)


@pytest.fixture
def server(sent):
    with closing(SoupServer(LOOPBACK, sent.store, SESSION, USERS)) as made:
        yield made


@pytest.fixture
def line(server):
    with closing(SoupLine(LINE, [server.address], "alice", "secret")) as client:
        yield Loop(client, server)


@pytest.fixture
def recovery(server):
    with closing(SoupRecovery(GROUP, LINE, [server.address], "alice", "secret")) as client:
        yield Loop(client, server)


@pytest.fixture
def listener():
    with socket.create_server(LOOPBACK) as made:
        made.settimeout(5)
        yield made


def framed(first: int, stop: int) -> dict[int, bytes]:
    return {number: message(MOLDUDP64, body(number)) for number in range(first, stop)}


def soup(kind: bytes, payload: bytes = b"") -> bytes:
    return struct.pack(">H", 1 + len(payload)) + kind + payload


def accepted(sequence: int) -> bytes:
    return soup(b"A", SESSION + b"%20d" % sequence)


def data_of(loop: Loop) -> dict[int, bytes]:
    return numbers_in(MOLDUDP64, [payload for payload in loop.payloads if payload[18:20] not in (b"\0\0", b"\xff\xff")])


def turns_until_connected(loop: Loop, listener) -> socket.socket:
    loop.turn()
    peer, _ = listener.accept()
    peer.settimeout(5)
    for _ in range(5):
        loop.turn()
    return peer


def test_a_log_in_is_as_the_specification_has_it():
    assert login_request("alice", "secret", b"ABC", 42) == (
        b"\x00\x2fL" + b"alice " + b"secret    " + b"       ABC" + b"                  42"
    )


def test_a_line_tells_the_session_from_its_first_message_and_then_what_is_new(line, sent):
    line.until(lambda: len(data_of(line)) == 500)
    assert data_of(line) == framed(1, 501)
    sent.send(501, [body(501), body(502)])
    line.until(lambda: len(data_of(line)) == 502)
    assert data_of(line) == framed(1, 503)
    assert line.payloads[-1] == packet(MOLDUDP64, 501, [body(501), body(502)])


def test_a_line_that_is_cut_logs_in_again_at_the_next_number(line, server, sent):
    line.until(lambda: len(data_of(line)) == 500)
    for peer in list(server.peers):
        server.drop(peer)
    sent.send(501, [body(501)])
    line.until(lambda: len(data_of(line)) == 501)
    counts = line.client.counters()
    assert (counts["soup_logins"], counts["soup_failures"]) == (2, 1)
    assert server.counters()["messages"] == 501  # none came twice


def test_a_quiet_line_gives_a_heartbeat_packet_with_the_next_number(line):
    line.until(lambda: len(data_of(line)) == 500)
    line.payloads.clear()
    line.until(lambda: len(line.payloads) >= 2, turns=3_500)
    assert line.payloads[:2] == [packet(MOLDUDP64, 501, [])] * 2
    assert line.client.counters()["soup_silences"] == 0


def test_the_end_of_a_session_is_told_and_the_next_one_begins_at_1(line, server, sent):
    line.until(lambda: len(data_of(line)) == 500)
    server.end(line.now_ns)
    end = struct.pack(">10sQH", SESSION, 501, 0xFFFF)
    line.until(lambda: end in line.payloads)
    line.payloads.clear()
    server.begin(b"NEXT      ")
    sent.store.forget()
    sent.payloads.clear()
    sent.send(1, [b"first"])
    line.until(lambda: any(payload.startswith(b"NEXT") and payload[18:20] == b"\0\1" for payload in line.payloads))


def test_a_wrong_password_is_counted_and_tried_again_with_patience(server):
    with closing(SoupLine(LINE, [server.address], "alice", "wrong")) as client:
        loop = Loop(client, server)
        loop.until(lambda: client.counters()["soup_rejected"] == 3, turns=10_000)
        assert server.counters()["rejected"] == 3
        assert client.counters()["soup_logins"] == 0


@pytest.mark.parametrize(
    ("reply", "counter"),
    [
        (soup(b"J", b"S"), "soup_rejected"),
        (soup(b"?"), "soup_malformed"),
        (soup(b"A", b"short"), "soup_malformed"),
        (soup(b"A", SESSION + b"x" * 20), "soup_malformed"),
        (soup(b"S", b"before any log-in"), "soup_malformed"),
        (accepted(1) + accepted(1), "soup_malformed"),
        (b"\0\0", "soup_malformed"),
    ],
)
def test_a_server_that_lies_is_left(listener, reply, counter):
    with closing(SoupLine(LINE, [listener.getsockname()], "alice", "secret")) as client:
        loop = Loop(client)
        with turns_until_connected(loop, listener) as peer:
            assert peer.recv(100) == login_request("alice", "secret", b"", 1)
            peer.sendall(reply)
            loop.until(lambda: client.counters()[counter] == 1, turns=100)
            assert client.counters()["soup_failures"] == 1


def test_a_silent_server_is_left(listener):
    with closing(SoupLine(LINE, [listener.getsockname()], "alice", "secret")) as client:
        loop = Loop(client)
        with turns_until_connected(loop, listener):
            loop.until(lambda: client.counters()["soup_silences"] == 1, turns=6_000)  # no answer to the log-in
        loop.turn(2 * SECOND_NS)  # the back-off
        with turns_until_connected(loop, listener) as peer:
            peer.sendall(accepted(1))
            loop.until(lambda: client.counters()["soup_silences"] == 2, turns=16_000)  # no heartbeats
            peer.setblocking(False)
            assert soup(b"R") * 10 in peer.recv(1_000)  # ours came each second


def test_a_server_that_sends_without_end_is_left(listener):
    with closing(SoupLine(LINE, [listener.getsockname()], "alice", "secret")) as client:
        loop = Loop(client)
        with turns_until_connected(loop, listener) as peer:
            peer.sendall(accepted(1) + b"\xff\xffS" + b"x" * 60_000)  # the longest message is 65,534 bytes
            peer.setblocking(False)
            assert INPUT_BYTES_MAX > 1 << 16
            loop.turn()
            assert client.counters()["soup_failures"] == 0
            peer.sendall(b"x" * 5_534 + soup(b"S", b"next"))
            loop.until(lambda: b"next" in b"".join(loop.payloads), turns=10)


def test_recovery_logs_in_once_for_ranges_that_lie_near_and_out_again(recovery, server):
    recovery.client.request(STREAM, HASH, 11, 100, recovery.now_ns)
    recovery.client.request(STREAM, HASH, 300, 7, recovery.now_ns)
    recovery.client.request(STREAM, HASH, 307, 3, recovery.now_ns)
    recovery.client.request(STREAM, HASH, 5, 2, recovery.now_ns)
    recovery.until(lambda: recovery.client.wanted.missing == 0)
    found = data_of(recovery)
    assert found == framed(5, 7) | framed(11, 111) | framed(300, 310)
    assert recovery.client.counters()["soup_logins"] == 2
    recovery.until(lambda: not server.peers, turns=10)
    assert recovery.client.counters()["soup_failures"] == 0


def test_recovery_of_what_the_server_no_longer_has_is_given_up():
    sent = Sent(MOLDUDP64, 500, packets_max=20)
    oldest = sent.store.bounds(0)[0]
    with closing(SoupServer(LOOPBACK, sent.store, SESSION, USERS)) as server:
        with closing(SoupRecovery(GROUP, LINE, [server.address], "alice", "secret")) as client:
            loop = Loop(client, server)
            client.request(STREAM, HASH, oldest - 10, 20, loop.now_ns)
            loop.until(lambda: client.wanted.missing == 0)
            assert data_of(loop) == framed(oldest, oldest + 10)
            assert client.counters()["recovery_abandoned"] == 10
        assert server.counters()["unavailable"] == 1


def test_recovery_of_another_session_is_given_up(recovery):
    recovery.client.request(STREAM, text_session(b"YESTERDAY"), 11, 5, recovery.now_ns)
    recovery.until(lambda: recovery.client.wanted.missing == 0)
    assert recovery.payloads == []
    assert recovery.client.counters()["recovery_abandoned"] == 5


def test_recovery_from_a_server_that_is_away_is_given_up():
    with socket.socket() as nobody:
        nobody.bind(LOOPBACK)
        with closing(SoupRecovery(GROUP, LINE, [nobody.getsockname()], "alice", "secret")) as client:
            loop = Loop(client)
            while not client.counters()["recovery_abandoned"]:
                client.request(STREAM, HASH, 11, 5, loop.now_ns)
                loop.turn(SECOND_NS // 20)
            assert client.counters()["recovery_abandoned"] == 5
            assert client.counters()["recovery_requests"] == LIMITS.tries_max


def test_the_server_drops_who_is_silent_who_falls_behind_and_who_speaks_otherwise(server, sent):
    def joined(data: bytes) -> socket.socket:
        peer = socket.create_connection(server.address, 5)
        peer.sendall(data)
        return peer

    now_ns = SECOND_NS
    with joined(b"") as quiet, joined(b"GET / HTTP/1.1\r\n\r\n" * 5_000) as web, joined(soup(b"?")) as other:
        for _ in range(10):
            server.serve(now_ns)
        assert server.counters()["malformed"] == 1
        assert len(server.peers) == 1
        for _ in range(6):
            now_ns += SECOND_NS
            server.serve(now_ns)
        assert server.counters()["silent"] == 1
        assert server.peers == []
        for peer in (quiet, web, other):
            peer.close()


def test_the_server_takes_so_many_and_no_more(server):
    peers = []
    for _ in range(20):
        peers.append(socket.create_connection(server.address, 5))
        server.serve(SECOND_NS)
    assert (len(server.peers), server.counters()["turned_away"]) == (16, 4)
    for peer in peers:
        peer.close()
