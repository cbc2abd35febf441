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

from fabric.bus import EVENTS_MAX
from fabric.records import (
    EVENT,
    KIND_LINK,
    KIND_QUOTE,
    KIND_STATUS,
    KIND_TRADE,
    LINK,
    NBBO,
    NULL,
    PRICE_UNIT,
    QUOTE,
    STATE_CROSSED,
    STATE_HALTED,
    STATE_LOCKED,
    STATE_ONE_SIDED,
    STATE_PARTIAL,
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
from naive import NaiveNbbo, as_dicts, uncompiled
from nodes import nbbo
from nodes.nbbo import Nbbo

VENUES = "NPQV"
PUBLISHERS = ("N", "PQ", "V")


@pytest.fixture(params=["compiled", "uncompiled"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test on the compiled kernel, then on the same code as plain Python."""
    if request.param == "uncompiled":
        _, plain = uncompiled("nodes.conditions_kernel", "nodes.nbbo_kernel")
        monkeypatch.setattr(nbbo, "nbbo_kernel", plain)
    return str(request.param)


def make(symbols_max: int = 8, batch_max: int = 1_000) -> Nbbo:
    return Nbbo(symbols_max, VENUES, PUBLISHERS, batch_max)


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
    return row(TRADE, KIND_TRADE, symbol, "N", {"price": price, "size": 100} | values)


def line(venue: str, state: str) -> Rows:
    return row(STATUS, KIND_STATUS, 0, venue, {"venue_state": state})


def trading(code: str, symbol: int = 1) -> Rows:
    return row(STATUS, KIND_STATUS, symbol, "N", {"trading": code})


def link(publisher: int, up: int) -> Rows:
    return row(LINK, KIND_LINK, 0, "", {"publisher": publisher, "up": up})


def step(node: Nbbo, *rows: Rows) -> list[dict[str, Any]]:
    """What the node publishes for these rows in one batch, as text where it is text."""
    published = as_dicts(node.step(np.concatenate([np.empty(0, EVENT), *rows]), now_ns=0))
    for out in published:
        out |= {name: unpack(out[name]) for name in ("bid_venue", "ask_venue")}  # type: ignore[dict-item]
        out |= {name: venue_letters(out[name]) for name in ("bid_mask", "ask_mask", "scope")}  # type: ignore[dict-item]
    return published  # type: ignore[return-value]


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


@pytest.mark.parametrize(
    ("condition", "bid", "ask"),
    [(code, True, True) for code in ["", " ", "A", "B", "H", "O", "R", "W", "Y", "RA"]]
    + [("E", False, True), ("F", True, False), ("RE", False, True), ("EF", False, False)]
    + [(code, False, False) for code in ["C", "L", "N", "U", "4", "RC", "I", "X", "NF", "Z", "?", "r"]],
)
def test_quote_conditions(kernel: str, condition: str, bid: bool, ask: bool) -> None:
    node = make()
    step(node, quote("N", (100, 5), (103, 5)), quote("P", (99, 5), (104, 5)))
    step(node, quote("N", (101, 6), (102, 6), condition=condition))
    top = node.book.tops[1]
    assert bool(top["slot"][0] == VENUES.index("N")) is bid
    assert bool(top["slot"][1] == VENUES.index("N")) is ask
    assert node.counters()["ineligible"] == (not (bid and ask))


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


def test_a_halt_is_a_bit_and_prices_stay(kernel: str) -> None:
    node = make()
    step(node, quote("N"))
    (halted,) = step(node, trading("H"))
    assert (halted["state"], halted["bid_px"]) == (STATE_HALTED, 100)
    assert step(node, trading("H"), trading("P"), trading("")) == []
    (moved,) = step(node, quote("N", (101, 1)))
    assert moved["state"] == STATE_HALTED
    (resumed,) = step(node, trading("T"))
    assert resumed["state"] == 0
    assert step(node, trading("T")) == []
    assert [out["symbol"] for out in step(node, trading("H", symbol=2))] == [2]  # though it has no quote yet


@pytest.mark.parametrize(
    ("condition", "sets_last", "sets_first"),
    [(code, True, True) for code in ["", " ", "@", "E", "F", "K", "O", "X", "5", "6", "9", "@F X"]]
    + [(code, False, True) for code in ["L", "P", "Z", "4", " F Z"]]
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


def random_stream(rng: random.Random, count: int, symbols: int) -> Rows:
    """Quotes with many ties, withdrawals and odd conditions; trades, halts, lines and links that come and go."""
    rows = []

    def side(middle: int) -> Any:
        return (
            rng.choice([None, (0, 0)])
            if rng.random() < 0.05
            else (middle + rng.randrange(4), rng.randrange(1, 4) * 100)
        )

    for i in range(count):
        symbol = rng.randrange(1, symbols)
        chance = rng.random()
        if chance < 0.85:
            condition = rng.choice(["R", "R", "R", "", "A", "E", "F", "C", "X"])
            venue = rng.choice(VENUES + "Z")
            made = quote(venue, side(100), side(rng.choice([99, 101, 103])), symbol, condition=condition)
        elif chance < 0.93:
            made = trade(rng.randrange(99, 105), symbol, condition=rng.choice(["", "F", "I", "Z", "@  T", "M"]))
        elif chance < 0.96:
            made = trading(rng.choice("HTP"), symbol)
        elif chance < 0.98:
            made = line(rng.choice(VENUES + "Z"), rng.choice(["stale", "live", "gap"]))
        else:
            made = link(rng.randrange(len(PUBLISHERS)), rng.choice([0, 1, 1]))
        made["event_ns"] = made["exchange_seq"] = i + 1
        rows.append(made)
    return np.concatenate(rows)


def batches(rng: random.Random, rows: Rows, most: int) -> Iterator[Rows]:
    start = 0
    while start < rows.size:
        end = start + rng.randrange(most + 1)
        yield rows[start:end]
        start = end


@pytest.mark.parametrize("seed", range(6))
def test_it_agrees_with_its_twin_in_any_batching(kernel: str, seed: int) -> None:
    rng = random.Random(seed)
    symbols = rng.choice([2, 5, 20])
    rows = random_stream(rng, 1_500, symbols)
    twin, node = NaiveNbbo(VENUES, PUBLISHERS), make(symbols, batch_max=200)
    expected = twin.step(rows)
    published = np.concatenate([node.step(batch, 0).copy() for batch in batches(rng, rows, 200)])
    compare(f"seed {seed}, {kernel}", expected, published)


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
                (int(line["bid"].replace(".", "")), int(line["bid_size"])),
                (int(line["ask"].replace(".", "")), int(line["ask_size"])),
                condition=line["qu_cond"],
                exchange_seq=int(line["seq"]),
            )
            for line in first
        ]
    )
    venues = "NPBTYZKXJVAM"
    compare(kernel, NaiveNbbo(venues, ()).step(rows), Nbbo(2, venues, (), 3_000).step(rows, 0))
