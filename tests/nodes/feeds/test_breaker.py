"""The circuit breaker by a clock that is moved by hand."""

import random

import pytest

from fabric.clock import MILLISECOND_NS, SECOND_NS
from fabric.topology import BreakerSettings
from nodes.feeds.breaker import CLOSED, HALF_OPEN, OPEN, SOON_NS, Breaker

MS = MILLISECOND_NS
SETTINGS = BreakerSettings()


class Rig:
    """A breaker that is told what came every 10 ms."""

    def __init__(self) -> None:
        self.breaker = Breaker(SETTINGS, 0)
        self.now_ns = 0
        self.changes: list[tuple[int, str]] = []

    def run(self, duration_ns: int, sound: int = 1, gaps: int = 0, errors: int = 0, skew_ns: int = 0) -> list[str]:
        """States entered meanwhile."""
        before = len(self.changes)
        for _ in range(duration_ns // (10 * MS)):
            self.now_ns += 10 * MS
            if self.breaker.update(self.now_ns, sound, gaps, errors, skew_ns):
                self.changes.append((self.now_ns, self.breaker.state))
        return [state for _, state in self.changes[before:]]


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.run(SECOND_NS)
    return rig


def test_a_living_line_stays_closed(rig: Rig) -> None:
    assert rig.run(60 * SECOND_NS) == []


def test_heartbeats_once_a_second_are_enough(rig: Rig) -> None:
    for _ in range(20):
        assert rig.run(10 * MS) + rig.run(SECOND_NS - 10 * MS, sound=0) == []


def test_silence_opens_it_within_two_seconds_and_packets_close_it(rig: Rig) -> None:
    assert rig.run(2 * SECOND_NS, sound=0) == [OPEN]
    assert rig.breaker.reason == "SILENCE"
    assert rig.run(10 * SECOND_NS, sound=0) == []
    assert rig.run(SECOND_NS) == [HALF_OPEN, CLOSED]
    assert [state for _, state in rig.changes] == [OPEN, HALF_OPEN, CLOSED]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [({"gaps": 1}, "GAPS"), ({"errors": 5}, "ERRORS"), ({"skew_ns": -31 * SECOND_NS}, "SKEW")],
)
def test_it_opens_by_what_is_wrong_and_not_while_that_lasts_again(rig: Rig, fault: dict[str, int], reason: str) -> None:
    assert rig.run(SECOND_NS, **fault)[:1] == [OPEN]
    assert rig.breaker.reason == reason
    assert CLOSED not in rig.run(20 * SECOND_NS, **fault)
    rig.run(60 * SECOND_NS)
    assert rig.breaker.state == CLOSED


def test_a_few_gaps_and_a_small_share_of_errors_are_borne(rig: Rig) -> None:
    for _ in range(10):
        assert rig.run(10 * MS, gaps=5) == rig.run(2 * SECOND_NS) == []
    assert rig.run(10 * SECOND_NS, sound=100, errors=10) == []


def test_a_clean_stretch_is_needed(rig: Rig) -> None:
    rig.run(2 * SECOND_NS, sound=0)
    for _ in range(20):
        assert CLOSED not in rig.run(400 * MS) + rig.run(10 * MS, gaps=1)
    assert rig.run(SECOND_NS) == [CLOSED]


def test_opening_again_soon_doubles_the_back_off_and_a_good_time_brings_it_back(rig: Rig) -> None:
    waits = []
    for _ in range(8):
        rig.run(2 * SECOND_NS, sound=0)
        healed_ns = rig.now_ns
        rig.run(2 * SETTINGS.backoff_ns_max + 2 * SECOND_NS)
        closed_ns = rig.changes[-1][0]
        waits.append(closed_ns - healed_ns)
        assert rig.breaker.state == CLOSED
        rig.breaker._closed_ns = rig.now_ns  # it has only just closed
    rounded = [wait // (500 * MS) for wait in waits]
    assert rounded == sorted(rounded)
    assert rounded[0] == 1
    assert waits[-1] <= 2 * SETTINGS.backoff_ns_max + 20 * MS
    rig.run(SOON_NS)
    rig.run(2 * SECOND_NS, sound=0)
    assert rig.run(SECOND_NS)[-1:] == [CLOSED]


def test_after_a_sleep_of_our_own_what_waited_is_not_believed(rig: Rig) -> None:
    rig.now_ns += 5 * SECOND_NS
    assert rig.run(10 * MS, sound=1_000) == [OPEN]
    assert rig.run(SECOND_NS + 100 * MS) == [HALF_OPEN, CLOSED]


def test_what_never_spoke_is_closed_by_its_first_packet() -> None:
    rig = Rig()
    assert rig.run(5 * SECOND_NS, sound=0) == [OPEN]
    assert rig.run(10 * MS) == [CLOSED]


def test_a_flapping_line_makes_one_change_a_back_off_at_most() -> None:
    """Seeded flaps of all lengths, with and without gaps; the opening itself is never delayed."""
    for seed in range(40):
        chance = random.Random(seed)
        rig = Rig()
        rig.run(SECOND_NS)
        period_ns = chance.choice([300, 1_000, 2_000, 5_000]) * MS
        for _ in range(60):
            rig.run(period_ns, gaps=chance.choice([0, 0, 1]))
            rig.run(period_ns, sound=0)
        backoff_ns = SETTINGS.backoff_ns
        for (before_ns, before), (after_ns, after) in zip(rig.changes, rig.changes[1:], strict=False):
            if after != OPEN:
                assert after_ns - before_ns >= backoff_ns, f"seed {seed}"
            assert (before, after) in ((OPEN, HALF_OPEN), (HALF_OPEN, OPEN), (HALF_OPEN, CLOSED), (CLOSED, OPEN))
        assert len(rig.changes) <= 2 + rig.now_ns // SECOND_NS, f"seed {seed}"
