"""The inner loop of latency histograms: from two stamps of a row to a bucket (`buckets_kernel`)."""

from typing import Any, Final

import numpy as np

from fabric.buckets_kernel import COUNT, EARLY, FIRST, SUB_BITS, SUM, UNIT_BITS, UNITS_MAX, WIDTH
from fabric.compiled import lean, lean_kernel
from fabric.native import float_bits
from fabric.records import NULL
from fabric.records import WIDTH as ROW_WIDTH

_EXPONENT_OF_A_HALF: Final = 1022
"""As a double has it (IEEE 754, 3.4)."""


@lean
def bucket_of(value_ns: int) -> int:
    """The bucket of a value that is not negative."""
    units = value_ns >> UNIT_BITS
    if units < 2 << SUB_BITS:
        return units
    units = min(units, UNITS_MAX - 1)
    bits = (float_bits(np.float64(units)) >> 52) - _EXPONENT_OF_A_HALF  # that it takes to write the units
    power = bits - SUB_BITS - 1
    return (power << SUB_BITS) + (units >> power)


@lean
def add(histogram: Any, value_ns: int) -> None:
    """Count one value."""
    if value_ns < 0:
        histogram[EARLY] += 1
        value_ns = 0
    histogram[COUNT] += 1
    histogram[SUM] += value_ns
    histogram[FIRST + bucket_of(value_ns)] += 1


@lean_kernel
def record(histograms: Any, columns: Any, rows: Any, since_ns: int, offset_ns: int) -> None:
    """Count, in ``histograms[i]``, the time from stamp ``columns[i]`` to stamp ``columns[i + 1]`` of each row.

    ``rows`` is ``int64[n, WIDTH]``. Without either stamp, or with the first before ``since_ns``, a row is left out of
    that histogram. ``offset_ns`` is taken off the first of them, whose two stamps are of different clocks.
    """
    for hop in range(columns.size - 1):
        histogram = histograms[hop]
        for i in range(rows.shape[0]):
            begin = rows[i, columns[hop]]
            end = rows[i, columns[hop + 1]]
            if begin != NULL and end != NULL and begin >= since_ns:
                add(histogram, end - begin - offset_ns)
        offset_ns = 0


def warm_up() -> None:
    """Compile or load the kernel with the array types of the live path."""
    histograms, rows = np.zeros((2, WIDTH), np.int64), np.zeros((0, ROW_WIDTH), np.int64)
    record(histograms, np.zeros(2, np.int64), rows, 0, 0)
