"""Rates and counts that bound what one client may do (pure: the time is an argument)."""

from collections import deque

from fabric.clock import MILLISECOND_NS, SECOND_NS


class TokenBucket:
    """Lets ``burst`` requests through at once and ``rate`` a second in the long run."""

    def __init__(self, rate: float, burst: int, now_ns: int) -> None:
        self._ns_per_token = round(SECOND_NS / rate)
        self._span_ns = burst * self._ns_per_token
        self._empty_ns = now_ns - self._span_ns  # the instant from which tokens have gathered

    def take(self, now_ns: int) -> int:
        """Take one token; return 0, or in how many milliseconds (at least 1) the next one is there."""
        self._empty_ns = max(self._empty_ns, now_ns - self._span_ns)
        wait_ns = self._empty_ns + self._ns_per_token - now_ns
        if wait_ns > 0:
            return max(1, -(-wait_ns // MILLISECOND_NS))
        self._empty_ns += self._ns_per_token
        return 0


class Strikes:
    """Says when something has happened ``limit`` times within a window."""

    def __init__(self, limit: int, window_ns: int) -> None:
        self._window_ns = window_ns
        self._times: deque[int] = deque(maxlen=limit)

    def add(self, now_ns: int) -> bool:
        """Count one; return whether that makes it too many."""
        self._times.append(now_ns)
        return len(self._times) == self._times.maxlen and now_ns - self._times[0] < self._window_ns
