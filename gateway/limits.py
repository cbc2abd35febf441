"""Rates and counts that bound what one client, user or address may do (pure: the time is an argument).

A token bucket is kept as one instant, the one from which tokens have gathered: nothing runs between two
requests, and eight bytes in a table that processes share are a whole bucket (`gateway.shared`).
"""

from collections import deque
from dataclasses import dataclass
from functools import cache, cached_property

from fabric.clock import MILLISECOND_NS, SECOND_NS


@dataclass(frozen=True)
class Rate:
    """``per_second`` in the long run, ``burst`` at once."""

    per_second: float
    burst: int

    @cached_property
    def ns_per_token(self) -> int:
        return round(SECOND_NS / self.per_second)

    def take(self, since_ns: int, now_ns: int) -> tuple[int, int]:
        """Take one token of a bucket whose tokens have gathered since ``since_ns``.

        Returns that instant as it is from now on, and how many nanoseconds to wait: 0, when there was a token. An
        instant of the future (of a clock that began anew) is a bucket that is empty now.
        """
        token_ns = self.ns_per_token
        since_ns = min(max(since_ns, now_ns - self.burst * token_ns), now_ns)
        wait_ns = since_ns + token_ns - now_ns
        return (since_ns, wait_ns) if wait_ns > 0 else (since_ns + token_ns, 0)

    def left(self, since_ns: int, now_ns: int) -> int:
        """The tokens of such a bucket."""
        return max(0, min(self.burst, (now_ns - since_ns) // self.ns_per_token))


_rate = cache(Rate)
"""One for all buckets of a kind: ten thousand clients have the same."""


class TokenBucket:
    """Lets ``burst`` requests through at once and ``rate`` a second in the long run."""

    __slots__ = ("_rate", "_since_ns")

    def __init__(self, rate: float, burst: int, now_ns: int) -> None:
        self._rate = _rate(rate, burst)
        self._since_ns = now_ns - burst * self._rate.ns_per_token

    def take(self, now_ns: int) -> int:
        """Take one token; return 0, or in how many milliseconds (at least 1) the next one is there."""
        self._since_ns, wait_ns = self._rate.take(self._since_ns, now_ns)
        return -(-wait_ns // MILLISECOND_NS)


class Strikes:
    """Says when something has happened ``limit`` times within a window."""

    __slots__ = ("_limit", "_times", "_window_ns")

    def __init__(self, limit: int, window_ns: int) -> None:
        self._limit = limit
        self._window_ns = window_ns
        self._times: deque[int] | None = None  # most clients never need it

    def add(self, now_ns: int) -> bool:
        """Count one; return whether that makes it too many."""
        if self._times is None:
            self._times = deque(maxlen=self._limit)
        self._times.append(now_ns)
        return len(self._times) == self._limit and now_ns - self._times[0] < self._window_ns
