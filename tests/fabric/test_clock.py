import time

from fabric.clock import SECOND_NS, EventClock, ManualClock, SystemClock, next_beat, utc_text


def test_the_system_clock_is_the_machines() -> None:
    clock = SystemClock()
    before = time.time_ns(), time.monotonic_ns()
    read = clock.now_ns(), clock.monotonic_ns()
    after = time.time_ns(), time.monotonic_ns()
    assert before[0] <= read[0] <= after[0]
    assert before[1] <= read[1] <= after[1]


def test_a_manual_clock_stands_still_until_told_to_move() -> None:
    clock = ManualClock(now_ns=1_000)
    assert (clock.now_ns(), clock.monotonic_ns()) == (1_000, 0)
    clock.advance(SECOND_NS)
    assert (clock.now_ns(), clock.monotonic_ns()) == (1_000 + SECOND_NS, SECOND_NS)


def test_a_step_of_the_wall_clock_moves_no_timer() -> None:
    clock = ManualClock(now_ns=10 * SECOND_NS)
    clock.step(-5 * SECOND_NS)
    assert (clock.now_ns(), clock.monotonic_ns()) == (5 * SECOND_NS, 0)


def test_event_time_never_goes_back() -> None:
    clock = EventClock()
    assert clock.now_ns() == 0
    clock.saw(7)
    clock.saw(3)
    assert clock.now_ns() == 7
    clock.saw(8)
    assert clock.now_ns() == 8


def test_timers_of_a_replay_are_real() -> None:
    before = time.monotonic_ns()
    assert before <= EventClock().monotonic_ns() <= time.monotonic_ns()


def test_beats_are_multiples_whatever_the_turn_before_took() -> None:
    assert [next_beat(now_ns, 10) for now_ns in (0, 1, 9, 10, 25)] == [10, 10, 10, 20, 30]


def test_log_lines_begin_with_the_time_in_utc() -> None:
    assert utc_text(1_700_000_000.25) == "2023-11-14T22:13:20.250Z"
