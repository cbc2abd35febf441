"""Which sides of a quote count for the best bid and offer: the quote conditions of `fabric.reference` as bits.

A code means what its plan says: CTA on tapes A and B, UTP on tape C. Where a quote's tape is not known a code counts
only if both plans let it. A code that no table lists fails safe: the quote does not count, and the code is counted.
A quote with several codes may do what all of them allow.

Two small letters are ours: a feed adds them where a side may not be traded for another reason than the condition, such
as a bid above the price bands. Plans use capital letters and digits only.

Of UTP the text of 2005 agrees with the table, and of CTA the recorded day of 2018-01-02, row by row
(tests/nodes/test_nbbo.py).
"""

from datetime import date
from typing import Final

import numpy as np
import numpy.typing as npt

from fabric.reference import quote_conditions

Table = npt.NDArray[np.int64]

BID: Final = 1
"""The bid counts."""
OFFER: Final = 2
FAST_BID: Final = 4
"""The bid is automated. A slow (manual) one counts, and is not protected."""
FAST_OFFER: Final = 8
KNOWN: Final = 16
"""The plan lists the code."""

BOTH: Final = BID | OFFER
FAST: Final = FAST_BID | FAST_OFFER

UNKNOWN_PLAN: Final = 0
CTA: Final = 1
UTP: Final = 2
PLAN_NAMES: Final = {UNKNOWN_PLAN: "either", CTA: "cta", UTP: "utp"}
PLAN_OF_TAPE: Final = {"A": CTA, "B": CTA, "C": UTP}


OWN: Final = {" ": BOTH | FAST, "e": OFFER | FAST, "f": BID | FAST}
"""No condition; the bid cannot be traded; the offer cannot be traded."""
_SIDES: Final = {"both": BOTH, "bid": BID, "offer": OFFER, "none": 0}
_FAST: Final = {"none": FAST, "bid": FAST_OFFER, "offer": FAST_BID, "both": 0}
"""By the sides that are slow."""


def tables(day: date) -> Table:
    """What each code allows on ``day``: bits BID to KNOWN, int64[3, 256] by plan and ASCII code."""
    found = np.zeros((3, 256), np.int64)
    for code, allowed in OWN.items():
        found[[CTA, UTP], ord(code)] = allowed | KNOWN
    for row in quote_conditions(day):
        found[PLAN_OF_TAPE[row.tape], ord(row.code)] = _SIDES[row.sides] | _FAST[row.slow] | KNOWN
    found[UNKNOWN_PLAN] = found[CTA] & found[UTP]
    return found
