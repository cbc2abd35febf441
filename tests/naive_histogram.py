"""The slow and obvious twin of `fabric.histogram_kernel`: bounds written out, values kept and sorted."""

from collections.abc import Sequence
from itertools import pairwise

UNIT_NS = 1_024
VALUE_MAX_NS = UNIT_NS * (2**30 - 1)


def bounds_ns() -> list[int]:
    """Where buckets begin: 64 of one unit, then 32 of two units, 32 of four, ... and the end of the last."""
    bounds = list(range(64))
    width = 2
    while len(bounds) < 832:
        start = bounds[-1] + width // 2
        bounds += [start + i * width for i in range(32)]
        width *= 2
    return [UNIT_NS * bound for bound in [*bounds, 2**30]]


BOUNDS = bounds_ns()


def bucket(value_ns: int) -> int:
    """The bucket whose bounds hold the value."""
    value_ns = min(max(value_ns, 0), VALUE_MAX_NS)
    return next(i for i, (low, high) in enumerate(pairwise(BOUNDS)) if low <= value_ns < high)


def quantile(values: Sequence[int], share: float) -> int:
    """The least value that so large a share of the values does not exceed."""
    ordered = sorted(values)
    rank = max(1, -(-round(share * len(ordered) * 1_000) // 1_000))
    return ordered[rank - 1]
