"""The rule of the best bid and offer, compiled (pure): rows in the order of arrival, arrays in, changes out.

A side of a venue's quote **counts** when its condition lets it, it has a price and at least a round lot, and the venue
is neither away, closed nor shut for the symbol. The order among those that count is that of the consolidated tape:
best price, then largest size, then the venue whose latest message of any content arrived first. Both sides are kept as
ranks, which are higher where the price is better (a bid's price, an ask's price negated), so that one rule serves both
and NULL, the smallest integer, ranks below everything.

A venue's quote is kept as it came, with marks of what its sides may do, so that a halt or a new round lot only needs
the marks anew. A quote is compared with the best alone, without branches (`offer`): on a recorded day two quotes in
three concern the best of a side, one in four changes it, and what the processor guesses wrong costs it as much as fifty
instructions. Other venues are looked at when the best venue itself has become worse: only those at the same price while
there are some, else all. What is touched for every quote is half a cache line of the venue (`QUOTED`) and one of the
symbol (`TOP`). What most quotes do is done in the loop of `usual`.

Sources: CQS 2.11b, section on the national best bid and offer; 17 CFR 242.600(b); for "arrived first" the recorded
tape, of which it reproduces every row (tests/nodes/test_nbbo.py).
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean, lean_kernel
from fabric.native import prefetch
from fabric.records import (
    BOLO,
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
    WHY,
    empty,
    pack,
)
from nodes.conditions_kernel import allowed
from nodes.quote_conditions import BID, BOTH, CTA, FAST, FAST_BID, KNOWN, UTP
from nodes.sale_conditions_kernel import FIRST, LAST, LATE, SOLD, listing_of, plan_of
from nodes.trading_states import HALTS, SHUTS, TRADES

int64: Any = np.int64
"""Widens what is narrower in memory."""

SIZE_MAX: Final = 2**31 - 1
"""Shares on one side, so that a size takes four bytes; no exchange accepts an order near it."""

QUOTED: Final = np.dtype([("rank", "<i8", (2,)), ("size", "<i4", (2,)), ("stamp", "<i8")])
"""What a venue quotes: bid and ask rank (NULL: no such side), their sizes; when its last message arrived, and marks."""

# The lowest byte of a stamp: marks of the bid, and shifted by one those of the ask. The rest is the number of arrival.
COUNTS: Final = 1
ODD_LOT: Final = 4
BARRED: Final = 16
"""By the quote's condition."""
SLOW: Final = 64
REASONS: Final = 3 * ODD_LOT | 3 * BARRED | 3 * SLOW
MARKS: Final = 0xFF
USUAL: Final = 3 * COUNTS
"""Both sides count and are fast."""
ARRIVAL_SHIFT: Final = 8

TOP: Final = np.dtype(
    [
        ("rank", "<i8", (2,)),  # the best bid and ask, or NONE
        ("there", "<i8", (2,)),  # who is at the best price, whatever the size: the sum of their `share_of`
        ("size", "<i4", (2,)),
        ("last_px", "<i8"),
        ("scope", "<i4"),  # mask of the venues that feed this symbol
        ("lot", "<i4"),  # round lot in shares; 0 until told
        ("state", "<i2"),  # STATE_* bits
        ("slot", "i1", (2,)),  # the venues that hold the best; -1 without a side
        ("slow", "i1", (2,)),  # whether those call it slow
        ("plan", "i1"),  # CTA, UTP, or 0 until a message tells the tape
        ("has", "i1"),  # what else there is to look at: HAS_*
    ]
)
"""A symbol's best: one cache line."""
NONE: Final = NULL + 1
"""Rank where there is no best: above that of a side that does not count, and below all others."""
OF_VENUES: Final = STATE_HALTED | STATE_PARTIAL | STATE_STALE | STATE_NATIONAL
"""State bits that follow from what the venues say and which are there, not from the best bid and ask."""
HAS_BANDS: Final = 1
HAS_ODD_LOTS: Final = 2
HAS_LOST: Final = 4
HAS_SHUT: Final = 8

FACTS: Final = np.dtype(
    [
        ("last_ns", "<i8"),  # of the trade that set the last price, by the exchange's time
        ("upper_px", "<i8"),  # price bands
        ("lower_px", "<i8"),
        ("odd_rank", "<i8", (2,)),  # the best odd lots as published
        ("odd_size", "<i4", (2,)),
        ("halting", "<i4"),  # mask of the venues that say it is halted in the whole market
        ("shut", "<i4"),  # mask of those that say they do not trade it, though others may
        ("lost", "<i4"),  # mask of those that fed it, went away and have not quoted since
        ("odd_slot", "i1", (2,)),  # -1 without one
        ("last_venue", "i1"),  # of the trade that set the last price
        ("told", "i1"),  # 1 once a WHY has been published
    ]
)
"""What is known of a symbol and seldom needed: one cache line."""

MASK_BITS: Final = 26
MASK: Final = (1 << MASK_BITS) - 1

TOP_BYTES: Final = TOP.itemsize
QUOTED_BYTES: Final = QUOTED.itemsize
ID_MAX: Final = 2**31 - 1
AHEAD: Final = 16
"""Rows between asking for a quote's cache lines and using them; the branches of a quote would not let the processor
look as far. Doubles the rate at 50,000 symbols. It sees by itself that the rows lie one after the other."""

HUGE_PAGE: Final = 1 << 21

# `Book.lines`: masks of venues, and how far the book has come.
BY_VENUE: Final = 0
"""The venue's own line is stale: its feed says so."""
BY_LINK: Final = 1
"""The publisher that speaks for the venue is silent or lost."""
BY_CLOSE: Final = 2
"""The venue has ended its day."""
DOWN: Final = 3
"""Any of these."""
LIVE: Final = 4
"""The venue's feed has called its line live, and neither it nor its publisher was lost since."""
ARRIVALS: Final = 5
"""Rows so far."""
SYMBOLS: Final = 6
"""No higher symbol id has been met."""

COUNTERS: Final = (
    "quotes",
    "ineligible",  # quotes, or sides of one, that their condition keeps out of the composite
    "unknown_venue",  # quotes of a venue that the topology does not name
    "from_stale_line",  # quotes that arrived while their line was down, or their venue closed
    "withdrawn",  # quotes taken out because their line went down, or their venue closed
    "changes",
    "locked",  # changes to, or within, a locked market
    "crossed",
    "odd_lots",  # changes of the best odd lots
    "reasons",  # changes of who is left out
)
QUOTES, INELIGIBLE, UNKNOWN_VENUE, FROM_STALE_LINE, WITHDRAWN, CHANGES, LOCKED, CROSSED, ODD_LOTS, TOLD = range(
    len(COUNTERS)
)

_STALE: Final = pack("stale")
_LIVE: Final = pack("live")
_TAPE_A: Final = pack("A")
_TAPE_B: Final = pack("B")
_TAPE_C: Final = pack("C")


class Book(NamedTuple):
    """The state of all symbols."""

    quoted: npt.NDArray[np.void]  # [symbols, venues] QUOTED
    tops: npt.NDArray[np.void]  # [symbols] TOP
    facts: npt.NDArray[np.void]  # [symbols] FACTS
    lines: npt.NDArray[np.int64]  # [7] BY_VENUE to SYMBOLS
    counters: npt.NDArray[np.int64]  # [len(COUNTERS)]
    unknown: npt.NDArray[np.int64]  # [plans, 256] quotes that a code kept out because its plan does not list it


# Rows of `Market.codes`, by the ASCII code of a letter; those of the plans stand at the plans' own numbers.
SLOTS: Final = 3
"""Column of a venue in the book, or -1."""
SALES: Final = 4
"""Sale conditions of both plans, from this row on (nodes.sale_conditions)."""
STATES: Final = 6
"""What a trading status means (nodes.trading_states)."""
EVENTS: Final = 7
"""What an event of a venue does."""


class Market(NamedTuple):
    """What the rules need to know: data that may be replaced between two steps."""

    codes: npt.NDArray[np.int64]  # [8, 256] quote conditions of each plan (nodes.quote_conditions), SLOTS to EVENTS
    venues: npt.NDArray[np.int64]  # [venues] ASCII code of each column
    bits: npt.NDArray[np.int64]  # [venues] the bit of each in a mask
    columns: npt.NDArray[np.int64]  # [32] the column of each bit, at its `place_of`
    publishers: npt.NDArray[np.int64]  # [sources] mask of the venues that each publisher speaks for
    alone: npt.NDArray[np.int64]  # reasons of halts at one venue alone
    tapes: int  # mask of who speaks for a whole plan
    national: int  # mask of all venues of the market; 0 where that is not known
    lot: int  # round lot of a symbol of which none was told
    tells: int  # 1: BOLO rows, 2: WHY rows
    listing: npt.NDArray[np.int64]  # [3] ASCII code of the market that lists tape A, B, C; 0 where several do
    day_ns: int  # when the day of New York began
    late_ns: int  # until when a late report of the UTP plan may set the last price


class Out(NamedTuple):
    """Where rows are written: three views of the same memory."""

    nbbos: npt.NDArray[np.void]
    bolos: npt.NDArray[np.void]
    whys: npt.NDArray[np.void]


TELLS_BOLO: Final = 1
TELLS_WHY: Final = 2


def no_book(symbols_max: int, venues: int) -> Book:
    """An empty book for ids below ``symbols_max``."""
    quoted = _in_huge_pages((symbols_max, venues), QUOTED)
    tops = _in_huge_pages((symbols_max,), TOP)
    facts = _in_huge_pages((symbols_max,), FACTS)
    quoted["rank"] = NULL
    tops["rank"], tops["slot"], tops["last_px"] = NONE, -1, NULL
    facts["upper_px"] = facts["lower_px"] = facts["odd_rank"] = NULL
    facts["odd_slot"], facts["last_ns"] = -1, NULL
    counts = (np.zeros(n, np.int64) for n in (7, len(COUNTERS), (3, 256)))
    return Book(quoted, tops, facts, *counts)


def _in_huge_pages(shape: tuple[int, ...], dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Zeroed records that begin on a huge page, and so on a cache line: none of 32 or 64 bytes lies across two.

    Made with `np.empty` because numpy asks for huge pages there, from 4 MiB on, and not in `np.zeros`; what is not
    written costs nothing. At 5,000 symbols they are worth a tenth, at 50,000 a third.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(max(size + HUGE_PAGE, 2 * HUGE_PAGE), np.uint8)
    start = -raw.ctypes.data % HUGE_PAGE
    found = raw[start : start + size]
    found.fill(0)
    return found.view(dtype).reshape(shape)


@lean_kernel
def step(book: Any, market: Any, rows: Any, quotes: Any, trades: Any, statuses: Any, links: Any, out: Any) -> int:
    """Apply ``rows`` in order, write the changes to ``out`` (an `Out`) and return how many rows that are.

    ``quotes``, ``trades``, ``statuses`` and ``links`` are views of ``rows``. ``out`` has room for `changes_max` rows.
    """
    i = 0
    count = 0
    while i < rows.size:
        i, count = usual(book, market, quotes, i, out, count)
        if i == rows.size:
            break
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
                book.lines[BY_LINK] &= ~mask
                sum_up(book.lines)
            else:
                count = take_down(book, market, BY_LINK, mask, rows[i], out, count)
        i += 1
    book.lines[ARRIVALS] += rows.size
    return count


@lean_kernel
def usual(book: Any, market: Any, quotes: Any, start: int, out: Any, count: int) -> tuple[int, int]:
    """Apply ``quotes[start:]`` up to the first row that is not a usual quote; return its place and the new count.

    Usual is a quote of which both sides count and are fast, as were those of the one before it of this venue: its
    marks, the venues that feed the symbol and who is left out stay as they are. All else is for `quote`, which would
    do the same here.
    """
    slots = market.codes[SLOTS]
    symbol_bytes = book.quoted.shape[1] * QUOTED_BYTES
    arrivals, live = book.lines[ARRIVALS], book.lines[LIVE]
    national = STATE_NATIONAL if market.national and market.national & ~live == 0 else 0
    i = start
    while i < quotes.size:
        if i + AHEAD < quotes.size:
            row = quotes[(i + AHEAD) & ID_MAX]
            symbol = row["symbol"]
            slot = slots[row["venue"] & 0xFF]
            prefetch(book.tops.ctypes.data + symbol * TOP_BYTES)
            prefetch(book.quoted.ctypes.data + symbol * symbol_bytes + slot * QUOTED_BYTES)
        row = quotes[i & ID_MAX]  # spares a look whether the index is negative
        symbol = row["symbol"] & ID_MAX
        venue = row["venue"]
        bid_px = row["bid_px"]
        ask_px = row["ask_px"]
        bid_size = row["bid_size"]
        ask_size = row["ask_size"]
        condition = row["condition"]
        tape = row["tape"]
        slot = slots[venue & 0xFF]
        top = book.tops[symbol]
        quoted = book.quoted[symbol]
        mine = quoted[max(slot, 0)]
        lot = top["lot"] if top["lot"] > 0 else market.lot
        state = top["state"]
        if not (
            (row["kind"] == KIND_QUOTE)
            & (slot >= 0)
            & (venue <= 0xFF)
            & (condition > 0)
            & (condition <= 0xFF)
            & (market.codes[top["plan"] & 3, condition & 0xFF] == BOTH | FAST | KNOWN)
            & ((tape <= 0) | (((tape + 1) >> 1) - 32 == top["plan"]))  # A and B are of CTA, C is of UTP: 1 and 2
            & (mine["stamp"] & MARKS == USUAL)
            & (min(bid_px, ask_px) > 0)
            & (min(bid_size, ask_size) >= lot)
            & (max(bid_size, ask_size) <= SIZE_MAX)
            & (national & ~state == 0)
        ):
            break
        bid_before = int64(mine["size"][0])
        ask_before = int64(mine["size"][1])
        mine["rank"][0] = bid_px
        mine["rank"][1] = -ask_px
        mine["size"][0] = bid_size
        mine["size"][1] = ask_size
        mine["stamp"] = (arrivals + i) << ARRIVAL_SHIFT | USUAL
        bit = market.bits[max(slot, 0)]
        changed = offer(top, quoted, market, slot, bit, 0, bid_px, bid_size, 0, bid_before)
        changed |= offer(top, quoted, market, slot, bit, 1, -ask_px, ask_size, 0, ask_before)
        if changed:
            facts = book.facts[symbol]
            top["state"] = (state & OF_VENUES) | state_of_sides(top, facts)
            count = publish(book.counters, top, market.venues, symbol, row, out.nbbos, count)
            if top["has"] & HAS_ODD_LOTS:
                count = tell_odd_lots(book.counters, top, facts, quoted, market, symbol, row, out.bolos, count)
        i += 1
    book.counters[QUOTES] += i - start
    return i, count


def changes_max(symbols_max: int, venues: int, batch_max: int) -> int:
    """The most rows that one step can make.

    A row of the batch causes at most one row of each of the three kinds, or withdraws venues: one of each for every
    symbol that such a venue feeds, or that was national until then; it has been since before the step or since one
    quote in it.
    """
    return 3 * (symbols_max * (venues + 1) + 3 * batch_max)


@lean
def quote(book: Any, market: Any, quotes: Any, i: int, out: Any, count: int) -> int:
    """Replace a venue's quote by ``quotes[i]``; publish what that changes."""
    row = quotes[i]
    book.counters[QUOTES] += 1
    venue = row["venue"]
    slot = market.codes[SLOTS, venue & 0xFF]
    if slot < 0 or venue > 0xFF:
        book.counters[UNKNOWN_VENUE] += 1
        return count
    bit = venue_bit(venue)
    if book.lines[DOWN] & bit:
        book.counters[FROM_STALE_LINE] += 1
        return count

    symbol = row["symbol"]
    if symbol > book.lines[SYMBOLS]:
        book.lines[SYMBOLS] = symbol
    top = book.tops[symbol]
    learn_tape(top, row["tape"])
    may = permitted(market.codes, top["plan"], row["condition"])
    if may & BOTH != BOTH:
        book.counters[INELIGIBLE] += 1
        if may & KNOWN == 0:
            count_unknown(market.codes, top["plan"], row["condition"], book.unknown)
    lot = int64(top["lot"] if top["lot"] > 0 else market.lot)
    facts = book.facts[symbol]
    is_open = not (top["has"] & HAS_SHUT and facts["shut"] & bit)
    bid_rank, bid_size = side_of(row["bid_px"], row["bid_size"], 0)
    ask_rank, ask_size = side_of(row["ask_px"], row["ask_size"], 1)
    bid_marks = marks_of(bid_rank, bid_size, lot, may & BID, may & FAST_BID, is_open)
    ask_marks = marks_of(ask_rank, ask_size, lot, may & (BID << 1), may & (FAST_BID << 1), is_open)

    quoted = book.quoted[symbol]
    mine = quoted[slot]
    marks = bid_marks | ask_marks << 1
    turned = (mine["stamp"] ^ marks) & MARKS
    bid_before = int64(mine["size"][0])
    ask_before = int64(mine["size"][1])
    mine["rank"][0] = bid_rank
    mine["rank"][1] = ask_rank
    mine["size"][0] = bid_size
    mine["size"][1] = ask_size
    mine["stamp"] = (book.lines[ARRIVALS] + i) << ARRIVAL_SHIFT | marks
    bid_rank = bid_rank if bid_marks & COUNTS else NULL
    ask_rank = ask_rank if ask_marks & COUNTS else NULL
    changed = offer(top, quoted, market, slot, bit, 0, bid_rank, bid_size, bid_marks & SLOW, bid_before)
    changed |= offer(top, quoted, market, slot, bit, 1, ask_rank, ask_size, ask_marks & SLOW, ask_before)

    reasons = turned & REASONS
    if top["scope"] & bit == 0:
        top["scope"] |= bit
        facts["lost"] &= ~bit
        note(top, facts)
        reasons |= facts["told"]
    state = state_of(top, facts, top["state"] & STATE_HALTED, market.national, book.lines[LIVE])
    if changed or state != top["state"]:
        top["state"] = state
        count = publish(book.counters, top, market.venues, symbol, row, out.nbbos, count)
    if (marks | turned) & (3 * ODD_LOT) or (changed and top["has"] & HAS_ODD_LOTS):
        count = tell_odd_lots(book.counters, top, facts, quoted, market, symbol, row, out.bolos, count)
    if reasons and market.tells & TELLS_WHY:
        closed = book.lines[BY_CLOSE]
        count = tell_reasons(book.counters, facts, quoted, market.bits, closed, lot, symbol, row, out.whys, count)
    return count


@lean
def learn_tape(top: Any, tape: int) -> None:
    """Note the plan of a symbol whose tape a message tells."""
    if tape == _TAPE_A or tape == _TAPE_B:
        top["plan"] = CTA
    elif tape == _TAPE_C:
        top["plan"] = UTP


@lean
def permitted(plans: Any, plan: int, condition: int) -> int:
    """What all codes of a quote's condition allow in its plan."""
    if 0 < condition <= 0xFF:
        return int64(plans[plan, condition])
    return allowed(plans, plan, condition)


@lean_kernel
def count_unknown(plans: Any, plan: int, condition: int, unknown: Any) -> None:
    """Count each code of a condition that its plan does not list."""
    while condition:
        code = condition & 0xFF
        if plans[plan, code] & KNOWN == 0:
            unknown[plan, code] += 1
        condition = (condition >> 8) & 0x00FF_FFFF_FFFF_FFFF


@lean
def side_of(price: int, size: int, side: int) -> tuple[int, int]:
    """Rank and size of one side; NULL and 0 where there is none, or one that no exchange could mean."""
    if price > 0 and 0 < size <= SIZE_MAX:
        return (-price if side else price), size
    return NULL, 0


@lean
def marks_of(rank: int, size: int, lot: int, may: int, fast: int, is_open: bool) -> int:
    """The marks of a side, as for the bid. ``may``, ``fast``: not 0 where its condition allows it, says it is fast."""
    if rank == NULL:
        return 0
    if may == 0:
        return BARRED
    slow = 0 if fast else SLOW
    if size < lot:
        return ODD_LOT | slow
    return COUNTS | slow if is_open else slow


@lean
def offer(
    top: Any,
    quoted: Any,
    market: Any,
    slot: int,
    bit: int,
    side: int,
    rank: int,
    size: int,
    slow: int,
    size_before: int,
) -> int:
    """Take up one side of a venue's quote, which has just arrived; 0 if that leaves the best of this side as it was.

    ``rank`` is NULL where the side does not count, ``size_before`` what the venue had before, ``slow`` SLOW or 0. All
    is worked out without a branch, which nothing could foresee, but for the one case in which the others have to be
    asked: the best venue has become worse.
    """
    best = top["rank"][side]
    best_size = int64(top["size"][side])
    best_slot = int64(top["slot"][side])
    there = top["there"][side]
    there -= share_of(bit, size_before) if there & bit else 0
    takes = 1 if (rank > best) | ((rank == best) & ((size > best_size) | (there == 0))) else 0
    there = (0 if rank > best else there) + (share_of(bit, size) if rank >= best else 0)
    if (best_slot ^ slot) | takes == 0:
        return ask_others(top, quoted, market.bits, market.columns, side, there)
    rank = max(rank, best)
    size = size if takes else best_size
    slot = slot if takes else best_slot
    top["rank"][side] = rank
    top["there"][side] = there
    top["size"][side] = size
    top["slot"][side] = slot
    top["slow"][side] = slow & -takes | int64(top["slow"][side]) & (takes - 1)
    return (rank ^ best) | (size ^ best_size) | (slot ^ best_slot)


@lean
def share_of(bit: int, size: int) -> int:
    """What a venue adds to `TOP` ``there``: its bit and, above all bits, its shares. So the sum of some venues is their
    mask and their total; 26 venues of `SIZE_MAX` shares fit.
    """
    return size << MASK_BITS | bit


@lean_kernel
def ask_others(top: Any, quoted: Any, bits: Any, columns: Any, side: int, there: int) -> int:
    """Find the best of a side anew; 0 if that leaves venue, price and size as they were.

    The order is best rank, then largest size, then earliest arrival. ``quoted`` is a symbol's row of the book, `there`
    as in `TOP` those that are known to share the best rank; 0 if none is.
    """
    if there == 0:
        best_rank = NONE
        for slot in range(bits.size):
            rank = quoted[slot]["rank"][side]
            rank = rank if quoted[slot]["stamp"] & (COUNTS << side) else NULL
            share = share_of(bits[slot], int64(quoted[slot]["size"][side]))
            there = (0 if rank > best_rank else there) + (share if rank >= best_rank else 0)
            best_rank = max(best_rank, rank)
    best = -1
    best_size = int64(0)
    best_stamp = 0
    left = there & MASK
    while left:
        slot = columns[place_of(left & -left)] & 31
        left &= left - 1
        size = int64(quoted[slot]["size"][side])
        stamp = quoted[slot]["stamp"]
        # -1 if it is larger, or as large and earlier; by arithmetic, for a comparison would be compiled to a branch
        wins = (best_size - size) * 2 + ((stamp - best_stamp) >> 63) >> 63
        best ^= (best ^ slot) & wins
        best_stamp ^= (best_stamp ^ stamp) & wins
        best_size = max(best_size, size)
    rank = quoted[best]["rank"][side] if best >= 0 else NONE
    changed = (rank ^ top["rank"][side]) | (best_size ^ int64(top["size"][side])) | (best ^ int64(top["slot"][side]))
    top["rank"][side] = rank
    top["there"][side] = there
    top["size"][side] = best_size
    top["slot"][side] = best
    top["slow"][side] = (best_stamp >> side) & SLOW
    return changed


@lean
def place_of(bit: int) -> int:
    """A place below 32 for each of 32 bits, another for each (a de Bruijn sequence)."""
    return (bit * 0x077C_B531 & 0xFFFF_FFFF) >> 27


@lean_kernel
def trade(book: Any, market: Any, row: Any) -> None:
    """Keep the last price of the tape, by the rule of the plans; the symbol's next change carries it.

    Some trades set it only as the first of the day; CTA's late reports (L) also after one of the same participant, or
    if they are of the listing market; UTP's until ten seconds after the close.
    """
    if row["price"] <= 0 or row["mark"] > 0:
        return
    updates = allowed(market.codes, SALES + plan_of(row["tape"]), row["condition"])
    if not updates & FIRST or (not updates & LATE and row["event_ns"] > market.late_ns):
        return
    facts = book.facts[row["symbol"]]
    venue = row["venue"] & 0x7F
    if not updates & LAST and facts["last_ns"] >= market.day_ns:
        if not updates & SOLD or (venue != facts["last_venue"] and venue != listing_of(market.listing, row["tape"])):
            return
    book.tops[row["symbol"]]["last_px"] = row["price"]
    facts["last_ns"] = max(row["event_ns"], market.day_ns)
    facts["last_venue"] = venue


@lean_kernel
def status(book: Any, market: Any, statuses: Any, i: int, out: Any, count: int) -> int:
    """Apply what a venue says of one symbol, or of itself (the empty symbol)."""
    row = statuses[i]
    if row["symbol"] == 0:
        return venue_status(book, market, row, out, count)
    symbol = row["symbol"]
    book.lines[SYMBOLS] = max(book.lines[SYMBOLS], symbol)
    top = book.tops[symbol]
    facts = book.facts[symbol]
    quoted = book.quoted[symbol]
    learn_tape(top, row["tape"])
    bit = venue_bit(row["venue"]) if 65 <= row["venue"] <= 90 else 0
    slot = market.codes[SLOTS, row["venue"] & 0xFF]
    trading = row["trading"]
    meaning = market.codes[STATES, trading] if 0 < trading <= 0xFF else 0
    for reason in market.alone:
        if meaning == HALTS and row["reason"] == reason:
            meaning = SHUTS
    lot = int64(top["lot"] if top["lot"] > 0 else market.lot)
    told = 0
    is_new = 0
    if meaning == TRADES or meaning == HALTS or meaning == SHUTS:
        halting = facts["halting"] | bit if meaning == HALTS else facts["halting"] & ~bit
        shut = facts["shut"] | bit if meaning == SHUTS and slot >= 0 else facts["shut"] & ~bit
        is_new |= shut ^ facts["shut"]
        told |= halting ^ facts["halting"]
        facts["halting"] = halting
        facts["shut"] = shut
    if 0 < row["round_lot"] <= SIZE_MAX:
        is_new |= row["round_lot"] ^ lot
        lot = row["round_lot"]
        top["lot"] = lot
    if bit & market.tapes:
        told |= (facts["upper_px"] ^ row["upper_px"]) | (facts["lower_px"] ^ row["lower_px"])
        facts["upper_px"] = row["upper_px"]
        facts["lower_px"] = row["lower_px"]
    note(top, facts)
    changed = 0
    if is_new:
        grade(facts["shut"], quoted, market.bits, lot)
        changed = settle(top, quoted, market.bits, market.columns)
    halted = STATE_HALTED if facts["halting"] else 0
    state = state_of(top, facts, halted, market.national, book.lines[LIVE])
    if changed or state != top["state"]:
        top["state"] = state
        count = publish(book.counters, top, market.venues, symbol, row, out.nbbos, count)
    if is_new or (top["has"] & HAS_ODD_LOTS and changed):
        count = tell_odd_lots(book.counters, top, facts, quoted, market, symbol, row, out.bolos, count)
    if (told or is_new) and market.tells & TELLS_WHY:
        closed = book.lines[BY_CLOSE]
        count = tell_reasons(book.counters, facts, quoted, market.bits, closed, lot, symbol, row, out.whys, count)
    return count


@lean
def note(top: Any, facts: Any) -> None:
    """Note what there is in a symbol's facts, so that they are read only where they matter."""
    has = top["has"] & HAS_ODD_LOTS
    has |= HAS_BANDS if facts["upper_px"] != NULL or facts["lower_px"] != NULL else 0
    has |= HAS_LOST if facts["lost"] else 0
    has |= HAS_SHUT if facts["shut"] else 0
    top["has"] = has


@lean_kernel
def grade(shut: int, quoted: Any, bits: Any, lot: int) -> None:
    """Mark the standing quotes of a symbol anew: its round lot has changed, or who is shut."""
    for slot in range(bits.size):
        mine = quoted[slot]
        stamp = mine["stamp"]
        is_open = shut & bits[slot] == 0
        marks = 0
        for side in range(2):
            barred = (stamp >> side) & BARRED
            slow = (stamp >> side) & SLOW
            marks |= marks_of(mine["rank"][side], mine["size"][side], lot, not barred, not slow, is_open) << side
        mine["stamp"] = (stamp & ~MARKS) | marks


@lean_kernel
def settle(top: Any, quoted: Any, bits: Any, columns: Any) -> int:
    """Find the best of both sides anew among all venues; 0 if it is as it was."""
    changed = ask_others(top, quoted, bits, columns, 0, 0)
    changed |= ask_others(top, quoted, bits, columns, 1, 0)
    return changed


@lean
def venue_status(book: Any, market: Any, row: Any, out: Any, count: int) -> int:
    """Apply the state of a whole venue: of its line, as its feed sees it, and of its day."""
    if market.codes[SLOTS, row["venue"] & 0xFF] < 0 or row["venue"] > 0xFF:
        return count
    bit = venue_bit(row["venue"])
    event = row["trading"]
    happens = market.codes[EVENTS, event] if 0 < event <= 0xFF else 0
    is_live = row["venue_state"] == _LIVE
    if is_live:
        book.lines[BY_VENUE] &= ~bit
        book.lines[LIVE] |= bit
    if happens < 0 or (is_live and (event == NULL or event == 0)):
        book.lines[BY_CLOSE] &= ~bit
    sum_up(book.lines)
    if row["venue_state"] == _STALE:
        count = take_down(book, market, BY_VENUE, bit, row, out, count)
    elif happens > 0:
        count = take_down(book, market, BY_CLOSE, bit, row, out, count)
    return count


@lean
def sum_up(lines: Any) -> None:
    """Keep the mask of all venues whose quotes are not taken."""
    lines[DOWN] = lines[BY_VENUE] | lines[BY_LINK] | lines[BY_CLOSE]


@lean_kernel
def take_down(book: Any, market: Any, reason: int, mask: int, cause: Any, out: Any, count: int) -> int:
    """Withdraw every quote of the venues in ``mask``: none counts again until the line is up and it has quoted anew.

    A publisher that comes back says again what it knows of halts, so what it said is forgotten; so is what a venue
    said on the day that it has closed. No value is called national any longer when one of the market's venues is lost.
    """
    fresh = mask & ~book.lines[DOWN]
    book.lines[reason] |= mask
    if reason != BY_CLOSE:
        book.lines[LIVE] &= ~mask
    sum_up(book.lines)
    if fresh == 0 and mask & market.national == 0:
        return count
    for symbol in range(1, book.lines[SYMBOLS] + 1):
        top = book.tops[symbol]
        facts = book.facts[symbol]
        quoted = book.quoted[symbol]
        gone = top["scope"] & fresh
        halted = top["state"] & STATE_HALTED
        for slot in range(market.venues.size):
            if market.bits[slot] & gone:
                mine = quoted[slot]
                mine["rank"][0] = NULL
                mine["rank"][1] = NULL
                mine["size"][0] = 0
                mine["size"][1] = 0
                mine["stamp"] = 0
                book.counters[WITHDRAWN] += 1
        if gone:
            settle(top, quoted, market.bits, market.columns)
            top["scope"] &= ~gone
            if reason != BY_CLOSE:
                facts["lost"] |= gone
            if reason != BY_VENUE:
                facts["halting"] &= ~gone
                facts["shut"] &= ~gone
                halted = STATE_HALTED if facts["halting"] else 0
            note(top, facts)
        state = state_of(top, facts, halted, market.national, book.lines[LIVE])
        if gone or state != top["state"]:
            top["state"] = state
            count = publish(book.counters, top, market.venues, symbol, cause, out.nbbos, count)
        if gone:
            count = tell_odd_lots(book.counters, top, facts, quoted, market, symbol, cause, out.bolos, count)
        if gone and market.tells & TELLS_WHY:
            closed = book.lines[BY_CLOSE]
            lot = int64(top["lot"] if top["lot"] > 0 else market.lot)
            count = tell_reasons(book.counters, facts, quoted, market.bits, closed, lot, symbol, cause, out.whys, count)
    return count


@lean
def venue_bit(venue: int) -> int:
    """The bit of a venue letter in a mask: bit 0 is A."""
    return 1 << (venue - 65)


@lean_kernel
def state_of(top: Any, facts: Any, halted: int, national: int, live: int) -> int:
    """The state bits of a symbol; stale when no venue that fed it is left."""
    state = halted | state_of_sides(top, facts)
    if top["has"] & HAS_LOST:
        state |= STATE_PARTIAL if top["scope"] else STATE_STALE
    elif national and top["scope"] and national & ~live == 0:
        state |= STATE_NATIONAL
    return state


@lean
def state_of_sides(top: Any, facts: Any) -> int:
    """The state bits that the best bid and ask alone make. Without any side a symbol is not one-sided."""
    bid = top["rank"][0]
    ask = top["rank"][1]
    if min(bid, ask) != NONE:
        state = STATE_LOCKED if bid == -ask else 0
        state |= STATE_CROSSED if bid > -ask else 0
    else:
        state = STATE_ONE_SIDED if bid != ask else 0
    state |= STATE_SLOW if top["slow"][0] | top["slow"][1] else 0
    if top["has"] & HAS_BANDS:
        upper = facts["upper_px"]
        lower = facts["lower_px"]
        if (bid != NONE and ((upper != NULL and bid >= upper) or bid < lower)) or (
            ask != NONE and (-ask <= lower or (upper != NULL and -ask > upper))
        ):
            state |= STATE_LULD
    return state


@lean
def put_header(row: Any, kind: int, symbol: int, cause: Any) -> None:
    """Write what every row has: the times and the sequence of the row that caused it."""
    row["kind"] = kind
    row["symbol"] = symbol
    row["venue"] = 0
    row["seq"] = row["epoch"] = row["position"] = row["proc_ns"] = NULL  # the outbox's to fill
    row["exchange_seq"] = cause["exchange_seq"]
    row["event_ns"] = cause["event_ns"]
    row["recv_ns"] = cause["recv_ns"]
    row["feed_ns"] = cause["feed_ns"]


@lean
def publish(counters: Any, top: Any, venues: Any, symbol: int, cause: Any, nbbos: Any, count: int) -> int:
    """Write the symbol's NBBO row; return the new count."""
    row = nbbos[count]
    put_header(row, KIND_NBBO, symbol, cause)
    bid = top["slot"][0]
    ask = top["slot"][1]
    row["bid_px"] = top["rank"][0] if bid >= 0 else NULL
    row["ask_px"] = -top["rank"][1] if ask >= 0 else NULL
    row["bid_size"] = top["size"][0] if bid >= 0 else NULL
    row["ask_size"] = top["size"][1] if ask >= 0 else NULL
    row["bid_venue"] = venues[max(bid, 0)] if bid >= 0 else NULL
    row["ask_venue"] = venues[max(ask, 0)] if ask >= 0 else NULL
    row["bid_mask"] = top["there"][0] & MASK
    row["ask_mask"] = top["there"][1] & MASK
    row["last_px"] = top["last_px"]
    state = int64(top["state"])
    row["state"] = state
    row["scope"] = top["scope"]
    row["bid_total"] = top["there"][0] >> MASK_BITS if bid >= 0 else NULL
    row["ask_total"] = top["there"][1] >> MASK_BITS if ask >= 0 else NULL
    counters[CHANGES] += 1
    counters[LOCKED] += 1 if state & STATE_LOCKED else 0
    counters[CROSSED] += 1 if state & STATE_CROSSED else 0
    return count + 1


@lean_kernel
def tell_odd_lots(
    counters: Any,
    top: Any,
    facts: Any,
    quoted: Any,
    market: Any,
    symbol: int,
    cause: Any,
    bolos: Any,
    count: int,
) -> int:
    """Find the best odd lots anew and write a BOLO row if they have changed; return the new count.

    An odd lot is told while its price is better than that of the best bid or offer (17 CFR 242.600(b)(69)(iii)); among
    odd lots the order is that of round ones.
    """
    changed = False
    top["has"] &= ~HAS_ODD_LOTS
    for side in range(2):
        best = -1
        best_rank = top["rank"][side]
        best_size = 0
        best_stamp = 0
        for slot in range(market.bits.size):
            stamp = quoted[slot]["stamp"]
            if stamp & (ODD_LOT << side) == 0:
                continue
            top["has"] |= HAS_ODD_LOTS
            rank = quoted[slot]["rank"][side]
            size = quoted[slot]["size"][side]
            if rank < best_rank or (rank == best_rank and best < 0) or facts["shut"] & market.bits[slot]:
                continue
            if rank > best_rank or size > best_size or (size == best_size and stamp < best_stamp):
                best, best_rank, best_size, best_stamp = slot, rank, size, stamp
        if best < 0:
            best_rank = NULL
        changed |= (
            best != facts["odd_slot"][side]
            or best_rank != facts["odd_rank"][side]
            or best_size != facts["odd_size"][side]
        )
        facts["odd_slot"][side] = best
        facts["odd_rank"][side] = best_rank
        facts["odd_size"][side] = best_size
    if not changed or market.tells & TELLS_BOLO == 0:
        return count
    row = bolos[count]
    put_header(row, KIND_BOLO, symbol, cause)
    bid = facts["odd_slot"][0]
    ask = facts["odd_slot"][1]
    row["bid_px"] = facts["odd_rank"][0]
    row["bid_size"] = facts["odd_size"][0] if bid >= 0 else NULL
    row["bid_venue"] = market.venues[bid] if bid >= 0 else NULL
    row["ask_px"] = -facts["odd_rank"][1] if ask >= 0 else NULL
    row["ask_size"] = facts["odd_size"][1] if ask >= 0 else NULL
    row["ask_venue"] = market.venues[ask] if ask >= 0 else NULL
    counters[ODD_LOTS] += 1
    return count + 1


@lean_kernel
def tell_reasons(
    counters: Any,
    facts: Any,
    quoted: Any,
    bits: Any,
    closed: int,
    lot: int,
    symbol: int,
    cause: Any,
    whys: Any,
    count: int,
) -> int:
    """Write the symbol's WHY row; return the new count."""
    facts["told"] = 1
    row = whys[count]
    put_header(row, KIND_WHY, symbol, cause)
    row["round_lot"] = lot
    row["bid_condition"] = venues_marked(quoted, bits, BARRED)
    row["ask_condition"] = venues_marked(quoted, bits, BARRED << 1)
    row["bid_odd_lot"] = venues_marked(quoted, bits, ODD_LOT)
    row["ask_odd_lot"] = venues_marked(quoted, bits, ODD_LOT << 1)
    row["bid_slow"] = venues_marked(quoted, bits, SLOW)
    row["ask_slow"] = venues_marked(quoted, bits, SLOW << 1)
    row["shut"] = facts["shut"]
    row["lost"] = facts["lost"]
    row["closed"] = closed
    row["halting"] = facts["halting"]
    row["upper_px"] = facts["upper_px"]
    row["lower_px"] = facts["lower_px"]
    counters[TOLD] += 1
    return count + 1


@lean_kernel
def venues_marked(quoted: Any, bits: Any, mark: int) -> int:
    """The mask of the venues whose quote of a symbol has a mark."""
    mask = 0
    for slot in range(bits.size):
        if quoted[slot]["stamp"] & mark:
            mask |= bits[slot]
    return mask


def views(rows: Any) -> tuple[Any, Any, Any, Any, Any]:
    """The arguments ``rows, quotes, trades, statuses, links`` of `step`, all of them the same memory."""
    return rows, rows.view(QUOTE), rows.view(TRADE), rows.view(STATUS), rows.view(LINK)


def make_out(rows: Any) -> Out:
    """The three views of ``rows`` (EVENT) that `step` writes."""
    return Out(rows.view(NBBO), rows.view(BOLO), rows.view(WHY))


def warm_up() -> None:
    """Compile, or load, with the array types of the live path."""
    one, codes = np.zeros(1, np.int64), np.zeros((8, 256), np.int64)
    columns, listing = np.zeros(32, np.int64), np.zeros(3, np.int64)
    market = Market(codes, one, one, columns, one, one, 0, 0, 1, 0, listing, 0, 0)
    step(no_book(1, 1), market, *views(empty(0, EVENT)), make_out(empty(1, EVENT)))
