"""Cboe's gap request proxy and spins over real sockets: parts of a gap, quotas, refusals, images, servers that lie."""

import socket
from contextlib import closing

import pytest

from fabric.clock import MILLISECOND_NS, SECOND_NS
from naive_recovery import UNIT, message, packet
from nodes.exchanges.request_server_pitch import PER_SECOND, GrpServer, SpinServer
from nodes.feeds import pitch_requests, recovery_pitch
from nodes.feeds.pitch_requests import (
    HEARTBEAT,
    GapRequest,
    GapResponse,
    Login,
    LoginResponse,
    Other,
    SpinAvailable,
    SpinFinished,
    SpinRequest,
    SpinResponse,
    encode,
)
from nodes.feeds.recovery_kernel import SEQUENCED_UNIT
from nodes.feeds.recovery_pitch import LIMITS, GrpRecovery, SpinRecovery
from recovery_rig import LINE, START_NS, Loop, Sent, body, numbers_in

GROUP = 3
STREAM = GROUP << 16 | UNIT[SEQUENCED_UNIT]
LOOPBACK = ("127.0.0.1", 0)
LOGIN = Login("0001", "FIRM", "secret")
USERS = {"FIRM": "secret"}


@pytest.fixture
def sent():
    return Sent(SEQUENCED_UNIT, 1_000)


class Rig(Loop):
    """A client, the server that answers on its gap line, and the sent stream."""

    def __init__(self, sent, login=LOGIN) -> None:
        self.client = GrpRecovery(GROUP, LINE, [LOOPBACK], login, [LOOPBACK])
        self.server = GrpServer(LOOPBACK, sent.store, USERS, [UNIT[SEQUENCED_UNIT]], self.client.addresses)
        self.client._session.link._addresses = [self.server.address]
        super().__init__(self.client, self.server)

    def ask(self, first: int, count: int, stream: int = STREAM) -> None:
        self.client.request(stream, 0, first, count, self.now_ns)

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture
def rig(sent):
    with closing(Rig(sent)) as made:
        yield made


def framed(first: int, stop: int) -> dict[int, bytes]:
    return {number: message(SEQUENCED_UNIT, body(number)) for number in range(first, stop)}


def joined(address) -> socket.socket:
    peer = socket.create_connection(address, 5)
    peer.settimeout(5)
    return peer


def accepted(listener: socket.socket) -> socket.socket:
    peer, _ = listener.accept()
    peer.settimeout(5)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


def proxied(listener: socket.socket):
    return closing(GrpRecovery(GROUP, LINE, [listener.getsockname()], LOGIN, [LOOPBACK]))


def spinning(listener: socket.socket):
    return closing(SpinRecovery(GROUP, {3: [listener.getsockname()]}, LOGIN))


def told(peer: socket.socket) -> list[object]:
    data, messages = peer.recv(100_000), []
    while data:
        read = pitch_requests.decode(data)
        assert read is not None
        messages += read.messages or ("heartbeat",)
        data = data[read.size :]
    return messages


def test_a_long_gap_comes_in_parts_on_the_gap_line(rig):
    rig.ask(11, 350)
    rig.until(lambda: rig.client.wanted.missing == 0)
    assert numbers_in(SEQUENCED_UNIT, rig.payloads) == framed(11, 361)
    counts = rig.client.counters()
    assert counts["recovery_requests"] == rig.server.counters()["requests"] == 4
    assert counts["recovery_refused"] == counts["recovery_abandoned"] == 0


def test_the_connection_is_kept_by_heartbeats(rig):
    for _ in range(200):
        rig.turn(SECOND_NS // 2)
    assert len(rig.server.peers) == 1
    assert rig.client.counters()["recovery_failures"] == 0
    rig.ask(11, 5)
    rig.until(lambda: rig.client.wanted.missing == 0)


def test_a_lost_connection_is_made_anew_and_the_gap_asked_for_again(rig):
    rig.until(lambda: rig.server.counters().get("logins") == 1, turns=50)
    for peer in list(rig.server.peers):
        rig.server.drop(peer)
    rig.ask(11, 5)
    rig.until(lambda: rig.client.wanted.missing == 0)
    assert rig.client.counters()["recovery_connects"] == 2


def test_a_wrong_password_is_counted(sent):
    with closing(Rig(sent, Login("0001", "FIRM", "wrong"))) as rig:
        rig.until(lambda: rig.client.counters()["recovery_rejected"] == 1, turns=100)
        assert rig.server.counters()["rejected"] == 1


@pytest.mark.parametrize(("first", "stream"), [(2_000, STREAM), (998, STREAM), (5, GROUP << 16 | 9)])
def test_a_refused_gap_is_given_up(rig, first, stream):
    rig.ask(first, 5, stream)
    rig.until(lambda: rig.client.wanted.missing == 0, turns=100)
    counts = rig.client.counters()
    assert (counts["recovery_refused"], counts["recovery_abandoned"], counts["recovery_requests"]) == (1, 5, 1)


def test_a_gap_older_than_what_is_kept_is_out_of_range():
    with closing(Rig(Sent(SEQUENCED_UNIT, 1_000, packets_max=20))) as rig:
        rig.ask(5, 5)
        rig.until(lambda: rig.client.wanted.missing == 0, turns=100)
        assert rig.client.counters()["recovery_abandoned"] == 5


@pytest.mark.parametrize(("status", "waits_ns"), [("S", SECOND_NS), ("M", recovery_pitch.MINUTE_NS)])
def test_a_request_over_a_quota_is_put_off(status, waits_ns):
    with (
        socket.create_server(LOOPBACK) as listener,
        proxied(listener) as client,
    ):
        loop = Loop(client)
        loop.turn()
        peer = accepted(listener)
        with peer:
            peer.sendall(encode(LoginResponse("A")))
            for _ in range(5):
                loop.turn()
            client.request(STREAM, 0, 11, 5, loop.now_ns)
            loop.turn()
            assert told(peer)[-1] == GapRequest(3, 11, 5)
            peer.sendall(encode(GapResponse(3, 11, 5, status)))
            loop.turn()
            began_ns = loop.now_ns
            assert client.counters()["recovery_limited"] == 1
            while client.counters()["recovery_requests"] == 1:
                client.request(STREAM, 0, 11, 5, loop.now_ns)
                peer.sendall(HEARTBEAT)
                loop.turn(50 * MILLISECOND_NS)
            assert waits_ns <= loop.now_ns - began_ns <= waits_ns + 200 * MILLISECOND_NS


def test_the_days_quota_ends_the_whole_gap_and_lies_are_dropped():
    with (
        socket.create_server(LOOPBACK) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        proxied(listener) as client,
    ):
        loop = Loop(client)
        loop.turn()
        peer = accepted(listener)
        with peer:
            peer.sendall(encode(LoginResponse("A")))
            for _ in range(5):
                loop.turn()
            client.request(STREAM, 0, 11, 500, loop.now_ns)
            loop.turn()
            lies = [
                b"",
                b"\0" * 9,
                packet(SEQUENCED_UNIT, 1_000, [b"x"]),
                packet(SEQUENCED_UNIT, 11, [b"x"], unit=4),
                packet(SEQUENCED_UNIT, 11, [b"x"])[:-1],
            ]
            for lie in lies:
                sender.sendto(lie, client.addresses[0])
            peer.sendall(encode(GapResponse(3, 999, 5, "O"), Other(b"\x02\x99"), SpinFinished(4)))
            loop.turn()
            counts = client.counters()
            assert loop.payloads == []
            assert counts["recovery_malformed"] + counts["recovery_unasked"] == len(lies)
            assert counts["recovery_missing"] == 500
            peer.sendall(encode(GapResponse(3, 11, 100, "D")))
            loop.until(lambda: client.wanted.missing == 0, turns=10)
            assert client.counters()["recovery_abandoned"] == 500


def test_a_silent_proxy_costs_the_gap(sent):
    with (
        socket.create_server(LOOPBACK) as listener,
        proxied(listener) as client,
    ):
        loop = Loop(client)
        loop.turn()
        peer = accepted(listener)
        with peer:
            peer.sendall(encode(LoginResponse("A")))
            while not client.wanted.abandoned:
                client.request(STREAM, 0, 11, 5, loop.now_ns)
                peer.sendall(HEARTBEAT)
                loop.turn(10 * MILLISECOND_NS)
            assert client.counters()["recovery_requests"] == LIMITS.tries_max
            for _ in range(60):
                loop.turn(100 * MILLISECOND_NS)
            assert client.counters()["recovery_failures"] == 1  # not even a heartbeat for five seconds


def test_the_proxy_limits_what_one_may_ask(rig):
    with joined(rig.server.address) as peer:
        peer.sendall(encode(LOGIN))
        for _ in range(PER_SECOND + 2):
            peer.sendall(encode(GapRequest(3, 1, 1)))
            rig.server.serve(START_NS)
        peer.sendall(encode(GapRequest(3, 1, 101)))
        for _ in range(10):
            rig.server.serve(START_NS)
        statuses = [said.status for said in told(peer) if isinstance(said, GapResponse)]
    assert statuses == ["A"] * PER_SECOND + ["S", "S", "C"]


def test_the_proxy_drops_who_does_not_log_in_or_is_silent(rig):
    with joined(rig.server.address) as first, joined(rig.server.address) as second, joined(rig.server.address) as third:
        first.sendall(encode(GapRequest(3, 1, 1)))
        second.sendall(bytes(16))
        third.sendall(encode(LOGIN))
        for _ in range(5):
            rig.server.serve(START_NS)
        assert rig.server.counters()["malformed"] == 2
        assert len(rig.server.peers) == 1
        with joined(rig.server.address) as twin:
            twin.sendall(encode(LOGIN))
            for _ in range(5):
                rig.server.serve(START_NS)
            assert told(twin) == [LoginResponse("B")]
        rig.server.serve(START_NS + 6 * SECOND_NS)
        assert rig.server.counters()["silent"] == 1


class Book:
    """An open book of so many orders, after message `number`."""

    def __init__(self, orders: int) -> None:
        self.number = 100
        self.orders = [message(SEQUENCED_UNIT, b"order %d" % i) for i in range(orders)]

    def __call__(self) -> tuple[int, list[bytes]]:
        return self.number, self.orders


class Spins(Loop):
    """A client of spins and the servers of two units, one with a large book."""

    def __init__(self) -> None:
        self.books = {3: Book(50_000), 4: Book(0)}
        self.spinners = [SpinServer(LOOPBACK, book, USERS) for book in self.books.values()]
        servers = {unit: [server.address] for unit, server in zip(self.books, self.spinners, strict=True)}
        super().__init__(SpinRecovery(GROUP, servers, LOGIN), *self.spinners)

    def turn(self, elapsed_ns: int = MILLISECOND_NS) -> list[bytes]:
        self.now_ns += elapsed_ns
        self.client.tick(self.now_ns)
        for server in self.servers:
            server.serve(self.now_ns)
        return []

    def close(self) -> None:
        self.client.close()
        for server in self.spinners:
            server.close()


@pytest.fixture
def spins():
    with closing(Spins()) as made:
        yield made


def next_image(spins):
    ready = []
    spins.until(lambda: ready.extend(spins.client.images()) or ready, turns=3_000)
    return ready


def test_an_image_has_all_orders_and_its_number(spins):
    spins.client.want(STREAM, 90, spins.now_ns)
    (image,) = next_image(spins)
    assert (image.stream, image.number, image.messages) == (STREAM, 100, spins.books[3].orders)
    spins.until(lambda: not spins.spinners[0].peers, turns=50)  # it is not needed any more
    assert spins.client.counters()["spins"] == 1


def test_an_empty_book_is_an_image_too(spins):
    spins.client.want(GROUP << 16 | 4, 100, spins.now_ns)
    (image,) = next_image(spins)
    assert (image.number, image.messages) == (100, [])


def test_an_image_that_is_too_old_is_not_asked_for(spins):
    spins.client.want(STREAM, 101, spins.now_ns)
    for _ in range(1_500):
        spins.turn()
    assert spins.client.images() == []
    assert "requests" not in spins.spinners[0].counters()
    spins.books[3].number = 200
    (image,) = next_image(spins)
    assert image.number == 200


def test_an_image_from_behind_the_last_number_is_newer(spins):
    spins.client.want(STREAM, 2**32 - 10, spins.now_ns)
    (image,) = next_image(spins)
    assert image.number == 100


def test_one_that_is_forgotten_does_not_come_and_a_unit_without_a_server_is_counted(spins):
    spins.client.want(STREAM, 90, spins.now_ns)
    for _ in range(3):
        spins.turn()
    spins.client.forget(STREAM)
    for _ in range(50):
        spins.turn()
    assert spins.client.images() == []
    assert spins.spinners[0].peers == []
    spins.client.want(GROUP << 16 | 9, 90, spins.now_ns)
    spins.client.want(STREAM + (1 << 16), 90, spins.now_ns)
    assert spins.client.counters()["spins_unserved"] == 2


def test_an_image_that_is_broken_off_is_fetched_anew(spins):
    spins.client.want(STREAM, 90, spins.now_ns)
    spins.until(lambda: spins.spinners[0].counters().get("requests") == 1, turns=3_000)
    for peer in list(spins.spinners[0].peers):
        spins.spinners[0].drop(peer)
    (image,) = next_image(spins)
    assert image.messages == spins.books[3].orders
    assert spins.client.counters()["spins_broken"] == 1


def test_a_spin_server_that_refuses_or_stops_is_left_and_asked_again():
    with (
        socket.create_server(LOOPBACK) as listener,
        spinning(listener) as client,
    ):
        now_ns = START_NS

        def turns(count: int, elapsed_ns: int = MILLISECOND_NS) -> None:
            nonlocal now_ns
            for _ in range(count):
                now_ns += elapsed_ns
                client.tick(now_ns)

        client.want(STREAM, 90, now_ns)
        turns(1)
        peer = accepted(listener)
        with peer:
            peer.sendall(encode(SpinAvailable(95)))  # before the log-in: not yet
            turns(5)
            peer.sendall(encode(LoginResponse("A"), Other(b"\x03\x20x"), SpinFinished(95), SpinAvailable(95)))
            turns(5)
            assert told(peer) == [LOGIN, SpinRequest(95)]
            peer.sendall(encode(SpinResponse(95, 0, "O")))
            turns(5)
            assert client.counters()["spins_refused"] == 1
            peer.sendall(encode(SpinAvailable(96)))
            turns(5)
            assert told(peer) == [SpinRequest(96)]
            peer.sendall(encode(SpinResponse(96, 2, "A"), Other(b"\x03\x20y")))
            for _ in range(101):
                peer.send(HEARTBEAT)
                turns(1, 100 * MILLISECOND_NS)
            assert client.counters()["spins_broken"] == 1
        assert client.images() == []


def test_the_spin_server_refuses_what_it_has_not_offered_and_two_at_once(spins):
    server = spins.spinners[0]
    with joined(server.address) as peer:
        peer.sendall(encode(LOGIN))
        for _ in range(3):
            server.serve(START_NS)
        peer.sendall(encode(SpinRequest(99), GapRequest(3, 1, 1)))
        peer.sendall(encode(SpinRequest(100)) + encode(SpinRequest(100)))
        server.serve(START_NS)
        server.serve(START_NS)
        said = [one for one in told(peer) if isinstance(one, SpinAvailable | SpinResponse)]
        assert said[:4] == [
            SpinAvailable(100),
            SpinResponse(99, 0, "O"),
            SpinResponse(100, 50_000, "A"),
            SpinResponse(100, 0, "S"),
        ]
        assert server.counters()["unknown"] == 1
