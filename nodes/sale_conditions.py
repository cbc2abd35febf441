"""The sale conditions of `fabric.reference` as the table that kernels take, and what its words mean as bits.

Both plans have a table of their own: the same letter may mean another thing (B is an average price on tapes A and
B, a bunched trade on tape C). A code that its plan does not list fails safe: volume only, and it is counted.
"""

from dataclasses import replace
from datetime import date

import numpy as np
import numpy.typing as npt

from fabric.reference import SaleCondition, sale_conditions
from nodes import sale_conditions_kernel as rights

Table = npt.NDArray[np.int64]

_LAST = {
    "yes": rights.LAST | rights.FIRST | rights.SOLD | rights.LATE,
    "no": rights.LATE,
    "first": rights.FIRST | rights.LATE,
    "sold": rights.FIRST | rights.SOLD | rights.LATE,
    "early": rights.LAST | rights.FIRST | rights.SOLD,
}
LISTING = {"A": "N", "C": "Q"}
"""The market that lists all stocks of a tape; those of tape B are listed at several."""


EXTENDED = {"T": "yes", "U": "first"}
"""Codes of extended hours, and how their trades set the last price where these hours count: U is out of sequence."""


def sale_table(day: date | None = None, session: str = "regular") -> Table:
    """``int64[2, 256]``: bits by plan and ASCII code, in force on ``day`` (by default the latest of all).

    In the ``session`` ext the trades of extended hours set prices too; in regular they are volume only, as the plans
    have it.
    """
    table = np.full((2, 256), rights.VOLUME | rights.LATE, np.int64)
    table[:, ord(" ")] = rights.ALL
    for row in sale_conditions(day or date.max):
        if session == "ext" and row.code in EXTENDED:
            row = replace(row, price=True, last=EXTENDED[row.code])
        table[rights.UTP if row.tape == "C" else rights.CTA, ord(row.code)] = _bits(row)
    return table


def _bits(row: SaleCondition) -> int:
    official = rights.OFFICIAL_OPEN | rights.OFFICIAL_CLOSE
    if row.code in "MQ":  # neither price nor volume, but what the listing market calls its open or close
        official = rights.OFFICIAL_CLOSE if row.code == "M" else rights.OFFICIAL_OPEN
    return (
        rights.KNOWN
        | official
        | _LAST[row.last]
        | (rights.HIGH_LOW if row.price else 0)
        | (rights.VOLUME if row.volume else 0)
    )


def listing() -> Table:
    """`LISTING` as kernels take it: int64[3], ASCII codes for the tapes A, B and C; 0 where several list them."""
    return np.array([ord(LISTING.get(tape, "\0")) for tape in "ABC"], np.int64)
