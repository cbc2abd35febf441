"""What the interface says of itself: the meaning of condition codes, and its descriptions for machines.

Source of the names: CTS and CQS (tapes A and B), UTP's UTDF and UQDF (tape C), as their specifications list them.
One letter means different things on the two plans, so the tables are by tape.
"""

from collections.abc import Mapping
from typing import Final

from gateway import asyncapi, openapi
from gateway.rest import DataHandler, Handler, JsonObject, Service

MAX_AGE_S: Final = 3_600

_TRADES: Final = {
    "@": "Regular Sale",
    "C": "Cash Sale",
    "F": "Intermarket Sweep",
    "H": "Price Variation Trade",
    "I": "Odd Lot Trade",
    "L": "Sold Last",
    "M": "Market Center Official Close",
    "N": "Next Day",
    "P": "Prior Reference Price",
    "Q": "Market Center Official Open",
    "R": "Seller",
    "T": "Extended Hours Trade",
    "U": "Extended Hours, Sold Out Of Sequence",
    "V": "Contingent Trade",
    "X": "Cross Trade",
    "Z": "Sold Out Of Sequence",
    "4": "Derivatively Priced",
    "5": "Reopening Prints",
    "6": "Closing Prints",
    "7": "Qualified Contingent Trade",
    "9": "Corrected Consolidated Close",
}
_CTA_TRADES: Final = _TRADES | {
    "B": "Average Price Trade",
    "E": "Automatic Execution",
    "K": "Rule 127 (NYSE) or Rule 155 (NYSE American)",
    "O": "Market Center Opening Trade",
}
_UTP_TRADES: Final = _TRADES | {
    "A": "Acquisition",
    "B": "Bunched Trade",
    "D": "Distribution",
    "G": "Bunched Sold Trade",
    "K": "Rule 155 Trade",
    "O": "Opening Prints",
    "S": "Split Trade",
    "W": "Average Price Trade",
    "Y": "Yellow Flag",
    "1": "Stopped Stock",
}
_CTA_QUOTES: Final = {
    "A": "Slow Quote Offer Side",
    "B": "Slow Quote Bid Side",
    "C": "Closing Quote",
    "E": "Slow Quote LRP Bid Side",
    "F": "Slow Quote LRP Offer Side",
    "H": "Slow Quote Bid And Offer Side",
    "L": "Market Maker Quotes Closed",
    "N": "Non Firm Quote",
    "O": "Opening Quote",
    "R": "Regular Market Maker Open",
    "U": "Slow Quote LRP Bid And Offer Side",
    "W": "Slow Quote Set Slow List",
    "4": "On Demand Intra-Day Auction",
}
_UTP_QUOTES: Final = {
    "A": "Manual Ask, Automated Bid",
    "B": "Manual Bid, Automated Ask",
    "F": "Fast Trading",
    "H": "Manual Bid And Ask",
    "I": "Order Imbalance",
    "L": "Closed Quote",
    "N": "Non Firm Quote",
    "O": "Opening Quote Automated",
    "R": "Regular, Two-Sided Open Quote Automated",
    "U": "Manual Bid And Ask, Non Firm",
    "X": "Order Influx",
    "Y": "Automated Bid, No Offer; Or Automated Offer, No Bid",
    "Z": "No Open, No Resume",
    "4": "On Demand Intra-Day Auction",
}
CONDITIONS: Final[Mapping[str, Mapping[str, Mapping[str, str]]]] = {
    "trades": {"A": _CTA_TRADES, "B": _CTA_TRADES, "C": _UTP_TRADES},
    "quotes": {"A": _CTA_QUOTES, "B": _CTA_QUOTES, "C": _UTP_QUOTES},
}
"""By kind, tape and code."""


class ConditionsHandler(DataHandler):
    """``GET /v1/meta/conditions``"""

    def get(self) -> None:
        self.parameters()
        self.answer_unless_known(CONDITIONS, MAX_AGE_S)


class DescriptionHandler(Handler):
    """``GET /openapi.json`` and ``/asyncapi.json``: open to everyone, as what they describe is no secret."""

    def get(self, which: str) -> None:
        self.parameters()
        self.answer_unless_known(describe(which, self.service), MAX_AGE_S)


def describe(which: str, service: Service) -> JsonObject:
    """The description of that name."""
    return openapi.document() if which == "openapi" else asyncapi.document(service.topology)
