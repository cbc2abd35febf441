"""Why a best bid and offer is what it is: winners, ties, what is behind, and each reason for being left out."""

from typing import Any

import pytest

from fabric.clock import ManualClock
from fabric.records import (
    BOLO,
    KIND_BOLO,
    KIND_WHY,
    NULL,
    STATE_HALTED,
    STATE_NATIONAL,
    STATE_SLOW,
    WHY,
    pack,
    venue_mask,
)
from fabric.reference import session_at
from fabric.topology import Venue
from gateway import explain
from gateway_market import OPEN_NS, Market

VENUES = tuple(Venue(code, f"Exchange {code}", code.lower()) for code in "NPQV")
NAMES = {venue.code: venue.name for venue in VENUES}
CENT = 10**7


@pytest.fixture
def market(clock: ManualClock) -> Market:
    return Market(clock, venues=VENUES)


def quote(market: Market, venue: str, bid: Any, ask: Any, condition: str = "R") -> None:
    row = market.quote("AAPL", 1, venue)
    for name, side in (("bid", bid), ("ask", ask)):
        row[f"{name}_px"], row[f"{name}_size"] = (side[0] * CENT, side[1]) if side else (NULL, NULL)
    row["condition"], row["recv_ns"] = pack(condition), OPEN_NS
    market.apply(row)


def best(market: Market, bid: Any, ask: Any, at_bid: str, at_ask: str, state: int = 0) -> None:
    row = market.nbbo("AAPL", 1)
    for name, side, letters in (("bid", bid, at_bid), ("ask", ask, at_ask)):
        row[f"{name}_px"], row[f"{name}_size"] = side[0] * CENT, side[1]
        row[f"{name}_venue"], row[f"{name}_mask"] = ord(side[2]), venue_mask(letters)
        row[f"{name}_total"] = 1_000
    row["state"], row["scope"] = state, venue_mask("NPQV")
    market.apply(row)


def why(market: Market, **masks: str) -> None:
    row = market._row(WHY, KIND_WHY, "AAPL")
    for name in WHY.names or ():
        if name.startswith(("bid_", "ask_")) or name in ("shut", "lost", "closed", "halting"):
            row[name] = venue_mask(masks.get(name, ""))
    row["round_lot"] = 100
    market.apply(row)


def explained(market: Market) -> dict[str, Any]:
    symbol = market.latest.find("AAPL")
    return explain.answer(market.latest, NAMES, symbol, OPEN_NS + 5_000_000)


def standings(answer: dict[str, Any], side: str) -> dict[str, str]:
    return {venue["venue"]: venue[side].get("reason") or venue[side]["standing"] for venue in answer["venues"]}


def test_winners_ties_and_what_is_behind(market: Market) -> None:
    quote(market, "N", (100, 300), (104, 100))
    quote(market, "P", (100, 300), (103, 200))
    quote(market, "Q", (100, 100), None)
    quote(market, "V", (99, 900), (105, 100))
    best(market, (100, 300, "N"), (103, 200, "P"), "NPQ", "P")
    answer = explained(market)
    assert standings(answer, "bid") == {"N": "best", "P": "at_best", "Q": "at_best", "V": "behind"}
    assert standings(answer, "ask") == {"N": "behind", "P": "best", "Q": "none", "V": "behind"}
    reasons = {venue["venue"]: venue["bid"]["why"] for venue in answer["venues"]}
    assert reasons == {
        "N": "the largest there, or as large and the first",
        "P": "same price and size, but later",
        "Q": "same price, smaller size",
        "V": "a worse price",
    }
    assert answer["bid"] == {
        "price": 1.0, "size": 300, "venue": "N", "total": 1_000, "venues": "NPQ", "odd_lot": None
    }  # fmt: skip
    assert (answer["symbol"], answer["kind"], answer["state"], answer["flags"]) == ("AAPL", "composite", "live", [])
    first = answer["venues"][0]
    assert (first["name"], first["conditions"], first["age_ms"]) == ("Exchange N", ["R"], 5)
    assert answer["round_lot"] is None  # nobody has told a reason


@pytest.mark.parametrize("reason", ["shut", "lost", "closed", "bid_condition", "bid_odd_lot"])
def test_each_reason_for_being_left_out(market: Market, reason: str) -> None:
    quote(market, "N", (100, 300), (104, 100))
    quote(market, "P", (101, 40), (103, 200), condition="N")
    best(market, (100, 300, "N"), (103, 200, "P"), "N", "P")
    why(market, **{reason: "P"})
    answer = explained(market)
    side = answer["venues"][1]["bid"]
    assert (side["standing"], side["reason"]) == ("out", reason.removeprefix("bid_"))
    assert side["why"]
    on_one_side = reason.startswith("bid_")
    assert answer["venues"][1]["ask"]["standing"] == ("best" if on_one_side else "out")
    assert answer["venues"][0]["bid"]["standing"] == "best"
    assert answer["session"] == session_at(OPEN_NS).state == "regular"
    assert answer["round_lot"] == 100


def test_odd_lots_slow_sides_halts_and_the_name(market: Market) -> None:
    quote(market, "N", (100, 300), (104, 100))
    best(market, (100, 300, "N"), (104, 100, "N"), "N", "N", state=STATE_NATIONAL | STATE_HALTED | STATE_SLOW)
    odd = market._row(BOLO, KIND_BOLO, "AAPL")
    odd["bid_px"], odd["bid_size"], odd["bid_venue"] = 101 * CENT, 7, ord("Q")
    market.apply(odd)
    why(market, bid_slow="N", halting="NQ")
    answer = explained(market)
    assert (answer["kind"], answer["state"], answer["flags"]) == ("nbbo", "halted", ["halted", "slow", "national"])
    assert answer["halted_by"] == "NQ"
    assert answer["bid"]["odd_lot"] == {"price": 1.01, "size": 7, "venue": "Q"}
    assert answer["ask"]["odd_lot"] is None
    assert answer["venues"][0]["bid"]["slow"] is True
    assert "slow" not in answer["venues"][0]["ask"]


def test_a_quote_that_is_newer_than_the_composite_is_ahead_of_it(market: Market) -> None:
    quote(market, "N", (102, 300), (104, 100))
    best(market, (100, 300, "P"), (104, 100, "N"), "P", "N")
    assert standings(explained(market), "bid")["N"] == "ahead"


def test_who_was_at_the_best_and_has_quoted_since_is_not_said_to_be_at_that_price(market: Market) -> None:
    quote(market, "N", (102, 300), (104, 100))
    quote(market, "P", (101, 300), (104, 100))
    quote(market, "Q", (99, 300), (104, 100))
    best(market, (100, 300, "N"), (104, 100, "N"), "NPQ", "NPQ")
    answer = explained(market)
    assert standings(answer, "bid") == {"N": "best", "P": "ahead", "Q": "ahead", "V": "none"}
    assert {venue["bid"]["why"] for venue in answer["venues"][:3]} == {
        "held it; this quote is newer than the best bid and offer that has come",
        "newer than the best bid and offer that has come",
    }


def test_a_symbol_without_any_value_is_explained_too(market: Market) -> None:
    market.apply(market.trade("AAPL", 100))
    answer = explained(market)
    assert (answer["state"], answer["bid"]["price"], answer["scope"]) == ("stale", None, "")
    assert set(standings(answer, "bid").values()) == {"none"}
