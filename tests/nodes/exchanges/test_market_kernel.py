"""The flow of the simulated market: sensible books, honest rates, the same for the same seed."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from nodes.exchanges import market_kernel
from nodes.exchanges.market import list_symbols, tickers
from nodes.exchanges.market_events_kernel import (
    ADD,
    ASK,
    BID,
    BREAK,
    CANCEL,
    CORRECTION,
    DELETE,
    DEPTH,
    DOLLAR,
    EVENT,
    EXECUTE,
    EXTENDED_HOURS,
    HIDDEN,
    MINUTE_NS,
    ODD_LOT,
    QUOTE,
    REPLACE,
    STATUS,
    TRADE,
    MarketArrays,
    empty_arrays,
    fair_px,
)

START_NS = 1_767_366_000_000_000_000
FOREVER_NS = 2**62
SEED = 7


def opened(
    symbols: int = 50, seed: int = SEED, dollars: float | None = None, *, by_orders: bool = False
) -> MarketArrays:
    market = empty_arrays(symbols, by_orders=by_orders)
    market.listings[:] = list_symbols(tickers(symbols), seed)
    if dollars is not None:
        market.listings["base_px"] = dollars * DOLLAR
    market.flow["random"], market.flow["next_ns"] = seed, START_NS
    market.flow["renumbers"] = 1
    events = np.zeros(2 * symbols + market_kernel.MESSAGES_MAX, EVENT)
    assert market_kernel.open_books(market, events, seed, START_NS, ord("V"), 0) == (2 if by_orders else 1) * symbols
    return market


def flow(market: MarketArrays, count: int, rate: float = 50_000.0, code: int = 0) -> np.ndarray:
    events = np.zeros(count, EVENT)
    made = market_kernel.generate(market, events, FOREVER_NS, rate, 0, SEED, ord("V"), code)
    assert made > count - (market_kernel.MESSAGES_MAX if market.orders.size else 2)
    return events[:made]


@pytest.mark.parametrize("dollars", [None, 1.0, 0.9, 999.0])
def test_books_are_never_locked_and_stay_on_the_tick(dollars):
    quotes = flow(opened(dollars=dollars), 50_000)
    quotes = quotes[quotes["kind"] == QUOTE]
    assert (quotes["bid_px"] > 0).all()
    assert (quotes["bid_px"] < quotes["ask_px"]).all()
    assert (quotes["bid_size"] > 0).all()
    assert (quotes["ask_size"] > 0).all()
    for side in ("bid_px", "ask_px"):
        tick = np.where(quotes[side] >= DOLLAR, 10_000_000, 100_000)
        assert (quotes[side] % tick == 0).all()


def test_a_market_around_one_dollar_quotes_on_both_sides_of_it():
    quotes = flow(opened(dollars=1.0), 50_000)
    assert (quotes["ask_px"] < DOLLAR).any()
    assert (quotes["bid_px"] > DOLLAR).any()


def test_trades_print_at_the_quote_before_and_leave_one_behind():
    market = opened(symbols=5)
    books = [tuple(book)[:4] for book in market.books]
    events = flow(market, 20_000)
    last_id = 0
    for event, after in pairwise(events):
        shown = event[["bid_px", "bid_size", "ask_px", "ask_size"]].item()
        if event["kind"] == TRADE:
            assert shown == books[event["symbol"]]
            price, size = shown[2:] if event["side"] > 0 else shown[:2]
            assert event["price"] == price
            assert 0 < event["size"] <= size
            lot = market.listings["round_lot"][event["symbol"]]
            assert bool(event["code"] & ODD_LOT) == (event["size"] < lot)
            assert event["trade_id"] == last_id + 1
            last_id += 1
            assert (after["kind"], after["symbol"], after["event_ns"]) == (QUOTE, event["symbol"], event["event_ns"])
        else:
            books[event["symbol"]] = shown
    assert last_id > 1_500


def test_one_message_in_ten_is_a_trade_and_the_rate_is_the_rate():
    events = flow(opened(), 200_000, rate=50_000.0)
    assert np.mean(events["kind"] == TRADE) == pytest.approx(0.1, abs=0.003)
    seconds = (events["event_ns"][-1] - events["event_ns"][0]) * 1e-9
    assert events.size / seconds == pytest.approx(50_000, rel=0.02)
    assert (np.diff(events["event_ns"]) >= 0).all()
    assert events["event_ns"][0] == START_NS


def test_the_rate_follows_the_minute_of_the_day():
    market = opened()
    market.minutes[1] = 3.0
    events = np.zeros(100_000, EVENT)
    end_ns = START_NS + 2 * MINUTE_NS
    made = market_kernel.generate(market, events, end_ns, 300.0, START_NS, SEED, ord("V"), 0)
    in_second = np.mean(events["event_ns"][:made] >= START_NS + MINUTE_NS)
    assert in_second == pytest.approx(0.75, abs=0.01)


def test_each_symbol_has_its_share():
    market = opened(symbols=100)
    events = flow(market, 200_000)
    shares = np.bincount(events["symbol"], minlength=100) / events.size
    expected = 1 / (np.arange(100) + 11)
    assert shares == pytest.approx(expected / expected.sum(), abs=0.003)


def test_most_quotes_keep_their_prices_but_none_repeats_the_last():
    events = flow(opened(symbols=1), 20_000)
    quotes = events[events["kind"] == QUOTE]
    prices = quotes[["bid_px", "ask_px"]]
    moved = np.mean(prices[1:] != prices[:-1])
    assert 0.02 < moved < 0.3
    sizes = quotes[["bid_px", "bid_size", "ask_px", "ask_size"]]
    assert np.mean(sizes[1:] == sizes[:-1]) < 0.05  # only a new centre may come out the same


# Orders.


class Ladders:
    """The order book that a stream of events tells, kept the plain way; says what the best is after each."""

    def __init__(self) -> None:
        self.orders: dict[tuple[int, int], dict[int, list[int]]] = {}  # (symbol, side): number: price, size

    def best(self, symbol: int, side: int) -> tuple[int, int]:
        found = self.orders.get((symbol, side), {}).values()
        if not found:
            return 0, 0
        best = max(px for px, _ in found) if side > 0 else min(px for px, _ in found)
        return best, sum(size for px, size in found if px == best)

    def apply(self, event: SimpleNamespace) -> None:
        orders = self.orders.setdefault((event.symbol, event.side), {})
        if event.kind in {ADD, REPLACE}:
            if event.kind == REPLACE:
                del orders[event.original_id]
            assert event.order_id not in orders
            orders[event.order_id] = [event.price, event.size]
        elif event.kind in {EXECUTE, CANCEL, DELETE}:
            order = orders[event.order_id]
            assert order[0] == event.price
            assert 0 < event.size <= order[1]
            assert (
                (event.size == order[1]) if event.kind == DELETE else (event.kind == EXECUTE or event.size < order[1])
            )
            order[1] -= event.size
            if order[1] == 0:
                del orders[event.order_id]


@pytest.mark.parametrize("renumbers", [0, 1])
@pytest.mark.parametrize("dollars", [None, 1.0])
def test_the_orders_of_a_venue_make_the_best_that_each_event_tells(dollars, renumbers):
    market = opened(symbols=20, dollars=dollars, by_orders=True)
    market.flow["renumbers"] = renumbers
    book = Ladders()
    for symbol in range(20):
        for side, sign in ((BID, 1), (ASK, -1)):
            standing = market.orders[symbol, side][market.orders[symbol, side]["id"] > 0]
            book.orders[symbol, sign] = {number: [px, size] for number, px, size in standing.tolist()}
    kinds = set()
    for row in flow(market, 20_000).tolist():
        event = SimpleNamespace(**dict(zip(EVENT.names, row, strict=True)))
        best = {side: book.best(event.symbol, side) for side in (1, -1)}
        if event.kind == EXECUTE:
            assert event.price == best[event.side][0]
        elif event.kind == HIDDEN:
            assert event.price in {best[1][0], best[-1][0]}
        if event.kind != BREAK:
            book.apply(event)
        bid, ask = book.best(event.symbol, 1), book.best(event.symbol, -1)
        assert (event.bid_px, event.bid_size, event.ask_px, event.ask_size) == (*bid, *ask)
        assert not (bid[1] and ask[1] and bid[0] >= ask[0])
        kinds.add(event.kind)
        assert len(book.orders.get((event.symbol, event.side), ())) <= DEPTH
    assert kinds - {BREAK} == {ADD, EXECUTE, CANCEL, DELETE, REPLACE, HIDDEN}


def test_no_order_grows_old():
    market = opened(symbols=20, by_orders=True)
    flow(market, 20_000)
    before = int(market.flow["order_id"][0])
    flow(market, 40_000)
    standing = market.orders["id"][market.orders["id"] > 0]
    assert standing.min() > before


def test_the_rate_of_orders_is_the_rate():
    events = flow(opened(by_orders=True), 200_000, rate=50_000.0)
    seconds = (events["event_ns"][-1] - events["event_ns"][0]) * 1e-9
    assert events.size / seconds == pytest.approx(50_000, rel=0.02)
    assert 0.05 < np.isin(events["kind"], (EXECUTE, HIDDEN)).mean() < 0.12


def test_wrong_trades_are_taken_back():
    for by_orders, corrects in ((False, 1), (True, 0)):
        market = opened(by_orders=by_orders)
        market.flow["corrects"] = corrects
        events = flow(market, 600_000, rate=1_000_000.0)
        trades = {int(e["trade_id"]): e for e in events[np.isin(events["kind"], (TRADE, EXECUTE, HIDDEN))]}
        wrong = events[np.isin(events["kind"], (BREAK, CORRECTION))]
        assert set(wrong["kind"]) == ({BREAK, CORRECTION} if corrects else {BREAK}) or wrong.size < 4
        assert wrong.size
        for event in wrong:
            original = trades[int(event["original_id"] if event["kind"] == CORRECTION else event["trade_id"])]
            assert event["event_ns"] - original["event_ns"] >= market_kernel.WRONG_AFTER_NS
            assert (event["symbol"], event["size"]) == (original["symbol"], original["size"])
            assert (event["price"] == original["price"]) == (event["kind"] == BREAK)


# Halts.


@pytest.mark.parametrize("by_orders", [False, True])
def test_a_halt_withdraws_what_was_quoted_and_trading_quotes_anew(by_orders):
    market = opened(symbols=2, by_orders=by_orders)
    flow(market, 1_000)
    events = np.zeros(market_kernel.STATUS_MAX + 1, EVENT)
    halted = market_kernel.set_trading(market, events, 1, 0, ord("H"), 5, START_NS, SEED, ord("V"), 0)
    assert (events["kind"][1], events["code"][1], events["reason"][1]) == (STATUS, ord("H"), 5)
    assert set(events["kind"][2:halted]) == ({DELETE} if by_orders else {QUOTE})
    assert events[halted - 1][["bid_px", "bid_size", "ask_px", "ask_size"]].item() == (0, 0, 0, 0)
    assert set(flow(market, 1_000)["symbol"]) == {1}
    resumed = market_kernel.set_trading(market, events, 0, 0, ord("T"), 0, START_NS, SEED, ord("V"), 0)
    assert (events["kind"][0], events["code"][0]) == (STATUS, ord("T"))
    assert events["kind"][1:resumed].tolist() == ([ADD, ADD] if by_orders else [QUOTE])
    assert 0 < events["bid_px"][resumed - 1] < events["ask_px"][resumed - 1]
    assert set(flow(market, 1_000)["symbol"]) == {0, 1}


def test_the_same_seed_gives_the_same_flow_and_another_does_not():
    first = flow(opened(), 5_000)
    assert (first == flow(opened(), 5_000)).all()
    assert (first != flow(opened(seed=8), 5_000)).mean() > 0.9


def test_the_flow_does_not_depend_on_how_it_is_cut():
    whole, market = flow(opened(), 5_000), opened()
    parts = np.zeros(64, EVENT)
    at = 0
    for until_ns in range(START_NS, START_NS + 80_000_000, 700_000):
        while made := market_kernel.generate(market, parts, until_ns, 50_000.0, 0, SEED, ord("V"), 0):
            assert (whole[at : at + made] == parts[:made]).all()
            assert parts["event_ns"][made - 1] <= until_ns
            at += made
    assert at > 3_000


@pytest.mark.parametrize("by_orders", [False, True])
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_the_kernel_does_what_its_python_source_says(by_orders):
    compiled, interpreted = opened(by_orders=by_orders), opened(by_orders=by_orders)
    ours, theirs = np.zeros(2_000, EVENT), np.zeros(2_000, EVENT)
    arguments = (FOREVER_NS, 50_000.0, 0, SEED, ord("V"), EXTENDED_HOURS)
    made = market_kernel.generate(compiled, ours, *arguments)
    assert made == market_kernel.generate.py_func(interpreted, theirs, *arguments)
    assert (ours == theirs).all()
    assert (compiled.books == interpreted.books).all()
    assert (compiled.orders == interpreted.orders).all()
    assert (ours["code"][:made] & EXTENDED_HOURS).all()


@pytest.mark.parametrize("room", [0, 1])
def test_a_buffer_without_room_for_a_trade_and_its_quote_takes_nothing(room):
    market = opened()
    before = market.flow.copy()
    assert market_kernel.generate(market, np.zeros(room, EVENT), FOREVER_NS, 1.0, 0, SEED, ord("V"), 0) == 0
    assert (market.flow == before).all()


def test_the_fair_price_is_a_continuous_function_of_time_that_stays_near_its_base():
    def at(ns: int) -> float:
        return fair_px(100.0, 1.2e-4, SEED, 3, ns)

    assert at(START_NS) == at(START_NS)
    days = np.array([at(START_NS + k * 600_000_000_000) for k in range(3_000)])
    assert 90 < days.min() < 99
    assert 101 < days.max() < 110
    seconds = np.diff([at(START_NS + k * 1_000_000_000) for k in range(5_000)])
    assert seconds.std() == pytest.approx(100 * 1.2e-4, rel=0.3)
    assert np.abs(np.diff([at(START_NS + k * 1_000_000) for k in range(5_000)])).max() < 0.002
