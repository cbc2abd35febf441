"""The condition codes of the consolidated tape as data: which quotes and trades count for what.

Each table is 256 bytes of bits, indexed by the ASCII code of one condition character, and is handed to
the kernels as an argument: another plan, date or correction is another array and no other code. A text
of several characters may do what all of its characters allow (`nodes.conditions_kernel.allowed`).
Blanks are padding and allow everything; a code that a table does not list fails safe: such a quote does
not count, such a trade counts for volume only, and both are counted.

Source: CQS 2.11b (CTA plan, tapes A and B).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from nodes import sale_conditions
from nodes.sale_conditions_kernel import CTA, FIRST, LAST

__all__ = ["BID", "FIRST", "LAST", "OFFER", "quote_table", "sale_table", "table"]

Table = npt.NDArray[np.int64]

# Bits of a quote condition.
BID: Final = 1
OFFER: Final = 2

CTA_QUOTES: Final = {
    BID | OFFER: " ABHORWY",  # Y: the UTP plan's one-sided quote; a letter that this plan does not use
    OFFER: "E",
    BID: "F",
    0: "CLNU4",
}
"""Sides of a quote with this condition that are eligible for the best bid and offer."""


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
    """The sale conditions of the CTA plan in force."""
    return sale_conditions.sale_table()[CTA]
