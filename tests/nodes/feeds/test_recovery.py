"""What to ask for and when; answers that nobody asked for; connections that fail."""

import random
import select
import socket
from contextlib import closing

import numpy as np
import pytest

from fabric.clock import MILLISECOND_NS, SECOND_NS
from naive_recovery import HEADER_BYTES, TRANSPORTS, UNIT, packet, parse
from nodes.feeds import recovery_kernel
from nodes.feeds.recovery import NOTHING, REFRESH_EVERY_NS, RETRY_NS, Answers, Limits, Link, Recoveries, Wanted
from nodes.feeds.recovery_kernel import MALFORMED, MOLDUDP64, NO_MESSAGES
from recovery_rig import body, payloads_of

LIMITS = Limits(count_max=10, per_second=100)
T0 = 10 * SECOND_NS


def spans(ranges) -> list[tuple[int, int]]:
    return [(wanted.first, wanted.asked_stop) for wanted in ranges]


def test_a_range_is_asked_for_in_parts_each_when_the_former_has_come():
    wanted = Wanted(LIMITS)
    assert wanted.add(1, 5, 100, 25, T0)
    assert spans(wanted.due(T0)) == [(100, 110)]
    assert spans(wanted.due(T0 + 1)) == []
    assert wanted.got(1, 5, 98, 7, T0 + 2)  # 98 and 99 nobody asked for
    assert spans(wanted.due(T0 + 3)) == []
    assert wanted.got(1, 5, 105, 5, T0 + 4)
    assert spans(wanted.due(T0 + 5)) == [(110, 120)]
    assert wanted.got(1, 5, 110, 15, T0 + 6)
    assert (len(wanted), wanted.recovered, wanted.requests, wanted.repeats) == (0, 25, 2, 0)


def test_what_is_missing_in_the_middle_of_an_answer_is_asked_for_again():
    wanted = Wanted(LIMITS)
    wanted.add(1, 5, 1, 9, T0)
    assert spans(wanted.due(T0)) == [(1, 10)]
    wanted.got(1, 5, 4, 3, T0)
    assert wanted.missing == 6
    assert spans(wanted.due(T0 + SECOND_NS)) == [(1, 4), (7, 10)]
    assert wanted.repeats == 0  # something came of the first request


def test_nothing_is_asked_for_twice_and_what_nobody_misses_any_more_is_forgotten():
    wanted = Wanted(LIMITS)
    wanted.add(1, 5, 10, 5, T0)
    wanted.add(1, 5, 8, 10, T0)
    assert spans(wanted.due(T0)) == [(10, 15), (8, 10), (15, 18)]
    late = T0 + LIMITS.forget_ns + 1
    wanted.add(1, 5, 10, 2, late)
    assert spans(wanted.due(late)) == [(10, 15)]


def test_an_answer_is_waited_for_longer_each_time_and_not_for_ever():
    wanted = Wanted(Limits(count_max=10, per_second=100, tries_max=3))
    now_ns, asked = T0, []
    while wanted.abandoned == 0:
        wanted.add(1, 5, 10, 5, now_ns)
        asked += [now_ns for _ in wanted.due(now_ns)]
        now_ns += MILLISECOND_NS
    assert [(at - T0) // MILLISECOND_NS for at in asked] == [0, 100, 300]
    assert (wanted.abandoned, len(wanted)) == (5, 0)
    wanted.add(1, 5, 8, 10, now_ns)  # what could not be had is not asked for at once again
    assert spans(wanted.due(now_ns)) == [(8, 10), (15, 18)]
    wanted.add(1, 5, 10, 5, now_ns + LIMITS.refused_ns + MILLISECOND_NS)
    assert (10, 15) in spans(wanted.due(now_ns + LIMITS.refused_ns + MILLISECOND_NS))


def test_ranges_requests_and_their_rate_are_bounded():
    wanted = Wanted(Limits(count_max=10, per_second=5, flight_max=3, ranges_max=8))
    assert all(wanted.add(1, 5, 10 * i, 1, T0) for i in range(8))
    assert not wanted.add(1, 5, 1_000, 7, T0)
    assert wanted.overflow == 7
    assert len(spans(wanted.due(T0))) == 3
    for i in range(3):
        wanted.got(1, 5, 10 * i, 1, T0)
    assert len(spans(wanted.due(T0 + 1))) == 2  # the fourth and fifth of this second
    assert len(spans(wanted.due(T0 + 2))) == 0


def test_ranges_of_other_streams_and_sessions_are_kept_apart():
    wanted = Wanted(LIMITS)
    wanted.add(1, 5, 10, 5, T0)
    assert not wanted.got(2, 5, 10, 5, T0)
    assert not wanted.got(1, 6, 10, 5, T0)
    assert wanted.got(1, recovery_kernel.ANY_SESSION, 10, 5, T0)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_answer_is_held_against_what_was_asked(transport):
    unit = UNIT[transport]
    wanted = Wanted(LIMITS)
    answers = Answers(transport, wanted, line=2)
    good = packet(transport, 10, [b"ten", b"eleven"])
    session = int(recovery_kernel.numbers(np.frombuffer(good, np.uint8), 0, len(good), transport)[0])
    wanted.add(3 << 16 | unit, session, 10, 3, T0)
    assert not answers.offer(good[:-1], 3, T0)
    assert not answers.offer(b"", 3, T0)
    assert not answers.offer(packet(transport, 10, []), 3, T0)
    assert not answers.offer(packet(transport, 20, [b"x"]), 3, T0)
    assert not answers.offer(good, 4, T0)
    assert answers.offer(good, 3, T0)
    assert answers.offer(packet(transport, 12, [b"twelve"]), 3, T0)
    assert not answers.offer(good, 3, T0)
    assert (answers.malformed, answers.unasked, answers.packets) == (2, 4, 2)
    assert payloads_of(answers.take(T0)) == [good, packet(transport, 12, [b"twelve"])]
    assert answers.take(T0).offsets.size == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_numbers_of_random_bytes_as_plain_python_reads_them(transport):
    seed = random.randrange(1 << 32)
    random_ = random.Random(seed)
    for i in range(2_000):
        data = bytearray(packet(transport, random_.randrange(1, 1 << 31), [body(n) for n in range(i % 5)]))
        for _ in range(random_.randrange(3)):
            data[random_.randrange(len(data))] = random_.randrange(256)
        del data[len(data) - random_.randrange(3) :]
        array = np.frombuffer(bytes(data), np.uint8)
        parsed = parse(transport, bytes(data))
        _, unit, first, count = map(int, recovery_kernel.numbers(array, 0, len(data), transport))
        if i < 50:
            same = recovery_kernel.numbers.py_func(array, 0, len(data), transport)
            assert tuple(map(int, same))[1:] == (unit, first, count), f"seed {seed}"
        if parsed is None:
            assert count in (MALFORMED, NO_MESSAGES), f"seed {seed}"
        else:
            assert (unit, count) == (parsed.unit, len(parsed.messages)), f"seed {seed}"
            assert first % (1 << 64) == parsed.first % (1 << 64), f"seed {seed}"


def test_headers_are_as_long_as_the_specifications_say():
    for transport in TRANSPORTS:
        empty = np.zeros(64, np.uint8)
        size = HEADER_BYTES[transport]
        assert recovery_kernel.numbers(empty, 0, size, transport)[3] == NO_MESSAGES
        assert recovery_kernel.numbers(empty, 0, size - 1, transport)[3] == MALFORMED


class Refreshed:
    """A client that notes which refreshes it is asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def refresh(self, index: int) -> bool:
        self.asked.append(index)
        return True

    def tick(self, monotonic_ns: int) -> None:
        pass

    def packets(self, now_ns: int):
        return NOTHING


class Losing:
    """A wire that misses nothing, and whose books of some symbols are unknown."""

    def __init__(self, lost: list[tuple[int, int]]) -> None:
        self._lost = lost

    def missing(self, monotonic_ns: int) -> tuple[()]:
        return ()

    def lost(self) -> list[tuple[int, int]]:
        return self._lost


def test_unknown_symbols_are_refreshed_one_by_one_or_all_at_once_when_they_are_many():
    few, many = Refreshed(), Refreshed()
    recoveries = Recoveries({0: few, 1: many})
    wire = Losing([(0, 7), (0, 9), *((1 << 16, index) for index in range(1, 200)), (2 << 16, 5)])
    for now_ns in (T0, T0 + 1, T0 + REFRESH_EVERY_NS):
        assert list(recoveries.turn(wire, 0, now_ns)) == []
    assert few.asked == [7, 9] * 2
    assert many.asked == [0] * 2


@pytest.fixture
def epoll():
    with closing(select.epoll()) as made:
        yield made


def test_a_link_connects_speaks_and_comes_back_after_a_loss(epoll):
    with socket.create_server(("127.0.0.1", 0)) as listener, closing(Link([listener.getsockname()], epoll)) as link:
        now_ns = T0
        assert not link.tick(now_ns)
        assert epoll.poll(5)
        assert link.tick(now_ns)
        assert link.up
        peer, _ = listener.accept()
        with peer:
            link.send(b"hello", now_ns)
            assert peer.recv(5) == b"hello"
            peer.sendall(b"welcome")
            assert epoll.poll(5)
            assert link.receive(now_ns)
            assert link.input == b"welcome"
        assert epoll.poll(5)
        assert not link.receive(now_ns)
        assert not link.up
        assert (link.connects, link.failures) == (1, 1)
        link.tick(now_ns + RETRY_NS - 1)
        assert not epoll.poll(0)
        link.tick(now_ns + RETRY_NS)
        assert epoll.poll(5)
        assert link.tick(now_ns + RETRY_NS)


def test_a_link_that_is_refused_waits_longer_each_time_and_tries_the_next_address(epoll):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there
        with closing(Link([closed.getsockname(), listener.getsockname()], epoll)) as link:
            link.tick(T0)
            epoll.poll(5)
            link.tick(T0)
            assert link.failures == 1
            assert not link.tick(T0 + RETRY_NS)
            assert epoll.poll(5)
            assert link.tick(T0 + RETRY_NS)


def test_a_peer_that_does_not_read_or_sends_without_end_is_dropped(epoll):
    with socket.create_server(("127.0.0.1", 0)) as listener, closing(Link([listener.getsockname()], epoll)) as link:
        link.tick(T0)
        epoll.poll(5)
        link.tick(T0)
        peer, _ = listener.accept()
        with peer:
            for _ in range(1_000):
                link.send(b"x" * 60_000, T0)
            assert not link.up
        link.tick(T0 + RETRY_NS)
        epoll.poll(5)
        link.tick(T0 + RETRY_NS)
        peer, _ = listener.accept()
        with peer:
            peer.setblocking(False)
            for _ in range(1_000):
                with_room = select.select([], [peer], [], 0)[1]
                if with_room:
                    try:
                        peer.send(b"x" * 60_000)
                    except OSError:
                        break
                link.receive(T0)
                if not link.up:
                    break
            assert not link.up
            assert link.failures == 2


def test_a_session_in_text_is_the_number_that_a_packet_has():
    from nodes.feeds.recovery import text_session

    data = np.frombuffer(packet(MOLDUDP64, 1, [b"x"], session=b"ABC       "), np.uint8)
    assert text_session(b"ABC") == recovery_kernel.numbers(data, 0, data.size, MOLDUDP64)[0]
