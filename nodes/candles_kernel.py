"""The rule of the candles, compiled (pure): rows in the order of arrival, arrays in, bars out.

Trades change one-minute bars only; the longer bars are folded from them whenever they are published, so
they agree exactly, and a trade costs the same however many intervals there are. Everything in a bar is
independent of the order of arrival: open and close go by (exchange time, exchange sequence, venue), sums are
integers. The notional value is kept in two words, whole and fractional currency times shares, with carry
(`add_notional`), so the volume-weighted price is the exact quotient rounded once.

Intervals live in slots, one ring of slots for each length (`Plan`); a slot has the list of its symbols, so
closing, publishing and finishing an interval visits the symbols that traded in it and no others. Minute bars
lie side by side for all symbols of one minute: what trades now is close together in memory.

The estimated exchange time (`Bars.clock`) alone opens, closes and finishes intervals, in the order of their
deadlines and at the row that moves it past them.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean, lean_kernel
from fabric.native import prefetch
from fabric.records import (
    BAR,
    EVENT,
    GAP,
    KIND_BAR_1M,
    KIND_GAP,
    KIND_LINK,
    KIND_STATUS,
    KIND_TRADE,
    LINK,
    NULL,
    STATUS,
    TRADE,
    empty,
    pack,
)
from nodes.conditions import FIRST, HIGH_LOW, KNOWN, LAST, VOLUME
from nodes.conditions_kernel import allowed

NO_LIMIT: Final = 2**63 - 1
"""As `latest_ns` of `step`: every exchange time is believed."""
MINUTE_NS: Final = 60_000_000_000
LENGTHS_NS: Final = (MINUTE_NS, 5 * MINUTE_NS, 60 * MINUTE_NS)
"""Of the intervals, in the order of their kinds (KIND_BAR_1M first); each a multiple of the one before."""

SIZE_MAX: Final = 2**32
"""Shares in one trade: fractional currency times shares then fits into a word."""

MINUTE: Final = np.dtype(
    [
        ("open_px", "<i8"),
        ("high_px", "<i8"),
        ("low_px", "<i8"),
        ("close_px", "<i8"),
        ("volume", "<i8"),
        ("priced_volume", "<i8"),  # of the trades that count for the volume-weighted price
        ("whole", "<i8"),  # their notional value: whole currency x shares ...
        ("part", "<i8"),  # ... and the rest in 1e-9, 0 to 999,999,999
        ("open_ns", "<i8"),
        ("open_seq", "<i8"),
        ("close_ns", "<i8"),
        ("close_seq", "<i8"),
        ("last_ns", "<i8"),
        ("trades", "<i4"),
        ("open_venue", "<i2"),
        ("close_venue", "<i2"),
        ("firm", "<i2"),  # 1: the close comes from a trade that may set it; 0: from one that may if no other does
        ("_spare", "<i2", (7,)),
    ]
)
"""A minute of a symbol while it can change: two cache lines. Prices are NULL until a trade sets them."""

MINUTE_BYTES: Final = MINUTE.itemsize
CACHE_LINE: Final = 64
AHEAD: Final = 16
"""Rows between asking for a minute's cache lines and using them."""

# Marks of a symbol in a slot.
MEMBER: Final = 1
"""It has a bar."""
CHANGED: Final = 2
"""The running bar differs from what was published."""
INCOMPLETE: Final = 4
"""Messages of this symbol were lost, or a trade was cancelled or corrected, which is not applied."""

COUNTERS: Final = (
    "trades",
    "malformed",  # no time, or a price or size that is none
    "unknown_condition",  # trades with a code that the table does not list: volume only
    "official",  # prints that repeat what was traded: not applied
    "unapplied_cancels",  # cancels and corrections: not applied, the bar of that moment is marked
    "skew",  # more than the limit ahead of the clock: put into the running interval
    "late",  # revised a closed bar
    "too_late",  # for a bar that is final: not applied
    "bars",  # rows published
)
TRADES, MALFORMED, UNKNOWN, OFFICIAL, CANCELS, SKEW, LATE, TOO_LATE, PUBLISHED = range(len(COUNTERS))

# Which lines are down, in `Bars.down`.
BY_VENUE: Final = 0
BY_LINK: Final = 1
ALL_VENUES: Final = -1
"""As a mask of venues."""

_STALE: Final = pack("stale")
_LIVE: Final = pack("live")
_LOST: Final = pack("gap")


class Bars(NamedTuple):
    """The state of all symbols. ``slots`` counts those of all lengths."""

    minutes: npt.NDArray[np.void]  # [slots of one minute, symbols] MINUTE
    marks: npt.NDArray[np.int8]  # [slots, symbols]
    revs: npt.NDArray[np.int32]  # [slots, symbols]
    members: npt.NDArray[np.int32]  # [slots, symbols] ids in the order of their first trade
    sizes: npt.NDArray[np.int64]  # [slots] number of members
    ends: npt.NDArray[np.int64]  # [slots] end of the interval that the slot holds; 0 before the first
    lost: npt.NDArray[np.int64]  # [slots] mask of the venues whose line was down at some time in it
    venues: npt.NDArray[np.int64]  # [symbols] mask of the venues that it has traded on
    clock: npt.NDArray[np.int64]  # [1] estimated exchange time; 0 before the first event
    since: npt.NDArray[np.int64]  # [1] time of the first LINK row: what began before is not whole; 0 under event time
    closed: npt.NDArray[np.int64]  # [lengths] end of the last interval that has closed
    final: npt.NDArray[np.int64]  # [lengths] end of the last interval that has become final
    due: npt.NDArray[np.int64]  # [1] the next deadline of any
    here: npt.NDArray[np.int64]  # [1 + lengths] end of the minute that was traded in last, and the slots around it
    down: npt.NDArray[np.int64]  # [2] masks of the venues that are down BY_VENUE and BY_LINK
    counters: npt.NDArray[np.int64]  # [len(COUNTERS)]


class Plan(NamedTuple):
    """What the rules need to know: data that may be replaced between two steps, except the rings."""

    lengths: npt.NDArray[np.int64]  # LENGTHS_NS
    first: npt.NDArray[np.int64]  # [lengths] first slot of each ring
    ring: npt.NDArray[np.int64]  # [lengths] its number of slots
    grace_ns: int  # from the end of an interval to its closing
    horizon_ns: int  # from its end to the last revision
    silence_ns: int  # a loss is noticed at most this long after it began
    publishers: npt.NDArray[np.int64]  # [sources] mask of the venues that each publisher speaks for
    sales: npt.NDArray[np.int64]  # [256] sale conditions (nodes.conditions)


def make_plan(grace_ns: int, horizon_ns: int, silence_ns: int, publishers: Any, sales: Any) -> Plan:
    """Rings long enough that no slot is reused before its interval, and the longest one around it, are final."""
    assert 0 <= grace_ns <= MINUTE_NS <= horizon_ns
    lengths = np.array(LENGTHS_NS, np.int64)
    span = lengths + horizon_ns
    span[0] += LENGTHS_NS[-1]
    ring = span // lengths + 3
    return Plan(lengths, np.cumsum(ring) - ring, ring, grace_ns, horizon_ns, silence_ns, publishers, sales)


def no_bars(symbols_max: int, plan: Plan) -> Bars:
    """Empty bars for ids below ``symbols_max``. Memory is touched, and so taken, only where symbols trade."""
    slots, lengths = int(plan.ring.sum()), plan.lengths.size
    return Bars(
        minutes=np.zeros((int(plan.ring[0]), symbols_max), MINUTE),
        marks=np.zeros((slots, symbols_max), np.int8),
        revs=np.zeros((slots, symbols_max), np.int32),
        members=np.zeros((slots, symbols_max), np.int32),
        sizes=np.zeros(slots, np.int64),
        ends=np.zeros(slots, np.int64),
        lost=np.zeros(slots, np.int64),
        venues=np.zeros(symbols_max, np.int64),
        clock=np.zeros(1, np.int64),
        since=np.zeros(1, np.int64),
        closed=np.zeros(lengths, np.int64),
        final=np.zeros(lengths, np.int64),
        due=np.zeros(1, np.int64),
        here=np.zeros(1 + lengths, np.int64),
        down=np.zeros(2, np.int64),
        counters=np.zeros(len(COUNTERS), np.int64),
    )


def rows_max(symbols_max: int, batch_max: int, horizon_ns: int) -> int:
    """The most rows that one step can make.

    A symbol's bars that are not final before the step (the horizon's, and two more of each length) may all become
    final in it, and those two close before and be published as running. A trade touches one bar of
    each length: it revises it, or makes one that closes and becomes final.
    """
    bars = sum(horizon_ns // length + 2 for length in LENGTHS_NS)
    return symbols_max * (bars + 4 * len(LENGTHS_NS)) + 2 * len(LENGTHS_NS) * batch_max


@lean_kernel
def step(
    bars: Any,
    plan: Any,
    rows: Any,
    trades: Any,
    statuses: Any,
    links: Any,
    gaps: Any,
    now_ns: int,
    carried_ns: int,
    latest_ns: int,
    publish: bool,
    out: Any,
    count: int,
) -> int:
    """Apply ``rows`` in order, write the bars that are due to ``out`` from ``count`` on; return the new count.

    ``trades`` to ``gaps`` are views of ``rows``. ``carried_ns`` is the exchange time as the passing of time alone
    makes it, ``latest_ns`` the latest that is believed, ``now_ns`` what stands in for it before there is any.
    With ``publish`` running bars that have changed are written too. ``out`` has room for `rows_max` more rows.
    """
    if bars.clock[0] > 0:
        count = advance(bars, plan, carried_ns, out, count)
    minutes = bars.minutes.ctypes.data
    for i in range(rows.size):
        if i + AHEAD < rows.size:
            minute = minutes + bars.here[1] * bars.minutes.strides[0] + rows[i + AHEAD]["symbol"] * MINUTE_BYTES
            prefetch(minute)
            prefetch(minute + CACHE_LINE)
        kind = rows[i]["kind"]
        if kind == KIND_TRADE:
            count = trade(bars, plan, trades[i], now_ns, latest_ns, out, count)
        elif kind == KIND_STATUS:
            count = status(bars, plan, statuses[i], now_ns, latest_ns, out, count)
        elif kind == KIND_LINK:
            if bars.clock[0] == 0 and latest_ns != NO_LIMIT:
                bars.since[0] = now_ns
            line(bars, plan, BY_LINK, plan.publishers[links[i]["publisher"]], links[i]["up"] == 1)
        elif kind == KIND_GAP and gaps[i]["channel_kind"] == KIND_TRADE:
            mark(bars, plan, gaps[i]["symbol"], 0)
    if publish:
        count = publish_running(bars, plan, out, count)
    return count


@lean
def trade(bars: Any, plan: Any, row: Any, now_ns: int, latest_ns: int, out: Any, count: int) -> int:
    """Put a trade into its minute; publish what was closed already."""
    bars.counters[TRADES] += 1
    price = row["price"]
    size = row["size"]
    event_ns = row["event_ns"]
    undoes = row["mark"] > 0  # names the trade that it cancels or corrects, and not always a price
    if event_ns <= 0 or (not undoes and (price <= 0 or size <= 0 or size > SIZE_MAX)):
        bars.counters[MALFORMED] += 1
        return count
    if event_ns > latest_ns:
        bars.counters[SKEW] += 1
        event_ns = bars.clock[0] if bars.clock[0] > 0 else now_ns
    if event_ns > bars.clock[0]:
        count = advance(bars, plan, believed(bars, plan, event_ns, now_ns, latest_ns), out, count)
    symbol = row["symbol"]
    if undoes:
        bars.counters[CANCELS] += 1
        mark(bars, plan, symbol, 0)
        return count
    updates = allowed(plan.sales, row["condition"])
    if not updates & KNOWN:
        bars.counters[UNKNOWN] += 1
    if updates & (HIGH_LOW | FIRST | VOLUME) == 0:
        bars.counters[OFFICIAL] += 1
        return count

    end = bars.here[0]
    if not end - MINUTE_NS <= event_ns < end:
        end = event_ns - event_ns % MINUTE_NS + MINUTE_NS
        if end <= bars.final[0]:
            bars.counters[TOO_LATE] += 1
            return count
        go_to(bars, plan, end)
    elif end <= bars.final[0]:
        bars.counters[TOO_LATE] += 1
        return count
    bars.venues[symbol] |= venue_bit(row["venue"])
    if end <= bars.closed[0]:
        bars.counters[LATE] += 1

    slot = bars.here[1]
    minute = bars.minutes[slot, symbol]
    if not bars.marks[slot, symbol] & MEMBER:
        clear(minute)
    add(minute, event_ns, row["exchange_seq"], row["venue"], price, size, updates)
    if bars.marks[slot, symbol] & CHANGED:
        return count  # its minute runs and is to be published, and so are the longer intervals around it
    for k in range(plan.lengths.size):
        slot = bars.here[1 + k]
        marks = bars.marks[slot, symbol]
        if not marks & MEMBER:
            bars.members[slot, bars.sizes[slot]] = symbol
            bars.sizes[slot] += 1
            bars.revs[slot, symbol] = 0
            marks |= MEMBER
        if bars.ends[slot] > bars.closed[k]:
            bars.marks[slot, symbol] = marks | CHANGED
        else:
            bars.marks[slot, symbol] = marks
            bars.revs[slot, symbol] += 1
            count = write(bars, plan, k, slot, symbol, 0, out, count)
    return count


@lean
def clear(minute: Any) -> None:
    """An empty minute in place of what its slot held before."""
    minute["open_px"] = NULL
    minute["high_px"] = NULL
    minute["low_px"] = NULL
    minute["close_px"] = NULL
    minute["volume"] = 0
    minute["priced_volume"] = 0
    minute["whole"] = 0
    minute["part"] = 0
    minute["last_ns"] = 0
    minute["trades"] = 0
    minute["firm"] = 0


@lean
def add(minute: Any, event_ns: int, seq: int, venue: int, price: int, size: int, updates: int) -> None:
    """Let one trade change what its conditions allow."""
    if updates & HIGH_LOW:
        if minute["open_px"] == NULL:
            minute["high_px"] = price
            minute["low_px"] = price
        minute["high_px"] = max(minute["high_px"], price)
        minute["low_px"] = min(minute["low_px"], price)
        if minute["open_px"] == NULL or before(
            event_ns, seq, venue, minute["open_ns"], minute["open_seq"], minute["open_venue"]
        ):
            minute["open_px"] = price
            minute["open_ns"] = event_ns
            minute["open_seq"] = seq
            minute["open_venue"] = venue
    if updates & FIRST:
        earlier = before(event_ns, seq, venue, minute["close_ns"], minute["close_seq"], minute["close_venue"])
        if takes_close(updates & LAST != 0, earlier, minute["close_px"] != NULL, minute["firm"] == 1):
            minute["close_px"] = price
            minute["close_ns"] = event_ns
            minute["close_seq"] = seq
            minute["close_venue"] = venue
            minute["firm"] = 1 if updates & LAST else 0
    if updates & VOLUME:
        minute["volume"] += size
        minute["trades"] += 1
        if updates & HIGH_LOW:
            minute["priced_volume"] += size
            add_notional(minute, price, size)
    minute["last_ns"] = max(minute["last_ns"], event_ns)


@lean
def before(ns: int, seq: int, venue: int, other_ns: int, other_seq: int, other_venue: int) -> bool:
    """Whether a trade comes before another; of two that cannot be told apart the one that arrived first does."""
    if ns != other_ns:
        return ns < other_ns
    if seq != other_seq:
        return seq < other_seq
    return venue < other_venue


@lean
def takes_close(firm: bool, earlier: bool, has_close: bool, has_firm: bool) -> bool:
    """Whether a candidate is the close in place of what there is.

    The latest of the trades that may set the last price; without any, the first of those that may while no other does.
    """
    if not has_close:
        return True
    if firm:
        return not has_firm or not earlier
    return not has_firm and earlier


@lean
def add_notional(minute: Any, price: int, size: int) -> None:
    """Add ``price * size`` in two words: below 2.25 M x 2**32 whole, and below 1e9 x 2**32 of 1e-9."""
    part = minute["part"] + price % 1_000_000_000 * size
    minute["whole"] += price // 1_000_000_000 * size + part // 1_000_000_000
    minute["part"] = part % 1_000_000_000


@lean
def average(whole: int, part: int, volume: int) -> int:
    """``(whole * 1e9 + part) / volume`` rounded to the nearest, halves up: long division in steps of a thousand,
    for volumes below 2**63 / 2000. NULL without volume.
    """
    if volume == 0:
        return NULL
    quotient = whole // volume
    rest = whole % volume
    for _ in range(3):
        rest *= 1_000
        quotient = quotient * 1_000 + rest // volume
        rest %= volume
    rest += part
    quotient += rest // volume
    return quotient + (1 if rest % volume * 2 >= volume else 0)


@lean
def venue_bit(venue: int) -> int:
    """The bit of a venue letter in a mask: bit 0 is A; 0 for what is no letter."""
    return 1 << (venue - 65) if 65 <= venue <= 90 else 0


@lean
def slot_of(plan: Any, k: int, end: int) -> int:
    """The slot of the interval of length ``k`` that ends at ``end``."""
    return plan.first[k] + end // plan.lengths[k] % plan.ring[k]


@lean
def open_slot(bars: Any, plan: Any, k: int, end: int) -> int:
    """Return the interval's slot, emptied if it held an earlier one. A line that is down now is lost to it, and all
    lines are to one that began before we listened.
    """
    slot = slot_of(plan, k, end)
    if bars.ends[slot] != end:
        bars.ends[slot] = end
        bars.sizes[slot] = 0
        bars.lost[slot] = bars.down[BY_VENUE] | bars.down[BY_LINK]
        if end - plan.lengths[k] < bars.since[0]:
            bars.lost[slot] = ALL_VENUES
        bars.marks[slot, :] = 0
    return slot


@lean
def go_to(bars: Any, plan: Any, end: int) -> None:
    """Open the slots around the minute that ends at ``end`` and remember them: the next trade is mostly there too."""
    bars.here[0] = end
    for k in range(plan.lengths.size):
        start = (end - MINUTE_NS) // plan.lengths[k] * plan.lengths[k]
        bars.here[1 + k] = open_slot(bars, plan, k, start + plan.lengths[k])


@lean
def believed(bars: Any, plan: Any, event_ns: int, now_ns: int, latest_ns: int) -> int:
    """``event_ns``, but the first exchange time of all begins the listening, and is no older than the horizon: what is
    older could not change a bar. Under event time nothing was before the first event, and any time is right.
    """
    if bars.clock[0] > 0 or latest_ns == NO_LIMIT:
        return event_ns
    if bars.since[0] == 0:
        bars.since[0] = max(event_ns, now_ns)
    return max(event_ns, now_ns - plan.horizon_ns)


@lean_kernel
def advance(bars: Any, plan: Any, now_ns: int, out: Any, count: int) -> int:
    """Move the exchange time to ``now_ns``; close and finish what is due by then, earliest deadline first.

    The work has a bound, however far that is: once all that has bars is final, the empty intervals are passed over.
    """
    if bars.clock[0] == 0:
        pass_over(bars, plan, now_ns)
    else:
        all_final_ns = bars.clock[0] + plan.lengths[-1] + plan.horizon_ns
        if now_ns > all_final_ns:
            count = complete(bars, plan, all_final_ns, out, count)
            pass_over(bars, plan, now_ns)
    bars.clock[0] = max(bars.clock[0], now_ns)
    return complete(bars, plan, now_ns, out, count)


@lean
def pass_over(bars: Any, plan: Any, now_ns: int) -> None:
    """Be at ``now_ns`` without visiting what lies before: nothing that is not final has a bar."""
    for k in range(plan.lengths.size):
        bars.closed[k] = (now_ns - plan.grace_ns) // plan.lengths[k] * plan.lengths[k]
        bars.final[k] = (now_ns - plan.horizon_ns) // plan.lengths[k] * plan.lengths[k]
        for end in range(bars.final[k] + plan.lengths[k], bars.closed[k] + 1, plan.lengths[k]):
            open_slot(bars, plan, k, end)
    bars.due[0] = now_ns


@lean_kernel
def complete(bars: Any, plan: Any, now_ns: int, out: Any, count: int) -> int:
    """Close and finish what is due by ``now_ns``."""
    while bars.due[0] <= now_ns:
        due = NO_LIMIT
        which = 0
        for k in range(plan.lengths.size):
            closing = bars.closed[k] + plan.lengths[k] + plan.grace_ns
            if closing < due:
                due, which = closing, k
        for k in range(plan.lengths.size):
            finishing = bars.final[k] + plan.lengths[k] + plan.horizon_ns
            if finishing < due:
                due, which = finishing, plan.lengths.size + k
        bars.due[0] = due
        if due > now_ns:
            break
        if which < plan.lengths.size:
            count = close(bars, plan, which, out, count)
        else:
            count = finish(bars, plan, which - plan.lengths.size, out, count)
    return count


@lean
def close(bars: Any, plan: Any, k: int, out: Any, count: int) -> int:
    """Publish the bars of the next interval of length ``k`` as closed: revision 1."""
    end = bars.closed[k] + plan.lengths[k]
    bars.closed[k] = end
    slot = open_slot(bars, plan, k, end)
    for j in range(bars.sizes[slot]):
        symbol = bars.members[slot, j]
        bars.marks[slot, symbol] &= ~CHANGED
        bars.revs[slot, symbol] += 1
        count = write(bars, plan, k, slot, symbol, 0, out, count)
    return count


@lean
def finish(bars: Any, plan: Any, k: int, out: Any, count: int) -> int:
    """Publish the bars of the next interval of length ``k`` once more, as final."""
    end = bars.final[k] + plan.lengths[k]
    bars.final[k] = end
    slot = slot_of(plan, k, end)
    if bars.ends[slot] == end:
        for j in range(bars.sizes[slot]):
            count = write(bars, plan, k, slot, bars.members[slot, j], 1, out, count)
    return count


@lean_kernel
def publish_running(bars: Any, plan: Any, out: Any, count: int) -> int:
    """Publish the running bars that have changed since they were last published."""
    for k in range(plan.lengths.size):
        end = bars.closed[k] + plan.lengths[k]
        while end - plan.lengths[k] <= bars.clock[0]:
            slot = slot_of(plan, k, end)
            if bars.ends[slot] == end:
                for j in range(bars.sizes[slot]):
                    symbol = bars.members[slot, j]
                    if bars.marks[slot, symbol] & CHANGED:
                        bars.marks[slot, symbol] &= ~CHANGED
                        count = write(bars, plan, k, slot, symbol, 0, out, count)
            end += plan.lengths[k]
    return count


@lean
def status(bars: Any, plan: Any, row: Any, now_ns: int, latest_ns: int, out: Any, count: int) -> int:
    """Take the time from any status, and the state of a venue's line from one without a symbol."""
    if bars.clock[0] < row["event_ns"] <= latest_ns:
        count = advance(bars, plan, believed(bars, plan, row["event_ns"], now_ns, latest_ns), out, count)
    if row["symbol"] == 0:
        venues = venue_bit(row["venue"])
        if row["venue_state"] == _STALE:
            line(bars, plan, BY_VENUE, venues, False)
        elif row["venue_state"] == _LIVE:
            line(bars, plan, BY_VENUE, venues, True)
        elif row["venue_state"] == _LOST:
            mark(bars, plan, -1, venues)
    return count


@lean
def line(bars: Any, plan: Any, reason: int, venues: int, up: bool) -> None:
    """A line went down or came back: the intervals around now have lost messages of these venues."""
    changed = venues & (bars.down[reason] if up else ~bars.down[reason])
    bars.down[reason] ^= changed
    if changed:
        mark(bars, plan, -1, changed)


@lean_kernel
def mark(bars: Any, plan: Any, symbol: int, venues: int) -> None:
    """Messages were lost just now: of one symbol, or (-1) of all symbols of some venues. The next publication of
    each bar around now says so; how far back "now" goes is `Plan.silence_ns`.
    """
    for k in range(plan.lengths.size):
        end = max(bars.clock[0] - plan.silence_ns, bars.final[k]) // plan.lengths[k] * plan.lengths[k] + plan.lengths[k]
        while end - plan.lengths[k] <= bars.clock[0] and bars.clock[0] > 0:
            slot = open_slot(bars, plan, k, end)
            bars.lost[slot] |= venues
            if symbol >= 0:
                bars.marks[slot, symbol] |= INCOMPLETE
            end += plan.lengths[k]


@lean_kernel
def write(bars: Any, plan: Any, k: int, slot: int, symbol: int, final: int, out: Any, count: int) -> int:
    """Fold the minutes of a symbol's interval into ``out[count]``; return the new count."""
    open_px = NULL
    high_px = NULL
    low_px = NULL
    close_px = NULL
    firm = False
    volume = 0
    trades = 0
    priced = 0
    whole = 0
    part = 0
    last_ns = 0
    end = bars.ends[slot] - plan.lengths[k]
    j = slot_of(plan, 0, end)
    while end < bars.ends[slot]:
        end += MINUTE_NS
        j = j + 1 if j + 1 < plan.ring[0] else 0
        if bars.ends[j] != end or not bars.marks[j, symbol] & MEMBER:
            continue
        minute = bars.minutes[j, symbol]
        if minute["open_px"] != NULL:
            if open_px == NULL:
                open_px = minute["open_px"]
                high_px = minute["high_px"]
                low_px = minute["low_px"]
            high_px = max(high_px, minute["high_px"])
            low_px = min(low_px, minute["low_px"])
        if minute["close_px"] != NULL and takes_close(minute["firm"] == 1, False, close_px != NULL, firm):
            close_px = minute["close_px"]
            firm = minute["firm"] == 1
        volume += minute["volume"]
        trades += minute["trades"]
        priced += minute["priced_volume"]
        part += minute["part"]
        whole += minute["whole"] + part // 1_000_000_000
        part %= 1_000_000_000
        last_ns = minute["last_ns"]

    row = out[count]
    row["kind"] = KIND_BAR_1M + k
    row["symbol"] = symbol
    row["venue"] = 0
    row["seq"] = NULL  # this and the next two, and the stamp, are the outbox's to fill
    row["epoch"] = NULL
    row["position"] = NULL
    row["proc_ns"] = NULL
    row["exchange_seq"] = NULL
    row["event_ns"] = bars.ends[slot] - plan.lengths[k]
    row["recv_ns"] = NULL
    row["feed_ns"] = NULL
    row["open_px"] = open_px
    row["high_px"] = high_px
    row["low_px"] = low_px
    row["close_px"] = close_px
    row["volume"] = volume
    row["trades"] = trades
    row["vwap_px"] = average(whole, part, priced)
    row["last_ns"] = last_ns
    row["rev"] = bars.revs[slot, symbol]
    row["final"] = final
    row["gap"] = 1 if bars.marks[slot, symbol] & INCOMPLETE or bars.lost[slot] & bars.venues[symbol] else 0
    bars.counters[PUBLISHED] += 1
    return count + 1


def views(rows: Any) -> tuple[Any, Any, Any, Any, Any]:
    """The arguments ``rows, trades, statuses, links, gaps`` of `step`, all of them the same memory."""
    return rows, rows.view(TRADE), rows.view(STATUS), rows.view(LINK), rows.view(GAP)


def warm_up() -> None:
    """Compile, or load, with the array types of the live path."""
    plan = make_plan(0, MINUTE_NS, 0, np.zeros(1, np.int64), np.zeros(256, np.int64))
    step(no_bars(1, plan), plan, *views(empty(0, EVENT)), 0, 0, 0, False, empty(1, BAR), 0)
