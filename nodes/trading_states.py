"""What a venue's word on a symbol means for the market: halted everywhere, shut there alone, or trading.

A halt of the whole market is a mark and leaves the prices alone, since the venues themselves withdraw what is not
firm. A halt at one venue takes that venue's quotes out and nobody else's.

Sources: UTP 3.0a (trading action H, Q, P, T), CTS 2.11b (security status 2, 3 and halt reasons), TotalView-ITCH 5.0
(H, P, Q, T; operational halts), IEX TOPS 1.6 (H, O, P, T), Cboe Multicast PITCH 2.41 (A, H, Q, S, T), NYSE Pillar
common client specification (halt conditions), in the letters that our feeds make of them.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from fabric.records import pack

NOTHING: Final = 0
TRADES: Final = 1
HALTS: Final = 2
"""In the whole market, unless the reason is one of `HERE_ALONE`."""
SHUTS: Final = 3
"""At this venue alone."""

STATES: Final = {
    "T": TRADES,
    "H": HALTS,
    "P": HALTS,  # a volatility pause
    "Q": HALTS,  # quotes have resumed, trading has not: two events
    "S": SHUTS,  # suspended by this exchange (Cboe)
    "C": SHUTS,  # closed (NYSE)
}
"""By the letter in ``trading``. Others, such as the acceptance of orders before an open, say neither."""

HERE_ALONE: Final = ("OPER", "I", "X")
"""Reasons of halts that hold at one venue: operational, order imbalance, equipment changeover."""

ENDS: Final = "EC"
"""System events of a whole venue (STATUS with the empty symbol) after which it has no quotes: end of its hours, of the
session or of its messages."""
BEGINS: Final = "OSQR"
"""Those with which its day begins: start of messages, of its hours, of regular hours."""

TAPES: Final = "SE"
"""Who speaks for a whole plan (CTA: S, UTP: E). Price bands are the tape's: the columns of an exchange's own
statuses hold the collars of its auctions."""


def states() -> npt.NDArray[np.int64]:
    """The meaning of ``trading`` by its ASCII code, int64[256]."""
    return _by_code(STATES)


def events() -> npt.NDArray[np.int64]:
    """What a venue's system event does, int64[256]: 1 ends its day, -1 begins it."""
    return _by_code({**dict.fromkeys(ENDS, 1), **dict.fromkeys(BEGINS, -1)})


def reasons_here_alone() -> npt.NDArray[np.int64]:
    """`HERE_ALONE` as columns have them."""
    return np.array([pack(reason) for reason in HERE_ALONE], np.int64)


def _by_code(meanings: dict[str, int]) -> npt.NDArray[np.int64]:
    found = np.zeros(256, np.int64)
    for letter, meaning in meanings.items():
        found[ord(letter)] = meaning
    return found
