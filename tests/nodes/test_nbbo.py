"""The composite against its twin, the tables of the plan, and a recorded day of twelve venues."""

import csv
import gzip
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric import codec
from fabric.bus import EVENTS_MAX
from fabric.clock import SECOND_NS
from fabric.records import (
    EVENT,
    KIND_BOLO,
    KIND_LINK,
    KIND_NBBO,
    KIND_QUOTE,
    KIND_STATUS,
    KIND_TRADE,
    KIND_WHY,
    LINK,
    NBBO,
    NULL,
    PRICE_UNIT,
    QUOTE,
    STATE_CROSSED,
    STATE_HALTED,
    STATE_LOCKED,
    STATE_LULD,
    STATE_NATIONAL,
    STATE_ONE_SIDED,
    STATE_PARTIAL,
    STATE_SLOW,
    STATE_STALE,
    STATUS,
    TRADE,
    Rows,
    columns,
    empty,
    pack,
    unpack,
    venue_letters,
)
from fabric.symbols import SymbolTable
from naive import NaiveNbbo, as_dicts, uncompiled
from nodes import nbbo
from nodes.nbbo import Nbbo

VENUES = "NPQV"
PUBLISHERS = ("N", "PQ", "V")
REASONS = (
    "shut",
    "lost",
    "closed",
    "halting",
    *(f"{s}_{r}" for s in ("bid", "ask") for r in ("condition", "odd_lot", "slow")),
)


@pytest.fixture(params=["compiled", "uncompiled"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test on the compiled kernel, then on the same code as plain Python."""
    if request.param == "uncompiled":
        _, plain = uncompiled("nodes.conditions_kernel", "nodes.nbbo_kernel")
        monkeypatch.setattr(nbbo, "nbbo_kernel", plain)
    return str(request.param)


def make(symbols_max: int = 8, batch_max: int = 1_000, lot: int = 1, market: str = "", beside: bool = False) -> Nbbo:
    """A node to which a share is a round lot, so that sizes can be small; ``beside``: it tells BOLO and WHY too."""
    channels = ("nbbo", "bolo", "why") if beside else ("nbbo",)
    node = Nbbo(symbols_max, VENUES, PUBLISHERS, batch_max, market, channels)
    node.market = node.market._replace(lot=lot)
    return node


def row(dtype: np.dtype[np.void], kind: int, symbol: int, venue: str, values: dict[str, Any]) -> Rows:
    made = empty(1, dtype, kind)
    made["symbol"], made["venue"] = symbol, ord(venue) if venue else 0
    for name, value in values.items():
        made[name] = pack(value) if isinstance(value, str) else NULL if value is None else value
    return made.view(EVENT)


def quote(venue: str, bid: Any = (100, 1), ask: Any = (102, 1), symbol: int = 1, **values: Any) -> Rows:
    """One quote; a side is (price, size) or None."""
    (bid_px, bid_size), (ask_px, ask_size) = bid or (None, None), ask or (None, None)
    sides = {"bid_px": bid_px, "bid_size": bid_size, "ask_px": ask_px, "ask_size": ask_size}
    return row(QUOTE, KIND_QUOTE, symbol, venue, sides | {"condition": "R"} | values)


def trade(price: int, symbol: int = 1, **values: Any) -> Rows:
    return row(TRADE, KIND_TRADE, symbol, values.pop("venue", "N"), {"price": price, "size": 100} | values)


def utc(text: str) -> int:
    return int(np.datetime64(text, "ns").astype(np.int64))


def line(venue: str, state: str) -> Rows:
    return row(STATUS, KIND_STATUS, 0, venue, {"venue_state": state})


def trading(code: str, symbol: int = 1, venue: str = "N", reason: str = "", **values: Any) -> Rows:
    return row(STATUS, KIND_STATUS, symbol, venue, {"trading": code, "reason": reason} | values)


def event(venue: str, code: str, state: str = "") -> Rows:
    """What a venue says of its day."""
    return row(STATUS, KIND_STATUS, 0, venue, {"trading": code, "venue_state": state})


def link(publisher: int, up: int) -> Rows:
    return row(LINK, KIND_LINK, 0, "", {"publisher": publisher, "up": up})


def step(node: Nbbo, *rows: Rows, now_ns: int = 0) -> list[dict[str, Any]]:
    """What the node publishes for these rows in one batch, as text where it is text."""
    published: list[dict[str, Any]] = list(as_dicts(node.step(np.concatenate([np.empty(0, EVENT), *rows]), now_ns)))
    texts, masks = {"bid_venue", "ask_venue"}, {"bid_mask", "ask_mask", "scope", *REASONS}
    for out in published:
        out |= {name: unpack(out[name]) for name in texts & set(out)}
        out |= {name: venue_letters(out[name]) for name in masks & set(out)}
    return published


def best(out: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(out[name] for name in ("bid_venue", "bid_px", "bid_size", "ask_venue", "ask_px", "ask_size"))


def test_two_venues_give_the_higher_bid_and_the_lower_ask(kernel: str) -> None:
    first, second = step(make(), quote("N", (100, 5), (103, 6)), quote("P", (101, 7), (104, 8)))
    assert best(first) == ("N", 100, 5, "N", 103, 6)
    assert best(second) == ("P", 101, 7, "N", 103, 6)
    assert (second["bid_mask"], second["ask_mask"], second["scope"]) == ("P", "N", "NP")


def test_of_equal_prices_the_larger_size_wins_then_the_earlier_message(kernel: str) -> None:
    node = make()
    assert best(step(node, quote("N", (100, 5), None))[0])[:3] == ("N", 100, 5)
    assert step(node, quote("P", (100, 5), None)) == []  # as good, and later
    assert best(step(node, quote("Q", (100, 6), None))[0])[:3] == ("Q", 100, 6)
    assert best(step(node, quote("Q", (99, 9), None))[0])[:3] == ("N", 100, 5)
    moved = step(node, quote("N", (100, 5), None))  # the same again: it has moved to the back
    assert [best(out)[:3] for out in moved] == [("P", 100, 5)]
    assert moved[0]["bid_mask"] == "NP"


def test_a_message_restamps_both_sides_even_if_only_one_changes(kernel: str) -> None:
    node = make()
    step(node, quote("N", (100, 5), (110, 5)), quote("P", (100, 5), (120, 5)))
    (out,) = step(node, quote("N", (100, 5), (111, 5)))
    assert best(out) == ("P", 100, 5, "N", 111, 5)


def test_the_row_carries_the_times_of_the_quote_that_caused_it(kernel: str) -> None:
    values = {"event_ns": 11, "recv_ns": 12, "feed_ns": 13, "exchange_seq": 14}
    (out,) = step(make(), quote("N", **values))
    assert {name: out[name] for name in values} == values
    assert out["seq"] == out["epoch"] == out["position"] == out["proc_ns"] == NULL


@pytest.mark.parametrize("side", [None, (0, 5), (100, 0), (0, 0), (100, None), (None, 5), (100, 2**31), (-1, 5)])
def test_a_side_without_price_or_size_is_withdrawn(kernel: str, side: Any) -> None:
    node = make()
    step(node, quote("N", (100, 5), (103, 5)), quote("P", (99, 5), (104, 5)))
    (out,) = step(node, quote("N", side, (103, 5)))
    assert best(out) == ("P", 99, 5, "N", 103, 5)
    out = step(node, quote("P", side, side))[-1]
    assert best(out) == ("", NULL, NULL, "N", 103, 5)
    assert (out["state"], out["bid_mask"], out["scope"]) == (STATE_ONE_SIDED, "", "NP")
    out = step(node, quote("N", side, side))[-1]
    assert best(out) == ("", NULL, NULL, "", NULL, NULL)
    assert out["state"] == 0  # not one-sided, and nothing is stale


ELIGIBLE = {  # the two tables of the rules, row by row: code -> sides that count
    "A": dict.fromkeys("ABHORW", "both") | {"E": "ask", "F": "bid"} | dict.fromkeys("CLNU4", "none"),
    "B": dict.fromkeys("ABHORW", "both") | {"E": "ask", "F": "bid"} | dict.fromkeys("CLNU4", "none"),
    "C": dict.fromkeys("ABHORY", "both") | dict.fromkeys("FILNUXZ", "none"),
    "": dict.fromkeys("ABHOR", "both") | dict.fromkeys("EFWYCLNU4IXZ", "none"),  # not known: what both plans allow
}


@pytest.mark.parametrize(
    ("tape", "condition", "sides"),
    [(tape, code, sides) for tape, codes in ELIGIBLE.items() for code, sides in codes.items()]
    + [(tape, code, "both") for tape in ELIGIBLE for code in ("", " ", "RA")]
    + [(tape, code, "none") for tape in ELIGIBLE for code in ("?", "r", "RN", "ef")]
    + [(tape, code, side) for tape in ELIGIBLE for code, side in (("eR", "ask"), ("fR", "bid"))]
    + [("A", "RE", "ask"), ("A", "EF", "none"), ("C", "RE", "none"), ("C", "W", "none"), ("A", "Y", "none")],
)
def test_quote_conditions(kernel: str, tape: str, condition: str, sides: str) -> None:
    node = make()
    step(node, quote("N", (100, 5), (103, 5)), quote("P", (99, 5), (104, 5)))
    step(node, quote("N", (101, 6), (102, 6), condition=condition, tape=tape))
    top = node.book.tops[1]
    assert bool(top["slot"][0] == VENUES.index("N")) is (sides in ("both", "bid"))
    assert bool(top["slot"][1] == VENUES.index("N")) is (sides in ("both", "ask"))
    assert node.counters()["ineligible"] == (sides != "both")


@pytest.mark.parametrize(
    ("tape", "condition", "slow"),
    [("A", code, {"A": "ask", "B": "bid", "H": "both", "W": "both"}.get(code, "")) for code in "ABHORW"]
    + [("C", code, {"A": "ask", "B": "bid", "H": "both"}.get(code, "")) for code in "ABHORY"]
    + [("A", "E", ""), ("A", "F", "")],  # the slow side of these does not count at all
)
def test_a_slow_side_counts_and_is_flagged_while_it_is_the_best(
    kernel: str, tape: str, condition: str, slow: str
) -> None:
    node = make(beside=True)
    step(node, quote("N", (100, 5), (103, 5), condition=condition, tape=tape))
    top = node.book.tops[1]
    assert [bool(top["slow"][side]) for side in (0, 1)] == [slow in ("both", "bid"), slow in ("both", "ask")]
    assert bool(top["state"] & STATE_SLOW) is bool(slow)
    step(node, quote("P", (101, 5), (102, 5), tape=tape))
    assert not node.book.tops[1]["state"] & STATE_SLOW


def test_a_side_that_turns_slow_is_published(kernel: str) -> None:
    node = make(beside=True)
    step(node, quote("N", condition="R"))
    slow, reasons = step(node, quote("N", condition="B"))
    assert (slow["state"], reasons["bid_slow"], reasons["ask_slow"]) == (STATE_SLOW, "N", "")
    assert [out["state"] for out in step(node, quote("N", condition="R"))[:1]] == [0]


def test_unknown_conditions_are_counted_by_plan_and_code(kernel: str) -> None:
    node = make()
    conditions = [("?", "A"), ("Y", "B"), ("RY", "A"), ("W", "C"), ("\x01\x02", "C"), ("E", ""), ("C", "A"), ("N", "C")]
    for symbol, (condition, tape) in enumerate(conditions):
        step(node, quote("N", symbol=symbol, condition=condition, tape=tape))
    counted = {name: count for name, count in node.counters().items() if name.startswith("unknown_condition")}
    assert counted == {
        "unknown_condition_cta_0x3f": 1,
        "unknown_condition_cta_Y": 2,
        "unknown_condition_utp_W": 1,
        "unknown_condition_utp_0x01": 1,
        "unknown_condition_utp_0x02": 1,
        "unknown_condition_either_E": 1,
    }
    assert node.counters()["ineligible"] == len(conditions)


def test_a_condition_is_read_by_the_tape_that_any_message_of_the_symbol_told(kernel: str) -> None:
    node = make()
    assert step(node, quote("N", condition="W")) == []
    (out,) = step(node, trading("T", tape="A"), quote("N", condition="W"))
    assert out["bid_px"] == 100
    assert step(node, quote("P", (101, 1), condition="W", tape="C")) == []


def test_a_side_below_the_round_lot_is_an_odd_lot_and_stands_beside(kernel: str) -> None:
    node = make(lot=100, beside=True)
    step(node, quote("N", (100, 200), (110, 100)))
    odd, reasons = step(node, quote("P", (102, 99), (111, 100)))
    assert (odd["kind"], *best(odd)) == (KIND_BOLO, "P", 102, 99, "", NULL, NULL)
    assert (reasons["kind"], reasons["round_lot"], reasons["bid_odd_lot"], reasons["ask_odd_lot"]) == (
        KIND_WHY, 100, "P", ""
    )  # fmt: skip
    (reasons,) = step(node, quote("Q", (102, 50), None))  # smaller, and so not the best odd lot
    assert reasons["bid_odd_lot"] == "PQ"
    round_lot, odd = [out for out in step(node, quote("V", (102, 100), None)) if out["kind"] != KIND_WHY]
    assert best(round_lot)[:3] == ("V", 102, 100)
    assert best(odd) == ("", NULL, NULL, "", NULL, NULL)  # no better than the best bid


def test_a_directory_brings_the_round_lot_and_standing_quotes_are_judged_anew(kernel: str) -> None:
    node = make(lot=100, beside=True)
    step(node, quote("N", (100, 100), (110, 100)), quote("P", (101, 40), (111, 100)))
    best_row, odd, reasons = step(node, trading("", venue="Q", round_lot=40))
    assert best(best_row)[:3] == ("P", 101, 40)
    assert best(odd) == ("", NULL, NULL, "", NULL, NULL)
    assert (reasons["round_lot"], reasons["bid_odd_lot"]) == (40, "")
    assert step(node, trading("", venue="Q", round_lot=40)) == []
    back = step(node, trading("", venue="Q", round_lot=100))
    assert [best(out)[:3] for out in back[:2]] == [("N", 100, 100), ("P", 101, 40)]


def test_the_total_is_that_of_all_venues_at_the_best(kernel: str) -> None:
    node = make()
    first, second = step(
        node,
        quote("N", (100, 5), None),
        quote("P", (100, 7), None),
        quote("Q", (99, 9), None),
        quote("V", (100, 1), None),
    )
    assert (first["bid_total"], first["ask_total"], second["bid_total"]) == (5, NULL, 12)
    (out,) = step(node, quote("P", (99, 1), None))
    assert (best(out)[:3], out["bid_mask"], out["bid_total"]) == (("N", 100, 5), "NV", 6)


def test_locked_and_crossed_are_published_and_not_repaired(kernel: str) -> None:
    node = make()
    step(node, quote("N", (100, 5), (103, 5)))
    locked, crossed, open_again = step(
        node, quote("P", (103, 1), (105, 1)), quote("P", (104, 1), (105, 1)), quote("P", (99, 1), (105, 1))
    )
    assert (locked["state"], *best(locked)) == (STATE_LOCKED, "P", 103, 1, "N", 103, 5)
    assert (crossed["state"], *best(crossed)) == (STATE_CROSSED, "P", 104, 1, "N", 103, 5)
    assert open_again["state"] == 0
    assert (node.counters()["locked"], node.counters()["crossed"]) == (1, 1)


OPEN_NS = utc("2026-01-02T14:30")


def long_lived(node: Nbbo) -> tuple[int, int]:
    return node.counters()["locked_long"], node.counters()["crossed_long"]


def test_a_market_that_stays_locked_or_crossed_is_a_fault_until_it_ends(kernel: str) -> None:
    node = make()
    lots = {"bid": (103, 100), "ask": (105, 100)}
    rows = quote("N", (100, 100), (102, 100), symbol=2), quote("P", **lots, symbol=2)
    step(node, quote("N", (100, 100), (103, 100)), quote("P", **lots), *rows, now_ns=OPEN_NS)
    step(node, now_ns=OPEN_NS + nbbo.GRACE_NS - 1)
    assert long_lived(node) == (0, 0)
    step(node, now_ns=OPEN_NS + nbbo.GRACE_NS + SECOND_NS)
    assert long_lived(node) == (1, 1)
    step(node, quote("P", (101, 100), (105, 100)), now_ns=OPEN_NS + nbbo.GRACE_NS + 2 * SECOND_NS)
    assert long_lived(node) == (0, 1)
    step(node, trading("H", symbol=2), now_ns=OPEN_NS + nbbo.GRACE_NS + 3 * SECOND_NS)  # not firm while it is halted
    assert long_lived(node) == (0, 0)
    step(node, quote("P", **lots), trading("T", symbol=2), now_ns=OPEN_NS + nbbo.GRACE_NS + 4 * SECOND_NS)
    assert long_lived(node) == (0, 0)  # it begins anew


@pytest.mark.parametrize(
    ("clock", "told"),
    [("14:29:50", False), ("14:30:00", True), ("20:59:50", True), ("20:59:57", False), ("21:00:00", False)],
)
def test_only_the_regular_session_has_no_locked_markets(kernel: str, clock: str, told: bool) -> None:
    node = make()
    at = utc(f"2026-01-02T{clock}")
    step(node, quote("N", (100, 100), (103, 100)), quote("P", (103, 100), (105, 100)), now_ns=at)
    for second in range(1, 7):
        step(node, now_ns=at + second * SECOND_NS)
    assert long_lived(node) == (int(told), 0)


def test_a_clock_that_is_set_back_tells_no_fault(kernel: str) -> None:
    node = make()
    step(node, quote("N", (100, 100), (103, 100)), quote("P", (103, 100), (105, 100)), now_ns=OPEN_NS + 60 * SECOND_NS)
    step(node, now_ns=OPEN_NS + 30 * SECOND_NS)
    step(node, now_ns=OPEN_NS + 34 * SECOND_NS)
    assert long_lived(node) == (0, 0)
    step(node, now_ns=OPEN_NS + 35 * SECOND_NS)
    assert long_lived(node) == (1, 0)


def test_a_halt_is_a_bit_and_prices_stay(kernel: str) -> None:
    node = make()
    step(node, quote("N"))
    (halted,) = step(node, trading("H"))
    assert (halted["state"], halted["bid_px"]) == (STATE_HALTED, 100)
    assert step(node, trading("H"), trading("P"), trading(""), trading("Q"), trading("A")) == []
    (moved,) = step(node, quote("N", (101, 1)))
    assert moved["state"] == STATE_HALTED
    (resumed,) = step(node, trading("T"))
    assert resumed["state"] == 0
    assert step(node, trading("T")) == []
    assert [out["symbol"] for out in step(node, trading("H", symbol=2))] == [2]  # though it has no quote yet


def test_a_halt_lasts_until_the_last_venue_that_said_so_trades(kernel: str) -> None:
    node = make(beside=True)
    step(node, quote("N"))
    halted, told = step(node, trading("H", venue="S", reason="P"))
    assert (halted["state"], told["halting"]) == (STATE_HALTED, "S")
    assert [out["halting"] for out in step(node, trading("H", venue="N"), trading("T", venue="S"))] == ["NS", "N"]
    resumed, told = step(node, trading("T", venue="N"))
    assert (resumed["state"], told["halting"]) == (0, "")


@pytest.mark.parametrize(
    ("code", "reason"), [("H", "OPER"), ("H", "I"), ("H", "X"), ("P", "OPER"), ("S", ""), ("C", ""), ("C", "L")]
)
def test_a_halt_at_one_venue_takes_that_venue_out_and_nobody_else(kernel: str, code: str, reason: str) -> None:
    node = make(beside=True)
    step(node, quote("N", (100, 5), (103, 5)), quote("P", (101, 5), (104, 5)))
    out, reasons = step(node, trading(code, venue="P", reason=reason))
    assert (best(out), out["state"], out["scope"]) == (("N", 100, 5, "N", 103, 5), 0, "NP")
    assert (reasons["shut"], reasons["halting"]) == ("P", "")
    assert step(node, quote("P", (102, 5), (104, 5))) == []
    assert step(node, trading("Q", venue="N", symbol=2), trading("T", venue="N")) != []  # another symbol's halt
    out, reasons = step(node, trading("T", venue="P"))
    assert best(out) == ("P", 102, 5, "N", 103, 5)
    assert reasons["shut"] == ""


def test_a_venue_that_is_not_read_cannot_be_shut(kernel: str) -> None:
    node = make(beside=True)
    assert step(node, quote("N"), trading("H", venue="Y", reason="OPER"))[1:] == []


@pytest.mark.parametrize("ending", ["E", "C"])
@pytest.mark.parametrize("beginning", [event("P", "O"), event("P", "S"), event("P", "Q"), line("P", "live")])
def test_a_venue_that_ends_its_day_has_no_quotes_until_the_next_begins(
    kernel: str, ending: str, beginning: Rows
) -> None:
    node = make(beside=True)
    step(node, quote("N", (100, 5), (103, 5)), quote("P", (101, 5), (102, 5)), trading("H", venue="P"))
    out, reasons = step(node, event("P", ending, "live"))
    assert (best(out), out["state"], out["scope"]) == (("N", 100, 5, "N", 103, 5), 0, "N")
    assert (reasons["closed"], reasons["lost"], reasons["halting"]) == ("P", "", "")
    assert step(node, quote("P"), event("P", "M", "live"), event("P", ending), quote("P")) == []
    assert step(node, beginning) == []
    out, reasons = step(node, quote("P", (101, 5), (102, 5)))
    assert (best(out), reasons["closed"]) == (("P", 101, 5, "P", 102, 5), "")


@pytest.mark.parametrize(
    ("bid", "ask", "state"),
    [
        (95, 105, 0),
        (90, 105, 0),
        (89, 105, STATE_LULD),
        (95, 110, 0),
        (95, 111, STATE_LULD),
        (109, 110, 0),
        (110, 112, STATE_LULD),
        (95, 90, STATE_LULD | STATE_CROSSED),
        (None, 105, STATE_ONE_SIDED),
        (89, None, STATE_ONE_SIDED | STATE_LULD),
    ],
)
def test_a_side_at_or_beyond_its_band_is_flagged(kernel: str, bid: Any, ask: Any, state: int) -> None:
    node = make(beside=True)
    sides = [None if px is None else (px, 1) for px in (bid, ask)]
    bands = trading("", venue="S", upper_px=110, lower_px=90)
    _, out, *_ = step(node, bands, quote("N", *sides))
    assert (out["kind"], out["state"]) == (KIND_NBBO, state)
    out = step(node, trading("", venue="S", upper_px=None, lower_px=None))[0]
    assert out["kind"] == (KIND_NBBO if state & STATE_LULD else KIND_WHY)
    after = make()
    step(after, quote("N", *sides))
    assert bool(step(after, bands)) is bool(state & STATE_LULD)


def test_collars_of_an_exchange_are_no_bands(kernel: str) -> None:
    node = make(beside=True)
    assert len(step(node, quote("N"), trading("", upper_px=90, lower_px=90))) == 1


def test_it_is_national_only_while_every_venue_of_the_market_is_read_and_alive(kernel: str) -> None:
    node = make(market="NP")
    (out,) = step(node, line("N", "live"), quote("N"))
    assert out["state"] == 0
    first, second = step(node, line("P", "live"), quote("N", (101, 1)), quote("V", symbol=2))
    assert (first["state"], second["state"]) == (STATE_NATIONAL, STATE_NATIONAL)
    lost = step(node, line("P", "stale"))  # it had quoted neither, and might have begun to
    assert [(out["symbol"], out["state"]) for out in lost] == [(1, 0), (2, 0)]
    assert step(node, line("P", "live")) == []
    (out,) = step(node, quote("N"))
    assert out["state"] == STATE_NATIONAL
    assert [out["state"] for out in step(node, link(0, 0))] == [STATE_STALE]
    assert [out["state"] for out in step(node, link(0, 1), quote("N"), line("N", "live"), quote("N", (101, 1)))] == [
        0, STATE_NATIONAL
    ]  # fmt: skip


def test_without_a_market_or_with_one_that_is_not_read_whole_it_is_a_composite(kernel: str) -> None:
    for market in ("", "NPY"):
        node = make(market=market)
        rows = [line(venue, "live") for venue in VENUES + "Y"]
        assert [out["state"] for out in step(node, *rows, quote("N"), quote("P", (101, 1)))] == [0, 0]


@pytest.mark.parametrize(
    ("condition", "sets_last", "sets_first"),
    [(code, True, True) for code in ["", " ", "@", "E", "F", "K", "O", "X", "5", "6", "9", "@F X"]]
    + [(code, False, True) for code in ["P", "Z", "4", " F Z", "LZ"]]
    + [
        (code, False, False)
        for code in ["B", "C", "H", "I", "M", "Q", "R", "T", "U", "V", "7", "N", "8", "G", "W", "@FTI"]
    ],
)
def test_sale_conditions_of_the_last_price(kernel: str, condition: str, sets_last: bool, sets_first: bool) -> None:
    node = make()
    (first,) = step(node, trade(50, condition=condition), quote("N"))
    assert first["last_px"] == (50 if sets_first else NULL)
    (then,) = step(node, trade(60), trade(70, condition=condition), quote("N", (101, 1)))
    assert then["last_px"] == (70 if sets_last else 60)


@pytest.mark.parametrize(
    ("condition", "sets"), [("@", True), ("B", True), ("A", True), ("W", False), ("L", True), ("G", False)]
)
def test_the_last_price_of_tape_c_follows_its_own_plan(kernel: str, condition: str, sets: bool) -> None:
    """B is an average price on tapes A and B."""
    (out,) = step(make(), trade(60, tape="C"), trade(70, condition=condition, tape="C"), quote("N"))
    assert out["last_px"] == (70 if sets else 60)


@pytest.mark.parametrize(
    ("clock", "last"),
    [
        ("2026-01-02T21:00:10.000000000", 70),
        ("2026-01-02T21:00:10.000000001", 60),
        ("2026-07-01T20:00:10.000000001", 60),  # daylight saving time
        ("2026-11-27T18:00:10.000000000", 70),  # a half day
        ("2026-11-27T18:00:10.000000001", 60),
        ("2026-11-28T18:00:10.000000001", 70),  # no session
    ],
)
def test_a_sold_last_of_utp_sets_the_last_price_until_ten_seconds_after_the_close(
    kernel: str, clock: str, last: int
) -> None:
    at = utc(clock)
    rows = trade(60, tape="C", event_ns=at - 1), trade(70, tape="C", condition="L", event_ns=at)
    (out,) = step(make(), *rows, quote("N", (100, 100), (102, 100)), now_ns=at)
    assert out["last_px"] == last


@pytest.mark.parametrize(
    ("venue", "tape", "last"),
    [("N", "B", 70), ("P", "B", 60), ("N", "A", 70), ("P", "A", 60)],
    ids=["same participant", "another", "listing market", "neither"],
)
def test_a_sold_last_of_cta_sets_the_last_price_after_its_own_participant(
    kernel: str, venue: str, tape: str, last: int
) -> None:
    """Note 3: if first, from the participant of the current last, or from the listing market."""
    before = trade(60, venue="T" if tape == "A" else "N")
    (out,) = step(make(), before, trade(70, venue=venue, condition="L", tape=tape), quote("N"))
    assert out["last_px"] == last
    assert step(make(), trade(70, venue=venue, condition="L", tape=tape), quote("N"))[0]["last_px"] == 70


def test_the_first_trade_of_the_next_day_may_set_the_last_price(kernel: str) -> None:
    """A day of New York: in UTC it ends five hours after midnight."""
    node = make()
    for clock, code, last in (
        ("2026-01-02T20:00:00", "", 60),
        ("2026-01-03T04:59:59", "Z", 60),
        ("2026-01-03T05:00:00", "Z", 70),
        ("2026-01-03T05:00:01", "Z", 70),
    ):
        at = utc(clock)
        price = 60 if not code else 80 if clock.endswith("01") else 70
        rows = trade(price, condition=code, event_ns=at), quote("N", (100 + at % 7, 100), (200, 100))
        assert step(node, *rows, now_ns=at)[-1]["last_px"] == last


def test_cancels_and_corrections_do_not_set_the_last_price(kernel: str) -> None:
    (out,) = step(make(), trade(50), trade(60, mark="x"), trade(70, mark="c"), trade(0), quote("N"))
    assert out["last_px"] == 50


def test_a_trade_publishes_nothing(kernel: str) -> None:
    node = make()
    step(node, quote("N"))
    assert step(node, trade(50)) == []
    assert step(node, quote("N", (100, 2)))[0]["last_px"] == 50


@pytest.mark.parametrize(
    ("down", "up"), [(line("P", "stale"), line("P", "live")), (link(1, 0), link(1, 1))], ids=["line", "link"]
)
def test_a_lost_line_withdraws_its_quotes_until_it_has_quoted_anew(kernel: str, down: Rows, up: Rows) -> None:
    node = make()
    step(node, quote("N", (100, 5), (103, 5)), quote("P", (101, 5), (102, 5)), quote("P", symbol=2))
    partial, stale = step(node, down)
    assert best(partial) == ("N", 100, 5, "N", 103, 5)
    assert (partial["symbol"], partial["state"], partial["scope"]) == (1, STATE_PARTIAL, "N")
    assert best(stale) == ("", NULL, NULL, "", NULL, NULL)
    assert (stale["symbol"], stale["state"], stale["scope"]) == (2, STATE_STALE, "")
    assert step(node, down) == []
    assert step(node, quote("P", (101, 5), (102, 5)), up) == []  # neither while it is down, nor for being back
    (back,) = step(node, quote("P", (101, 5), (102, 5)))
    assert (back["state"], back["scope"], *best(back)) == (0, "NP", "P", 101, 5, "P", 102, 5)
    assert (node.counters()["from_stale_line"], node.counters()["withdrawn"]) == (1, 2)


def test_a_venue_is_live_when_its_line_and_its_publisher_are(kernel: str) -> None:
    node = make()
    step(node, quote("P"), line("P", "stale"), link(1, 0), link(1, 1))
    assert step(node, quote("P")) == []
    step(node, line("P", "live"))
    assert len(step(node, quote("P"))) == 1


def test_the_lost_venue_is_published_even_if_it_had_no_side(kernel: str) -> None:
    node = make()
    step(node, quote("N"), quote("P", None, None))
    (out,) = step(node, link(1, 0))
    assert (out["state"], out["scope"]) == (STATE_PARTIAL, "N")


@pytest.mark.parametrize("venue", ["A", "Z", "a", "é"])
def test_a_venue_that_the_topology_does_not_name_is_counted(kernel: str, venue: str) -> None:
    node = make()
    assert step(node, quote(venue), line(venue, "stale"), line(venue, "live")) == []
    assert node.counters()["unknown_venue"] == 1


def test_an_empty_batch_changes_nothing(kernel: str) -> None:
    assert step(make()) == []


def test_all_symbols_at_once_fit_into_one_step(kernel: str) -> None:
    symbols = 50
    node = make(symbols_max=symbols, batch_max=3)
    for symbol in range(1, symbols):
        for venue in VENUES:
            step(node, quote(venue, symbol=symbol))
    published = step(node, link(0, 0), link(1, 0), link(2, 0))
    assert len(published) == 3 * (symbols - 1)
    assert {out["state"] for out in published[-symbols + 1 :]} == {STATE_STALE}
    assert len(node.step(np.empty(0, EVENT), 0).base) >= len(published)  # bounded: changes_max


def test_a_batch_with_all_rows_about_links_fits(kernel: str) -> None:
    node = make(symbols_max=2, batch_max=1)
    count = 1 + EVENTS_MAX
    assert len(step(node, *[quote("N", bid=(100 - n % 2, 1)) for n in range(count)])) == count
    assert len(node._changes) >= count


LATE_NS = utc("2026-01-02T21:00:10")
"""Until then a late report of tape C may set the last price: in the middle of a stream."""


def random_stream(rng: random.Random, count: int, symbols: int) -> Rows:
    """Quotes with many ties, odd lots, withdrawals and odd conditions; trades, halts, lots, bands; lines, links and
    days that come and go.
    """
    rows = []

    values: dict[str, Any]

    def side(middle: int) -> Any:
        if rng.random() < 0.05:
            return rng.choice([None, (0, 0)])
        return middle + rng.randrange(4), rng.choice([60, 100, 200, 300])

    for i in range(count):
        symbol = rng.randrange(1, symbols)
        chance = rng.random()
        if chance < 0.8:
            condition = rng.choice(["R", "R", "R", "R", "", "A", "E", "F", "C", "X", "H", "eR", "RB", "?"])
            venue, tape = rng.choice(VENUES + "Z"), rng.choice(["", "", "A", "C"])
            made = quote(venue, side(100), side(rng.choice([99, 101, 103])), symbol, condition=condition, tape=tape)
        elif chance < 0.86:
            codes, tape = ["", "F", "I", "Z", "@  T", "M", "L", "L", "@F L"], rng.choice(["", "A", "C"])
            values = {"condition": rng.choice(codes), "tape": tape, "venue": rng.choice("NPQ")}
            made = trade(rng.randrange(99, 105), symbol, **values)
        elif chance < 0.93:
            values = {"round_lot": rng.choice([None, None, 40, 100])}
            if rng.random() < 0.5:
                values |= {"upper_px": rng.choice([None, 102, 105]), "lower_px": rng.choice([None, 97, 100])}
            reason = rng.choice(["", "T1", "OPER"])
            made = trading(
                rng.choice(["H", "T", "T", "P", "Q", "S", ""]), symbol, rng.choice(VENUES + "YSE"), reason, **values
            )
        elif chance < 0.96:
            made = line(rng.choice(VENUES + "Z"), rng.choice(["stale", "live", "live", "gap"]))
        elif chance < 0.98:
            made = link(rng.randrange(len(PUBLISHERS)), rng.choice([0, 1, 1]))
        else:
            made = event(rng.choice(VENUES), rng.choice("OSQREMC"), rng.choice(["live", ""]))
        made["event_ns"], made["exchange_seq"] = LATE_NS + i - count // 2, i + 1
        rows.append(made)
    return np.concatenate(rows)


def batches(rng: random.Random, rows: Rows, most: int) -> Iterator[Rows]:
    start = 0
    while start < rows.size:
        end = start + rng.randrange(most + 1)
        yield rows[start:end]
        start = end


@pytest.mark.parametrize("seed", range(8))
def test_it_agrees_with_its_twin_in_any_batching(kernel: str, seed: int) -> None:
    rng = random.Random(seed)
    symbols = rng.choice([2, 5, 20])
    market = rng.choice(["", "NP", VENUES])
    rows = random_stream(rng, 1_500, symbols)
    twin = NaiveNbbo(VENUES, PUBLISHERS, market=market, beside=True)
    expected = twin.step(rows)
    kinds = {out["kind"] for out in expected}
    assert kinds == {KIND_NBBO, KIND_BOLO, KIND_WHY}
    names = SymbolTable(symbols)
    for symbol in range(1, symbols):
        names.intern(f"S{symbol}")
    frames = []
    for most in (200, 1):
        node = make(symbols, 200, lot=100, market=market, beside=True)
        published = np.concatenate([node.step(batch, LATE_NS).copy() for batch in batches(rng, rows, most)])
        compare(f"seed {seed}, {kernel}, batches of up to {most}", expected, published)
        frames.append(codec.encode(published, names))
    assert frames[0] == frames[1]


SIDES = st.one_of(st.none(), st.tuples(st.integers(99, 103), st.sampled_from([60, 100, 200])))
SYMBOLS = st.integers(1, 2)
EVENTS = st.one_of(
    st.builds(
        lambda venue, bid, ask, symbol, condition, tape: quote(venue, bid, ask, symbol, condition=condition, tape=tape),
        st.sampled_from(VENUES + "Z"),
        SIDES,
        SIDES,
        SYMBOLS,
        st.sampled_from(["R", "R", "", "A", "E", "F", "C", "H", "eR", "?"]),
        st.sampled_from(["", "A", "C"]),
    ),
    st.builds(
        lambda price, symbol, condition, tape, venue, after: trade(
            price, symbol, condition=condition, tape=tape, venue=venue, event_ns=LATE_NS + after
        ),
        st.integers(99, 103),
        SYMBOLS,
        st.sampled_from(["", "L", "Z", "I"]),
        st.sampled_from(["", "A", "C"]),
        st.sampled_from("NP"),
        st.integers(0, 1),
    ),
    st.builds(
        lambda code, symbol, venue, reason, lot, bands: trading(
            code, symbol, venue, reason, round_lot=lot, upper_px=bands[0], lower_px=bands[1]
        ),
        st.sampled_from(["H", "T", "P", "Q", "S", ""]),
        SYMBOLS,
        st.sampled_from(VENUES + "SE"),
        st.sampled_from(["", "OPER"]),
        st.sampled_from([None, 40, 100]),
        st.sampled_from([(None, None), (102, 100)]),
    ),
    st.builds(line, st.sampled_from(VENUES), st.sampled_from(["stale", "live", "gap"])),
    st.builds(link, st.integers(0, len(PUBLISHERS) - 1), st.integers(0, 1)),
    st.builds(event, st.sampled_from(VENUES), st.sampled_from("OEC"), st.sampled_from(["live", ""])),
)


@given(st.lists(st.tuples(EVENTS, st.booleans()), max_size=40), st.sampled_from(["", "NP", VENUES]))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_stream_in_any_batching_agrees_with_the_twin(made: list[tuple[Rows, bool]], market: str) -> None:
    """Each flag says whether a batch ends behind its row."""
    node = make(3, 50, lot=100, market=market, beside=True)
    parts: list[Rows] = []
    batch: list[Rows] = []
    for row, ends in [*made, (line("N", "gap"), True)]:
        batch.append(row)
        if ends:
            parts.append(node.step(np.concatenate(batch), LATE_NS).copy())
            batch = []
    twin = NaiveNbbo(VENUES, PUBLISHERS, market=market, beside=True)
    compare("", twin.step(np.concatenate([row for row, _ in made] or [np.empty(0, EVENT)])), np.concatenate(parts))


def compare(label: str, expected: list[dict[str, int]], published: Rows) -> None:
    """Every column that the twin gives, row by row."""
    for i, (wanted, found) in enumerate(zip(expected, as_dicts(published), strict=False)):
        assert {name: found[name] for name in wanted} == wanted, f"{label}: row {i}"
    assert len(published) == len(expected), label


@pytest.fixture(scope="module")
def recorded(shared_data: Path) -> list[dict[str, str]]:
    path = shared_data / "taq_nbbo" / "quotes_2018-01-02.csv.gz"
    if not path.exists():
        pytest.skip(f"no recorded quotes: {path} is missing")
    with gzip.open(path, "rt") as lines:
        return list(csv.DictReader(lines))


def test_a_recorded_day_agrees_with_the_official_indicator(recorded: list[dict[str, str]]) -> None:
    """Known answers from the description of the data; the indicator is the tape's own, row by row."""
    rows = empty(len(recorded), QUOTE, KIND_QUOTE)
    rows["symbol"] = 1
    rows["venue"] = [ord(line["ex"]) for line in recorded]
    rows["exchange_seq"] = [int(line["seq"]) for line in recorded]
    rows["condition"] = [pack(line["qu_cond"]) for line in recorded]
    rows["tape"] = pack("A")
    cent = PRICE_UNIT // 100
    for side in ("bid", "ask"):
        rows[f"{side}_px"] = [int(line[side].replace(".", "")) * cent for line in recorded]  # two decimals each
        rows[f"{side}_size"] = [int(line[f"{side}_size"]) * 100 for line in recorded]  # round lots

    node = Nbbo(2, "NPBTYZKXJVAM", (), batch_max=10_000)
    parts = [node.step(rows[i : i + 10_000].view(EVENT), 0).copy() for i in range(0, rows.size, 10_000)]
    changes = np.concatenate(parts).view(NBBO)
    assert changes.size == 58_372

    changed_by = dict(zip(changes["exchange_seq"].tolist(), columns(changes).view(NBBO), strict=True))
    digest, agree, locked, crossed = hashlib.sha256(), 0, 0, 0
    text, state = "", 0
    for line in recorded:
        change = changed_by.get(int(line["seq"]))
        indicator = "A"
        if change is not None:
            out = change[0]
            held = [
                (unpack(out[f"{side}_venue"]), int(out[f"{side}_px"]), int(out[f"{side}_size"]))
                for side in ("bid", "ask")
            ]
            text = ",".join(f"{v},{px // cent},{size // 100}" if v else ",0,0" for v, px, size in held)
            state = int(out["state"])
            holders = {venue for venue, _, _ in held} - {""}
            indicator = "O" if not holders else "G" if holders == {line["ex"]} else "U"
        digest.update(f"{line['seq']},{text}\n".encode())
        agree += indicator == line["natbbo_ind"]
        locked += bool(state & STATE_LOCKED)
        crossed += bool(state & STATE_CROSSED)
    assert (agree, locked, crossed) == (220_557, 2_046, 20)
    assert digest.hexdigest() == "81fc70dd81959fc5156a963d9929dc2a0358e74c7007d00cd501aba0de0789df"


def test_the_recorded_day_in_plain_python_agrees_where_it_is_busiest(
    recorded: list[dict[str, str]], kernel: str
) -> None:
    """Both forms of the kernel against the twin on the first quotes of the day."""
    first = recorded[:3_000]
    rows = np.concatenate(
        [
            quote(
                line["ex"],
                (int(line["bid"].replace(".", "")), int(line["bid_size"]) * 100),
                (int(line["ask"].replace(".", "")), int(line["ask_size"]) * 100),
                condition=line["qu_cond"],
                tape="A",
                exchange_seq=int(line["seq"]),
            )
            for line in first
        ]
    )
    venues = "NPBTYZKXJVAM"
    compare(kernel, NaiveNbbo(venues, ()).step(rows), Nbbo(2, venues, (), 3_000).step(rows, 0))
