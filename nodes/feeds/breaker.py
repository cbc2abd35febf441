"""The circuit breaker of a feed (pure: times are monotonic and given): when its venues may be believed.

CLOSED: all is well. It opens at once when the line has been silent, when too many gaps or malformed packets came
within a window, or when the exchange's clock is far off. OPEN: the venues are out of the NBBO. After a back-off, and
when the line speaks again, it is HALF_OPEN: packets are taken, but not believed yet. A fault then opens it again; a
clean stretch, as long as the back-off and with enough sound packets, closes it. A feed that was itself stopped
for a while opens too: what waits for it by then is old.

Each opening that follows soon after a closing doubles the back-off, up to a bound; a long good time brings it back.
So OPEN and HALF_OPEN last at least one back-off each: a line that flaps makes one change a back-off at most. Only
opening is never delayed, or a price would stand that is not known to be live.
"""

from typing import Final

from fabric.clock import SECOND_NS
from fabric.topology import BreakerSettings

CLOSED: Final = "closed"
HALF_OPEN: Final = "half-open"
OPEN: Final = "open"

SILENCE: Final = "SILENCE"
GAPS: Final = "GAPS"
ERRORS: Final = "ERRORS"
SKEW: Final = "SKEW"

SOON_NS: Final = 10 * SECOND_NS
"""An opening so soon after a closing doubles the back-off."""


class Breaker:
    """One feed's breaker: tell it what has come, ask its `state`."""

    def __init__(self, settings: BreakerSettings, now_ns: int) -> None:
        self.settings = settings
        self.state = CLOSED
        self.reason = ""
        """Why it opened last."""
        self.opened_ns = now_ns
        self.openings = self.transitions = 0
        self._backoff_ns = settings.backoff_ns
        self._heard_ns = self._changed_ns = self._window_from_ns = self._clean_from_ns = now_ns
        self._closed_ns = now_ns - SOON_NS
        self._was_heard = False
        self._sound = self._gaps = self._errors = 0  # in the window
        self._good = 0  # sound packets of the clean stretch

    def update(self, now_ns: int, sound: int, gaps: int, errors: int, skew_ns: int) -> bool:
        """Take in how many of each came since the last call, and the estimated skew; tell whether the state changed."""
        settings = self.settings
        if now_ns - self._window_from_ns >= settings.window_ns:
            self._window_from_ns = now_ns
            self._sound = self._gaps = self._errors = 0
        self._sound += sound
        self._gaps += gaps
        self._errors += errors
        slept = self.state == CLOSED and self._was_heard and now_ns - self._heard_ns > settings.silence_ns
        if sound:
            self._heard_ns = now_ns
        fault = SILENCE if slept else self._fault(now_ns, skew_ns)
        if self.state == CLOSED:
            self._was_heard |= sound > 0
            return bool(fault) and self._open(fault, now_ns)
        if self.state == OPEN:
            if not self._was_heard and sound and not fault:  # it has never lived: nothing has to be proven
                return self._close(now_ns)
            if fault or not sound or now_ns - self._changed_ns < self._backoff_ns:
                return False
            self._good, self._clean_from_ns = 0, now_ns
            return self._change(HALF_OPEN, now_ns)
        self._good += sound
        if fault:
            return self._open(fault, now_ns)
        if gaps or errors:
            self._good, self._clean_from_ns = 0, now_ns
        elif self._good >= settings.packets_min and now_ns - self._clean_from_ns >= self._backoff_ns:
            return self._close(now_ns)
        return False

    def _fault(self, now_ns: int, skew_ns: int) -> str:
        settings = self.settings
        if now_ns - self._heard_ns > settings.silence_ns:
            return SILENCE
        if self._gaps > settings.gaps_max:
            return GAPS
        if self._errors > settings.errors_max and self._errors * 9 > self._sound:
            return ERRORS
        return SKEW if abs(skew_ns) > settings.skew_ns else ""

    def _open(self, reason: str, now_ns: int) -> bool:
        settings = self.settings
        if self.state == HALF_OPEN or now_ns - self._closed_ns < SOON_NS:
            self._backoff_ns = min(2 * self._backoff_ns, settings.backoff_ns_max)
        else:
            self._backoff_ns = settings.backoff_ns
        self.reason = reason
        self.openings += 1
        self.opened_ns = now_ns
        return self._change(OPEN, now_ns)

    def _close(self, now_ns: int) -> bool:
        self._closed_ns = now_ns
        self._was_heard = True
        return self._change(CLOSED, now_ns)

    def _change(self, state: str, now_ns: int) -> bool:
        self.state = state
        self._changed_ns = now_ns
        self.transitions += 1
        return True
