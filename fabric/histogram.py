"""Histograms of latency by hop: how what a process counts (`latency`) travels, and percentiles of what many counted.

The way of a message is cut into hops at the stamps that it carries: exchange, received by the feed (t1), published by
the feed (t2), published by the processor (t3), written to the client. A hop bears the name of who ends it, and so
holds the transport before it. Each process counts the hops that it ends in the buckets of `buckets_kernel`, whole and
since its start; a reader takes the difference of two reports for the time between them, and adds up those of several
processes (`Window`). Percentiles are at most 1/32 off, and never below what was.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fabric.buckets_kernel import BUCKETS, COUNT, FIRST, SUB_BITS, UNIT_BITS, WIDTH

HOPS: Final = ("exchange", "feed", "processor", "gateway", "total")
"""In the order of the way. `total` goes from the feed's receipt to the client."""
Counts = npt.NDArray[np.int64]


def pack(counts: Counts) -> list[int]:
    """One histogram, its empty buckets left out."""
    used = np.flatnonzero(counts[FIRST:])
    pairs = np.stack([used, counts[FIRST + used]], axis=1)
    head: list[int] = counts[:FIRST].tolist()
    return head + pairs.ravel().tolist()


def unpack(packed: Sequence[int]) -> Counts:
    """The opposite of `pack`; raises ValueError for what is none."""
    counts = np.zeros(WIDTH, np.int64)
    values = np.asarray(packed, np.int64)
    if values.ndim != 1 or values.size < FIRST or (values.size - FIRST) % 2:
        raise ValueError(f"a packed histogram has {FIRST} numbers and then pairs, this has {len(packed)} numbers")
    buckets = values[FIRST::2]
    if buckets.size and not 0 <= buckets.min() <= buckets.max() < BUCKETS:
        raise ValueError(f"a bucket is 0 to {BUCKETS - 1}, this has {buckets.min()} to {buckets.max()}")
    counts[:FIRST] = values[:FIRST]
    counts[FIRST + buckets] = values[FIRST + 1 :: 2]
    return counts


def since(now: Counts, before: Counts | None) -> Counts:
    """What was counted between two reports of a process; all of ``now`` where it was started anew between them."""
    return now if before is None or now[COUNT] < before[COUNT] else now - before


def upper_ns(bucket: int) -> int:
    """The least value that is beyond a bucket."""
    power = max(0, (bucket >> SUB_BITS) - 1)
    return (bucket - (power << SUB_BITS) + 1) << (power + UNIT_BITS)


_UPPER_NS: Final = np.array([upper_ns(bucket) for bucket in range(BUCKETS)], np.int64)


def quantiles_ns(counts: Counts, shares: Sequence[float]) -> list[int] | None:
    """For each share the least bound that so large a share of the values is below; None without values."""
    total = counts[COUNT]
    if not total:
        return None
    ranks = np.ceil(np.asarray(shares) * total).clip(1, total)
    found = np.searchsorted(np.cumsum(counts[FIRST:]), ranks)
    return _UPPER_NS[found.clip(max=BUCKETS - 1)].tolist()


def cumulative(counts: Counts, bounds_ns: Sequence[int]) -> list[int]:
    """For each bound how many values were in buckets that end at it or before: a Prometheus histogram's ``le``."""
    sums = np.concatenate([[0], np.cumsum(counts[FIRST:])])
    return sums[np.searchsorted(_UPPER_NS, np.asarray(bounds_ns), side="right")].tolist()


class Window:
    """The sum of the histograms of the last so many seconds, by key; what is older is forgotten."""

    def __init__(self, span_ns: int) -> None:
        self._span_ns = span_ns
        self._parts: dict[Any, deque[tuple[int, Counts]]] = {}

    def add(self, key: Any, counts: Counts, now_ns: int) -> None:
        """``counts`` were counted until now."""
        parts = self._parts.setdefault(key, deque())
        parts.append((now_ns, counts))
        while parts[0][0] <= now_ns - self._span_ns:
            parts.popleft()

    def totals(self, now_ns: int) -> Mapping[Any, Counts]:
        """By key what was counted lately; keys of which nothing was are left out."""
        found = {}
        for key, parts in self._parts.items():
            recent = [counts for at_ns, counts in parts if at_ns > now_ns - self._span_ns]
            if recent and (total := np.sum(recent, axis=0))[COUNT]:
                found[key] = total
        return found
