"""Which sides of a quote count for the best bid and offer: the condition codes of both plans, as dated data.

A code means what its plan says: CTA on tapes A and B, UTP on tape C. Where a quote's tape is not known a code counts
only if both plans let it. A code that no table lists fails safe: the quote does not count, and the code is counted.
A quote with several codes may do what all of them allow.

Two small letters are ours: a feed adds them where a side may not be traded for another reason than the condition, such
as a bid above the price bands. Plans use capital letters and digits only.

Sources: CQS 2.11b and UTP 3.0a, quote conditions; of UTP the text of 2005 agrees, and of CTA the recorded day of
2018-01-02, row by row (tests/nodes/test_nbbo.py).
"""

from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import numpy.typing as npt

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


@dataclass(frozen=True)
class Condition:
    """One code of a plan."""

    code: str
    meaning: str
    sides: int = BOTH  # that count: BID | OFFER
    fast: int = FAST  # that are automated: FAST_BID | FAST_OFFER


@dataclass(frozen=True)
class Plan:
    """A plan's table, as it stands from a day on."""

    plan: int
    since: date  # the first day for which it is known to hold
    version: str  # of the document
    conditions: tuple[Condition, ...]


OWN: Final = (
    Condition(" ", "no condition"),
    Condition("e", "the bid cannot be traded: offer only", OFFER),
    Condition("f", "the offer cannot be traded: bid only", BID),
)

PLANS: Final = (
    Plan(
        CTA,
        date(2018, 1, 2),
        "CQS 2.11b",
        (
            Condition("A", "slow on the offer", fast=FAST_BID),
            Condition("B", "slow on the bid", fast=FAST_OFFER),
            Condition("E", "slow on the bid, at a liquidity replenishment point", OFFER, FAST_OFFER),
            Condition("F", "slow on the offer, at a liquidity replenishment point", BID, FAST_BID),
            Condition("H", "slow on both sides", fast=0),
            Condition("O", "opening"),
            Condition("R", "regular"),
            Condition("W", "slow on both sides, from a list", fast=0),
            Condition("C", "closing", 0),
            Condition("L", "closed", 0),
            Condition("N", "non-firm", 0),
            Condition("U", "slow on both sides, at a liquidity replenishment point", 0, 0),
            Condition("4", "intraday auction", 0),
        ),
    ),
    Plan(
        UTP,
        date(2005, 1, 1),
        "UTP 3.0a",
        (
            Condition("A", "manual ask", fast=FAST_BID),
            Condition("B", "manual bid", fast=FAST_OFFER),
            Condition("H", "manual on both sides", fast=0),
            Condition("O", "opening"),
            Condition("R", "regular"),
            Condition("Y", "one-sided"),
            Condition("F", "fast trading", 0),
            Condition("I", "order imbalance", 0),
            Condition("L", "closed", 0),
            Condition("N", "non-firm", 0),
            Condition("U", "manual and non-firm", 0, 0),
            Condition("X", "order influx", 0),
            Condition("Z", "no open, no resume", 0),
        ),
    ),
)


def in_force(plan: int, day: date) -> Plan:
    """The table of a plan on ``day``; before the first one, that one."""
    versions = sorted((p for p in PLANS if p.plan == plan), key=lambda p: p.since)
    return next((p for p in reversed(versions) if p.since <= day), versions[0])


def tables(day: date) -> Table:
    """What each code allows on ``day``: bits BID to KNOWN, int64[3, 256] by plan and ASCII code."""
    found = np.zeros((3, 256), np.int64)
    for plan in (CTA, UTP):
        for condition in (*OWN, *in_force(plan, day).conditions):
            found[plan, ord(condition.code)] = condition.sides | condition.fast | KNOWN
    found[UNKNOWN_PLAN] = found[CTA] & found[UTP]
    return found
