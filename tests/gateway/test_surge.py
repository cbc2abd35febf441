"""A surge begins with a second in which most clients were late, and ends after ten calm ones; turns decide nothing."""

import pytest

from fabric.clock import MILLISECOND_NS, SECOND_NS
from gateway.surge import Surge

TURN_NS = 10 * MILLISECOND_NS
Turn = tuple[int, int, int]  # clients served, late, restless

IN_TIME: Turn = (100, 0, 0)
LATE: Turn = (100, 100, 100)
RESTLESS: Turn = (100, 0, 100)


class Clocked:
    """A surge whose turns come each 10 ms."""

    def __init__(self) -> None:
        self.surge = Surge()
        self.now_ns = 0
        self.surge.changed(0, 0, 0, 0)

    def turns(self, *turns: Turn, seconds: float, turn_ns: int = TURN_NS) -> float | None:
        """These turns, over and over; after how many seconds something changed."""
        began_ns = self.now_ns
        for turn in range(round(seconds * SECOND_NS / turn_ns)):
            self.now_ns += turn_ns
            if self.surge.changed(*turns[turn % len(turns)], self.now_ns):
                return (self.now_ns - began_ns) / SECOND_NS
        return None


@pytest.fixture
def clocked() -> Clocked:
    return Clocked()


@pytest.fixture
def surging(clocked: Clocked) -> Clocked:
    assert clocked.turns(LATE, seconds=3) is not None
    return clocked


def test_it_begins_after_a_late_second_and_ends_after_ten_calm_ones(clocked: Clocked) -> None:
    assert clocked.turns(LATE, seconds=30) == pytest.approx(1.0, abs=0.02)
    assert clocked.surge.on
    assert clocked.turns(IN_TIME, seconds=30) == pytest.approx(10.0, abs=0.02)
    assert not clocked.surge.on
    assert clocked.surge.begun == 1


def test_what_is_not_late_enough_begins_nothing(clocked: Clocked) -> None:
    assert clocked.turns(RESTLESS, seconds=60) is None


def test_clients_count_and_not_turns(clocked: Clocked) -> None:
    """Turns that are late with few clients are outweighed by one that serves many in time, and the other way round."""
    assert clocked.turns((1, 1, 1), (1, 1, 1), (1, 1, 1), (10, 0, 0), seconds=60) is None
    assert clocked.turns((10, 10, 10), (1, 0, 0), (1, 0, 0), (1, 0, 0), seconds=60) == pytest.approx(1.0, abs=0.05)


def test_turns_that_serve_nobody_decide_nothing(clocked: Clocked) -> None:
    """Handshakes, or slices of a round in which nobody is due: as many as there may be."""
    assert clocked.turns((0, 0, 0), (0, 0, 0), (0, 0, 0), IN_TIME, seconds=60) is None
    assert clocked.turns((0, 0, 0), (0, 0, 0), (0, 0, 0), LATE, seconds=60) == pytest.approx(1.0, abs=0.05)


def test_a_pause_is_no_late_second(clocked: Clocked) -> None:
    """The machine stood still: everyone is late once, however long it was."""
    for pause_ns in (SECOND_NS // 2, SECOND_NS, 20 * SECOND_NS):
        assert clocked.turns(IN_TIME, seconds=3) is None
        clocked.now_ns += pause_ns
        assert not clocked.surge.changed(1_000, 1_000, 1_000, clocked.now_ns)
        assert clocked.turns(IN_TIME, seconds=3) is None


def test_turns_that_are_always_long_are_late_seconds(clocked: Clocked) -> None:
    assert clocked.turns(LATE, seconds=30, turn_ns=SECOND_NS) == pytest.approx(4.0)


def test_what_is_not_calm_enough_ends_nothing(surging: Clocked) -> None:
    assert surging.turns((100, 0, 51), seconds=60) is None


def test_a_minority_that_is_not_served_calmly_prolongs_nothing(surging: Clocked) -> None:
    assert surging.turns((100, 40, 50), seconds=60) == pytest.approx(10.0, abs=0.1)


def test_nobody_there_is_calm(surging: Clocked) -> None:
    assert surging.turns((0, 0, 0), seconds=60) == pytest.approx(10.0, abs=0.1)


def test_a_restless_second_begins_the_count_of_calm_ones_anew(surging: Clocked) -> None:
    assert surging.turns(IN_TIME, seconds=9) is None
    assert surging.turns(RESTLESS, seconds=1.5) is None
    assert surging.turns(IN_TIME, seconds=9) is None
    assert surging.turns(IN_TIME, seconds=5) is not None
