"""The market as an exchange takes it: listings, the opening, the day, and what happens when one is late."""

import re
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from nodes.exchanges.market import (
    BATCH_MAX,
    CLOSE_MINUTE,
    HALT_MAX_NS,
    HALT_MIN_NS,
    NEVER_NS,
    OPEN_MINUTE,
    OUTSIDE_SESSION,
    POPULAR,
    SHORT_SALE_EVERY,
    SPIN_NS,
    Market,
    halts_of_minute,
    intraday_shape,
    list_symbols,
    tickers,
)
from nodes.exchanges.market_events_kernel import (
    ADD,
    BANDS,
    BREAK,
    DELETE,
    DIRECTORY,
    DOLLAR,
    EXTENDED_HOURS,
    QUOTE,
    SHORT_SALE,
    STATUS,
    SYSTEM,
    TRADE,
)

MS = 1_000_000
SECOND = 1_000_000_000
MINUTE = 60 * SECOND


def instant(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("America/New_York")).timestamp()) * SECOND


MONDAY_NOON = instant("2026-01-05T12:00:00")


def market(symbols: int = 20, rate: float = 50_000.0, start_ns: int = MONDAY_NOON, **settings) -> Market:
    return Market(symbols, 1, start_ns, rate=rate, **settings)


def taken(market: Market, until_ns: int) -> np.ndarray:
    parts = []
    while (events := market.take(until_ns)).size:
        assert events.size <= BATCH_MAX
        parts.append(events.copy())
    return np.concatenate(parts) if parts else market.take(until_ns)


# Listings


@pytest.mark.parametrize("count", [1, 13, 5_000, 20_000])
def test_tickers_are_unique_and_plausible(count):
    names = tickers(count)
    assert len(names) == len(set(names)) == count
    assert all(re.fullmatch(r"[A-Z]{1,5}(\.[AB])?", name) and len(name) <= 8 for name in names)
    assert names[: len(POPULAR)] == tuple(POPULAR)[:count]


def test_every_first_letter_occurs_and_a_larger_market_only_adds():
    names = tickers(5_000)
    assert {name[0] for name in names[:38]} == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert {"BRK.B", "AAPL", "F", "GE"} <= set(names)
    assert 50 < sum("." in name for name in names) < 200
    assert tickers(20_000)[:5_000] == names


def test_listings_are_realistic():
    rows = list_symbols(tickers(5_000), seed=1)
    dollars = rows["base_px"] / DOLLAR
    assert 1.0 <= dollars.min() < 3
    assert 500 < dollars.max() <= 1_000
    assert 30 < np.median(dollars) < 40
    assert (rows["base_px"] % (DOLLAR // 100) == 0).all()
    assert set(rows["round_lot"]) == {100, 40}
    assert (rows["round_lot"] == np.where(dollars <= 250, 100, 40)).all()
    assert rows["spread"][0] < 1e-4 < rows["spread"][-1]
    assert (rows["base_px"] != list_symbols(tickers(5_000), seed=2)["base_px"]).mean() > 0.9


@pytest.mark.parametrize("count", [1, 2, 3, 5_000])
def test_the_alias_table_gives_every_symbol_its_share(count):
    rows = list_symbols(tickers(count), seed=1)
    share = rows["accept"].copy()
    np.add.at(share, rows["alias"], 1 - rows["accept"])
    expected = 1 / (np.arange(count) + 11)
    assert share / count == pytest.approx(expected / expected.sum(), rel=1e-9)
    assert (rows["accept"] >= 0).all()
    assert (rows["accept"] <= 1).all()


def test_no_symbol_has_more_than_two_percent_of_the_flow():
    share = 1 / (np.arange(5_000) + 11)
    assert 0.01 < share[0] / share.sum() < 0.02


# The opening


def test_the_opening_lists_every_symbol_then_opens_it_then_quotes_it():
    spin = taken(market(symbols=3), MONDAY_NOON + SPIN_NS - 1)
    assert spin["kind"].tolist() == [SYSTEM] * 3 + [DIRECTORY] * 3 + [STATUS] * 3 + [QUOTE] * 3
    assert [chr(code) for code in spin["code"][:3]] == ["O", "S", "R"]
    assert spin["symbol"][3:].tolist() == [0, 1, 2] * 3
    assert spin["size"][3:6].tolist() == [40, 100, 100]
    assert {chr(code) for code in spin["code"][6:9]} == {"T"}
    assert (spin["bid_px"][9:] < spin["ask_px"][9:]).all()


def test_the_opening_is_spread_evenly():
    spin = taken(market(symbols=5_000), MONDAY_NOON + SPIN_NS - 1)
    per_ms = np.bincount((spin["event_ns"] - MONDAY_NOON) // MS)
    assert spin.size == 15_003 + 5_000 // SHORT_SALE_EVERY
    assert per_ms.size == SPIN_NS // MS
    assert per_ms.min() >= 29
    assert per_ms.max() <= 33


def test_one_symbol_in_fifty_is_under_a_short_sale_restriction():
    spin = taken(market(symbols=500), MONDAY_NOON + SPIN_NS - 1)
    restricted = spin[spin["kind"] == SHORT_SALE]
    assert restricted["symbol"].tolist() == list(range(49, 500, 50))
    assert {chr(code) for code in restricted["code"]} == {"1"}


def test_a_venue_that_tells_orders_opens_with_one_on_each_side():
    spin = taken(market(symbols=3, by_orders=True), MONDAY_NOON + SPIN_NS - 1)
    assert spin["kind"][9:].tolist() == [ADD] * 6
    assert spin["symbol"][9:].tolist() == [0, 0, 1, 1, 2, 2]
    assert set(spin["side"][9:]) == {1, -1}


def test_the_flow_begins_when_the_opening_is_over():
    opened = market(symbols=3)
    taken(opened, MONDAY_NOON + SPIN_NS - 1)
    first = opened.take(MONDAY_NOON + 2 * SPIN_NS)
    assert first["event_ns"][0] == MONDAY_NOON + SPIN_NS
    assert set(first["kind"]) == {QUOTE, TRADE}


def test_a_late_opening_is_moved_and_nothing_of_it_is_lost():
    opened = market(symbols=3)
    begun = taken(opened, MONDAY_NOON + SPIN_NS // 2)
    later = MONDAY_NOON + 10 * SECOND
    assert opened.skip_to(later) == 0
    rest = taken(opened, later + SPIN_NS)
    assert rest["event_ns"][0] == later
    kinds = np.concatenate((begun, rest))["kind"].tolist()
    assert kinds[:12] == [SYSTEM] * 3 + [DIRECTORY] * 3 + [STATUS] * 3 + [QUOTE] * 3
    assert (np.diff(rest["event_ns"][: 13 - begun.size]) > SPIN_NS // 13).all()
    assert (np.diff(rest["event_ns"]) >= 0).all()


# The flow


def test_events_come_in_order_and_never_before_they_are_due():
    running = market()
    last_ns = 0
    for now_ns in range(MONDAY_NOON, MONDAY_NOON + SECOND, MS):
        events = taken(running, now_ns)
        assert (events["event_ns"] <= now_ns).all()
        assert (events["event_ns"] > now_ns - MS).all()
        if events.size:
            assert events["event_ns"][0] >= last_ns
            last_ns = events["event_ns"][-1]


def test_a_full_batch_is_followed_by_the_next():
    running = market()
    taken(running, MONDAY_NOON + SPIN_NS - 1)
    sizes = [running.take(NEVER_NS).size for _ in range(5)]
    assert all(BATCH_MAX - 1 <= size <= BATCH_MAX for size in sizes)


@pytest.mark.parametrize("by_orders", [False, True])
def test_the_flow_is_the_same_for_the_same_seed_however_it_is_taken(by_orders):
    settings = {"by_orders": by_orders, "halts_per_hour": 6_000.0, "announce_ns": SECOND}
    whole = taken(market(**settings), MONDAY_NOON + 3 * SECOND)
    running = market(**settings)
    parts = [taken(running, now_ns) for now_ns in range(MONDAY_NOON, MONDAY_NOON + 3 * SECOND + 1, 10 * MS)]
    assert (np.concatenate(parts) == whole).all()
    assert (np.diff(whole["event_ns"]) >= 0).all()
    assert {ord("H"), ord("T")} <= set(whole["code"][(whole["kind"] == STATUS) & (whole["event_ns"] > MONDAY_NOON)])


def test_surge_is_a_factor_on_the_rate():
    running = market(rate=10_000.0)
    calm = taken(running, MONDAY_NOON + SPIN_NS + SECOND).size
    running.rate *= 3
    surged = taken(running, MONDAY_NOON + SPIN_NS + 2 * SECOND).size
    assert surged / (calm - 63) == pytest.approx(3.0, rel=0.1)


def test_a_rate_of_zero_is_silence_and_can_end():
    running = market(rate=0.0)
    taken(running, MONDAY_NOON + SPIN_NS)
    assert taken(running, MONDAY_NOON + MINUTE).size == 0
    assert running.skip_to(MONDAY_NOON + MINUTE) == 0
    running.rate = 1_000.0
    assert taken(running, MONDAY_NOON + MINUTE + SECOND).size == pytest.approx(1_000, rel=0.15)


def test_what_is_too_late_is_given_up_and_counted():
    running = market()
    taken(running, MONDAY_NOON + SPIN_NS + SECOND)
    resumed_ns = MONDAY_NOON + SPIN_NS + 5 * SECOND
    assert running.skip_to(resumed_ns) == pytest.approx(4 * 50_000, rel=0.01)
    events = taken(running, resumed_ns + 100 * MS)
    assert events["event_ns"][0] >= resumed_ns
    assert events.size == pytest.approx(5_000, rel=0.1)
    assert running.skip_to(resumed_ns) == 0


def test_venues_of_one_seed_share_prices_but_not_their_flow():
    ours, theirs = (taken(market(venue=venue), MONDAY_NOON + 3 * SECOND) for venue in "VN")
    assert (set(ours["venue"]), set(theirs["venue"])) == ({ord("V")}, {ord("N")})
    for symbol in range(20):
        middles = []
        for events in (ours, theirs):
            quotes = events[(events["symbol"] == symbol) & (events["kind"] == QUOTE)]
            middles.append((quotes["bid_px"][-1] + quotes["ask_px"][-1]) / 2)
        assert middles[0] == pytest.approx(middles[1], rel=1e-3)
    quotes = [events[events["kind"] == QUOTE][:500] for events in (ours, theirs)]
    assert (quotes[0]["symbol"][100:] != quotes[1]["symbol"][100:]).mean() > 0.5


def test_trade_numbers_do_not_repeat_after_a_restart():
    first = taken(market(), MONDAY_NOON + 2 * SECOND)
    second = taken(market(start_ns=MONDAY_NOON + 2 * SECOND), MONDAY_NOON + 4 * SECOND)
    assert second["trade_id"][second["kind"] == TRADE].min() > first["trade_id"].max()


# Four venues, one market


def best_of_all(seconds: int = 4) -> tuple[float, float, float]:
    """Shares of the quote changes that leave the composite of four venues locked, and crossed; the worst crossing."""
    parts = []
    for venue, by_orders in (("N", False), ("Q", True), ("Z", True), ("V", False)):
        one = market(symbols=500, rate=12_500.0, venue=venue, by_orders=by_orders)
        parts.append(taken(one, MONDAY_NOON + SPIN_NS + seconds * SECOND))
    events = np.concatenate(parts)
    events = events[(events["kind"] == QUOTE) | (events["kind"] >= ADD)]
    books: dict[int, dict[int, tuple[int, int]]] = {}
    found, worst = {-1: 0, 0: 0, 1: 0}, 0.0
    columns = ["symbol", "venue", "bid_px", "bid_size", "ask_px", "ask_size"]
    in_order = events[np.argsort(events["event_ns"], kind="stable")][columns].tolist()
    for symbol, venue, bid_px, bid_size, ask_px, ask_size in in_order:
        book = books.setdefault(symbol, {})
        book[venue] = (bid_px if bid_size else 0, ask_px if ask_size else 2**62)
        bid, ask = max(b for b, _ in book.values()), min(a for _, a in book.values())
        found[(bid > ask) - (bid < ask)] += 1
        worst = max(worst, bid / ask - 1)
    return found[0] / events.size, found[1] / events.size, worst


def test_the_composite_of_four_venues_is_rarely_locked_and_never_absurdly_crossed():
    locked, crossed, worst = best_of_all()
    assert 0 < locked < 0.02
    assert crossed < 0.005
    assert worst < 0.002


# Halts


def test_halts_are_a_function_of_seed_and_minute():
    first = [halt for minute in range(1_000) for halt in halts_of_minute(1, 5_000, 60.0, minute)]
    assert first == [halt for minute in range(1_000) for halt in halts_of_minute(1, 5_000, 60.0, minute)]
    assert len(first) == 1_000
    assert [len(halts_of_minute(1, 5_000, 90.0, minute)) for minute in range(200)].count(2) == pytest.approx(
        100, abs=30
    )
    assert len([halt for minute in range(1_000) for halt in halts_of_minute(1, 5_000, 6.0, minute)]) < 150
    assert all(HALT_MIN_NS <= halt.end_ns - halt.start_ns <= HALT_MAX_NS for halt in first)
    assert {halt.reason for halt in first} == {"T1", "LUDP"}
    assert all(0 <= halt.symbol < 5_000 for halt in first)
    assert first != [halt for minute in range(1_000) for halt in halts_of_minute(2, 5_000, 60.0, minute)]


def test_all_venues_halt_and_resume_a_symbol_at_the_same_time():
    told = []
    for venue, by_orders in (("N", False), ("Q", True)):
        events = taken(
            market(rate=2_000.0, venue=venue, by_orders=by_orders, halts_per_hour=600.0), MONDAY_NOON + 2 * MINUTE
        )
        events = events[events["event_ns"] >= MONDAY_NOON + SPIN_NS]
        status = events[np.isin(events["kind"], (STATUS, BANDS))]
        told.append(status[["kind", "symbol", "event_ns", "code", "reason"]].tolist())
        for halt in status[status["code"] == ord("H")]:
            later = events[(events["symbol"] == halt["symbol"]) & (events["event_ns"] > halt["event_ns"])]
            later = later[later["kind"] != BREAK]
            if later.size:
                assert (later["kind"][0], later["code"][0]) == (STATUS, ord("T"))
        at_halt = events[np.isin(events["event_ns"], status["event_ns"][status["code"] == ord("H")])]
        assert {DELETE if by_orders else QUOTE} <= set(at_halt["kind"])
        bands = status[status["kind"] == BANDS]
        assert bands.size
        assert (bands["bid_px"] < bands["price"]).all()
        assert (bands["price"] < bands["ask_px"]).all()
    assert told[0] == told[1]
    assert 15 < sum(kind == STATUS for kind, *_ in told[0]) < 60


def test_a_market_that_opens_during_a_halt_says_so():
    running = taken(market(symbols=3, halts_per_hour=600.0), MONDAY_NOON + MINUTE)
    halt = running[(running["kind"] == STATUS) & (running["code"] == ord("H"))][0]
    opened = market(symbols=3, halts_per_hour=600.0, start_ns=int(halt["event_ns"]) + SECOND)
    spin = taken(opened, int(halt["event_ns"]) + SECOND + SPIN_NS - 1)
    status = {int(e["symbol"]): (chr(e["code"]), e["reason"]) for e in spin if e["kind"] == STATUS}
    assert status[int(halt["symbol"])] == ("H", halt["reason"])
    assert int(halt["symbol"]) not in spin["symbol"][spin["kind"] == QUOTE]


# Images


@pytest.mark.parametrize("by_orders", [False, True])
def test_an_image_says_all_that_stands(by_orders):
    running = market(symbols=60, by_orders=by_orders, halts_per_hour=3_600.0)
    taken(running, MONDAY_NOON + 3 * SECOND)
    image = running.image(np.arange(60), MONDAY_NOON + 3 * SECOND)
    assert set(image["event_ns"]) == {MONDAY_NOON + 3 * SECOND}
    assert image["symbol"][image["kind"] == DIRECTORY].tolist() == list(range(60))
    status = image[image["kind"] == STATUS]
    halted = running.books["halted"] != 0
    assert (status["code"] == np.where(halted, ord("H"), ord("T"))).all()
    assert halted.any()
    assert image["symbol"][image["kind"] == SHORT_SALE].tolist() == [49]
    if by_orders:
        orders = image[image["kind"] == ADD]
        assert orders["order_id"].tolist() == sorted(running.orders["id"][running.orders["id"] > 0].tolist())
        for symbol in np.flatnonzero(~halted):
            bids = orders[(orders["symbol"] == symbol) & (orders["side"] > 0)]
            asks = orders[(orders["symbol"] == symbol) & (orders["side"] < 0)]
            best = running.books[symbol]
            assert (bids["price"].max(), asks["price"].min()) == (best["bid_px"], best["ask_px"])
    else:
        quotes = image[image["kind"] == QUOTE]
        assert quotes["symbol"].tolist() == np.flatnonzero(~halted).tolist()
        assert (quotes["ask_size"] == running.books["ask_size"][~halted]).all()


# Announcements


def test_every_listing_and_status_is_told_again():
    events = taken(market(symbols=250, rate=1_000.0, announce_ns=10 * SECOND), MONDAY_NOON + SPIN_NS + 10 * SECOND)
    events = events[events["event_ns"] >= MONDAY_NOON + SPIN_NS]
    for kind in (DIRECTORY, STATUS):
        assert set(events["symbol"][events["kind"] == kind]) == set(range(250))
    assert (events["kind"] == DIRECTORY).sum() == pytest.approx(250, rel=0.1)


# The day


def test_the_intraday_shape_is_a_u_with_bursts_and_keeps_the_mean():
    shape = intraday_shape()
    session = shape[OPEN_MINUTE:CLOSE_MINUTE]
    assert session.mean() == pytest.approx(1.0)
    assert session.min() == pytest.approx(session[195], rel=0.01)
    assert session[0] > session[-1] > 3 > 2 > session[10] > 1 > session[195] > 0.5
    assert set(shape[:OPEN_MINUTE]) | set(shape[CLOSE_MINUTE:]) == {OUTSIDE_SESSION}


@pytest.mark.parametrize(
    ("start", "codes", "extended"),
    [
        ("2026-01-05T08:00:00", "OS", True),
        ("2026-01-05T09:30:00", "OSR", False),
        ("2026-01-05T15:59:59", "OSR", False),
        ("2026-01-05T16:00:00", "OSRM", True),
    ],
)
def test_an_intraday_market_opens_in_the_phase_of_the_day(start, codes, extended):
    start_ns = instant(start)
    spin = taken(market(start_ns=start_ns, shape="intraday"), start_ns + SPIN_NS - 1)
    assert "".join(chr(code) for code in spin["code"][spin["kind"] == SYSTEM]) == codes
    assert (spin["code"][spin["kind"] == QUOTE] == (EXTENDED_HOURS if extended else 0)).all()


@pytest.mark.parametrize("day", ["2026-01-05", "2026-07-06", "2026-03-08"])  # winter, summer, clocks go forward
def test_the_bell_rings_at_the_start_and_end_of_the_session(day):
    open_ns, close_ns = instant(f"{day}T09:30:00"), instant(f"{day}T16:00:00")
    running = market(rate=10.0, start_ns=open_ns - MINUTE, shape="intraday")
    events = taken(running, open_ns - 1)
    assert events["event_ns"][-1] < open_ns
    bell = running.take(open_ns)
    assert (bell["kind"].tolist(), bell["event_ns"].tolist(), chr(bell["code"][0])) == ([SYSTEM], [open_ns], "R")
    minute = taken(running, open_ns + MINUTE - 1)
    assert minute.size == pytest.approx(10 * 60 * intraday_shape()[OPEN_MINUTE], rel=0.1)
    assert not (minute["code"] & EXTENDED_HOURS).any()
    day_of_trading = taken(running, close_ns - 1)
    assert minute.size + day_of_trading.size == pytest.approx(10 * 390 * 60, rel=0.02)
    bell = running.take(close_ns)
    assert (bell["kind"].tolist(), bell["event_ns"].tolist(), chr(bell["code"][0])) == ([SYSTEM], [close_ns], "M")
    after = taken(running, close_ns + 10 * MINUTE)
    assert (after["code"][after["kind"] != BREAK] & EXTENDED_HOURS).all()  # what is broken is from before


def test_the_next_day_follows():
    running = market(rate=1.0, shape="intraday")
    bells = []
    until_ns = instant("2026-01-07T00:00:01")
    while running._phase.end_ns <= until_ns or not bells:
        events = running.take(until_ns)
        bells += [(chr(e["code"]), int(e["event_ns"])) for e in events if e["kind"] == SYSTEM]
    assert bells[3:] == [
        ("M", instant("2026-01-05T16:00:00")),
        ("R", instant("2026-01-06T09:30:00")),
        ("M", instant("2026-01-06T16:00:00")),
    ]


def test_a_pause_over_the_bell_still_rings_it_and_still_gives_up_what_is_too_late():
    open_ns = instant("2026-01-05T09:30:00")
    running = market(start_ns=open_ns - MINUTE, shape="intraday")
    taken(running, open_ns - SECOND)
    resumed_ns = open_ns + MINUTE
    assert running.skip_to(resumed_ns) > 0
    events = taken(running, resumed_ns + MS)
    events = np.concatenate((events, taken(running, resumed_ns + 2 * MS)))
    assert (events["kind"][0], chr(events["code"][0]), events["event_ns"][0]) == (SYSTEM, "R", open_ns)
    assert (events["event_ns"][1:] >= resumed_ns).all()
    assert not (events["code"][1:] & EXTENDED_HOURS).any()


@pytest.mark.parametrize("by_orders", [False, True])
def test_where_arrivals_are_even_each_symbol_has_its_turn_at_equal_distances(by_orders: bool) -> None:
    flow = market(symbols=50, rate=500.0, even=True, by_orders=by_orders)
    events = taken(flow, MONDAY_NOON + 3 * SECOND)
    later = events[events["event_ns"] >= MONDAY_NOON + SECOND]
    for symbol in range(50):
        times = np.unique(later["event_ns"][later["symbol"] == symbol])
        distances = np.diff(times)
        assert (distances % (SECOND // 10) == 0).all(), "ten times a second, on the nanosecond"
        if not by_orders:  # where orders are told, one whose book is as it should be may have nothing to say
            assert (distances == SECOND // 10).all()
            assert times.size in (20, 21)
