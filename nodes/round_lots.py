"""Round lots as dated data: what is smaller is an odd lot, and outside the best bid and offer.

The lot of a stock is reference data: it arrives each day in the directories of tapes and exchanges (STATUS
``round_lot``) and is not computed live. Who has not been told uses `default`.

Sources: 17 CFR 242.600(b)(93), UTP Vendor Alert 2025-10: in force since 3 November 2025.
"""

from datetime import date
from typing import Final

import numpy as np
import numpy.typing as npt

from fabric.records import PRICE_UNIT

REGIMES: Final = (
    (date(1970, 1, 1), (), (100,)),
    (date(2025, 11, 3), (250, 1_000, 10_000), (100, 40, 10, 1)),
)
"""First day; the highest average closes (dollars, inclusive) of all tiers but the last; the lot of each tier.

Before 2025 a few stocks had lots of 10 or 1 by their exchange's own choice: their directories say so.
"""


def lots(average_close_px: npt.NDArray[np.int64], day: date) -> npt.NDArray[np.int64]:
    """The lot on ``day`` of stocks with these average closes (whole units) on their primary exchange."""
    _, highest, sizes = _in_force(day)
    tiers = np.searchsorted(np.array(highest, np.int64) * PRICE_UNIT, average_close_px, side="left")
    return np.array(sizes, np.int64)[tiers]


def default(day: date) -> int:
    """The lot of a stock of which nothing has been told: the largest, so that no odd lot is taken for a round one."""
    return max(_in_force(day)[2])


def _in_force(day: date) -> tuple[date, tuple[int, ...], tuple[int, ...]]:
    return next(regime for regime in reversed(REGIMES) if regime[0] <= day)
