"""The layout of a latency histogram, for kernels and for those who read one without any.

Buckets are log-linear, as in HdrHistogram (hdrhistogram.org): below 64 units of 1,024 ns each has its own, above that
every power of two is divided into 32. So a bucket is at most 1/32 as wide as its values, whatever they are.

A histogram is one row of int64[`WIDTH`]: how many values, their sum in ns, how many were below zero (counted as zero:
two clocks, or one that was set back), then the buckets. It is cumulative and of fixed size; nothing is ever reset.
"""

from typing import Final

UNIT_BITS: Final = 10
"""A unit is 1,024 ns: finer than two processes can agree on the time."""
SUB_BITS: Final = 5
UNITS_MAX: Final = 1 << 30
"""18 minutes; what took longer is counted in the last bucket."""
COUNT: Final = 0
SUM: Final = 1
EARLY: Final = 2
FIRST: Final = 3
"""Where the buckets begin."""
BUCKETS: Final = (30 - SUB_BITS + 1) << SUB_BITS
WIDTH: Final = FIRST + BUCKETS
