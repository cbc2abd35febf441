"""The condition codes of the consolidated tape as data: which quotes and trades count for what.

Each table is 256 bytes of bits, indexed by the ASCII code of one condition character, and is handed to
the kernels as an argument: another plan, date or correction is another array and no other code. A text
of several characters may do what all of its characters allow (`nodes.conditions_kernel.allowed`).
Blanks are padding and allow everything; a code that a table does not list fails safe: such a quote does
not count, such a trade counts for volume only, and both are counted.

Source: CQS 2.11b and CTS 2.11b (CTA plan, tapes A and B).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.int64]

# Bits of a quote condition.
BID: Final = 1
OFFER: Final = 2

# Bits of a sale condition.
HIGH_LOW: Final = 1
"""May set open, high and low, and counts for the volume-weighted price."""
LAST: Final = 2
"""May set the last price."""
FIRST: Final = 4
"""May set the last price while nothing else has: the plan's "only if it is the first or only one"."""
VOLUME: Final = 8
KNOWN: Final = 16
"""The table lists this code."""

CTA_QUOTES: Final = {
    BID | OFFER: " ABHORWY",  # Y: the UTP plan's one-sided quote; a letter that this plan does not use
    OFFER: "E",
    BID: "F",
    0: "CLNU4",
}
"""Sides of a quote with this condition that are eligible for the best bid and offer."""

CTA_SALES: Final = {
    HIGH_LOW | LAST | FIRST | VOLUME | KNOWN: " @EFKOX56",
    # L also updates the last price if it is from the same participant or the listing market (note 3 of the plan):
    # neither is known to a processor, so it is held to the stricter half of its rule.
    HIGH_LOW | FIRST | VOLUME | KNOWN: "LPZ4",
    HIGH_LOW | LAST | FIRST | KNOWN: "9",
    VOLUME | KNOWN: "BCHIRTUV7",
    KNOWN: "MQ",  # official open and close: they repeat volume that was already printed
}
"""What a trade with this condition updates. N and 8 are reserved by the plan: as unknown, volume only."""


def table(codes: dict[int, str], other: int) -> Table:
    """Spread ``{bits: characters}`` over 256 codes; those not named get ``other``."""
    bits = np.full(256, other, np.int64)
    for allowed, characters in codes.items():
        for character in characters:
            bits[ord(character)] = allowed
    return bits


def quote_table() -> Table:
    """The quote conditions in force."""
    return table(CTA_QUOTES, other=0)


def sale_table() -> Table:
    """The sale conditions in force."""
    return table(CTA_SALES, other=VOLUME)
