"""Where time comes from. Only loops ask a clock; everything below them gets the time as an argument.

``now_ns`` is the time of the market: nanoseconds since the Unix epoch, UTC, which may step when the
machine's clock is set. ``monotonic_ns`` never steps and serves every timer, timeout and age.
"""

import time
from datetime import UTC, datetime
from typing import Protocol

SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000


def next_beat(now_ns: int, period_ns: int) -> int:
    """The next multiple of a period. Loops that turn at these, not some time after the turn before, pass on at even
    intervals what comes at even intervals, where the period divides those.
    """
    return (now_ns // period_ns + 1) * period_ns


def utc_text(time_s: float) -> str:
    """A time, in seconds since the Unix epoch, as a log line begins with it: ISO 8601, UTC, milliseconds."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Clock(Protocol):
    """What a loop asks for the time."""

    def now_ns(self) -> int:
        """Nanoseconds since the Unix epoch, UTC."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary instant; never goes back, never jumps."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()


class ManualClock:
    """A clock that stands still until told to move: for tests and simulations."""

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns
        self._monotonic_ns = 0

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def advance(self, elapsed_ns: int) -> None:
        """Let ``elapsed_ns`` pass on both clocks."""
        assert elapsed_ns >= 0
        self._now_ns += elapsed_ns
        self._monotonic_ns += elapsed_ns

    def step(self, offset_ns: int) -> None:
        """Set the wall clock forward or back, as an administrator or NTP does; no time passes."""
        self._now_ns += offset_ns


class EventClock:
    """The source's own time in a replay: the latest event that has been seen. Timers stay real.

    A replayed day is then bucketed, aged and closed by the day's own time, at any speed.
    """

    def __init__(self) -> None:
        self._now_ns = 0

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def saw(self, event_ns: int) -> None:
        """Move to ``event_ns`` if that is later: time in a replay never goes back."""
        self._now_ns = max(self._now_ns, event_ns)


class TurnClock:
    """What a loop's clock said when its turn began: the same for all that is asked within it.

    So whoever takes the turns of a log again (`fabric.order`) gives the node the same times. After a restart of the
    machine its monotonic clock begins anew; this one goes on from where the turns before have left it.
    """

    def __init__(self) -> None:
        self._now_ns = self._monotonic_ns = self._ahead_ns = 0

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def begin(self, clock: Clock) -> int:
        """Begin a turn at what ``clock`` says; return the time of the market."""
        self._now_ns = clock.now_ns()
        self._monotonic_ns = clock.monotonic_ns() + self._ahead_ns
        return self._now_ns

    def begin_again(self, now_ns: int, monotonic_ns: int) -> int:
        """Begin a turn that was taken before."""
        self._now_ns, self._monotonic_ns = now_ns, monotonic_ns
        return now_ns

    def go_on(self, clock: Clock) -> None:
        """From here on it is ``clock`` that tells the time, which does not go back behind the last turn."""
        self._ahead_ns = max(0, self._monotonic_ns - clock.monotonic_ns())
