"""The orders behind a venue's best bid and offer, for wires that tell single orders (pure).

Each side of a symbol is a ladder of at most `DEPTH` orders. What the market wants the best to be is reached with the
fewest messages: orders that are better go (one of them is replaced), what is missing is added, what is too much is
cancelled from the newest on. Every function writes its messages into ``events`` from ``count`` on and returns the
new count; each message tells the best as it is after it.
"""

from typing import Any

from fabric.compiled import inlined
from nodes.exchanges.market_events_kernel import (
    ADD,
    ASK,
    BID,
    CANCEL,
    DELETE,
    DEPTH,
    REPLACE,
    behind,
    lots,
    uniform,
    write,
)

MESSAGES_MAX = 2 * (DEPTH + 2)
"""The most messages that one arrival can make."""


@inlined
def _show(book: Any, ladder: Any, side: int) -> None:
    """Set one side of the best from its orders."""
    best = 0
    size = 0
    for k in range(DEPTH):
        if ladder[k]["id"] == 0:
            continue
        px = ladder[k]["px"]
        if size == 0 or (px > best if side == BID else px < best):
            best, size = px, ladder[k]["size"]
        elif px == best:
            size += ladder[k]["size"]
    if side == BID:
        book["bid_px"], book["bid_size"] = best, size
    else:
        book["ask_px"], book["ask_size"] = best, size


@inlined
def _tell(
    market: Any, event: Any, kind: int, symbol: int, side: int, place: int, px: int, size: int, shared: Any
) -> None:
    """Write the message about the order in ``place``, whose new state is in the ladder (size 0: it is gone)."""
    order = market.orders[symbol, side, place]
    book = market.books[symbol]
    order_id = order["id"]
    if order["size"] == 0:
        order["id"] = 0
    _show(book, market.orders[symbol, side], side)
    venue, now_ns, code = shared
    write(event, kind, symbol, venue, now_ns, book, code)
    event["side"] = 1 if side == BID else -1
    event["order_id"], event["price"], event["size"] = order_id, px, size


@inlined
def add(market: Any, events: Any, count: int, symbol: int, side: int, px: int, size: int, shared: Any) -> int:
    """Enter an order; in a full ladder the oldest of the worst price is replaced by it.

    ``shared`` is (venue, time, code) of the arrival, here and below.
    """
    flow = market.flow[0]
    ladder = market.orders[symbol, side]
    place = -1
    worst = -1
    for k in range(DEPTH):
        if ladder[k]["id"] == 0:
            place = k
        elif worst < 0 or ladder[k]["px"] == ladder[worst]["px"]:
            if worst < 0 or ladder[k]["id"] < ladder[worst]["id"]:
                worst = k
        elif ladder[k]["px"] < ladder[worst]["px"] if side == BID else ladder[k]["px"] > ladder[worst]["px"]:
            worst = k
    if place >= 0:
        flow["order_id"] += 1
        ladder[place]["id"], ladder[place]["px"], ladder[place]["size"] = flow["order_id"], px, size
        _tell(market, events[count], ADD, symbol, side, place, px, size, shared)
        return count + 1
    if ladder[worst]["px"] == px:
        size += ladder[worst]["size"]
    return _replace(market, events, count, symbol, side, worst, px, size, shared)


@inlined
def _replace(
    market: Any, events: Any, count: int, symbol: int, side: int, place: int, px: int, size: int, shared: Any
) -> int:
    """Give the order in ``place`` a price and a size, and the newest number where the wire has it so."""
    order = market.orders[symbol, side, place]
    original = order["id"]
    flow = market.flow[0]
    if flow["renumbers"]:
        flow["order_id"] += 1
        order["id"] = flow["order_id"]
    order["px"], order["size"] = px, size
    _tell(market, events[count], REPLACE, symbol, side, place, px, size, shared)
    events[count]["original_id"] = original
    return count + 1


@inlined
def reduce(
    market: Any, events: Any, count: int, kind: int, symbol: int, side: int, place: int, size: int, shared: Any
) -> int:
    """Take shares from the order in ``place``, as EXECUTE, DELETE or CANCEL; a CANCEL that leaves none is a DELETE."""
    order = market.orders[symbol, side, place]
    order["size"] -= size
    if order["size"] == 0 and kind == CANCEL:
        kind = DELETE
    _tell(market, events[count], kind, symbol, side, place, order["px"], size, shared)
    return count + 1


@inlined
def _side_to(market: Any, events: Any, count: int, symbol: int, side: int, px: int, size: int, shared: Any) -> int:
    """Make ``size`` shares at ``px`` the best of one side."""
    ladder = market.orders[symbol, side]
    spare = -1
    total = 0
    for k in range(DEPTH):
        if ladder[k]["id"] == 0:
            continue
        if ladder[k]["px"] == px:
            total += ladder[k]["size"]
        elif ladder[k]["px"] > px if side == BID else ladder[k]["px"] < px:
            if spare >= 0:
                count = reduce(market, events, count, DELETE, symbol, side, k, ladder[k]["size"], shared)
            else:
                spare = k
    if total < size:
        if spare >= 0:
            return _replace(market, events, count, symbol, side, spare, px, size - total, shared)
        return add(market, events, count, symbol, side, px, size - total, shared)
    if spare >= 0:
        count = reduce(market, events, count, DELETE, symbol, side, spare, ladder[spare]["size"], shared)
    while total > size:
        newest = -1
        for k in range(DEPTH):
            if ladder[k]["id"] and ladder[k]["px"] == px and (newest < 0 or ladder[k]["id"] > ladder[newest]["id"]):
                newest = k
        part = min(total - size, ladder[newest]["size"])
        total -= part
        count = reduce(market, events, count, CANCEL, symbol, side, newest, part, shared)
    return count


@inlined
def move(
    market: Any, events: Any, count: int, symbol: int, bid_px: int, bid_size: int, ask_px: int, ask_size: int,
    shared: Any,
) -> int:  # fmt: skip
    """Bring the best to the given one. The side that gives way goes first, so that the book never locks."""
    if bid_px > market.books[symbol]["bid_px"]:
        count = _side_to(market, events, count, symbol, ASK, ask_px, ask_size, shared)
        return _side_to(market, events, count, symbol, BID, bid_px, bid_size, shared)
    count = _side_to(market, events, count, symbol, BID, bid_px, bid_size, shared)
    return _side_to(market, events, count, symbol, ASK, ask_px, ask_size, shared)


@inlined
def _oldest(ladder: Any) -> int:
    """The place of the oldest order; -1 when there is none."""
    oldest = -1
    for k in range(DEPTH):
        if ladder[k]["id"] and (oldest < 0 or ladder[k]["id"] < ladder[oldest]["id"]):
            oldest = k
    return oldest


@inlined
def first_of(ladder: Any, px: int) -> int:
    """The place of the order that is first in the queue at ``px``; there is one."""
    first = -1
    for k in range(DEPTH):
        if ladder[k]["id"] and ladder[k]["px"] == px and (first < 0 or ladder[k]["id"] < ladder[first]["id"]):
            first = k
    return first


@inlined
def stir(market: Any, events: Any, count: int, symbol: int, shared: Any) -> int:
    """Something happens behind the best: an order comes, or the oldest of a side goes, shrinks, moves or comes anew.

    An oldest order at the best is entered again and then deleted, so every order of a ladder is told anew
    after a while, and who came late knows the book once the orders from before are gone.
    """
    flow, listing = market.flow[0], market.listings[symbol]
    side = BID if uniform(flow) < 0.5 else ASK
    ladder = market.orders[symbol, side]
    best = market.books[symbol]["bid_px"] if side == BID else market.books[symbol]["ask_px"]
    used = 0
    for k in range(DEPTH):
        used += ladder[k]["id"] != 0
    chance = uniform(flow)
    px = behind(best, side, 1 + int(uniform(flow) * 4.0))
    if used < DEPTH - 1 and chance < 0.5:
        return add(market, events, count, symbol, side, px, lots(flow, listing["depth"]) * listing["round_lot"], shared)
    oldest = _oldest(ladder)
    order_px, size = ladder[oldest]["px"], ladder[oldest]["size"]
    if order_px == best:
        if used == DEPTH:
            count = reduce(market, events, count, DELETE, symbol, side, oldest, size, shared)
            return add(market, events, count, symbol, side, best, size, shared)
        count = add(market, events, count, symbol, side, best, size, shared)
        return reduce(market, events, count, DELETE, symbol, side, oldest, size, shared)
    if chance < 0.7 and size > 1:
        return reduce(market, events, count, CANCEL, symbol, side, oldest, size // 2, shared)
    if chance < 0.8:
        return _replace(market, events, count, symbol, side, oldest, px, size, shared)
    return reduce(market, events, count, DELETE, symbol, side, oldest, size, shared)


@inlined
def clear(market: Any, events: Any, count: int, symbol: int, shared: Any) -> int:
    """Delete every order of a symbol."""
    for side in (BID, ASK):
        ladder = market.orders[symbol, side]
        for k in range(DEPTH):
            if ladder[k]["id"]:
                count = reduce(market, events, count, DELETE, symbol, side, k, ladder[k]["size"], shared)
    return count


def warm_up() -> None:
    """Nothing to do: these helpers are compiled into the kernels that use them."""
