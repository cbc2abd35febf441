"""The flow of a simulated market, compiled: who quotes or trades what next, and at which prices (pure).

After an arrival the wait for the next is exponential, with a mean in proportion to the messages that the arrival
made: the rate is one of messages, whatever the wire. One arrival in nine is a trade: it prints at the venue's best.
At a venue that tells quotes, what it leaves behind follows at the same instant, so one message in ten is a trade;
at one that tells orders, the execution of the order that was hit is the message.

Where arrivals are even, each symbol has its turn, at equal distances: the rate is then one of arrivals.
"""

import math
from typing import Any

import numpy as np

from fabric.compiled import inlined, kernel
from nodes.exchanges.market_events_kernel import (
    ASK,
    BID,
    BREAK,
    CORRECTION,
    DOLLAR,
    EVENT,
    EXECUTE,
    HIDDEN,
    MINUTE_NS,
    ODD_LOT,
    QUOTE,
    STATUS,
    TRADE,
    behind,
    empty_arrays,
    fair_px,
    lots,
    mix,
    tick_px,
    uniform,
    write,
)
from nodes.exchanges.market_ladder_kernel import MESSAGES_MAX, add, clear, first_of, move, reduce, stir

TRADE_ARRIVALS = 1 / 9
STIR_ARRIVALS = 0.2
"""Arrivals behind the best, at a venue that tells orders."""
HIDDEN_TRADES = 0.125
"""Trades with an order that was not displayed, at a venue that tells orders."""
WRONG_TRADES = 1 / 2_000
"""Trades that are broken or corrected,"""
WRONG_AFTER_NS = 500_000_000
"""so long after they were made."""


@inlined
def _centre(book: Any, listing: Any, flow: Any, fair: float) -> None:
    """Quote around the fair price, with a spread that wanders and returns to what is usual.

    Each side keeps a margin to the fair price, which moves until the venue quotes again: venues that have seen
    it at different times then seldom lock each other.
    """
    tick = tick_px(fair)
    usual = max(1, round(fair * listing["spread"] / tick))
    wander = int(uniform(flow) * 3.0) - 1
    spread = max(1, usual + (book["spread_ticks"] - usual) * 3 // 4 + wander * max(1, usual // 4))
    margin = fair * listing["margin"]
    bid = max(1, min(round((fair - spread * tick * 0.5) / tick), math.floor((fair - margin) / tick))) * tick
    ask = max(bid + spread * tick, math.ceil((fair + margin) / tick) * tick)
    if bid < DOLLAR < ask:  # one side on each side of a dollar: the upper one has the coarser step
        ask += -ask % 10_000_000
    book["spread_ticks"] = spread
    book["bid_px"], book["ask_px"] = bid, ask
    book["bid_size"] = lots(flow, listing["depth"]) * listing["round_lot"]
    book["ask_size"] = lots(flow, listing["depth"]) * listing["round_lot"]


@inlined
def _requote(book: Any, listing: Any, flow: Any, fair: float) -> None:
    """Move the quote if the fair price comes near a side, or one time in eight; else change the size of one side."""
    near = fair * listing["margin"] * 0.5
    if not book["bid_px"] + near <= fair <= book["ask_px"] - near or uniform(flow) < 0.125:
        _centre(book, listing, flow, fair)
        return
    size = lots(flow, listing["depth"]) * listing["round_lot"]
    if uniform(flow) < 0.5:
        book["bid_size"] = size if size != book["bid_size"] else size + listing["round_lot"]
    else:
        book["ask_size"] = size if size != book["ask_size"] else size + listing["round_lot"]


@inlined
def _quote(market: Any, events: Any, count: int, symbol: int, fair: float, centre: int, shared: Any) -> int:
    """Requote a symbol (``centre``: anew) and tell it as the venue does, by its quote or by orders."""
    flow, listing, book = market.flow[0], market.listings[symbol], market.books[symbol]
    bid_px, bid_size, ask_px, ask_size = book["bid_px"], book["bid_size"], book["ask_px"], book["ask_size"]
    if centre:
        _centre(book, listing, flow, fair)
    else:
        _requote(book, listing, flow, fair)
    if market.orders.shape[0] == 0:
        venue, now_ns, code = shared
        write(events[count], QUOTE, symbol, venue, now_ns, book, code)
        return count + 1
    new_bid_px, new_bid_size, new_ask_px, new_ask_size = (
        book["bid_px"],
        book["bid_size"],
        book["ask_px"],
        book["ask_size"],
    )
    book["bid_px"], book["bid_size"], book["ask_px"], book["ask_size"] = bid_px, bid_size, ask_px, ask_size
    return move(market, events, count, symbol, new_bid_px, new_bid_size, new_ask_px, new_ask_size, shared)


@inlined
def _take(book: Any, listing: Any, flow: Any, side: int, size: int) -> None:
    """Take ``size`` from one side of the quote; a side that is used up comes back one step away."""
    lot = listing["round_lot"]
    if side > 0:
        left = (book["ask_size"] - size) // lot * lot
        if left == 0:
            book["ask_px"] = behind(book["ask_px"], ASK, 1)
            left = lots(flow, listing["depth"]) * lot
        book["ask_size"] = left
    else:
        left = (book["bid_size"] - size) // lot * lot
        if left == 0:
            book["bid_px"] = behind(book["bid_px"], BID, 1)
            left = lots(flow, listing["depth"]) * lot
        book["bid_size"] = left


@inlined
def _trade(market: Any, events: Any, count: int, symbol: int, shared: Any) -> int:
    """Trade at the best of one side, and tell what is left of it."""
    flow, listing, book = market.flow[0], market.listings[symbol], market.books[symbol]
    venue, now_ns, code = shared
    lot = listing["round_lot"]
    side = 1 if uniform(flow) < 0.5 else -1
    price = book["ask_px"] if side > 0 else book["bid_px"]
    size = 1 + int(uniform(flow) * (lot - 1)) if uniform(flow) < 0.4 and lot > 1 else lots(flow, 1.5) * lot
    flow["trade_id"] += 1
    trade = events[count]
    if market.orders.shape[0] == 0:
        size = min(size, book["ask_size"] if side > 0 else book["bid_size"])
        write(trade, TRADE, symbol, venue, now_ns, book, code)
        trade["side"] = side
        _take(book, listing, flow, side, size)
        write(events[count + 1], QUOTE, symbol, venue, now_ns, book, code)
        count += 2
    elif uniform(flow) < HIDDEN_TRADES:
        write(trade, HIDDEN, symbol, venue, now_ns, book, code)
        trade["side"] = 1  # which side it was is no longer told (ITCH 5.0 since 2014, PITCH)
        count += 1
    else:
        hit = ASK if side > 0 else BID
        place = first_of(market.orders[symbol, hit], price)
        size = min(size, market.orders[symbol, hit, place]["size"])
        count = reduce(market, events, count, EXECUTE, symbol, hit, place, size, shared)
        if (book["ask_size"] if side > 0 else book["bid_size"]) == 0:
            again = lots(flow, listing["depth"]) * lot
            count = add(market, events, count, symbol, hit, behind(price, hit, 1), again, shared)
    trade["price"], trade["size"], trade["trade_id"] = price, size, flow["trade_id"]
    if size < lot:
        trade["code"] |= ODD_LOT
    if flow["wrong_kind"] == 0 and uniform(flow) < WRONG_TRADES:
        flow["wrong_kind"] = CORRECTION if flow["corrects"] and uniform(flow) < 0.5 else BREAK
        flow["wrong_ns"], flow["wrong_symbol"] = now_ns + WRONG_AFTER_NS, symbol
        flow["wrong_id"], flow["wrong_px"], flow["wrong_size"] = flow["trade_id"], price, size
        flow["wrong_code"] = trade["code"]
    return count


@inlined
def _take_back(market: Any, event: Any, shared: Any) -> None:
    """Break or correct the trade that was noted as wrong."""
    flow = market.flow[0]
    symbol = flow["wrong_symbol"]
    venue, now_ns, _ = shared
    write(event, flow["wrong_kind"], symbol, venue, now_ns, market.books[symbol], flow["wrong_code"])
    event["price"], event["size"], event["trade_id"] = flow["wrong_px"], flow["wrong_size"], flow["wrong_id"]
    if flow["wrong_kind"] == CORRECTION:
        flow["trade_id"] += 1
        event["original_id"], event["trade_id"] = flow["wrong_id"], flow["trade_id"]
        event["price"] = behind(flow["wrong_px"], BID, 1)
    flow["wrong_kind"] = 0


@kernel
def generate(
    market: Any, events: Any, until_ns: int, rate: float, day_ns: int, seed: int, venue: int, code: int
) -> int:
    """Write the events that are due by ``until_ns``, in order, as far as ``events`` has room; return how many.

    ``rate`` is in messages a second, above 0; ``day_ns`` the instant from which
    `MarketArrays.minutes` counts; ``code`` marks quotes, orders and trades (EXTENDED_HOURS or 0).
    """
    flow = market.flow[0]
    symbols = market.listings.size
    by_orders = market.orders.shape[0] > 0
    room = MESSAGES_MAX if by_orders else 2
    count = 0
    while flow["next_ns"] <= until_ns and count + room <= events.size:
        now_ns = flow["next_ns"]
        shared = (venue, now_ns, code)
        first = count
        turn = flow["turn"]
        row = uniform(flow) * symbols
        symbol = int(row)
        if row - symbol >= market.listings[symbol]["accept"]:
            symbol = market.listings[symbol]["alias"]
        if turn > 0:
            symbol = turn - 1
            flow["turn"] = turn % symbols + 1
        listing = market.listings[symbol]
        chance = uniform(flow)
        if flow["wrong_kind"] and flow["wrong_ns"] <= now_ns:
            _take_back(market, events[count], shared)
            count += 1
        elif market.books[symbol]["halted"]:
            pass
        elif chance < TRADE_ARRIVALS:
            count = _trade(market, events, count, symbol, shared)
        elif by_orders and chance < TRADE_ARRIVALS + STIR_ARRIVALS:
            count = stir(market, events, count, symbol, shared)
        else:
            fair = fair_px(listing["base_px"], listing["volatility"], seed, symbol, now_ns)
            count = _quote(market, events, count, symbol, fair, 0, shared)
        minute = min(max((now_ns - day_ns) // MINUTE_NS, 0), market.minutes.size - 1)
        mean_ns = 1e9 / (rate * market.minutes[minute])
        if turn > 0:
            flow["next_ns"] = now_ns + int(mean_ns + 0.5)
        else:
            mean_ns *= max(count - first, 1)
            flow["next_ns"] = now_ns + int(-math.log(1.0 - uniform(flow)) * mean_ns + 0.5)
    return count


@kernel
def set_trading(
    market: Any, events: Any, count: int, symbol: int, letter: int, reason: int, now_ns: int, seed: int, venue: int,
    code: int,
) -> int:  # fmt: skip
    """Write a change of trading status into ``events`` from ``count`` on; return the new count.

    That is at most `STATUS_MAX` more, at ``now_ns``; ``reason`` is packed text, ``code`` as for `generate`.
    Trading (``T``): the status, then a quote. Any other letter: the status, then what was quoted is withdrawn, and
    nothing happens to the symbol until it trades again.
    """
    book, listing = market.books[symbol], market.listings[symbol]
    shared = (venue, now_ns, code)
    write(events[count], STATUS, symbol, venue, now_ns, book, letter)
    events[count]["reason"] = reason
    count += 1
    if letter == ord("T"):
        book["halted"] = 0
        fair = fair_px(listing["base_px"], listing["volatility"], seed, symbol, now_ns)
        return _quote(market, events, count, symbol, fair, 1, shared)
    book["halted"] = 1
    if market.orders.shape[0] > 0:
        return clear(market, events, count, symbol, shared)
    book["bid_px"], book["bid_size"], book["ask_px"], book["ask_size"] = 0, 0, 0, 0
    write(events[count], QUOTE, symbol, venue, now_ns, book, code)
    return count + 1


STATUS_MAX = 1 + MESSAGES_MAX


@kernel
def open_books(market: Any, events: Any, seed: int, at_ns: int, venue: int, code: int) -> int:
    """Write the first quote, or first orders, of every symbol that is not halted; return how many events."""
    count = 0
    for symbol in range(market.listings.size):
        if not market.books[symbol]["halted"]:
            listing = market.listings[symbol]
            fair = fair_px(listing["base_px"], listing["volatility"], seed, symbol, at_ns)
            count = _quote(market, events, count, symbol, fair, 1, (venue, at_ns, code))
    return count


def warm_up() -> None:
    """Compile or load every entry kernel with the array types of the live path."""
    events = np.zeros(STATUS_MAX, EVENT)
    for by_orders in (False, True):
        market = empty_arrays(1, by_orders=by_orders)
        market.listings["base_px"], market.listings["accept"], market.listings["round_lot"] = 50.0 * DOLLAR, 1.0, 100
        open_books(market, events, 1, 0, ord("V"), 0)
        generate(market, events, 0, 1.0, 0, 1, ord("V"), 0)
        set_trading(market, events, 0, 0, ord("H"), 0, 0, 1, ord("V"), 0)
    mix(1)
