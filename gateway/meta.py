"""What the interface says of itself: the meaning of condition codes, and its descriptions for machines.

Source of the names: CTS and CQS (tapes A and B), UTP's UTDF and UQDF (tape C), as their specifications list them.
One letter means different things on the two plans, so the tables are by tape.
"""

from collections.abc import Mapping
from datetime import date
from typing import Final

from fabric import reference
from gateway import asyncapi, openapi
from gateway.rest import DataHandler, Handler, JsonObject, Service, parse_date, parse_instant
from gateway.values import rfc3339

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


def conditions(day: date | None) -> JsonObject:
    """What codes mean, and what the conditions of every tape allow, of all dates or in force on ``day``."""
    return {
        **CONDITIONS,
        "version": reference.CONDITIONS_VERSION,
        "sale_conditions": [
            {
                "tape": row.tape,
                "code": row.code,
                "since": row.since.isoformat(),
                "meaning": row.meaning,
                "high_low": row.price,
                "last": row.last,
                "volume": row.volume,
            }
            for row in reference.sale_conditions(day)
        ],
        "last": reference.LAST_RULES,
        "quotes_version": reference.QUOTES_VERSION,
        "quote_conditions": [
            {
                "tape": row.tape,
                "code": row.code,
                "since": row.since.isoformat(),
                "meaning": row.meaning,
                "sides": row.sides,
                "slow": row.slow,
            }
            for row in reference.quote_conditions(day)
        ],
        "several": "what all codes of a trade allow",
        "unknown": "volume only, and counted; of a quote: it does not count for the best bid and offer",
    }


def session(at_ns: int) -> JsonObject:
    """What the exchange calendar says of an instant."""
    found = reference.session_at(at_ns)
    return {
        "at": rfc3339(at_ns),
        "date": found.day.isoformat(),
        "session": found.state,
        "open": None if found.open_ns is None else rfc3339(found.open_ns),
        "close": None if found.close_ns is None else rfc3339(found.close_ns),
        "half_day": found.half_day,
    }


class ConditionsHandler(DataHandler):
    """``GET /v1/meta/conditions?date=``"""

    def get(self) -> None:
        parameters = self.parameters("date")
        day = parse_date("date", parameters["date"]) if "date" in parameters else None
        self.answer_unless_known(conditions(day), MAX_AGE_S)


class SessionHandler(DataHandler):
    """``GET /v1/meta/session?at=``"""

    def get(self) -> None:
        parameters = self.parameters("at")
        at = parse_instant("at", parameters["at"]) if "at" in parameters else self.service.clock.now_ns()
        self.answer(session(at))


class DescriptionHandler(Handler):
    """``GET /openapi.json`` and ``/asyncapi.json``: open to everyone, as what they describe is no secret."""

    def get(self, which: str) -> None:
        self.parameters()
        self.answer_unless_known(describe(which, self.service), MAX_AGE_S)


def describe(which: str, service: Service) -> JsonObject:
    """The description of that name."""
    return openapi.document() if which == "openapi" else asyncapi.document(service.topology)
