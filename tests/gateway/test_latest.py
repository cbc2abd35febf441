"""The memory of latest values: what is kept, what is stale, and the candle rings, against slow twins."""

import numpy as np
import pytest

from fabric.records import (
    BAR,
    EVENT,
    GAP,
    KIND_BAR_1M,
    KIND_BAR_5M,
    KIND_GAP,
    KIND_LINK,
    KIND_NBBO,
    KIND_QUOTE,
    KIND_STATUS,
    KIND_TRADE,
    LINK,
    NBBO,
    NULL,
    QUOTE,
    STATE_CROSSED,
    STATE_STALE,
    STATUS,
    TRADE,
    Rows,
    empty,
    pack,
)
from fabric.symbols import SymbolTable
from fabric.topology import Limits, Publisher, Source, Venue
from gateway import latest_kernel
from gateway.latest import Latest

LIMITS = Limits(symbols_max=8, candles_kept=4)
VENUES = [Venue("N", "NYSE", "nyse"), Venue("V", "IEX", "iex")]
FEED = Publisher("iex", "", "", ("quote", "trade", "status"), venues="V")
NBBO_A = Publisher("nbbo-a", "", "", ("nbbo",), letters="A")
NBBO_B = Publisher("nbbo-b", "", "", ("nbbo",), letters="B")
SOURCES = [Source(publisher, ("",)) for publisher in (FEED, NBBO_A, NBBO_B)]


@pytest.fixture
def latest() -> Latest:
    symbols = SymbolTable(LIMITS.symbols_max)
    for name in ("AAPL", "BRK.B"):
        symbols.intern(name)
    return Latest(LIMITS, VENUES, SOURCES, symbols)


def row(kind: int, dtype: np.dtype[np.void], symbol: int = 1, **columns: int) -> Rows:
    made = empty(1, dtype, kind)
    made["symbol"], made["seq"], made["epoch"] = symbol, 1, 1
    for name, value in columns.items():
        made[name] = value
    return made.view(EVENT)


def nbbo(symbol: int = 1, **columns: int) -> Rows:
    return row(KIND_NBBO, NBBO, symbol, **({"bid_px": 100, "ask_px": 102, "state": 0} | columns))


def link(publisher: int, up: int) -> Rows:
    return row(KIND_LINK, LINK, 0, publisher=publisher, up=up)


def bar(start_ns: int, kind: int = KIND_BAR_1M, **columns: int) -> Rows:
    return row(kind, BAR, event_ns=start_ns, **({"rev": 0, "final": 0, "gap": 0, "close_px": start_ns} | columns))


def test_nothing_is_known_before_the_first_row(latest: Latest) -> None:
    assert latest.nbbo[1]["seq"] == NULL
    assert latest.quotes[1, 0]["seq"] == NULL
    assert latest.bars[KIND_BAR_1M][1]["seq"] == NULL
    assert latest.stale(1)
    assert latest.display(1) is None
    assert latest.candles(1, KIND_BAR_1M, 0, 10, 10).size == 0


def test_the_last_row_of_a_batch_wins(latest: Latest) -> None:
    latest.apply(np.concatenate([nbbo(bid_px=100), nbbo(bid_px=101, seq=2), nbbo(2, bid_px=7)]), 0)
    assert latest.nbbo["bid_px"][1:3].tolist() == [101, 7]
    assert not latest.stale(1)


@pytest.mark.parametrize(
    "change",
    [
        {"state": STATE_STALE},
        {"state": STATE_STALE | STATE_CROSSED},
        {"bid_px": NULL, "ask_px": NULL, "state": STATE_STALE},
    ],
)
def test_a_stale_best_shows_the_last_known_sides(latest: Latest, change: dict[str, int]) -> None:
    latest.apply(nbbo(bid_px=100, ask_px=102), 0)
    latest.apply(nbbo(seq=2, **change), 0)
    shown = latest.display(1)
    assert latest.stale(1)
    assert shown is not None
    assert shown[["bid_px", "ask_px"]].item() == (100, 102)


def test_a_one_sided_best_is_live_and_shown_as_it_is(latest: Latest) -> None:
    latest.apply(np.concatenate([nbbo(), nbbo(seq=2, bid_px=NULL, state=4)]), 0)
    shown = latest.display(1)
    assert not latest.stale(1)
    assert shown is not None
    assert shown["bid_px"] == NULL


def test_a_lost_link_makes_only_its_own_symbols_stale(latest: Latest) -> None:
    latest.apply(np.concatenate([link(1, 1), link(2, 1), nbbo(1), nbbo(2)]), 0)
    latest.apply(link(1, 0), 5)
    assert (latest.stale(1), latest.stale(2)) == (True, False)
    assert latest.links() == [None, False, True]
    assert latest.tables.link_since_ns[1] == 5


def test_a_link_that_is_up_again_makes_a_value_live_only_with_its_next_row(latest: Latest) -> None:
    """What a healed partition kept from us is unknown until each topic is heard again."""
    symbol, slot = latest.symbols.intern("AMZN"), latest.slot("V")
    quotes = [row(KIND_QUOTE, QUOTE, number, venue=ord("V")) for number in (1, symbol)]
    latest.apply(np.concatenate([link(0, 1), link(1, 1), nbbo(1), nbbo(symbol), *quotes]), 0)

    def stale() -> list[bool]:
        return [check for s in (1, symbol) for check in (latest.stale(s), latest.quote_stale(s, slot))]

    assert stale() == [False] * 4
    latest.apply(np.concatenate([link(0, 0), link(1, 0), link(0, 1), link(1, 1)]), 5)
    assert stale() == [True] * 4
    latest.apply(np.concatenate([nbbo(1), quotes[0]]), 6)  # the same rows once more
    assert stale() == [False, False, True, True]
    latest.apply(np.concatenate([link(0, 0), link(0, 1), nbbo(symbol), quotes[1]]), 7)
    assert stale() == [False, True, False, False]


@pytest.mark.parametrize("letter", ["V", "N"])  # with a publisher that is known, and without
def test_a_line_that_is_live_again_makes_a_quote_live_only_with_its_next_row(latest: Latest, letter: str) -> None:
    symbol, slot = latest.symbols.intern("AMZN"), latest.slot(letter)
    quotes = [row(KIND_QUOTE, QUOTE, number, venue=ord(letter)) for number in (1, symbol)]

    def line(state: str) -> Rows:
        return row(KIND_STATUS, STATUS, 0, venue=ord(letter), venue_state=pack(state))

    def stale() -> list[bool]:
        return [latest.quote_stale(number, slot) for number in (1, symbol)]

    latest.apply(np.concatenate([line("live"), *quotes]), 0)
    latest.apply(line("gap"), 1)
    assert stale() == [False, False]
    latest.apply(np.concatenate([line("stale"), line("stale")]), 2)
    assert stale() == [True, True]
    latest.apply(np.concatenate([line("live"), quotes[0]]), 3)
    assert stale() == [False, True]
    assert latest.tables.line_losses[slot] == 1
    latest.apply(np.concatenate([line("stale"), quotes[1], line("live")]), 4)
    assert stale() == [True, False]


def test_what_a_publisher_sent_in_its_former_life_is_stale_until_sent_anew(latest: Latest) -> None:
    symbol = latest.symbols.intern("AMZN")
    latest.apply(np.concatenate([nbbo(1), nbbo(symbol)]), 0)
    latest.apply(np.concatenate([link(1, 0), row(KIND_LINK, LINK, 0, publisher=1, up=1, epoch=2)]), 0)
    assert (latest.stale(1), latest.stale(symbol)) == (True, True)
    latest.apply(nbbo(1, epoch=2), 0)
    assert (latest.stale(1), latest.stale(symbol)) == (False, True)
    latest.apply(nbbo(symbol, epoch=2), 0)
    assert not latest.stale(symbol)


def test_quotes_are_kept_by_venue_and_follow_their_feed(latest: Latest) -> None:
    quote = row(KIND_QUOTE, QUOTE, venue=ord("V"), bid_px=5)
    latest.apply(quote, 0)
    assert latest.quotes[1, latest.slot("V")]["bid_px"] == 5
    assert latest.quotes[1, latest.slot("N")]["seq"] == NULL
    assert not latest.quote_stale(1, latest.slot("V"))
    assert latest.quote_stale(1, latest.slot("N"))
    latest.apply(link(0, 0), 0)
    assert latest.quote_stale(1, latest.slot("V"))


def test_a_venue_that_the_topology_lacks_is_counted_and_not_kept(latest: Latest) -> None:
    latest.apply(row(KIND_QUOTE, QUOTE, venue=ord("Z"), bid_px=5), 0)
    assert latest.counters()["unplaced"] == 1
    assert latest.counters()["rows_quote"] == 0
    assert latest.slot("Z") == latest.slot("é") == latest.slot("VN") == -1


def test_a_cancel_takes_the_last_trade_back_and_a_correction_replaces_it(latest: Latest) -> None:
    def trade(**columns: int) -> Rows:
        return row(KIND_TRADE, TRADE, venue=ord("V"), **({"mark": 0, "price": 10, "trade_id": 7} | columns))

    latest.apply(trade(), 0)
    latest.apply(trade(mark=pack("x"), original_id=6, trade_id=NULL), 0)
    assert latest.trades[1]["seq"] == 1
    latest.apply(trade(mark=pack("c"), original_id=7, price=11), 0)
    assert latest.trades[1]["price"] == 11
    latest.apply(trade(mark=pack("x"), original_id=7), 0)
    assert latest.trades[1]["seq"] == NULL


def test_statuses_of_a_symbol_and_of_a_whole_venue_are_kept_apart(latest: Latest) -> None:
    halted, line = (
        row(KIND_STATUS, STATUS, venue=ord("V"), trading=pack("H")),
        row(KIND_STATUS, STATUS, 0, venue=ord("V"), venue_state=pack("stale")),
    )
    latest.apply(np.concatenate([halted, line]), 0)
    assert latest.statuses[1]["trading"] == pack("H")
    assert latest.statuses[0]["seq"] == NULL
    assert latest.venue_statuses[latest.slot("V")]["venue_state"] == pack("stale")


def test_gaps_are_counted(latest: Latest) -> None:
    latest.apply(row(KIND_GAP, GAP, publisher=0, channel_kind=KIND_NBBO), 0)
    assert latest.counters()["gaps"] == 1


def test_a_late_revision_changes_history_and_not_the_current_bar(latest: Latest) -> None:
    latest.apply(np.concatenate([bar(60), bar(120), bar(60, rev=2, close_px=9)]), 0)
    assert latest.bars[KIND_BAR_1M][1]["event_ns"] == 120
    kept = latest.candles(1, KIND_BAR_1M, 0, 1_000, 10)
    assert kept[["start_ns", "close_px", "rev"]].tolist() == [(60, 9, 2), (120, 120, 0)]
    assert latest.candles(1, KIND_BAR_5M, 0, 1_000, 10).size == 0


def test_candles_are_read_by_half_open_range_newest_first_to_fit(latest: Latest) -> None:
    latest.apply(np.concatenate([bar(start) for start in (10, 20, 30)]), 0)
    assert latest.candles(1, KIND_BAR_1M, 10, 30, 10)["start_ns"].tolist() == [10, 20]
    assert latest.candles(1, KIND_BAR_1M, 0, 99, 2)["start_ns"].tolist() == [20, 30]
    assert latest.candles(1, KIND_BAR_1M, 31, 99, 2).size == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_candle_ring_equals_a_sorted_dictionary(latest: Latest, seed: int) -> None:
    """Random starts and revisions, in and out of order, more than the ring holds, against the obvious twin."""
    random = np.random.default_rng(seed)
    twin: dict[int, tuple[int, int]] = {}
    for step in range(200):
        start, rev = int(random.integers(0, 4) + step // 20) * 60, int(random.integers(0, 3))
        latest.apply(bar(start, rev=rev, close_px=step), 0)
        if start in twin:
            if rev >= twin[start][0]:
                twin[start] = (rev, step)
        elif len(twin) < LIMITS.candles_kept or start > min(twin):
            twin[start] = (rev, step)
            if len(twin) > LIMITS.candles_kept:
                del twin[min(twin)]
        kept = latest.candles(1, KIND_BAR_1M, 0, 10**6, 10)
        found = [(c["start_ns"].item(), (c["rev"].item(), c["close_px"].item())) for c in kept]
        assert found == sorted(twin.items()), f"seed {seed}, step {step}"


def test_the_kernel_and_its_source_agree(latest: Latest) -> None:
    """The uncompiled function does the same with the same rows."""
    batch = np.concatenate([nbbo(), link(1, 0), bar(60), row(KIND_QUOTE, QUOTE, venue=ord("N"), bid_px=3)])
    latest.apply(batch, 1)
    other = Latest(LIMITS, VENUES, SOURCES, latest.symbols)
    latest_kernel.apply.py_func(other.tables, latest.symbols.arrays.names, latest_kernel.views(batch), 1)  # type: ignore[attr-defined]
    for name, ours, theirs in zip(latest.tables._fields, latest.tables, other.tables, strict=True):
        assert np.array_equal(ours, theirs), name
