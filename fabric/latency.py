"""The histograms of the hops that one process ends, counted by `histogram_kernel`, and what a clock is off."""

from collections import deque
from typing import Final

import numpy as np

from fabric import histogram_kernel
from fabric.buckets_kernel import COUNT, WIDTH
from fabric.clock import SECOND_NS
from fabric.histogram import HOPS, Counts, pack
from fabric.records import EVENT, NULL, Rows, columns

OFFSET_WINDOW_NS: Final = 10 * SECOND_NS
OFFSET_WINDOWS: Final = 60
"""Ten minutes: within them two clocks drift apart by some milliseconds, and no backlog lasts."""


def _stamps(*names: str) -> Counts:
    assert EVENT.names is not None
    return np.array([EVENT.names.index(name) for name in names], np.int64)


_FED: Final = _stamps("event_ns", "recv_ns", "feed_ns")
_PROCESSED: Final = _stamps("feed_ns", "proc_ns")


class ClockOffset:
    """How far the clock of an exchange is behind ours, as far as one can tell from one side (pure).

    A message cannot come before it was sent: the least delay of the last ten minutes is the difference of the clocks
    and the wire's own time together, which nobody can tell apart without a clock in common.
    """

    def __init__(self) -> None:
        self.offset_ns = 0
        """To be taken off each delay; negative when the exchange's clock is ahead."""
        self._least: deque[int] = deque(maxlen=OFFSET_WINDOWS)
        self._window_ns = NULL

    def add(self, delay_ns: int, monotonic_ns: int) -> None:
        """A message came ``delay_ns`` after the exchange's own time of it."""
        if not self._least or monotonic_ns - self._window_ns >= OFFSET_WINDOW_NS:
            self._window_ns = monotonic_ns
            self._least.append(delay_ns)
        elif delay_ns < self._least[-1]:
            self._least[-1] = delay_ns
        else:
            return
        self.offset_ns = min(self._least)


class Latency:
    """The histograms of the hops that one process ends."""

    def __init__(self) -> None:
        self.counts: Counts = np.zeros((len(HOPS), WIDTH), np.int64)

    def fed(self, rows: Rows, since_ns: int, offset_ns: int) -> None:
        """Count rows that a feed has just sent: the way from the exchange, whose clock is ``offset_ns`` behind, and
        through the feed. What is stamped before ``since_ns`` (UTC) did not come live and is left out.
        """
        histogram_kernel.record(self.counts, _FED, columns(rows), since_ns, offset_ns)

    def processed(self, rows: Rows, since_ns: int) -> None:
        """Count rows that a processor has just sent, from the feed's stamp of what caused each to its own."""
        histogram_kernel.record(self.counts[HOPS.index("processor") :], _PROCESSED, columns(rows), since_ns, 0)

    @property
    def to_clients(self) -> Counts:
        """The histograms ``[2, WIDTH]`` of the hop `gateway` and of the whole way, for a kernel to count in."""
        return self.counts[HOPS.index("gateway") :]

    def packed(self) -> dict[str, list[int]]:
        """By hop that has values: count, sum in ns, values below zero, then bucket, count, bucket, count, ..."""
        return {hop: pack(counts) for hop, counts in zip(HOPS, self.counts, strict=True) if counts[COUNT]}
