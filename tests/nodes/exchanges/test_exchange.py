"""The loop of an exchange: what leaves at which tick, what it gives up, and what it reports."""

import socket
from collections.abc import Callable

import numpy as np
import pytest

from exchange_rig import Listened
from fabric.clock import ManualClock
from fabric.topology import ExchangeSettings, FaultSettings
from naive_market import Line
from nodes.exchanges import iex
from nodes.exchanges.exchange import AHEAD_NS, HEARTBEAT_NS, Exchange, session_id, surges
from nodes.exchanges.iex import TopsEncoder
from nodes.exchanges.market import SPIN_NS, Market, tickers
from nodes.exchanges.pacing import CATCH_UP_NS, TICK_NS, Pacer

SECOND = 1_000_000_000


class Recorder:
    """A sender that keeps what leaves, and when."""

    holding = False

    def __init__(self, encoder: TopsEncoder) -> None:
        self.encoder = encoder
        self.line = Line()
        self.sent_ns: list[int] = []  # of each message
        self.stamps: list[int] = []
        self.beats: list[int] = []
        self.packets, self.sessions = 0, 1

    def send(self, first: int, stop: int, now_ns: int) -> None:
        for i in range(first, stop):
            packet = self.encoder.packets[i, : self.encoder.lengths[i]].tobytes()
            session = int.from_bytes(packet[8:12], "little")
            if self.line.session not in {None, session}:
                self.line, self.sessions = Line(), self.sessions + 1
            messages = self.line.read(packet)
            self.stamps += [message.ts_ns for message in messages]
            self.sent_ns += [now_ns] * len(messages)
            if not messages:
                self.beats.append(now_ns)
        self.packets += stop - first

    def counters(self) -> dict[str, int]:
        return {"refused": 0}


class Rig:
    """An exchange under a clock that moves as the exchange sleeps."""

    def __init__(
        self, clock: ManualClock, rate: float, restart_ns: int = 0, rate_at: Callable[[int], float] | None = None
    ) -> None:
        self.clock = clock
        self.pacer = Pacer(clock, lambda seconds: clock.advance(round(seconds * 1e9)))
        self.encoder = TopsEncoder(tickers(10), 7, grid_ns=self.pacer.start_ns, tick_ns=TICK_NS)
        self.sender = Recorder(self.encoder)
        self.exchange = Exchange(
            lambda start_ns: Market(10, 1, start_ns, rate=rate), self.encoder, self.sender, self.pacer, restart_ns,
            rate_at=rate_at,
        )  # fmt: skip

    def run(self, seconds: float) -> None:
        while self.pacer.now_ns() < self.pacer.start_ns + seconds * SECOND:
            self.exchange.tick(self.pacer.wait())


def test_each_tick_sends_what_has_become_due(clock):
    rig = Rig(clock, 50_000.0)
    rig.run(3)
    late_ns = np.array(rig.sender.sent_ns) - np.array(rig.sender.stamps)
    assert late_ns.min() > 0
    assert late_ns.max() <= TICK_NS
    counters = rig.exchange.counters()
    assert 0 <= counters["messages"] - len(rig.sender.stamps) < 50_000 * AHEAD_NS / SECOND * 1.5
    assert counters["packets"] == rig.sender.packets
    assert counters["skipped"] == counters["refused"] == counters["late_ms_max"] == 0


def test_a_surge_begins_and_ends(clock):
    settings = ExchangeSettings("", (), surge=3.0, surge_after_ns=3 * SECOND, surge_for_ns=2 * SECOND)
    rig = Rig(clock, 2_000.0, rate_at=lambda at_ns: 2_000.0 * (3.0 if surges(settings, at_ns) else 1.0))
    rig.run(7)
    stamps = np.array(rig.sender.stamps) - rig.pacer.start_ns
    by_second = np.bincount(stamps // SECOND, minlength=7)[2:7]
    assert by_second / 2_000 == pytest.approx([1, 3, 3, 1, 1], abs=0.4)


def test_what_was_silent_goes_on_without_what_it_did_not_say(clock):
    rig = Rig(clock, 2_000.0, rate_at=lambda at_ns: 0.0 if 2 * SECOND <= at_ns < 5 * SECOND else 2_000.0)
    rig.run(6)
    stamps = np.array(rig.sender.stamps) - rig.pacer.start_ns
    by_second = np.bincount(stamps // SECOND, minlength=6)
    assert by_second[2] <= 2_000 * AHEAD_NS / SECOND * 2, "what had been made in advance"
    assert by_second[3:5].tolist() == [0, 0]
    assert by_second[5] == pytest.approx(2_000, rel=0.2)


@pytest.mark.parametrize(
    ("after_s", "for_s", "surging"), [(0, 0, [True] * 3), (2, 0, [False, True, True]), (0, 2, [True, False, False])]
)
def test_without_an_end_a_surge_stays(after_s, for_s, surging):
    settings = ExchangeSettings("", (), surge_after_ns=after_s * SECOND, surge_for_ns=for_s * SECOND)
    assert [surges(settings, second * SECOND) for second in (0, 2, 1_000)] == surging


def test_silence_makes_one_heartbeat_a_second(clock):
    rig = Rig(clock, 0.0)
    rig.run(SPIN_NS / SECOND + 5)
    assert len(rig.sender.beats) in {4, 5}
    assert set(np.diff(rig.sender.beats)) == {HEARTBEAT_NS}


def test_a_pause_is_caught_up_by_twenty_milliseconds_and_the_rest_is_counted(clock):
    rig = Rig(clock, 50_000.0)
    rig.run(2)
    rig.exchange.counters()
    before = len(rig.sender.stamps)
    clock.advance(5 * SECOND)
    now_ns = rig.pacer.wait()
    rig.exchange.tick(now_ns)
    stamps = np.array(rig.sender.stamps[before:])
    made_before = stamps[stamps < now_ns - CATCH_UP_NS]
    assert made_before.size < 50_000 * AHEAD_NS / SECOND * 1.5
    assert stamps.size - made_before.size == pytest.approx(1_000, rel=0.2)
    counters = rig.exchange.counters()
    assert counters["skipped"] == pytest.approx(249_000, rel=0.01)
    assert 4_990 < counters["late_ms_max"] < 5_000


def test_a_hiccup_within_the_bound_loses_nothing(clock):
    rig = Rig(clock, 50_000.0)
    rig.run(2)
    before = len(rig.sender.stamps)
    clock.advance(15_000_000)
    rig.exchange.tick(rig.pacer.wait())
    assert rig.exchange.skipped == 0
    assert len(rig.sender.stamps) - before == pytest.approx(750, rel=0.2)


def test_the_opening_begins_when_it_is_told_to(clock):
    rig = Rig(clock, 50_000.0)
    clock.advance(3 * SECOND)
    rig.exchange.begin(rig.pacer.now_ns())
    rig.run(3 + SPIN_NS / SECOND / 2)
    assert rig.sender.stamps[0] == rig.pacer.start_ns + 3 * SECOND
    assert rig.exchange.skipped == 0


def test_more_than_the_buffer_holds_leaves_early_but_whole(clock):
    rig = Rig(clock, 5_000_000.0)
    rig.run(SPIN_NS / SECOND + 0.03)
    assert rig.sender.line.sequence == len(rig.sender.stamps) + 1
    assert len(rig.sender.stamps) > 100_000


def test_a_restart_begins_a_new_session_with_the_opening(clock):
    rig = Rig(clock, 5_000.0, restart_ns=3 * SECOND)
    rig.run(2.99)
    assert (rig.sender.sessions, rig.exchange.restarts) == (1, 0)
    before = len(rig.sender.stamps)
    rig.run(4.5)
    assert (rig.sender.sessions, rig.exchange.restarts) == (2, 1)
    told = len(rig.sender.stamps) - before
    assert rig.sender.line.sequence - 1 == pytest.approx(told, abs=100)
    assert rig.sender.line.session == rig.encoder.session
    assert rig.exchange.messages == pytest.approx(len(rig.sender.stamps), abs=100)


def test_sessions_differ_between_starts_and_seeds():
    start_ns = 1_767_366_000_000_000_000
    sessions = {session_id(seed, start_ns + k) for seed in range(10) for k in range(100)}
    assert len(sessions) == 1_000
    assert all(0 < session < 2**31 for session in sessions)


def test_the_program_reports_each_second_with_the_rate_of_that_second():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.bind(("127.0.0.1", 0))
        settings = ExchangeSettings("iex-tops-1.6", (line.getsockname(),), symbols=10, rate=5_000, halts=0.0)
        runtime = Listened(settings, reports_max=3)
        iex.main(runtime)
    assert runtime.detail == "10 symbols, 5,000 messages/s to 1 lines"
    last = runtime.reports[2]
    assert last["rate"] == pytest.approx(5_000 - last["skipped"], rel=0.3)  # a busy machine makes it skip
    assert last["refused"] == 0
    keys = {"rate", "messages", "packets", "skipped", "restarts", "refused", "late_ms_max", "late_ms_p99"}
    assert set(runtime.reports[0]) == keys


def test_the_program_has_the_faults_of_its_settings():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as a, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as b:
        for line in (a, b):
            line.bind(("127.0.0.1", 0))
            line.setblocking(False)
        runtime = Listened(
            ExchangeSettings(
                "iex-tops-1.6",
                (a.getsockname(), b.getsockname()),
                symbols=10,
                rate=5_000,
                roles="AB",
                faults=FaultSettings(lines="B", mute=True, skew_ns=-3_600 * SECOND),
            ),
            reports_max=2,
        )
        iex.main(runtime)
        packet = a.recv(2_000)
        with pytest.raises(BlockingIOError):
            b.recv(2_000)
    assert runtime.reports[1]["muted"] > 100
    assert runtime.clock.now_ns() - int.from_bytes(packet[32:40], "little") > 3_600 * SECOND
