"""When a simulated exchange sends: ticks of two milliseconds of the monotonic clock.

The exchange's time is the wall clock read once at the start and carried on by the monotonic clock, so it
never jumps. At each tick the events since the last are sent, each stamped with the time at which it happened; an
event therefore leaves up to one tick after its stamp, and how much later than the tick is measured, not hidden.
A sender that was held up catches up, but by at most `CATCH_UP_NS` of events at once; what is older is given up
and counted. Two milliseconds, because four exchanges share a small machine with all who read them: what a tick
costs, at both ends of the line, is a packet and two wake-ups, however little is in it.
"""

import time
from collections.abc import Callable
from typing import Final

import numpy as np

from fabric.clock import MILLISECOND_NS, Clock

TICK_NS: Final = 2 * MILLISECOND_NS
CATCH_UP_NS: Final = 20 * MILLISECOND_NS
_LATE_MAX: Final = 4_096
"""Latenesses kept for one report: more than the ticks between two."""


class Pacer:
    """Sleeps from tick to tick and keeps account of how late the sender was."""

    def __init__(self, clock: Clock, sleep: Callable[[float], None] = time.sleep) -> None:
        self._clock = clock
        self._sleep = sleep
        self._monotonic_ns = clock.monotonic_ns()
        self.start_ns = clock.now_ns()
        """The exchange's time at the start."""
        self._tick_ns = self._monotonic_ns
        self._late_ns = np.zeros(_LATE_MAX, np.int64)
        self._late_count = 0

    def now_ns(self) -> int:
        """The exchange's time."""
        return self.start_ns + self._clock.monotonic_ns() - self._monotonic_ns

    def wait(self) -> int:
        """Sleep until the next tick and return the exchange's time; ticks that were missed are one, without sleep."""
        self._tick_ns += TICK_NS
        left_ns = self._tick_ns - self._clock.monotonic_ns()
        if left_ns > 0:
            self._sleep(left_ns * 1e-9)
        else:
            self._tick_ns += -left_ns // TICK_NS * TICK_NS
        return self.now_ns()

    def sent(self, due_ns: int) -> None:
        """Note that the oldest packet of a tick, due at ``due_ns``, has just left."""
        self._late_ns[self._late_count % _LATE_MAX] = self.now_ns() - due_ns
        self._late_count += 1

    def late_ms(self) -> tuple[float, float]:
        """Largest and 99th percentile of the latenesses since the last call, in milliseconds; 0 if nothing was sent."""
        count = min(self._late_count, _LATE_MAX)
        self._late_count = 0
        if count == 0:
            return 0.0, 0.0
        late = self._late_ns[:count] / MILLISECOND_NS
        return float(late.max()), float(np.percentile(late, 99))
