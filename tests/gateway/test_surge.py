"""A surge begins with a late second and ends after ten calm ones; single turns decide nothing."""

import pytest

from fabric.clock import MILLISECOND_NS, SECOND_NS
from gateway.surge import CALM_NS, LATE_NS, Surge

TURN_NS = 10 * MILLISECOND_NS


class Clocked:
    """A surge whose turns come each 10 ms."""

    def __init__(self) -> None:
        self.surge = Surge()
        self.now_ns = 0

    def turns(self, *late_ns: int, seconds: float) -> float | None:
        """Turns with these latenesses, over and over; after how many seconds something changed."""
        began_ns = self.now_ns
        for turn in range(round(seconds * SECOND_NS / TURN_NS)):
            self.now_ns += TURN_NS
            if self.surge.changed(late_ns[turn % len(late_ns)], self.now_ns):
                return (self.now_ns - began_ns) / SECOND_NS
        return None


@pytest.fixture
def clocked() -> Clocked:
    return Clocked()


@pytest.fixture
def surging(clocked: Clocked) -> Clocked:
    assert clocked.turns(LATE_NS + 1, seconds=3) is not None
    return clocked


def test_it_begins_after_a_late_second_and_ends_after_ten_calm_ones(clocked: Clocked) -> None:
    assert clocked.turns(LATE_NS + 1, seconds=30) == pytest.approx(1.0, abs=0.02)
    assert clocked.surge.on
    assert clocked.turns(CALM_NS - 1, seconds=30) == pytest.approx(10.0, abs=0.02)
    assert not clocked.surge.on
    assert clocked.surge.begun == 1


def test_what_is_not_late_enough_begins_nothing(clocked: Clocked) -> None:
    assert clocked.turns(LATE_NS, seconds=60) is None


def test_turns_that_are_late_now_and_then_begin_nothing(clocked: Clocked) -> None:
    assert clocked.turns(0, 0, 10 * LATE_NS, seconds=60) is None


def test_what_is_not_calm_enough_ends_nothing(surging: Clocked) -> None:
    assert surging.turns(CALM_NS, seconds=60) is None


def test_single_turns_that_are_not_calm_prolong_nothing(surging: Clocked) -> None:
    assert surging.turns(*[0] * 19, 3 * LATE_NS, seconds=60) == pytest.approx(10.0, abs=0.1)


def test_a_restless_second_begins_the_count_of_calm_ones_anew(surging: Clocked) -> None:
    assert surging.turns(0, seconds=9) is None
    assert surging.turns(CALM_NS, seconds=1.5) is None
    assert surging.turns(0, seconds=9) is None
    assert surging.turns(0, seconds=5) is not None
