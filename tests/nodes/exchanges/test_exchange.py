"""The loop of an exchange: what leaves at which tick, and what it reports."""

import numpy as np
import pytest

from fabric.clock import ManualClock
from nodes.exchanges.exchange import HEARTBEAT_NS, Exchange, run
from nodes.exchanges.market import SPIN_NS, Market
from nodes.exchanges.pacing import CATCH_UP_NS, TICK_NS, Pacer

SECOND = 1_000_000_000


class Recorder:
    """An encoder and a sender in one: keeps what it was given; 30 events are a packet."""

    packets = np.zeros((1, 1), np.uint8)
    lengths = np.zeros(1, np.int64)
    refused = 0

    def __init__(self) -> None:
        self.events: list[np.ndarray] = []
        self.sent_ns: list[int] = []
        self.sent = 0

    def encode(self, events: np.ndarray, send_ns: int) -> int:
        self.events.append(events.copy())
        self.sent_ns.append(send_ns)
        return events.size // 30 + 1

    def send(self, count: int) -> None:
        self.sent += count


@pytest.fixture
def recorder():
    return Recorder()


def exchange(clock: ManualClock, recorder: Recorder, rate: float) -> tuple[Exchange, Pacer]:
    pacer = Pacer(clock, lambda seconds: clock.advance(round(seconds * 1e9)))
    market = Market(10, 1, pacer.start_ns, rate=rate)
    return Exchange(market, recorder, recorder, pacer), pacer


def test_each_tick_sends_what_has_become_due(clock, recorder):
    running, pacer = exchange(clock, recorder, rate=50_000.0)
    while pacer.now_ns() < pacer.start_ns + 2 * SECOND:
        running.tick(pacer.wait())
    for events, sent_ns in zip(recorder.events, recorder.sent_ns, strict=True):
        assert sent_ns - TICK_NS <= events["event_ns"][0] <= events["event_ns"][-1] <= sent_ns
    counters = running.counters()
    assert counters["messages"] == sum(events.size for events in recorder.events)
    assert counters["packets"] == recorder.sent
    assert counters["skipped"] == counters["refused"] == 0
    assert 0.9 < counters["late_ms_p99"] <= counters["late_ms_max"] <= 1.0


def test_silence_makes_one_heartbeat_a_second(clock, recorder):
    running, pacer = exchange(clock, recorder, rate=0.0)
    while pacer.now_ns() < pacer.start_ns + SPIN_NS + 5 * SECOND:
        running.tick(pacer.wait())
    beats = [ns for events, ns in zip(recorder.events, recorder.sent_ns, strict=True) if events.size == 0]
    assert len(beats) in {4, 5}
    assert set(np.diff(beats)) == {HEARTBEAT_NS}


def test_a_pause_is_caught_up_by_twenty_milliseconds_and_the_rest_is_counted(clock, recorder):
    running, pacer = exchange(clock, recorder, rate=50_000.0)
    while pacer.now_ns() < pacer.start_ns + SECOND:
        running.tick(pacer.wait())
    running.counters()
    recorder.events.clear()
    clock.advance(5 * SECOND)
    now_ns = pacer.wait()
    running.tick(now_ns)
    sent = np.concatenate(recorder.events)
    assert now_ns - CATCH_UP_NS <= sent["event_ns"][0]
    assert sent.size == pytest.approx(1_000, rel=0.2)
    counters = running.counters()
    assert counters["skipped"] == pytest.approx(249_000, rel=0.01)
    assert 19 < counters["late_ms_max"] <= 20


def test_a_hiccup_within_the_bound_loses_nothing(clock, recorder):
    running, pacer = exchange(clock, recorder, rate=50_000.0)
    while pacer.now_ns() < pacer.start_ns + SECOND:
        running.tick(pacer.wait())
    before = running.messages
    clock.advance(15_000_000)
    running.tick(pacer.wait())
    assert running.skipped == 0
    assert running.messages - before == pytest.approx(750, rel=0.2)


class Told:
    """A runtime that stops after three reports."""

    def __init__(self) -> None:
        self.reports: list[dict[str, int | float | str]] = []

    def stopping(self) -> bool:
        return len(self.reports) == 3

    def report(self, counters: dict[str, int | float | str]) -> None:
        self.reports.append(counters)


def test_it_reports_each_second_until_told_to_stop(clock, recorder):
    running, pacer = exchange(clock, recorder, rate=20_000.0)
    told = Told()
    run(running, pacer, told)
    assert clock.now_ns() - pacer.start_ns == 3 * SECOND
    assert [report["rate"] for report in told.reports[1:]] == pytest.approx([20_000, 20_000], rel=0.05)
    assert set(told.reports[0]) == {"rate", "messages", "packets", "skipped", "refused", "late_ms_max", "late_ms_p99"}
