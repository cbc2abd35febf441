"""Pacing under a clock that moves when told to."""

import pytest

from fabric.clock import ManualClock
from nodes.exchanges.pacing import TICK_NS, Pacer

MS = 1_000_000


class Sleeper:
    """Sleeps by moving the clock, and oversleeps when told to."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.slept: list[int] = []
        self.oversleep_ns = 0

    def __call__(self, seconds: float) -> None:
        self.slept.append(round(seconds * 1e9))
        self.clock.advance(self.slept[-1] + self.oversleep_ns)


@pytest.fixture
def sleeper(clock):
    return Sleeper(clock)


def test_ticks_do_not_drift_when_sleeps_take_too_long(clock, sleeper):
    pacer = Pacer(clock, sleeper)
    sleeper.oversleep_ns = 100_000
    times = [pacer.wait() - pacer.start_ns for _ in range(3)]
    assert times == [k * TICK_NS + 100_000 for k in (1, 2, 3)]
    assert sleeper.slept == [TICK_NS, TICK_NS - 100_000, TICK_NS - 100_000]


def test_work_between_ticks_shortens_the_sleep(clock, sleeper):
    pacer = Pacer(clock, sleeper)
    clock.advance(300_000)
    assert pacer.wait() == pacer.start_ns + TICK_NS
    assert sleeper.slept == [TICK_NS - 300_000]


def test_missed_ticks_are_one_and_the_others_stay_where_they_were(clock, sleeper):
    pacer = Pacer(clock, sleeper)
    clock.advance(50 * MS + 250_000)
    assert pacer.wait() == pacer.start_ns + 50 * MS + 250_000
    assert sleeper.slept == []
    assert pacer.wait() == pacer.start_ns + 52 * MS


@pytest.mark.parametrize("step_ns", [-3_600_000 * MS, 3_600_000 * MS])
def test_the_exchange_s_time_does_not_jump_with_the_wall_clock(clock, sleeper, step_ns):
    pacer = Pacer(clock, sleeper)
    assert pacer.start_ns == clock.now_ns()
    pacer.wait()
    clock.step(step_ns)
    assert pacer.wait() == pacer.start_ns + 2 * TICK_NS


def test_lateness_is_kept_until_it_is_reported(clock, sleeper):
    pacer = Pacer(clock, sleeper)
    assert pacer.late_ms() == (0.0, 0.0)
    for late in range(1, 101):
        pacer.sent(pacer.now_ns() - late * MS)
    largest, p99 = pacer.late_ms()
    assert largest == 100.0
    assert p99 == pytest.approx(99.0, abs=0.1)
    assert pacer.late_ms() == (0.0, 0.0)


def test_more_ticks_than_are_kept_count_the_latest(clock, sleeper):
    pacer = Pacer(clock, sleeper)
    pacer.sent(pacer.now_ns() - 99 * MS)
    for _ in range(5_000):
        pacer.sent(pacer.now_ns() - MS)
    assert pacer.late_ms() == (1.0, 1.0)
