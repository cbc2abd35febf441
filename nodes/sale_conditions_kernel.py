"""What a trade with some sale conditions updates, and by which plan's table, compiled (pure)."""

from typing import Any, Final

import numpy as np

from fabric.compiled import lean
from fabric.records import pack

# What a trade may do. A text of several codes may do what all of them allow, so each code has every right that it
# does not take away.
HIGH_LOW: Final = 1
"""May set open, high and low, and counts for the volume-weighted price."""
LAST: Final = 2
"""May set the last price whatever came before."""
FIRST: Final = 4
"""May set the last price as the first eligible trade of the day."""
VOLUME: Final = 8
KNOWN: Final = 16
"""The table lists this code."""
SOLD: Final = 32
"""May set the last price after a trade of the same participant, or if it is of the listing market (CTA, note 3)."""
LATE: Final = 64
"""May set the last price also later than ten seconds after the close."""
OFFICIAL_OPEN: Final = 128
"""Without `OFFICIAL_CLOSE`: the official open. (With it: any other trade.)"""
OFFICIAL_CLOSE: Final = 256
ALL: Final = 511

SOLD_AFTER_CLOSE_NS: Final = 10_000_000_000
"""Until then a late report of the UTP plan may set the last price: 16:00:10, or 13:00:10 on a half day."""

CTA: Final = 0
"""Rows of the table: tapes A and B, and what does not say its tape; tape C."""
UTP: Final = 1
_TAPE_A: Final = pack("A")
_TAPE_C: Final = pack("C")


@lean
def plan_of(tape: int) -> int:
    """The row of the table for a packed tape."""
    return UTP if tape == _TAPE_C else CTA


@lean
def listing_of(listing: Any, tape: int) -> int:
    """The letter of the market that lists the stocks of a packed tape, of ``listing`` by tape; 0 where several do."""
    if tape == _TAPE_A:
        return listing[0]
    return listing[2] if tape == _TAPE_C else 0


def warm_up() -> None:
    """Compile, or load, with the array types of the live path."""
    plan_of(0)
    listing_of(np.zeros(3, np.int64), 0)
