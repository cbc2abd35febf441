"""The flow of the simulated market: sensible books, honest rates, the same for the same seed."""

from itertools import pairwise

import numpy as np
import pytest

from nodes.exchanges import market_kernel
from nodes.exchanges.market import list_symbols, tickers
from nodes.exchanges.market_kernel import DOLLAR, EVENT, EXTENDED_HOURS, ODD_LOT, QUOTE, TRADE, MarketArrays

START_NS = 1_767_366_000_000_000_000
FOREVER_NS = 2**62
SEED = 7


def opened(symbols: int = 50, seed: int = SEED, dollars: float | None = None) -> MarketArrays:
    market = market_kernel.empty_arrays(symbols)
    market.listings[:] = list_symbols(tickers(symbols), seed)
    if dollars is not None:
        market.listings["base_px"] = dollars * DOLLAR
    market.flow["random"], market.flow["next_ns"] = seed, START_NS
    market_kernel.open_books(market, seed, START_NS)
    return market


def flow(market: MarketArrays, count: int, rate: float = 50_000.0, code: int = 0) -> np.ndarray:
    events = np.zeros(count, EVENT)
    made = market_kernel.generate(market, events, FOREVER_NS, rate, 0, SEED, ord("V"), code)
    assert made >= count - 1
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
    end_ns = START_NS + 2 * market_kernel.MINUTE_NS
    made = market_kernel.generate(market, events, end_ns, 300.0, START_NS, SEED, ord("V"), 0)
    in_second = np.mean(events["event_ns"][:made] >= START_NS + market_kernel.MINUTE_NS)
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


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_the_kernel_does_what_its_python_source_says():
    compiled, interpreted = opened(), opened()
    ours, theirs = np.zeros(2_000, EVENT), np.zeros(2_000, EVENT)
    arguments = (FOREVER_NS, 50_000.0, 0, SEED, ord("V"), EXTENDED_HOURS)
    made = market_kernel.generate(compiled, ours, *arguments)
    assert made == market_kernel.generate.py_func(interpreted, theirs, *arguments)
    assert (ours == theirs).all()
    assert (compiled.books == interpreted.books).all()
    assert (ours["code"][:made] & EXTENDED_HOURS).all()


@pytest.mark.parametrize("room", [0, 1])
def test_a_buffer_without_room_for_a_trade_and_its_quote_takes_nothing(room):
    market = opened()
    before = market.flow.copy()
    assert market_kernel.generate(market, np.zeros(room, EVENT), FOREVER_NS, 1.0, 0, SEED, ord("V"), 0) == 0
    assert (market.flow == before).all()


def test_the_fair_price_is_a_continuous_function_of_time_that_stays_near_its_base():
    def at(ns: int) -> float:
        return market_kernel.fair_px(100.0, 1.2e-4, SEED, 3, ns)

    assert at(START_NS) == at(START_NS)
    days = np.array([at(START_NS + k * 600_000_000_000) for k in range(3_000)])
    assert 90 < days.min() < 99
    assert 101 < days.max() < 110
    seconds = np.diff([at(START_NS + k * 1_000_000_000) for k in range(5_000)])
    assert seconds.std() == pytest.approx(100 * 1.2e-4, rel=0.3)
    assert np.abs(np.diff([at(START_NS + k * 1_000_000) for k in range(5_000)])).max() < 0.002
