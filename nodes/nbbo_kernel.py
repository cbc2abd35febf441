"""The rule of the best bid and offer, compiled (pure): rows in the order of arrival, arrays in, changes out.

The order among quotes is that of the consolidated tape: best price, then largest size, then the venue
whose latest message of any content arrived first. Both sides are kept as ranks, which are higher where
the price is better (a bid's price, an ask's price negated), so that one rule serves both and NULL, the
smallest integer, ranks below everything.

A quote is compared with the best alone; the other venues are looked at only when the best venue itself
has moved (`best_of`). What is touched for every quote is half a cache line of the venue (`QUOTED`) and one
of the symbol (`TOP`).

Sources: CQS 2.11b, section on the national best bid and offer; for "arrived first" the recorded tape, of
which it reproduces every row (tests/nodes/test_nbbo.py).
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean, lean_kernel
from fabric.native import prefetch
from fabric.records import (
    EVENT,
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
    STATE_HALTED,
    STATE_LOCKED,
    STATE_ONE_SIDED,
    STATE_PARTIAL,
    STATE_STALE,
    STATUS,
    TRADE,
    empty,
    pack,
)
from nodes.conditions import FIRST, LAST
from nodes.conditions_kernel import allowed

SIZE_MAX: Final = 2**31 - 1
"""Shares on one side, so that a size takes four bytes; no exchange accepts an order near it."""

QUOTED: Final = np.dtype([("rank", "<i8", (2,)), ("size", "<i4", (2,)), ("arrival", "<i8")])
"""What a venue quotes: bid and ask rank (NULL: no such side), their sizes, and when its last message arrived."""

TOP: Final = np.dtype(
    [
        ("rank", "<i8", (2,)),  # the best bid and ask
        ("size", "<i4", (2,)),
        ("slot", "<i2", (2,)),  # the venues that hold them; -1 without a side
        ("state", "<i4"),  # STATE_* bits
        ("scope", "<i4"),  # mask of the venues that feed this symbol
        ("lost", "<i4"),  # mask of those that fed it, went away and have not quoted since
        ("mask", "<i4", (2,)),  # of the venues at the best price, whatever their size
        ("last_px", "<i8"),
        ("_spare", "<i8"),
    ]
)
"""A symbol's best: one cache line."""

AHEAD: Final = 16
"""Rows between asking for a quote's cache lines and using them; the branches of a quote would not let the processor
look as far. Doubles the rate at 50,000 symbols."""

# Which lines are down, in `Book.down`.
BY_VENUE: Final = 0
"""The venue's own line is stale: its feed says so."""
BY_LINK: Final = 1
"""The publisher that speaks for the venue is silent or lost."""

COUNTERS: Final = (
    "quotes",
    "ineligible",  # quotes, or sides of one, that their condition keeps out of the composite
    "unknown_venue",  # quotes of a venue that the topology does not name
    "from_stale_line",  # quotes that arrived while their line was down
    "withdrawn",  # quotes taken out because their line went down
    "changes",
    "locked",  # changes to, or within, a locked market
    "crossed",
)
QUOTES, INELIGIBLE, UNKNOWN_VENUE, FROM_STALE_LINE, WITHDRAWN, CHANGES, LOCKED, CROSSED = range(len(COUNTERS))

_STALE: Final = pack("stale")
_LIVE: Final = pack("live")
_HALTED: Final = pack("H")
_TRADING: Final = pack("T")


class Book(NamedTuple):
    """The state of all symbols."""

    quoted: npt.NDArray[np.void]  # [symbols, venues] QUOTED
    tops: npt.NDArray[np.void]  # [symbols] TOP
    down: npt.NDArray[np.int64]  # [2] masks of the venues that are down BY_VENUE and BY_LINK
    arrivals: npt.NDArray[np.int64]  # [1] quotes so far
    symbols: npt.NDArray[np.int64]  # [1] no higher symbol id has been met
    counters: npt.NDArray[np.int64]  # [len(COUNTERS)]


class Market(NamedTuple):
    """What the rules need to know: data that may be replaced between two steps."""

    slots: npt.NDArray[np.int64]  # [256] ASCII code of a venue -> its column of the book, or -1
    venues: npt.NDArray[np.int64]  # [venues] ASCII code of each column
    publishers: npt.NDArray[np.int64]  # [sources] mask of the venues that each publisher speaks for
    quotes: npt.NDArray[np.int64]  # [256] quote conditions (nodes.conditions)
    sales: npt.NDArray[np.int64]  # [256] sale conditions


def no_book(symbols_max: int, venues: int) -> Book:
    """An empty book for ids below ``symbols_max``."""
    quoted = _on_cache_lines((symbols_max, venues), QUOTED)
    tops = _on_cache_lines((symbols_max,), TOP)
    quoted["rank"] = NULL
    tops["rank"], tops["slot"], tops["last_px"] = NULL, -1, NULL
    counts = (np.zeros(n, np.int64) for n in (2, 1, 1, len(COUNTERS)))
    return Book(quoted, tops, *counts)


def _on_cache_lines(shape: tuple[int, ...], dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Zeroed records that begin on a cache line, so that none of 32 or 64 bytes lies across two.

    Made with `np.empty` because numpy asks for huge pages there and not in `np.zeros`; at 50,000 symbols that
    is worth a third.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    raw.fill(0)
    return raw[start : start + size].view(dtype).reshape(shape)


@lean_kernel
def step(book: Any, market: Any, rows: Any, quotes: Any, trades: Any, statuses: Any, links: Any, out: Any) -> int:
    """Apply ``rows`` in order, write the changes of the composite to ``out`` and return how many.

    ``quotes``, ``trades``, ``statuses`` and ``links`` are views of ``rows``. ``out`` has room for
    `changes_max` rows.
    """
    tops = book.tops.ctypes.data
    quoted = book.quoted.ctypes.data
    count = 0
    for i in range(rows.size):
        if i + AHEAD < rows.size:
            symbol = rows[i + AHEAD]["symbol"]
            slot = market.slots[rows[i + AHEAD]["venue"] & 0xFF]
            prefetch(tops + symbol * book.tops.strides[0])
            prefetch(quoted + symbol * book.quoted.strides[0] + slot * book.quoted.strides[1])
        kind = rows[i]["kind"]
        if kind == KIND_QUOTE:
            count = quote(book, market, quotes, i, out, count)
        elif kind == KIND_TRADE:
            trade(book, market, trades[i])
        elif kind == KIND_STATUS:
            count = status(book, market, statuses, i, out, count)
        elif kind == KIND_LINK:
            mask = market.publishers[links[i]["publisher"]]
            if links[i]["up"] == 1:
                book.down[BY_LINK] &= ~mask
            else:
                count = take_down(book, market, BY_LINK, mask, quotes, i, out, count)
    return count


def changes_max(symbols_max: int, venues: int, batch_max: int) -> int:
    """The most changes that one step can make.

    A row causes one change, or withdraws venues: one change for each symbol that such a venue feeds, and it
    feeds a symbol since before the step or since one quote in it.
    """
    return symbols_max * venues + 2 * batch_max


@lean
def quote(book: Any, market: Any, quotes: Any, i: int, out: Any, count: int) -> int:
    """Replace a venue's quote by ``quotes[i]``; publish if that changes the best or the state."""
    row = quotes[i]
    book.counters[QUOTES] += 1
    venue = row["venue"]
    slot = market.slots[venue & 0xFF]
    if slot < 0 or venue > 0xFF:
        book.counters[UNKNOWN_VENUE] += 1
        return count
    bit = venue_bit(venue)
    if (book.down[BY_VENUE] | book.down[BY_LINK]) & bit:
        book.counters[FROM_STALE_LINE] += 1
        return count

    symbol = row["symbol"]
    book.symbols[0] = max(book.symbols[0], symbol)
    book.arrivals[0] += 1
    quoted = book.quoted[symbol, slot]
    quoted["arrival"] = book.arrivals[0]
    sides = allowed(market.quotes, row["condition"])
    if sides != 3:
        book.counters[INELIGIBLE] += 1
    top = book.tops[symbol]
    changed = offer(book, market, symbol, slot, 0, row["bid_px"], row["bid_size"], sides & 1)
    changed |= offer(book, market, symbol, slot, 1, row["ask_px"], row["ask_size"], sides & 2)

    top["scope"] |= bit
    top["lost"] &= ~bit
    state = state_of(top)
    if changed or state != top["state"]:
        top["state"] = state
        count = publish(book, market, symbol, quotes, i, out, count)
    return count


@lean
def offer(book: Any, market: Any, symbol: int, slot: int, side: int, price: int, size: int, eligible: int) -> bool:
    """Set one side of a venue's quote, which has just arrived; say whether that changes the best of this side."""
    rank = NULL
    if eligible and price > 0 and 0 < size <= SIZE_MAX:
        rank = -price if side else price
    else:
        size = 0
    quoted = book.quoted[symbol, slot]
    quoted["rank"][side] = rank
    quoted["size"][side] = size

    top = book.tops[symbol]
    best = top["rank"][side]
    mask = venue_bit(market.venues[slot])
    if rank <= best:
        mask = top["mask"][side] | mask if rank == best and rank != NULL else top["mask"][side] & ~mask
    if rank < best or (rank == best and size <= top["size"][side]):  # not better than the best, and later
        if slot != top["slot"][side]:
            top["mask"][side] = mask
            return False
        slot, mask = best_of(book, market, symbol, side)
        rank = book.quoted[symbol, slot]["rank"][side] if slot >= 0 else NULL
        size = book.quoted[symbol, slot]["size"][side] if slot >= 0 else 0
    changed = rank != best or size != top["size"][side] or slot != top["slot"][side]
    top["rank"][side] = rank
    top["size"][side] = size
    top["slot"][side] = slot
    top["mask"][side] = mask
    return changed


@lean
def best_of(book: Any, market: Any, symbol: int, side: int) -> tuple[int, int]:
    """Return the venue slot with the best rank, then the largest size, then the earliest arrival, and the mask of
    all venues that have this rank; -1 and 0 when there is no such side.
    """
    best = -1
    best_rank = NULL
    best_size = 0
    best_arrival = 0
    mask = 0
    for slot in range(market.venues.size):
        quoted = book.quoted[symbol, slot]
        rank = quoted["rank"][side]
        if rank < best_rank or rank == NULL:
            continue
        size = quoted["size"][side]
        arrival = quoted["arrival"]
        bit = venue_bit(market.venues[slot])
        mask = bit if rank > best_rank else mask | bit
        if rank > best_rank or size > best_size or (size == best_size and arrival < best_arrival):
            best, best_rank, best_size, best_arrival = slot, rank, size, arrival
    return best, mask


@lean
def trade(book: Any, market: Any, row: Any) -> None:
    """Keep the last price of the tape; the symbol's next change carries it."""
    if row["price"] <= 0 or row["mark"] > 0:
        return
    updates = allowed(market.sales, row["condition"])
    top = book.tops[row["symbol"]]
    if updates & LAST or (updates & FIRST and top["last_px"] == NULL):
        top["last_px"] = row["price"]


@lean
def status(book: Any, market: Any, statuses: Any, i: int, out: Any, count: int) -> int:
    """Apply a trading status of one symbol (the last word counts), or the state of a whole venue's line."""
    row = statuses[i]
    symbol = row["symbol"]
    if symbol == 0:
        slot = market.slots[row["venue"] & 0xFF]
        if slot >= 0 and row["venue_state"] == _STALE:
            return take_down(book, market, BY_VENUE, venue_bit(row["venue"]), statuses, i, out, count)
        if slot >= 0 and row["venue_state"] == _LIVE:
            book.down[BY_VENUE] &= ~venue_bit(row["venue"])
        return count
    top = book.tops[symbol]
    state = top["state"]
    if row["trading"] == _HALTED:
        state |= STATE_HALTED
    elif row["trading"] == _TRADING:
        state &= ~STATE_HALTED
    if state != top["state"]:
        top["state"] = state
        count = publish(book, market, symbol, statuses, i, out, count)
    return count


@lean_kernel
def take_down(book: Any, market: Any, reason: int, mask: int, cause: Any, i: int, out: Any, count: int) -> int:
    """Withdraw every quote of the venues in ``mask``: none counts again until the line is up and it has quoted anew."""
    fresh = mask & ~(book.down[BY_VENUE] | book.down[BY_LINK])
    book.down[reason] |= mask
    if fresh == 0:
        return count
    for symbol in range(book.symbols[0] + 1):
        top = book.tops[symbol]
        gone = top["scope"] & fresh
        if gone == 0:
            continue
        for slot in range(market.venues.size):
            if venue_bit(market.venues[slot]) & gone:
                book.counters[WITHDRAWN] += 1
                offer(book, market, symbol, slot, 0, NULL, 0, 0)
                offer(book, market, symbol, slot, 1, NULL, 0, 0)
        top["scope"] &= ~gone
        top["lost"] |= gone
        top["state"] = state_of(top)
        count = publish(book, market, symbol, cause, i, out, count)
    return count


@lean
def venue_bit(venue: int) -> int:
    """The bit of a venue letter in a mask: bit 0 is A."""
    return 1 << (venue - 65)


@lean
def state_of(top: Any) -> int:
    """The state bits of a symbol. Without any side it is not one-sided; stale when no venue that fed it is left."""
    state = top["state"] & STATE_HALTED
    bid = top["rank"][0]
    ask = top["rank"][1]
    if bid == NULL or ask == NULL:
        if bid != ask:
            state |= STATE_ONE_SIDED
    elif bid == -ask:
        state |= STATE_LOCKED
    elif bid > -ask:
        state |= STATE_CROSSED
    if top["lost"]:
        state |= STATE_PARTIAL if top["scope"] else STATE_STALE
    return state


@lean
def publish(book: Any, market: Any, symbol: int, cause: Any, i: int, out: Any, count: int) -> int:
    """Write the symbol's row, with the times and the sequence of the row that caused it; return the new count."""
    top = book.tops[symbol]
    row = out[count]
    row["kind"] = KIND_NBBO
    row["symbol"] = symbol
    row["venue"] = 0
    row["seq"] = row["epoch"] = row["position"] = row["proc_ns"] = NULL  # the outbox's to fill
    row["exchange_seq"] = cause[i]["exchange_seq"]
    row["event_ns"] = cause[i]["event_ns"]
    row["recv_ns"] = cause[i]["recv_ns"]
    row["feed_ns"] = cause[i]["feed_ns"]
    row["bid_px"] = top["rank"][0]
    row["ask_px"] = NULL if top["rank"][1] == NULL else -top["rank"][1]
    row["bid_size"] = top["size"][0] if top["slot"][0] >= 0 else NULL
    row["ask_size"] = top["size"][1] if top["slot"][1] >= 0 else NULL
    row["bid_venue"] = market.venues[top["slot"][0]] if top["slot"][0] >= 0 else NULL
    row["ask_venue"] = market.venues[top["slot"][1]] if top["slot"][1] >= 0 else NULL
    row["bid_mask"] = top["mask"][0]
    row["ask_mask"] = top["mask"][1]
    row["last_px"] = top["last_px"]
    row["state"] = top["state"]
    row["scope"] = top["scope"]
    book.counters[CHANGES] += 1
    if top["state"] & STATE_LOCKED:
        book.counters[LOCKED] += 1
    if top["state"] & STATE_CROSSED:
        book.counters[CROSSED] += 1
    return count + 1


def views(rows: Any) -> tuple[Any, Any, Any, Any, Any]:
    """The arguments ``rows, quotes, trades, statuses, links`` of `step`, all of them the same memory."""
    return rows, rows.view(QUOTE), rows.view(TRADE), rows.view(STATUS), rows.view(LINK)


def warm_up() -> None:
    """Compile, or load, with the array types of the live path."""
    ones = (np.zeros(n, np.int64) for n in (256, 1, 1, 256, 256))
    step(no_book(1, 1), Market(*ones), *views(empty(0, EVENT)), empty(1, NBBO))
